"""What is measured, in which order: acts, each of which can be played by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.contenders import FLOOR, JOURNAL, LFTP, MANIFEST, RCLONE, RSYNC, TAR, WALK, own_name
from testbed.trees import Mix

BY_JOURNAL = own_name(JOURNAL)
OURS = (BY_JOURNAL, own_name(MANIFEST), own_name(WALK))
QUICK = (FLOOR, RSYNC, *OURS)
ALL = (*QUICK, RCLONE, LFTP)
SHORT = (FLOOR, RSYNC, BY_JOURNAL)
FLOORS = (FLOOR, TAR, RSYNC, *OURS)
IN_ORDER = (FLOOR, TAR, *ALL[1:])
"""Everybody, in the order of the tables."""


@dataclass(frozen=True)
class Tree:
    """`runs` runs of `files` files each; see `testbed.trees.make_tree`."""

    runs: int
    files: int = 9
    mix: Mix = "images"

    @property
    def name(self) -> str:
        """Of its folder, and in the names of acts."""
        return f"{self.runs}x{self.files}"


@dataclass(frozen=True)
class Line:
    """A line with this round-trip time in milliseconds and rate each way in Mbit/s, or no rate limit."""

    rtt_ms: int
    mbit: int | None = None

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"{self.rtt_ms} ms, " + (f"{self.mbit} Mbit/s" if self.mbit else "no rate limit")

    @property
    def rtt(self) -> float:
        """The round-trip time in seconds."""
        return self.rtt_ms / 1000

    @property
    def rate(self) -> float | None:
        """The rate in bytes per second."""
        return self.mbit * 1e6 / 8 if self.mbit else None


@dataclass(frozen=True)
class Times:
    """How often the scenes are played: first sync, nothing changed, 5 runs changed."""

    first: int = 1
    unchanged: int = 2
    changed: int = 1


ONCE = Times(1, 1, 1)


@dataclass(frozen=True)
class Bound:
    """Seconds that one sync may take, and those in all after which a contender does not repeat a scene."""

    limit: float = 50.0
    repeat: float = 20.0


@dataclass(frozen=True)
class Syncs:
    """Timed syncs of a tree over a line by contenders in turns, in all scenes that are played at all.

    `part` tells acts of one tree and line apart.
    """

    tree: Tree
    line: Line
    contenders: tuple[str, ...] = QUICK
    times: Times = Times()
    bound: Bound = Bound()
    part: str = ""

    @property
    def name(self) -> str:
        """The key in the file of results."""
        return f"syncs of {self.tree.name}, {self.line.name}" + (f", {self.part}" if self.part else "")

    @property
    def where(self) -> Line | None:
        """The line of what it finds."""
        return self.line


@dataclass(frozen=True)
class Requests:
    """Requests that the server counts, of one sync for each scene, and of polls by journal."""

    tree: Tree
    line: Line
    contenders: tuple[str, ...] = OURS
    has_polls: bool = True

    @property
    def name(self) -> str:
        """The key in the file of results."""
        return f"requests of {self.tree.name}, {self.line.name}"

    @property
    def where(self) -> Line | None:
        """The line of what it finds."""
        return self.line


@dataclass(frozen=True)
class Generations:
    """The first manifest of a tree, and later ones with nothing changed."""

    tree: Tree
    unchanged: int = 5

    @property
    def name(self) -> str:
        """The key in the file of results."""
        return f"generations of {self.tree.name}"

    @property
    def where(self) -> Line | None:
        """It has no line."""
        return None


@dataclass(frozen=True)
class Watches:
    """Both sides watching, for `writing` and `idle` seconds."""

    tree: Tree
    line: Line
    writing: float = 20.0
    idle: float = 0.0

    @property
    def name(self) -> str:
        """The key in the file of results."""
        return f"watches of {self.tree.name}, {self.line.name}"

    @property
    def where(self) -> Line | None:
        """The line of what it finds."""
        return self.line


@dataclass(frozen=True)
class Profiles:
    """Where a first sync by journal, and the first generation, spend their time."""

    tree: Tree

    @property
    def name(self) -> str:
        """The key in the file of results."""
        return f"profiles of {self.tree.name}"

    @property
    def where(self) -> Line | None:
        """It has no line."""
        return None


Act = Syncs | Requests | Generations | Watches | Profiles

FEW, SOME, MANY = Tree(100), Tree(1_000), Tree(10_000)
LONG_FEW, LONG_SOME = Tree(100, 15, "logs"), Tree(1_000, 15, "logs")
HUGE = Tree(100_000, 6)
NEAR, USUAL, FAR = Line(0), Line(50), Line(200)
RATED = {line: Line(line.rtt_ms, 100) for line in (NEAR, USUAL, FAR)}

TINY_TREE = Tree(3, 6)

FIRST_ONLY = Times(1, 0, 0)
LONG_BOUND = Bound(limit=150.0)
LONGEST_BOUND = Bound(limit=400.0)


def full() -> Iterator[Act]:
    """Everything of docs/performance.md, the most important first: what comes last may find no time.

    The time at a smaller tree, or over a shorter line, tells who is too slow for others: that comes before.
    """
    yield from _first_syncs()
    yield from _first_of_the_rest()
    yield from _budgets_again()
    yield from _other_lines()
    yield from _less_important()
    for number in (3, 4, 5):
        yield from _again(number)


def _first_syncs() -> Iterator[Act]:
    yield Syncs(FEW, USUAL, ALL, ONCE)
    yield Syncs(FEW, NEAR, ALL, ONCE)
    yield Syncs(SOME, NEAR, ALL, ONCE)
    yield Syncs(FEW, RATED[NEAR], ALL, ONCE)
    yield Syncs(FEW, FAR, ALL, ONCE, LONG_BOUND)
    yield Syncs(SOME, FAR, ALL, ONCE, Bound(limit=80.0))
    for line in (USUAL, RATED[USUAL]):
        yield Syncs(LONG_SOME, line, FLOORS, FIRST_ONLY)
    yield Syncs(SOME, USUAL, ALL, ONCE, LONGEST_BOUND)
    yield Syncs(MANY, USUAL, ALL, ONCE, LONG_BOUND)


def _first_of_the_rest() -> Iterator[Act]:
    yield Requests(LONG_FEW, USUAL)
    yield Requests(FEW, NEAR, (*OURS, RCLONE, LFTP), has_polls=False)
    yield Requests(MANY, USUAL, (BY_JOURNAL,))
    yield Generations(LONG_SOME)
    yield Profiles(LONG_SOME)
    yield Watches(SOME, USUAL, idle=30.0)
    yield Generations(HUGE, unchanged=2)
    for tree in (FEW, MANY):
        yield Watches(tree, USUAL)
    for line in (NEAR, FAR):
        yield Watches(SOME, line)


def _budgets_again() -> Iterator[Act]:
    part = "again 2"
    for line in (USUAL, RATED[USUAL]):
        yield Syncs(LONG_SOME, line, FLOORS, Times(2, 0, 0), part=part)
    for tree in (FEW, SOME):
        yield Syncs(tree, USUAL, times=Times(2, 2, 2), part=part)
    yield Syncs(MANY, USUAL, SHORT, bound=LONG_BOUND, part=part)


def _other_lines() -> Iterator[Act]:
    yield Syncs(HUGE, NEAR, (BY_JOURNAL,), ONCE, Bound(limit=600.0))
    yield Requests(SOME, NEAR, (*OURS, RCLONE, LFTP), has_polls=False)
    for line in (USUAL, FAR):
        yield Syncs(SOME, RATED[line], times=ONCE)
    yield Syncs(SOME, RATED[NEAR], ALL, ONCE)
    yield Syncs(FEW, RATED[USUAL], ALL, ONCE)
    yield Syncs(MANY, RATED[USUAL], times=ONCE, bound=LONG_BOUND)
    yield Syncs(MANY, NEAR, ALL, ONCE, Bound(limit=250.0))
    yield Syncs(MANY, FAR, times=ONCE, bound=LONGEST_BOUND)


def _less_important() -> Iterator[Act]:
    yield Syncs(MANY, RATED[NEAR], times=ONCE, bound=LONG_BOUND)
    yield Requests(MANY, NEAR, OURS[1:], has_polls=False)
    for tree in (FEW, SOME):
        for line in (NEAR, FAR):
            yield Syncs(tree, line, part="again 2")
    yield Syncs(FEW, RATED[FAR], ALL, ONCE, LONG_BOUND)
    yield Syncs(MANY, RATED[FAR], times=ONCE, bound=LONGEST_BOUND)


def _again(number: int) -> Iterator[Act]:
    part = f"again {number}"
    for line in (USUAL, RATED[USUAL]):
        yield Syncs(LONG_SOME, line, FLOORS, FIRST_ONLY, part=part)
    yield Syncs(MANY, USUAL, SHORT, bound=LONG_BOUND, part=part)
    for tree in (FEW, SOME):
        for line in (USUAL, NEAR, FAR, RATED[NEAR], RATED[USUAL]):
            yield Syncs(tree, line, part=part)
    for line in (RATED[USUAL], NEAR, FAR):
        yield Syncs(MANY, line, SHORT, ONCE, LONG_BOUND, part)


def quick() -> Iterator[Act]:
    """What can be measured in less than ten minutes."""
    yield Syncs(FEW, USUAL, ALL, ONCE)
    yield Syncs(SOME, USUAL, times=Times(1, 3, 1))
    yield Requests(LONG_FEW, USUAL)
    yield Watches(SOME, USUAL, idle=20.0)
    for line in (USUAL, RATED[USUAL]):
        yield Syncs(LONG_SOME, line, SHORT, FIRST_ONLY)
    yield Generations(LONG_SOME, unchanged=3)
    yield Syncs(MANY, USUAL, SHORT, Times(1, 3, 0))


def trial() -> Iterator[Act]:
    """A few seconds of everything, to try the code; its numbers mean nothing."""
    yield Syncs(TINY_TREE, NEAR, IN_ORDER, ONCE)
    yield Syncs(TINY_TREE, NEAR, (RSYNC, BY_JOURNAL), ONCE, part="again 2")
    yield Requests(TINY_TREE, NEAR)
    yield Watches(TINY_TREE, NEAR, writing=2.0, idle=1.0)
    yield Generations(TINY_TREE, unchanged=1)
    yield Profiles(TINY_TREE)


PLANS = {"full": full, "quick": quick, "trial": trial}
MINUTES = {"full": 120.0, "quick": 7.5, "trial": math.inf}
"""After which no act of a plan begins, unless told otherwise."""
