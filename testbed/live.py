"""A tree that keeps changing: a process that plays many training runs at once.

with LiveWriter(root, history_directory) as writer:
    ...  # sync, as often as wanted
assert not History(history_directory).faults(mirror)
"""

from __future__ import annotations

import argparse
import json
import random
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from testbed import trees
from testbed.history import LOG_NAMES, History

PROJECT_ROOT = Path(__file__).resolve().parents[1]
# Appending is by far the most frequent change, as it is in life.
ACTIONS = {
    "append": 60,
    "append_in_two": 15,
    "rewrite_state": 15,
    "rotate": 3,
    "truncate": 2,
    "create": 3,
    "delete": 2,
    "rename": 1,
}


class LiveWriter:
    """Context manager: a process that changes the runs below `root` and records all versions below `history`.

    It appends to logs (sometimes one line in two writes), replaces state files by rename, replaces or cuts a
    log, and creates, renames and deletes runs, one change every `interval` seconds. Unless told otherwise,
    some of the runs say that they have finished, and go on. `start` returns when the present content is
    recorded; `stop` ends it between two changes and returns how many it made of each kind. Afterwards the
    tree is still, and every log ends at a record boundary.

    `start` raises RuntimeError if the process does not come up.
    """

    def __init__(
        self,
        root: Path,
        history: Path,
        *,
        interval: float = 0.005,
        seed: int = 0,
        finishing: bool = True,
    ) -> None:
        self.root = root
        self.history = History(history)
        self._arguments = [str(root.resolve()), str(history.resolve()), str(interval), str(seed)]
        self._arguments += ["--finishing"] if finishing else []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> LiveWriter:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.stop()

    def start(self) -> None:
        """Record what is there and begin to change it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "testbed.live", *self._arguments],
            cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self._process.communicate()
            raise RuntimeError("the live writer did not start")

    def stop(self) -> dict[str, int]:
        """End the process and return the number of changes of each kind.

        Raises RuntimeError if the process had failed.
        """
        process, self._process = self._process, None
        assert process is not None, "the live writer is not running"
        answer, _ = process.communicate(timeout=30)
        if process.returncode != 0:
            raise RuntimeError(f"the live writer failed with exit code {process.returncode}")
        made: dict[str, int] = json.loads(answer)
        return made


class Changer:
    """Makes one random change after the other to the runs below `root`, each recorded first."""

    def __init__(self, root: Path, history: History, seed: int, *, finishing: bool) -> None:
        self._root = root
        self._finishing = finishing
        self._history = history
        self._chance = random.Random(seed)
        self._runs = sorted(path.parent for path in root.rglob("meta.json"))
        self._layout: trees.Layout = "path" if (root / "runs").is_dir() else "project"
        self._created = 0
        self._renamed = 0
        self.made: Counter[str] = Counter()

    def change(self) -> None:
        """Make one change."""
        action = self._chance.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        if not self._runs:
            action = "create"
        if action == "create":
            self._create()
        else:
            # Mostly the same few runs, so that files grow long and change often.
            recent = self._runs[-8:] if self._chance.random() < 0.8 else self._runs
            getattr(self, f"_{action}")(self._chance.choice(recent))
        self.made[action] += 1

    def _append(self, run: Path) -> None:
        log, data = self._grow(run)
        with log.open("ab", buffering=0) as target:
            target.write(data)

    def _append_in_two(self, run: Path) -> None:
        log, data = self._grow(run)
        middle = self._chance.randrange(1, len(data))
        with log.open("ab", buffering=0) as target:
            target.write(data[:middle])
            time.sleep(self._chance.random() * 0.02)
            target.write(data[middle:])

    def _grow(self, run: Path) -> tuple[Path, bytes]:
        log = run / self._chance.choice(LOG_NAMES)
        data = b"".join(self._line(log.name) for _ in range(self._chance.randrange(1, 6)))
        self._history.record_append(self._relative(log), data)
        return log, data

    def _line(self, name: str) -> bytes:
        line = trees.event_line if name == "events.jsonl" else trees.log_line
        return line(time.time(), sum(self.made.values()), self._chance)

    def _rewrite_state(self, run: Path) -> None:
        now = time.time()
        ended = now if self._chance.random() < 0.2 and self._finishing else None
        content: dict[str, Any] = {**trees.status(now, ended), "note": "x" * self._chance.randrange(200)}
        self._replace(run / self._chance.choice(["status.json", "summary.json"]), trees.to_json(content))

    def _rotate(self, run: Path) -> None:
        log = run / self._chance.choice(LOG_NAMES)
        self._replace(log, b"".join(self._line(log.name) for _ in range(self._chance.randrange(4))))

    def _truncate(self, run: Path) -> None:
        log = run / self._chance.choice(LOG_NAMES)
        self._history.record(self._relative(log), b"")
        with log.open("r+b") as target:
            target.truncate()

    def _create(self) -> None:
        self._created += 1
        now = time.time()
        identity = trees.new_identity("project_live", "experiment_00", f"live_{self._created:06d}", now)
        run = trees.run_directory(self._root, identity, self._layout)
        shape = trees.SHAPES[15 if self._chance.random() < 0.3 else 6, "images"]
        for file in trees.run_files(identity, False, shape, self._chance):
            path = run / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self._replace(path, file.content)
        self._runs.append(run)

    def _delete(self, run: Path) -> None:
        self._runs.remove(run)
        self._history.record_tree_removed(self._root, run)
        shutil.rmtree(run)

    def _rename(self, run: Path) -> None:
        self._renamed += 1
        new = run.with_name(f"renamed_{self._renamed:06d}")
        for path in run.rglob("*"):
            if path.is_file():
                self._history.record(self._relative(new / path.relative_to(run)), path.read_bytes())
        self._history.record_tree_removed(self._root, run)
        run.rename(new)
        self._runs[self._runs.index(run)] = new

    def _replace(self, path: Path, content: bytes) -> None:
        self._history.record(self._relative(path), content)
        trees.replace_file(path, content)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _told_to_stop(commands: IO[str], seconds: float) -> bool:
    ready, _, _ = select.select([commands], [], [], seconds)
    return bool(ready)


def main() -> None:
    """Change a tree until the standard input ends."""
    arguments = argparse.ArgumentParser(description="Keep changing a tree of runs.")
    arguments.add_argument("root", type=Path)
    arguments.add_argument("history", type=Path)
    arguments.add_argument("interval", type=float)
    arguments.add_argument("seed", type=int)
    arguments.add_argument("--finishing", action="store_true")
    chosen = arguments.parse_args()
    history = History(chosen.history)
    history.record_tree(chosen.root)
    changer = Changer(chosen.root, history, chosen.seed, finishing=chosen.finishing)
    print("ready", flush=True)
    while not _told_to_stop(sys.stdin, chosen.interval):
        changer.change()
    print(json.dumps(changer.made))


if __name__ == "__main__":
    main()
