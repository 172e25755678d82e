"""Trees of runs as training scripts leave them, made fast, from a seed.

Times are days in the past, so that nothing in a fresh tree looks as if it were still being written.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Layout = Literal["project", "path"]

FIRST_CREATED = 1_750_000_000
SECONDS_APART = 60
DURATION = 3_600
PROJECTS, NAMES = 8, 5
Mix = Literal["images", "logs"]


@dataclass(frozen=True)
class Shape:
    """What a run holds: lines of events and logs, packages of the environment, and images with their least
    and most bytes; more JSON files when `artifacts`."""

    events: int
    logs: int
    packages: int
    images: int = 0
    least: int = 0
    most: int = 0
    artifacts: bool = False


SHAPES: dict[tuple[int, Mix], Shape] = {
    (15, "images"): Shape(160, 120, 40, 7, 27_000, 35_000, artifacts=True),
    (15, "logs"): Shape(1_250, 560, 40, 7, 3_500, 5_000, artifacts=True),
    (9, "images"): Shape(4, 3, 4, 1, 2_000, 4_000, artifacts=True),
    (6, "images"): Shape(4, 3, 4),
}


@dataclass(frozen=True)
class RunFile:
    """One file of a run: its path below the run directory, and its content."""

    path: str
    content: bytes


def make_tree(  # noqa: PLR0913 - a tree has that many sides
    root: Path,
    runs: int,
    *,
    layout: Layout = "project",
    files: int = 15,
    mix: Mix = "images",
    seed: int = 0,
    running: int = 0,
) -> list[Path]:
    """Make `runs` runs below `root` and return their directories, oldest first.

    The newest `running` runs are unfinished. `files` is 15 (six JSON files, events, logs, seven
    incompressible images; 250 KB a run), 9 (the same with short events and logs and one small image; 6 KB a
    run) or 6 (four JSON files, short events and logs; 2 KB a run). With 15 files, `mix` tells what the 250 KB
    are: "images" (nine tenths random bytes) or "logs" (nine tenths lines, as of long runs). `layout`
    "project" is `<project>/<name>/runs/<id>`, "path" is `runs/<project>/<name>/<id>`. The same arguments give
    the same bytes and modification times.

    Raises ValueError for another number of files, FileExistsError if such a run is there already.
    """
    shape = SHAPES.get((files, mix))
    if shape is None:
        raise ValueError(f"a run has 6, 9 or 15 files, not {files}, and 15 when they are mostly logs")
    chance = random.Random(seed)
    made = []
    for index in range(runs):
        created = float(FIRST_CREATED + index * SECONDS_APART)
        identity = _identity(index, created, chance)
        directory = run_directory(root, identity, layout)
        _write_run(directory, run_files(identity, index < runs - running, shape, chance), created + DURATION)
        made.append(directory)
    return made


def run_directory(root: Path, identity: dict[str, Any], layout: Layout) -> Path:
    """Where the run of this `meta.json` content lies."""
    project, name, run_id = (str(identity[key]) for key in ("project", "name", "id"))
    if layout == "project":
        return root / project / name / "runs" / run_id
    return root / "runs" / project / name / run_id


def new_identity(project: str, name: str, run_id: str, created: float) -> dict[str, Any]:
    """The content of `meta.json`; `created` in seconds since the epoch."""
    return {
        "id": run_id,
        "project": project,
        "name": name,
        "created_at": created,
        "python": "3.11.7",
        "platform": "Linux 6.1.0 (x86_64)",
        "hostname": "ml-server-01",
        "pid": 4242,
    }


def run_files(
    identity: dict[str, Any], finished: bool, shape: Shape, chance: random.Random
) -> Iterator[RunFile]:
    """The files of one run, in the order a training script writes them."""
    created = identity["created_at"]
    yield RunFile("meta.json", to_json(identity))
    yield RunFile("status.json", to_json(status(created, created + DURATION if finished else None)))
    yield RunFile("environment.json", to_json(_environment(chance, shape.packages)))
    yield RunFile("events.jsonl", b"".join(event_line(created + n, n, chance) for n in range(shape.events)))
    yield RunFile("logs.txt", b"".join(log_line(created + n, n, chance) for n in range(shape.logs)))
    yield RunFile("summary.json", to_json({"best_loss": chance.random(), "epochs": chance.randrange(1, 100)}))
    if shape.artifacts:
        yield RunFile("artifacts_created.json", to_json({"artifacts": [_artifact(identity, chance)]}))
        yield RunFile("artifacts_used.json", to_json({"artifacts": [_artifact(identity, chance)]}))
        for number in range(shape.images):
            size = chance.randrange(shape.least, shape.most)
            yield RunFile(f"media/sample_{number:03d}.png", chance.randbytes(size))


def status(started: float, ended: float | None) -> dict[str, Any]:
    """The content of `status.json`: a run that has not ended is running. Times in seconds since the epoch."""
    if ended is None:
        return {"status": "running", "started_at": started}
    return {"status": "finished", "started_at": started, "ended_at": ended}


def event_line(when: float, step: int, chance: random.Random) -> bytes:
    """One record of `events.jsonl`, with its newline."""
    data = {"loss": chance.random(), "accuracy": chance.random(), "global_step": step, "time": when}
    return json.dumps({"ts": when, "type": "metrics", "data": data}).encode() + b"\n"


def log_line(when: float, step: int, chance: random.Random) -> bytes:
    """One line of `logs.txt`, with its newline."""
    clock = time.strftime("%H:%M:%S", time.gmtime(when))
    return f"{clock} | step {step:6d} loss {chance.random():.6f} lr {chance.random():.2e}\n".encode()


def to_json(content: dict[str, Any]) -> bytes:
    """A state file's bytes."""
    return json.dumps(content, indent=2).encode()


