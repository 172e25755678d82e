"""The marks to be reached, and whether this run reached them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contenders import RCLONE, RSYNC, own_name
from benchmarks.generating import Generation
from benchmarks.requests import Counted
from benchmarks.scenes import CHANGED, FIRST, UNCHANGED, Sample

REQUESTS = {UNCHANGED: 8, CHANGED: 60}
REQUESTS_PER_FILE, REQUESTS_BESIDE = 3, 20
FILES_PER_RUN = 15
FIRST_TO_RSYNC = 1.5
RCLONE_TO_MANIFEST, RCLONE_TO_WALK = 15, 10
MANIFEST, WALK = "manifest", "walk"
GENERATE_SECONDS, GENERATE_FILES = 0.5, 15_000
LARGE_BYTES, LARGE_RUNS = 600_000_000, 100_000


@dataclass(frozen=True)
class Bar:
    """One mark: `value` has to be at most `limit`, both in `unit`.

    No value means that it could not be measured.
    """

    name: str
    value: float | None
    limit: float | None
    unit: str

    @property
    def verdict(self) -> str:
        """ "held", "short by ..." or "not measured"."""
        if self.value is None or self.limit is None:
            return "not measured"
        if self.value <= self.limit:
            return "held"
        return f"short by {_number(self.value - self.limit)} {self.unit}"

    def line(self) -> str:
        """The bar as a line of the report."""
        value, limit = (("-" if x is None else _number(x)) for x in (self.value, self.limit))
        return f"{self.name:<58} {value:>9} of {limit:>7} {self.unit:<8} {self.verdict}"


def median_seconds(samples: Sequence[Sample], contender: str, scene: str) -> float | None:
    """The median of the good samples, in seconds, or None if there are none or one went wrong."""
    chosen = [s.cost for s in samples if (s.contender, s.scene) == (contender, scene)]
    if not chosen or any(cost.trouble for cost in chosen):
        return None
    return statistics.median(cost.seconds for cost in chosen)


def bars(
    samples: Sequence[Sample], counted: Sequence[Counted], generations: Sequence[Generation], runs: int
) -> list[Bar]:
    """All marks; ``runs`` is the number of runs that were synced."""
    of_counts = [
        bar for each in counted if each.contender == own_name(MANIFEST) for bar in _counted_bars(each, runs)
    ]
    of_generations = [bar for generation in generations for bar in _generation_bars(generation)]
    return _sync_bars(samples) + of_counts + of_generations


def _counted_bars(counted: Counted, runs: int) -> list[Bar]:
    allowed = REQUESTS.get(counted.scene, REQUESTS_PER_FILE * FILES_PER_RUN * runs + REQUESTS_BESIDE)
    what = f"{counted.contender}: {counted.scene}"
    found = [Bar(f"{what}, requests", None if counted.trouble else counted.requests, allowed, "requests")]
    if counted.bytes_allowed is not None:
        received = None if counted.trouble else counted.bytes_down
        found.append(Bar(f"{what}, bytes received", received, counted.bytes_allowed, "bytes"))
    return found


def _sync_bars(samples: Sequence[Sample]) -> list[Bar]:
    def first(contender: str) -> float | None:
        return median_seconds(samples, contender, FIRST)

    def share(contender: str, factor: float) -> float | None:
        seconds = first(contender)
        return None if seconds is None else seconds * factor

    manifest, walk = own_name(MANIFEST), own_name(WALK)
    return [
        Bar(
            f"{manifest}: first sync, {FIRST_TO_RSYNC} x rsync",
            first(manifest),
            share(RSYNC, FIRST_TO_RSYNC),
            "s",
        ),
        Bar(
            f"{manifest}: first sync, {RCLONE_TO_MANIFEST} x faster than rclone",
            first(manifest),
            share(RCLONE, 1 / RCLONE_TO_MANIFEST),
            "s",
        ),
        Bar(
            f"{walk}: first sync, {RCLONE_TO_WALK} x faster than rclone",
            first(walk),
            share(RCLONE, 1 / RCLONE_TO_WALK),
            "s",
        ),
    ]


def _generation_bars(generation: Generation) -> list[Bar]:
    what = f"generate, {generation.runs:,} runs of {generation.files} files"
    costs = [generation.first, *generation.unchanged]
    failed = any(cost.trouble for cost in costs)
    if generation.runs >= LARGE_RUNS:
        peak = None if failed else max(cost.peak_bytes for cost in costs) / 1e6
        return [Bar(f"{what}: peak memory", peak, LARGE_BYTES / 1e6, "MB")]
    seconds = None if failed else statistics.median(cost.seconds for cost in generation.unchanged)
    # The mark was set for one size of tree; another size would make it easier or harder.
    limit = GENERATE_SECONDS if generation.runs * generation.files == GENERATE_FILES else None
    return [Bar(f"{what}: nothing changed", seconds, limit, "s")]


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() or value >= 100 else f"{value:.3f}"
