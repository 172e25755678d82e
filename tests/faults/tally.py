"""How much is tried, and the count of it.

`make test` tries each fault at a small count; `make soak` at the full one, until its time is over.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import Enum

SOAK_END = float(os.environ.get("RUNICORN_SOAK_END", "0"))
"""When the soak ends, in seconds since the epoch; 0 in `make test`."""

SLICE = float(os.environ.get("RUNICORN_SOAK_SLICE", "40"))
"""Seconds of a soak that one loop of turns gets, so that each has some."""

LEAST_SYNCS, LEAST_GENERATIONS = 10_000, 2_000
"""Faulted or killed syncs, and killed generations, without which a soak has failed."""


class Tried(str, Enum):
    """What is counted."""

    FAULTED_SYNCS = "syncs with a fault"
    KILLED_SYNCS = "syncs killed"
    FAULTED_GENERATIONS = "generations with a fault"
    KILLED_GENERATIONS = "generations killed"
    POWER_CUTS = "power cuts"
    STEPS = "steps of random lives, each decided by the oracle"
    HOSTILE_INPUTS = "hostile inputs"


tally: Counter[str] = Counter()
"""What this process has tried; the processes of a test run are added up at its end."""


def count(what: Tried, number: int = 1) -> None:
    """Count what was tried, once it is known that the laws held."""
    tally[what.value] += number


def missing(done: Mapping[str, int]) -> list[str]:
    """What a soak has tried too little of: the least that it has to reach."""
    syncs = done.get(Tried.FAULTED_SYNCS.value, 0) + done.get(Tried.KILLED_SYNCS.value, 0)
    killed = done.get(Tried.KILLED_GENERATIONS.value, 0)
    found = [f"{syncs:,} faulted or killed syncs of {LEAST_SYNCS:,}"] if syncs < LEAST_SYNCS else []
    return found + (
        [f"{killed:,} killed generations of {LEAST_GENERATIONS:,}"] if killed < LEAST_GENERATIONS else []
    )


def scale(small: int, full: int) -> int:
    """How often: ``small`` in `make test`, ``full`` in `make soak`."""
    return full if SOAK_END else small


def turns(small: int, full: int, *, slices: float = 1.0) -> Iterator[int]:
    """Numbers from 0 on, ``small`` or ``full`` of them; in a soak fewer when its time is over, or so many
    slices of it."""
    end = min(SOAK_END, time.time() + slices * SLICE)
    for number in range(scale(small, full)):
        if SOAK_END and number and time.time() >= end:
            return
        yield number
