"""The marks to be reached, and whether this run reached them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contenders import (
    HANDSHAKE,
    JOURNAL,
    MANIFEST,
    PARAMIKO,
    RCLONE,
    RSYNC,
    SSH,
    WALK,
    Library,
    own_name,
)
from benchmarks.generating import Generation
from benchmarks.large import FEW_RUNS, MANY_RUNS, RATED, large_scene, many_scene
from benchmarks.live import LIVE_RUNS, Live
from benchmarks.requests import POLL, Counted
from benchmarks.scenes import CHANGED, FIRST, UNCHANGED, Sample

REQUESTS = {UNCHANGED: 8, CHANGED: 60}
REQUESTS_PER_FILE, REQUESTS_BESIDE = 3, 20
FILES_PER_RUN = 15
FIRST_TO_RSYNC = 1.5
RCLONE_TO_MANIFEST, RCLONE_TO_WALK = 15, 10
GENERATE_SECONDS, GENERATE_FILES = 0.5, 15_000
LARGE_BYTES, LARGE_RUNS = 600_000_000, 100_000

JOURNAL_REQUESTS = {FIRST: 60, UNCHANGED: 8, POLL: 2, CHANGED: 10}
PARAMIKO_FIRST = 120
FIRST_RUNS = 100
AT_ANY_SIZE = (UNCHANGED, POLL, CHANGED)
LARGE_TO_RSYNC = {RATED: 0.9, None: 0.7}
SECONDS_BESIDE_HANDSHAKE = 0.3
RSYNC_TO_JOURNAL = 8
MANY_TO_FEW = 1.15

LINE_SECONDS = {"p50": 0.8, "p95": 1.5}
IDLE_SHARE = 0.01


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
        return f"{self.name:<76} {value:>9} of {limit:>7} {self.unit:<8} {self.verdict}"


def median_seconds(samples: Sequence[Sample], contender: str, scene: str) -> float | None:
    """The median of the good samples, in seconds, or None if there are none or one went wrong."""
    chosen = [s.cost for s in samples if (s.contender, s.scene) == (contender, scene)]
    if not chosen or any(cost.trouble for cost in chosen):
        return None
    return statistics.median(cost.seconds for cost in chosen)


def bars(
    samples: Sequence[Sample],
    counted: Sequence[Counted],
    generations: Sequence[Generation],
    live: Live,
    runs: int,
) -> list[Bar]:
    """All marks; ``runs`` is the number of runs that were synced in the scenes of every contender."""
    of_manifest = [each for each in counted if each.contender == own_name(MANIFEST) and each.runs == runs]
    found = _sync_bars(samples)
    found += [bar for each in of_manifest for bar in _manifest_bars(each)]
    found += _large_bars(samples) + _many_bars(samples)
    found += [bar for size in (runs, MANY_RUNS) for bar in _journal_bars(counted, size)]
    found += _same_counts(counted, runs)
    found += live_bars(live)
    return found + [bar for generation in generations for bar in _generation_bars(generation)]


def live_bars(live: Live) -> list[Bar]:
    """The marks of both sides watching."""
    lines, idle, what = live.lines, live.idle, f"live, {LIVE_RUNS:,} runs"
    if live.runs != LIVE_RUNS:
        # The marks were set for one size of tree.
        lines = idle = None
    p50, p95 = (None, None) if lines is None else (lines.p50, lines.p95)
    wrong = None if lines is None else lines.torn + lines.lost + lines.doubled
    shares = (None, None) if idle is None else (100 * idle.generator_share, 100 * idle.client_share)
    return [
        Bar(f"{what}: line to mirror, p50", p50, LINE_SECONDS["p50"], "s"),
        Bar(f"{what}: line to mirror, p95", p95, LINE_SECONDS["p95"], "s"),
        Bar(f"{what}: lines torn, lost or doubled", wrong, 0, "lines"),
        Bar(f"{what}: idle generator", shares[0], 100 * IDLE_SHARE, "% core"),
        Bar(f"{what}: idle client with its ssh", shares[1], 100 * IDLE_SHARE, "% core"),
    ]


def _manifest_bars(counted: Counted) -> list[Bar]:
    limit = REQUESTS.get(counted.scene, REQUESTS_PER_FILE * FILES_PER_RUN * counted.runs + REQUESTS_BESIDE)
    what = f"{counted.contender}: {counted.scene}"
    found = [Bar(f"{what}, requests", None if counted.trouble else counted.requests, limit, "requests")]
    if counted.allowed is not None:
        received = None if counted.trouble else counted.bytes_down
        found.append(Bar(f"{what}, bytes received", received, counted.allowed.plain, "bytes"))
    return found


def _journal_bars(counted: Sequence[Counted], runs: int) -> list[Bar]:
    name = own_name(JOURNAL)
    found = []
    if runs != MANY_RUNS:
        # The marks of first syncs were set for one size of tree.
        limit = JOURNAL_REQUESTS[FIRST] if runs == FIRST_RUNS else None
        found.append(_requests_bar(counted, name, FIRST, runs, limit))
        limit = PARAMIKO_FIRST if runs == FIRST_RUNS else None
        found.append(_requests_bar(counted, client_name(PARAMIKO), FIRST, runs, limit))
    for who, scene in _at_any_size():
        found.append(_requests_bar(counted, who, scene, runs, JOURNAL_REQUESTS[scene]))
    changed = _one(counted, name, CHANGED, runs)
    received = changed.bytes_down if changed else None
    allowed = changed.allowed.compressed if changed and changed.allowed else None
    found.append(Bar(f"{name}: {many_scene(CHANGED, runs)}, bytes received", received, allowed, "bytes"))
    return found


def _same_counts(counted: Sequence[Counted], runs: int) -> list[Bar]:
    found = []
    for who, scene in _at_any_size():
        few = _one(counted, who, scene, runs)
        what = f"as at {runs:,} runs"
        found.append(_requests_bar(counted, who, scene, MANY_RUNS, few.requests if few else None, what))
    return found


def _requests_bar(
    counted: Sequence[Counted], who: str, scene: str, runs: int, limit: int | None, what: str = "requests"
) -> Bar:
    one = _one(counted, who, scene, runs)
    return Bar(f"{who}: {many_scene(scene, runs)}, {what}", one.requests if one else None, limit, "requests")


def _at_any_size() -> list[tuple[str, str]]:
    name = own_name(JOURNAL)
    polls = [(client_name(through), POLL) for through in (SSH, PARAMIKO)]
    return [(name, UNCHANGED), *polls, (name, CHANGED)]


def client_name(through: str) -> str:
    """What the tables call a program that syncs by journal."""
    return Library(JOURNAL, through).name


def _one(counted: Sequence[Counted], contender: str, scene: str, runs: int) -> Counted | None:
    """The good count of one sync, or None."""
    wanted = (contender, scene, runs)
    chosen = (each for each in counted if (each.contender, each.scene, each.runs) == wanted)
    return next((each for each in chosen if not each.trouble), None)


def _large_bars(samples: Sequence[Sample]) -> list[Bar]:
    found = []
    for rate, factor in LARGE_TO_RSYNC.items():
        scene = large_scene(rate)
        limit = _times(median_seconds(samples, RSYNC, scene), factor)
        value = median_seconds(samples, own_name(JOURNAL), scene)
        found.append(Bar(f"{own_name(JOURNAL)}: {scene}, {factor} x rsync", value, limit, "s"))
    return found


def _many_bars(samples: Sequence[Sample]) -> list[Bar]:
    def median(contender: str, runs: int = MANY_RUNS) -> float | None:
        return median_seconds(samples, contender, many_scene(UNCHANGED, runs))

    name = own_name(JOURNAL)
    what = f"{name}: {many_scene(UNCHANGED, MANY_RUNS)}"
    value, few, handshake = median(name), median(name, FEW_RUNS), median(HANDSHAKE)
    beside = None if handshake is None else handshake + SECONDS_BESIDE_HANDSHAKE
    return [
        Bar(f"{what}, ssh alone + {SECONDS_BESIDE_HANDSHAKE} s", value, beside, "s"),
        Bar(
            f"{what}, {RSYNC_TO_JOURNAL} x faster than rsync",
            value,
            _times(median(RSYNC), 1 / RSYNC_TO_JOURNAL),
            "s",
        ),
        Bar(f"{what}, {MANY_TO_FEW} x that of {FEW_RUNS} runs", value, _times(few, MANY_TO_FEW), "s"),
    ]


def _times(seconds: float | None, factor: float) -> float | None:
    return None if seconds is None else seconds * factor


def _sync_bars(samples: Sequence[Sample]) -> list[Bar]:
    def first(contender: str) -> float | None:
        return median_seconds(samples, contender, FIRST)

    def share(contender: str, factor: float) -> float | None:
        return _times(first(contender), factor)

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
