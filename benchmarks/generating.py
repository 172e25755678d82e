"""How long `runicorn generate-manifest` takes as a whole process, and the memory it needs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.lab import Lab
from benchmarks.plan import Generations
from benchmarks.process import run
from benchmarks.results import Generated


def generate(lab: Lab, act: Generations) -> Iterator[Generated]:
    """Measure the first manifest of the tree, and later ones with nothing changed."""
    command = lab.generate_command(lab.plant(act.tree).root)
    os.sync()
    for number in range(1 + act.unchanged):
        cost = run(command)
        yield Generated(number == 0, cost.seconds, cost.cpu_seconds, cost.peak_bytes, cost.trouble)
