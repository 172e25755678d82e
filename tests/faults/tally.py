"""How much is tried, and the count of it.

`make test` tries each fault at a small count; `make soak` at the full one, until its time is over.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TypeVar

SOAK_END = float(os.environ.get("RUNICORN_SOAK_END", "0"))
"""When the soak ends, in seconds since the epoch; 0 in `make test`."""

SLICE = float(os.environ.get("RUNICORN_SOAK_SLICE", "40"))
"""Seconds of a soak that one loop of turns gets, so that each has some."""

KILL_SEED = int(os.environ.get("RUNICORN_KILL_SEED", "20240607"))
"""The first seed of the random kills; each root has one of its own."""

NTH_SEED = int(os.environ.get("RUNICORN_NTH_SEED", "1"))
"""Of the order in which a soak tries the faults of n-th calls and requests."""

ONE_CASE = os.environ.get("RUNICORN_NTH_CASE", "")
"""The only one of them that is tried, as `try_all` tells it; empty for all."""

LEAST_SYNCS, LEAST_GENERATIONS = 10_000, 2_000
"""Faulted or killed syncs, and killed generations, without which a soak has failed."""


CaseT = TypeVar("CaseT")


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


def killed_roots(place: Path, part: int, *, slices: float = 1.0) -> Iterator[tuple[Path, int]]:
    """A new folder and a seed for each root whose programs are killed at random moments.

    Args:
        place: holds the folders.
        part: number of the test among those that share the seeds.
        slices: of a soak, as of `turns`.
    """
    for number in turns(1, 25, slices=slices):
        seed = KILL_SEED + 100 * part + number
        print(f"RUNICORN_KILL_SEED={seed}")
        folder = place / str(number)
        folder.mkdir()
        yield folder, seed
        shutil.rmtree(folder)


def try_all(cases: Sequence[CaseT], try_one: Callable[[CaseT], bool], what: Tried) -> None:
    """Try the cases, and count those that were reached; tells how a failure is repeated."""
    for turn in turns(len(cases), len(cases)):
        case = cases[turn]
        try:
            reached = try_one(case)
        except BaseException as error:
            message = f"again with RUNICORN_NTH_CASE={case} (the order: RUNICORN_NTH_SEED={NTH_SEED})"
            raise AssertionError(message) from error
        count(what, int(reached))
