"""A client that is killed or stopped at any moment leaves a mirror that the laws hold for.

`RUNICORN_KILLS` is the number of random kills, `RUNICORN_KILL_SEED` their seed.
"""

from __future__ import annotations

import os
import random
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO

import pytest

from testbed.live import LiveWriter
from testbed.oracle import Oracle
from testbed.processes import descendants
from testbed.sshd import Sshd
from testbed.trees import make_tree
from tests.faults.lab import Lab
from tests.faults.process import (
    COMMAND,
    PROJECT_ROOT,
    TIMEOUT,
    environment,
    generate,
    left_behind,
    over,
    run_files,
    sync,
)
from tests.faults.tally import Tried, count, scale, turns
from tests.manifest.helpers import PROJECT_RUN

KILLS = int(os.environ.get("RUNICORN_KILLS", scale(40, 600)))
SEED = int(os.environ.get("RUNICORN_KILL_SEED", "20240607"))
KILLS_OF_A_MIRROR = 6
METHODS = ("auto", "journal", "auto", "manifest", "walk")
"""One after the other: none of them is always the first one of a mirror."""


def popen(*arguments: str | Path, **env: str) -> subprocess.Popen[bytes]:
    """Start `runicorn sync`."""
    return subprocess.Popen(
        [*COMMAND, "sync", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(**env),
    )


def wait_for_lines(stream: IO[bytes], count: int, seconds: float) -> bytes:
    """What comes until there are so many lines, the stream ends or the time is over."""
    deadline = time.monotonic() + seconds
    seen = b""
    while seen.count(b"\n") < count and (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([stream], [], [], left)
        chunk = os.read(stream.fileno(), 4096) if ready else b""
        if not chunk:
            break
        seen += chunk
    return seen


# -- random moments, against a live writer ---------------------------------------------------


class Publisher:
    """Publishes the root again and again, and tells the oracle."""

    def __init__(self, root: Path, oracle: Oracle) -> None:
        self.root = root
        self._oracle = oracle
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self.publish()

    def publish(self) -> None:
        """Publish once."""
        self._oracle.published(generate(self.root))

    def _loop(self) -> None:
        while not self._stop.wait(0.2):
            self.publish()

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT)


def _kill_somewhere(process: subprocess.Popen[bytes], chance: random.Random, longest: float) -> bool:
    """Kill it at a random moment; whether it was still alive."""
    assert process.stderr is not None
    if chance.random() < 0.5:
        wait_for_lines(process.stderr, chance.randrange(1, 60), longest)
    else:
        wait_for_lines(process.stderr, sys.maxsize, chance.uniform(0.05, longest))
    alive = process.poll() is None
    process.kill()
    process.wait(TIMEOUT)
    process.stderr.close()
    return alive


@pytest.mark.timeout(60 + 3 * KILLS)
def test_kills_at_random_moments_against_a_live_writer(tmp_path: Path) -> None:
    print(f"seed {SEED}, {KILLS} kills")
    chance = random.Random(SEED)
    root = tmp_path / "root"
    runs = make_tree(root, 4, seed=SEED, running=2)
    (runs[-1] / "media/big.bin").write_bytes(chance.randbytes(9_000_000))
    with (runs[-1] / "events.jsonl").open("ab") as log:
        log.writelines(b'{"step": %d}\n' % number for number in range(100_000))
    mirrors: list[Path] = []
    alive = 0
    with Sshd() as server:
        far = (*over(server), f"{server.host}:{root}")
        with LiveWriter(root, tmp_path / "history", seed=SEED) as writer:
            # A client may read a manifest before its publisher has told of it.
            oracle = Oracle(writer.history, patience=TIMEOUT)
            with Publisher(root, oracle) as publisher:
                for number in turns(KILLS, KILLS):
                    if number % KILLS_OF_A_MIRROR == 0:
                        mirrors.append(tmp_path / f"mirror-{len(mirrors)}")
                    method = METHODS[number % len(METHODS)]
                    deletes = len(mirrors) % 2 == 0
                    source = far if chance.random() < 0.5 else (str(root),)
                    more = ["--delete"] if deletes else []
                    process = popen(*source, mirrors[-1], "--method", method, "-v", *more)
                    killed = _kill_somewhere(process, chance, 0.6)
                    faults = oracle.faults(mirrors[-1], deletes=deletes)
                    assert faults == [], f"kill {number}, {method}, {source[0]}, {mirrors[-1]}"
                    count(Tried.KILLED_SYNCS, killed)
                    alive += killed
        publisher.publish()
        print(f"{alive} killed alive, {oracle.torn_ends} torn ends after the end of a run")
        for number, mirror in enumerate(mirrors):
            source = far if number % 2 else (str(root),)
            method = ("journal", "auto", "manifest")[number % 3]
            sync(*source, mirror, "--method", method).expect(0)
            assert oracle.complete(mirror, root) == []
            assert oracle.faults(mirror, undisturbed=True) == []
            assert [name for name in left_behind(mirror) if not name.endswith(".partial")] == []
    assert alive >= len(mirrors) * KILLS_OF_A_MIRROR // 3


# -- named steps -----------------------------------------------------------------------------

KILLER = """
import os, signal
NAME, WHEN, LEFT = os.environ["KILL_NAME"], os.environ["KILL_WHEN"], [int(os.environ["KILL_AT"])]
REAL = getattr(os, NAME)
def killing(*arguments, **options):
    LEFT[0] -= 1
    if LEFT[0] == 0 and WHEN == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        return REAL(*arguments, **options)
    finally:
        if LEFT[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
setattr(os, NAME, killing)
"""
STEPS = {"rename": [1, 2, 4], "fsync": [1, 3, 9], "pwrite": [1, 2, 6], "utime": [2, 5]}


@pytest.fixture(scope="module", params=["journal", "manifest"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab.build(tmp_path_factory.mktemp("lab"), journal=request.param == "journal")


@pytest.fixture
def lab(built: Lab, tmp_path: Path) -> Lab:
    return built.moved(tmp_path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", list(STEPS))
def test_kill_around_a_step_leaves_old_or_new_files(lab: Lab, tmp_path: Path, name: str, when: str) -> None:
    (tmp_path / "killer").mkdir()
    (tmp_path / "killer/sitecustomize.py").write_text(KILLER, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "killer"), str(PROJECT_ROOT)])
    new = run_files(lab.root)
    fresh = lab.mirror
    for at in STEPS[name]:
        old = run_files(fresh) if fresh.exists() else {}
        process = popen(lab.root, fresh, KILL_NAME=name, KILL_WHEN=when, KILL_AT=str(at), PYTHONPATH=path)
        _, shown = process.communicate(timeout=TIMEOUT)
        assert process.returncode == -signal.SIGKILL, (at, shown)
        for file, content in run_files(fresh).items():
            assert content in (old.get(file), new[file]), (at, file)
        fresh = tmp_path / f"client/mirror-{at}"
    lab.recovers()
    sync(lab.root, tmp_path / f"client/mirror-{STEPS[name][0]}").expect(0)
    assert run_files(tmp_path / f"client/mirror-{STEPS[name][0]}") == run_files(lab.root)
    assert left_behind(tmp_path / f"client/mirror-{STEPS[name][0]}") == []


def test_kill_within_a_long_append_leaves_whole_records(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "killer").mkdir()
    (tmp_path / "killer/sitecustomize.py").write_text(KILLER, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "killer"), str(PROJECT_ROOT)])
    log = f"{PROJECT_RUN}/events.jsonl"
    with (lab.root / log).open("ab") as stream:
        stream.writelines(
            b'{"step": %d, "text": "%s"}\n' % (number, b"x" * (number % 97)) for number in range(900)
        )
    whole = (lab.root / log).read_bytes()
    lab.generate()
    inode = (lab.mirror / log).stat().st_ino
    held = [(lab.mirror / log).stat().st_size]
    for at in (1, 2, 3, 5):
        process = popen(
            lab.root, lab.mirror, KILL_NAME="pwrite", KILL_WHEN="after", KILL_AT=str(at), PYTHONPATH=path
        )
        process.communicate(timeout=TIMEOUT)
        assert process.returncode == -signal.SIGKILL
        content = (lab.mirror / log).read_bytes()
        assert whole.startswith(content)
        assert content.endswith(b"\n")
        held.append(len(content))
    assert held == sorted(held)
    assert held[0] < held[-1] < len(whole)
    lab.generate()
    lab.recovers()
    assert (lab.mirror / log).stat().st_ino == inode


