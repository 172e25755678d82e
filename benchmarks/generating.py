"""How long `runicorn generate-manifest` takes as a whole process, and the memory it needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import Cost, run


@dataclass(frozen=True)
class Generation:
    """One tree: the cost of its first manifest, and of each later one with nothing changed."""

    runs: int
    files: int
    first: Cost
    unchanged: list[Cost]


def generate(root: Path, program: str, *, runs: int, files: int, repetitions: int) -> Generation:
    """Measure the first manifest of the tree at `root`, of `runs` runs of `files` files, and later ones."""
    command = generate_command(program, root)
    os.sync()
    first = run(command)
    return Generation(runs, files, first, [run(command) for _ in range(repetitions)])


def generate_command(program: str, root: Path) -> list[str]:
    """The command that publishes what `root` holds."""
    return [program, "generate-manifest", "--root", str(root)]