def append_run(run_dir: Path, lines: int, *, summary: bool = True) -> int:
    """Let a run go on: `lines` more events, a fifth as many log lines, a new status and, unless told
    otherwise, a new summary.

    The state files are replaced by rename. Returns the number of bytes appended to events and logs.
    """
    chance = random.Random(f"{run_dir.name}-{time.time_ns()}")
    now = time.time()
    events = b"".join(event_line(now, step, chance) for step in range(lines))
    logs = b"".join(log_line(now, step, chance) for step in range(max(1, lines // 5)))
    for name, data in (("events.jsonl", events), ("logs.txt", logs)):
        with (run_dir / name).open("ab") as log:
            log.write(data)
    state = {**json.loads((run_dir / "status.json").read_bytes()), "heartbeat": now}
    replace_file(run_dir / "status.json", to_json(state))
    if summary:
        replace_file(run_dir / "summary.json", to_json({"best_loss": chance.random(), "updated_at": now}))
    return len(events) + len(logs)


def replace_file(path: Path, content: bytes) -> None:
    """Give `path` this content by renaming a hidden temporary file over it, as trackers do."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _identity(index: int, created: float, chance: random.Random) -> dict[str, Any]:
    stamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime(created))
    project = f"project_{index % PROJECTS:02d}"
    name = f"experiment_{index // PROJECTS % NAMES:02d}"
    return new_identity(project, name, f"{stamp}_{chance.getrandbits(24):06x}", created)


def _environment(chance: random.Random, packages: int) -> dict[str, Any]:
    versions = {
        f"package-{number:02d}": f"{chance.randrange(9)}.{chance.randrange(30)}" for number in range(packages)
    }
    return {"python_version": "3.11.7", "git_commit": f"{chance.getrandbits(160):040x}", "packages": versions}


def _artifact(identity: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    return {
        "name": f"model-{identity['name']}",
        "type": "model",
        "version": chance.randrange(1, 50),
        "digest": f"{chance.getrandbits(256):064x}",
    }


def _write_run(directory: Path, files: Iterator[RunFile], modified: float) -> None:
    """Write a run with few system calls: this is what makes 100,000 runs bearable."""
    directory.mkdir(parents=True)
    base = str(directory)
    nanoseconds = int(modified) * 1_000_000_000
    media_made = False
    for file in files:
        if not media_made and file.path.startswith("media/"):
            os.mkdir(f"{base}/media")  # noqa: PTH102
            media_made = True
        target = os.open(f"{base}/{file.path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(target, file.content)
            os.utime(target, ns=(nanoseconds, nanoseconds))
        finally:
            os.close(target)
    for folder in [f"{base}/media", base] if media_made else [base]:
        os.utime(folder, ns=(nanoseconds, nanoseconds))