# -- signals ---------------------------------------------------------------------------------


@pytest.fixture
def silent_ssh(tmp_path: Path) -> Path:
    """A program in the place of ssh that takes its arguments and starts the server of `STALL_AFTER`."""
    program = tmp_path / "silent-ssh"
    server = shlex.join([sys.executable, str(PROJECT_ROOT / "testbed/fault_sftp.py")])
    program.write_text(f'#!/bin/sh\nexec {server} --fault "StallForever:$STALL_AFTER"\n', encoding="utf-8")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("answers", "lines"), [(0, 0), (2, 0), (20, 1)], ids=["greeting", "manifest", "files"]
)
def test_signal_ends_the_command_in_order(
    lab: Lab, silent_ssh: Path, number: signal.Signals, answers: int, lines: int
) -> None:
    before = run_files(lab.mirror)
    big = lab.root / "vision/resnet/runs/r1/media/big.png"
    big.write_bytes(b"x" * 2_000_000)
    lab.generate()
    process = popen(f"host:{lab.root}", lab.mirror, "--ssh", str(silent_ssh), "-v", STALL_AFTER=str(answers))
    assert process.stderr is not None
    deadline = time.monotonic() + TIMEOUT
    # The second thread reads what ssh says: from then on ssh has someone who ends it.
    while sum(1 for _ in Path(f"/proc/{process.pid}/task").iterdir()) < 2:
        assert time.monotonic() < deadline
    children = descendants(process.pid)
    shown = wait_for_lines(process.stderr, lines, TIMEOUT)
    process.send_signal(number)
    shown += process.communicate(timeout=TIMEOUT)[1]
    assert process.returncode == 130, shown
    assert shown.decode().splitlines()[-1] == "runicorn: stopped"
    assert b"Traceback" not in shown
    assert left_behind(lab.mirror) == []
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    if lines == 0:
        assert run_files(lab.mirror) == before
    big.unlink()
    lab.generate()
    lab.recovers()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_an_ssh_that_listens_to_nobody(lab: Lab, tmp_path: Path, number: signal.Signals) -> None:
    program = tmp_path / "deaf-ssh"
    program.write_text("#!/bin/sh\ntrap '' TERM HUP INT\necho ready >&2\nexec sleep 1000\n", encoding="utf-8")
    program.chmod(0o755)
    process = popen(f"host:{lab.root}", lab.mirror, "--ssh", str(program), "-v")
    assert process.stderr is not None
    assert wait_for_lines(process.stderr, 1, TIMEOUT) == b"ready\n"
    children = descendants(process.pid)
    assert len(children) == 1
    process.send_signal(number)
    _, shown = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, shown.strip()) == (130, b"runicorn: stopped")
    assert not Path(f"/proc/{children[0]}").exists()
