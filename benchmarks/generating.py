"""How long `runicorn generate-manifest` takes as a whole process, and the memory it needs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import Cost, run
from testbed.trees import make_tree


@dataclass(frozen=True)
class Generation:
    """One tree: the cost of its first manifest, and of each later one with nothing changed."""

    runs: int
    files: int
    first: Cost
    unchanged: list[Cost]


def generate(scratch: Path, program: str, *, runs: int, files: int, repetitions: int) -> Generation:
    """Make a tree of `runs` runs of `files` files below `scratch`, measure, and remove it."""
    root = scratch / f"generate-{runs}"
    make_tree(root, runs, files=files)
    command = generate_command(program, root)
    try:
        first = run(command)
        unchanged = [run(command) for _ in range(repetitions)]
    finally:
        shutil.rmtree(root)
    return Generation(runs, files, first, unchanged)


def generate_command(program: str, root: Path) -> list[str]:
    """The command that publishes the manifest of `root`."""
    return [program, "generate-manifest", "--root", str(root)]
