"""The marks to be reached, and whether this run reached them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contenders import HANDSHAKE, RCLONE, RSYNC
from benchmarks.generating import Generation
from benchmarks.requests import Counted
from benchmarks.scenes import CHANGED, FIRST, SCENES, UNCHANGED, Sample

REQUESTS = {FIRST: 60, UNCHANGED: 8, CHANGED: 10}
FIRST_TO_RSYNC = 0.7
HANDSHAKE_ALLOWANCE = 0.3
CLIENT_BYTES = 250_000_000
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
    samples: Sequence[Sample], counted: Sequence[Counted], generations: Sequence[Generation], name: str
) -> list[Bar]:
    """All marks, for the contender of this name."""
    requests = [
        Bar(f"{name}: requests, {c.scene}", None if c.trouble else c.requests, REQUESTS[c.scene], "requests")
        for c in counted
        if c.contender == name
    ]
    of_generations = [bar for generation in generations for bar in _generation_bars(generation)]
    return _sync_bars(samples, name) + requests + of_generations


def _sync_bars(samples: Sequence[Sample], name: str) -> list[Bar]:
    def scaled(contender: str, scene: str, factor: float) -> float | None:
        seconds = median_seconds(samples, contender, scene)
        return None if seconds is None else seconds * factor

    handshake = median_seconds(samples, HANDSHAKE, UNCHANGED)
    allowed = None if handshake is None else handshake + HANDSHAKE_ALLOWANCE
    mine = {scene: median_seconds(samples, name, scene) for scene in SCENES}
    peaks = [s.cost.peak_bytes for s in samples if s.contender == name and not s.cost.trouble]
    peak = max(peaks) / 1e6 if peaks else None
    return [
        Bar(
            f"{name}: first sync, {FIRST_TO_RSYNC} x rsync",
            mine[FIRST],
            scaled(RSYNC, FIRST, FIRST_TO_RSYNC),
            "s",
        ),
        Bar(f"{name}: first sync, faster than rclone", mine[FIRST], scaled(RCLONE, FIRST, 1), "s"),
        Bar(f"{name}: nothing changed, ssh + {HANDSHAKE_ALLOWANCE} s", mine[UNCHANGED], allowed, "s"),
        Bar(f"{name}: 5 runs changed, no slower than rsync", mine[CHANGED], scaled(RSYNC, CHANGED, 1), "s"),
        Bar(f"{name}: memory of the client", peak, CLIENT_BYTES / 1e6, "MB"),
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
