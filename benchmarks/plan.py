"""What is measured, in which order: acts, each of which can be played by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.contenders import FLOOR, JOURNAL, LFTP, MANIFEST, RCLONE, RSYNC, WALK, own_name
from testbed.trees import Mix

OURS = tuple(own_name(method) for method in (JOURNAL, MANIFEST, WALK))
QUICK = (FLOOR, RSYNC, *OURS)
ALL = (*QUICK, RCLONE, LFTP)


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

    first: int = 3
    unchanged: int = 5
    changed: int = 3


@dataclass(frozen=True)
class Bound:
    """Seconds that one sync may take, and those in all after which a contender does not repeat a scene."""

    limit: float = 100.0
    repeat: float = 20.0


@dataclass(frozen=True)
class Syncs:
    """Timed syncs of a tree over a line by contenders in turns, in all scenes that are played at all."""

    tree: Tree
    line: Line
    contenders: tuple[str, ...] = QUICK
    times: Times = Times()
    bound: Bound = Bound()

    @property
    def name(self) -> str:
        """The key in the file of results."""
        return f"syncs of {self.tree.name}, {self.line.name}"


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


@dataclass(frozen=True)
class Generations:
    """The first manifest of a tree, and later ones with nothing changed."""

    tree: Tree
    unchanged: int = 5

    @property
    def name(self) -> str:
        """The key in the file of results."""
        return f"generations of {self.tree.name}"


@dataclass(frozen=True)
class Watches:
    """Both sides watching, for `writing` and `idle` seconds."""

    tree: Tree
    line: Line
    writing: float = 30.0
    idle: float = 0.0

    @property
    def name(self) -> str:
        """The key in the file of results."""
        return f"watches of {self.tree.name}, {self.line.name}"


@dataclass(frozen=True)
class Profiles:
    """Where a first sync by journal, and the first generation, spend their time."""

    tree: Tree

    @property
    def name(self) -> str:
        """The key in the file of results."""
        return f"profiles of {self.tree.name}"


Act = Syncs | Requests | Generations | Watches | Profiles

FEW, SOME, MANY = Tree(100), Tree(1_000), Tree(10_000)
LONG_FEW, LONG_SOME = Tree(100, 15, "logs"), Tree(1_000, 15, "logs")
HUGE = Tree(100_000, 6)
NEAR, USUAL, FAR = Line(0), Line(50), Line(200)
RATED = {line: Line(line.rtt_ms, 100) for line in (NEAR, USUAL, FAR)}

TINY_TREE = Tree(3, 6)


def full() -> Iterator[Act]:
    """Everything: see docs/performance.md for how long it takes."""
    # The time at a smaller tree tells who is too slow for a larger one, so that comes first.
    few_times = Times(3, 3, 3)
    for tree in (FEW, SOME):
        for line in (USUAL, NEAR):
            yield Syncs(tree, line, ALL)
        yield Syncs(tree, FAR, ALL, few_times)
    yield Syncs(FEW, RATED[USUAL], times=few_times)
    for line in RATED.values():
        yield Syncs(SOME, line, times=few_times)
    yield Syncs(LONG_SOME, USUAL, times=Times(3, 0, 0))
    yield Syncs(LONG_SOME, RATED[USUAL], times=Times(3, 0, 0))
    yield Syncs(MANY, USUAL, ALL, Times(2, 5, 3))
    yield Syncs(MANY, RATED[USUAL], times=Times(1, 3, 1))
    yield Requests(LONG_FEW, USUAL)
    yield Requests(FEW, USUAL)
    yield Requests(FEW, NEAR, (RCLONE, LFTP), has_polls=False)
    yield Requests(SOME, USUAL)
    yield Requests(MANY, USUAL, (own_name(JOURNAL),))
    for line in (USUAL, NEAR, FAR):
        yield Watches(SOME, line, idle=60.0 if line is USUAL else 0.0)
    for tree in (FEW, MANY):
        yield Watches(tree, USUAL)
    yield Generations(LONG_SOME)
    yield Profiles(LONG_SOME)
    yield Generations(HUGE, unchanged=2)
    yield Syncs(HUGE, NEAR, (own_name(JOURNAL),), Times(1, 1, 1), Bound(limit=600.0))


def quick() -> Iterator[Act]:
    """What can be measured in less than ten minutes."""
    some = (FLOOR, RSYNC, own_name(JOURNAL))
    yield Syncs(FEW, USUAL, ALL, Times(1, 1, 1))
    yield Syncs(SOME, USUAL, times=Times(1, 3, 1))
    for line in (USUAL, RATED[USUAL]):
        yield Syncs(LONG_SOME, line, some, Times(2, 0, 0))
    yield Syncs(MANY, USUAL, some, Times(1, 3, 0))
    yield Requests(LONG_FEW, USUAL)
    yield Watches(SOME, USUAL, writing=20.0, idle=20.0)
    yield Generations(LONG_SOME, unchanged=3)


def trial() -> Iterator[Act]:
    """A few seconds of everything, to try the code; its numbers mean nothing."""
    yield Syncs(TINY_TREE, NEAR, ALL, Times(1, 1, 1))
    yield Requests(TINY_TREE, NEAR)
    yield Watches(TINY_TREE, NEAR, writing=2.0, idle=1.0)
    yield Generations(TINY_TREE, unchanged=1)
    yield Profiles(TINY_TREE)


PLANS = {"full": full, "quick": quick, "trial": trial}
