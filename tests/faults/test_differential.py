"""Mirrors by journal, manifest, walk and rsync are equal in every selected file, after any history.

`RUNICORN_HISTORIES` is the number of histories for each layout.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import trees
from testbed.history import History
from testbed.oracle import Oracle
from testbed.selected import selected_files
from testbed.sshd import Sshd
from testbed.trees import make_tree
from tests.faults.process import TIMEOUT, generate, over, run_files, sync
from tests.faults.tally import scale

HISTORIES = int(os.environ.get("RUNICORN_HISTORIES", scale(1, 12)))
STEPS = 5
NAMES = ("meta", "status", "summary", "environment", "artifacts_created", "artifacts_used", "assets")
LEFT_OUT = (".*", "*.lock", "*.tmp", "*.temp", "*.part", "*.partial", "*.swp", "*~")


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd() as running:
        yield running


class Life:
    """Random changes of a root, each a second apart on the clock of the files."""

    def __init__(self, root: Path, layout: trees.Layout, seed: int, history: History) -> None:
        self.chance, self.history = random.Random(seed), history
        self.root, self.layout = root, layout
        self.clock = trees.FIRST_CREATED + 10_000_000
        self.runs = make_tree(root, 4, layout=layout, seed=seed, running=2)
        self._leave_what_does_not_belong()
        history.record_tree(root)

    def _leave_what_does_not_belong(self) -> None:
        run = self.runs[0]
        for name in (
            "status.json.lock",
            "train.py",
            ".hidden",
            "media/.cache",
            "media/x.tmp",
            "media/y.png~",
        ):
            (run / name).write_text("not a run's file", encoding="utf-8")
        (run / "media/deep/er").mkdir(parents=True)
        (run / "media/deep/er/odd näme (1).png").write_bytes(b"deep")
        (run / "media/hard.bin").write_bytes(b"")
        (run / "checkpoints").mkdir()
        (run / "checkpoints/w.pt").write_bytes(b"weights")
        (self.root / "runicorn.db").write_bytes(b"database")

    def step(self) -> None:
        """Some changes, of all kinds in the end."""
        for _ in range(self.chance.randrange(3, 9)):
            self.clock += 1
            change = self.chance.choice(
                [self._append, self._append, self._rewrite, self._rotate, self._media]
            )
            change(self.chance.choice(self.runs))
        self.clock += 1
        self.chance.choice([self._create, self._delete, self._forget])()

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.history.record(self._relative(path), content)
        trees.replace_file(path, content)
        os.utime(path, (self.clock, self.clock))

    def _lines(self) -> bytes:
        return b"".join(
            trees.event_line(self.clock, number, self.chance)
            for number in range(self.chance.randrange(1, 2000))
        )

    def _append(self, run: Path) -> None:
        log = run / self.chance.choice(["events.jsonl", "logs.txt"])
        data = self._lines()
        self.history.record_append(self._relative(log), data)
        with log.open("ab") as stream:
            stream.write(data)
        os.utime(log, (self.clock, self.clock))

    def _rotate(self, run: Path) -> None:
        self._write(run / self.chance.choice(["events.jsonl", "logs.txt"]), self._lines())

    def _rewrite(self, run: Path) -> None:
        name = self.chance.choice(NAMES)
        content = trees.status(self.clock, self.chance.choice([None, float(self.clock)]))
        self._write(run / f"{name}.json", trees.to_json({**content, "x": "x" * self.chance.randrange(99)}))

    def _media(self, run: Path) -> None:
        name = self.chance.choice(["a.png", "b/c.png", "sample_000.png"])
        self._write(run / "media" / name, self.chance.randbytes(self.chance.randrange(600_000)))

    def _create(self) -> None:
        identity = trees.new_identity("project_00", "new", f"run_{self.clock}", float(self.clock))
        run = trees.run_directory(self.root, identity, self.layout)
        for file in trees.run_files(identity, False, trees.SHAPES[15, "images"], self.chance):
            self._write(run / file.path, file.content)
        self.runs.append(run)

    def _delete(self) -> None:
        run = self.runs.pop(self.chance.randrange(1, len(self.runs)))
        self.history.record_tree_removed(self.root, run)
        shutil.rmtree(run)

    def _forget(self) -> None:
        path = self.chance.choice(self.runs[1:]) / "environment.json"
        self.history.record_removed(self._relative(path))
        path.unlink(missing_ok=True)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def rsync(server: Sshd, root: Path, mirror: Path, layout: trees.Layout) -> None:
    """The same selection, said in rsync's words."""
    run = "/*/*/runs/*" if layout == "project" else "/runs/*/*/*"
    rules = [f"- {pattern}" for pattern in LEFT_OUT]
    parts = run.split("/")[1:]
    rules += [f"+ /{'/'.join(parts[:depth])}/" for depth in range(1, len(parts) + 1)]
    rules += [f"+ {run}/{name}.json" for name in NAMES]
    rules += [f"+ {run}/events.jsonl", f"+ {run}/logs.txt", f"+ {run}/media/***", "- *"]
    words = [word for rule in rules for word in ("--filter", rule)]
    subprocess.run(
        [
            "rsync",
            "-a",
            "--delete",
            *words,
            "-e",
            " ".join(server.ssh_command),
            f"{server.host}:{root}/",
            mirror,
        ],
        check=True,
        timeout=TIMEOUT,
    )


@pytest.mark.parametrize("seed", range(1, HISTORIES + 1))
@pytest.mark.parametrize("layout", ["project", "path"])
def test_mirrors_are_equal_after_a_random_history(
    server: Sshd, tmp_path: Path, layout: trees.Layout, seed: int
) -> None:
    root = tmp_path / "root"
    oracle = Oracle(History(tmp_path / "history"))
    life = Life(root, layout, seed, oracle.history)
    mirrors = {method: tmp_path / method for method in ("auto", "journal", "manifest", "walk", "alternating")}
    source = f"{server.host}:{root}"
    for step in range(STEPS):
        oracle.published(generate(root))
        last = step == STEPS - 1
        for name, mirror in mirrors.items():
            method = ("walk", "journal", "manifest")[step % 3] if name == "alternating" else name
            # Some mirrors miss some steps; the last one counts.
            if last or life.chance.random() < 0.6:
                delete = ["--delete", "--force-delete"] if name != "alternating" else []
                done = sync(source, mirror, *over(server), "--method", method, *delete, "--json").expect(0)
                leave = bool(delete)
                assert oracle.faults(mirror, undisturbed=True, deletes=leave, force=leave) == [], name
                if name == "auto":
                    assert done.statistics["method"] == "journal", done.statistics["fallback_reason"]
        if not last:
            life.step()
    rsync(server, root, tmp_path / "rsync", layout)
    wanted = run_files(tmp_path / "rsync")
    assert len(wanted) > 20
    assert not any(b"not a run" in content for content in wanted.values())
    assert selected_files(root) == wanted
    for name in ("auto", "journal", "manifest", "walk"):
        assert run_files(mirrors[name]) == wanted, name
    alternating = run_files(mirrors["alternating"])
    assert {name: alternating.get(name) for name in wanted} == wanted
