"""A root that changes by the same steps again and again, and those who publish and mirror it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from testbed import trees
from testbed.history import History
from tests.faults.judge import Judge
from tests.faults.line import Line
from tests.faults.nursery import Ended, Nursery


class World:
    """One root, its history, and who starts commands on it.

    Attributes:
        tells: whether the oracle is told what is published. What a killed generator published nobody knows.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.root = place / "root"
        self.runs = trees.make_tree(self.root, 3, files=9, running=3)
        self.history = History(place / "history")
        self.history.record_tree(self.root)
        self.judge = Judge(self.root, self.history)
        self.nursery = Nursery(place)
        self.line = Line(self.root / ".runicorn/journal")
        self.tells = True
        self.changes = 0
        self._new: list[Path] = []

    def close(self) -> None:
        self.nursery.close()

    def generate(self, *options: str, **order: Any) -> Ended:
        """Publish; one that is left alone is taken note of."""
        return self.nursery.run("generate-manifest", "--root", self.root, *options, **order)

    def publish(self, *options: str, **order: Any) -> None:
        """Publish undisturbed."""
        self.generate(*options, **order).expect(0)
        if self.tells:
            self.judge.published()

    def change(self) -> None:
        """The same kinds of changes each time."""
        self.changes += 1
        number = self.changes
        chance = random.Random(number)
        first, second, third = self.runs
        for run, lines in ((first, 40), (second, 2)):
            for name, line in (("events.jsonl", trees.event_line), ("logs.txt", trees.log_line)):
                data = b"".join(line(number, step, chance) for step in range(lines))
                self.history.record_append(f"{run.relative_to(self.root)}/{name}", data)
                with (run / name).open("ab") as log:
                    log.write(data)
        state = trees.to_json({**trees.status(number, None), "note": "x" * (number % 50)})
        for run in (first, third):
            self._replace(run / "status.json", state)
        self._replace(first / "media/sample_000.png", chance.randbytes(60_000))
        self._replace(third / "logs.txt", trees.log_line(number, 0, chance))
        self._create(number)
        if len(self._new) > 2:
            self.history.record_tree_removed(self.root, self._new[0])
            shutil.rmtree(self._new.pop(0))

    def _replace(self, path: Path, content: bytes) -> None:
        self.history.record(path.relative_to(self.root).as_posix(), content)
        trees.replace_file(path, content)

    def _create(self, number: int) -> None:
        run = self.root / f"new/one/runs/r{number}"
        (run / "media").mkdir(parents=True)
        identity = trees.new_identity("new", "one", run.name, number)
        for name, content in {
            "meta.json": trees.to_json(identity),
            "status.json": trees.to_json(trees.status(number, None)),
            "logs.txt": b"one\ntwo\n",
            "media/a.png": b"x" * number,
        }.items():
            self._replace(run / name, content)
        self._new.append(run)
