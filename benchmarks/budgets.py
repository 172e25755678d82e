"""The budgets that were set before anything was measured, and whether these results hold them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks.contenders import FLOOR, JOURNAL, PARAMIKO, RSYNC, SSH, Library, own_name
from benchmarks.plan import FEW, HUGE, LONG_FEW, LONG_SOME, MANY, OURS, RATED, SOME, USUAL, Line, Tree
from benchmarks.requests import POLL
from benchmarks.results import Counted, Found, Results
from benchmarks.scenes import CHANGED, FIRST, UNCHANGED, median_seconds

OURS_BY_JOURNAL = own_name(JOURNAL)
CLIENTS = {through: Library(JOURNAL, through).name for through in (SSH, PARAMIKO)}
REQUESTS_FIRST, REQUESTS_OPEN, REQUESTS_NEW, REQUESTS_CHANGED = 60, 2, 8, 10
SECONDS_BESIDE_FLOOR, MANY_TO_FEW = 0.3, 1.15
RATED_TO_RSYNC, UNLIMITED_TO_RSYNC = 0.9, 0.7
GENERATE_SECONDS, GENERATE_BYTES, CLIENT_BYTES = 0.5, 600e6, 250e6
LINE_SECONDS = 1.5


@dataclass(frozen=True)
class Budget:
    """`value` has to be at most `limit`, both in `unit`; no value means that it was not measured."""

    name: str
    limit: float | None
    value: float | None
    unit: str = ""

    @property
    def verdict(self) -> str:
        """Held, missed or not measured."""
        if self.value is None or self.limit is None:
            return "not measured"
        return "held" if self.value <= self.limit else "missed"


def budgets(results: Results) -> list[Budget]:
    """All budgets."""
    return [
        *_of_requests(results),
        *_of_unchanged(results),
        *_of_first_syncs(results),
        *_of_appends(results),
        *_of_generations(results),
        _of_memory(results),
        *_of_watches(results),
    ]


def _of_requests(results: Results) -> Iterator[Budget]:
    of_few = _counts(results, LONG_FEW)
    yield Budget(
        "Requests of a first sync of 100 runs, 1,500 files, 25 MB",
        REQUESTS_FIRST,
        _requests(of_few, FIRST, OURS_BY_JOURNAL),
    )
    for tree in (LONG_FEW, MANY):
        counted = _counts(results, tree)
        size = f"{tree.runs:,} runs"
        for through, name in CLIENTS.items():
            what = f"Requests, nothing changed, session open through {through}, {size}"
            yield Budget(what, REQUESTS_OPEN, _requests(counted, POLL, name))
        what = f"Requests, nothing changed, new session, {size}"
        yield Budget(what, REQUESTS_NEW, _requests(counted, UNCHANGED, OURS_BY_JOURNAL))
        what = f"Requests, 5 runs changed, {size}"
        yield Budget(what, REQUESTS_CHANGED, _requests(counted, CHANGED, OURS_BY_JOURNAL))


def _of_unchanged(results: Results) -> Iterator[Budget]:
    seconds, floor, of_few = (
        _seconds(results, tree, name, UNCHANGED)
        for tree, name in ((MANY, OURS_BY_JOURNAL), (MANY, FLOOR), (FEW, OURS_BY_JOURNAL))
    )
    yield Budget(
        f"Nothing changed, new session, 10,000 runs: the floor + {SECONDS_BESIDE_FLOOR} s",
        None if floor is None else floor + SECONDS_BESIDE_FLOOR,
        seconds,
        "s",
    )
    yield Budget(
        f"The same: flat from 100 runs on, at most {MANY_TO_FEW} of their time",
        None if of_few is None else MANY_TO_FEW * of_few,
        seconds,
        "s",
    )


def _of_first_syncs(results: Results) -> Iterator[Budget]:
    what = "First sync of 1,000 runs, 15,000 files, 247 MB, {}, to rsync -az"
    for line, limit in ((RATED[USUAL], RATED_TO_RSYNC), (USUAL, UNLIMITED_TO_RSYNC)):
        found = one(results.of("Syncs", tree=LONG_SOME, line=line))
        ratios = ratios_to(found, OURS_BY_JOURNAL, RSYNC, FIRST) if found else []
        value = statistics.median(ratios) if ratios else None
        yield Budget(what.format("100 Mbit/s" if line.mbit else "no rate limit"), limit, value, "x")


def _of_appends(results: Results) -> Iterator[Budget]:
    for tree in (LONG_FEW, MANY):
        counted = _counted(_counts(results, tree), CHANGED, OURS_BY_JOURNAL)
        allowed = counted.allowed.compressed if counted and counted.allowed else None
        yield Budget(
            f"Bytes received for appends, {tree.runs:,} runs: 1.1 x their compressed size + 8 KiB",
            allowed,
            counted.bytes_down if counted else None,
            "bytes",
        )


def _of_generations(results: Results) -> Iterator[Budget]:
    found = _good(results.of("Generations", tree=LONG_SOME))
    seconds = [each.seconds for each in found.generated if not each.is_first] if found else []
    yield Budget(
        "Generate, nothing changed, 15,000 files, whole process",
        GENERATE_SECONDS,
        statistics.median(seconds) if seconds else None,
        "s",
    )
    huge = _good(results.of("Generations", tree=HUGE))
    peak = max(each.peak_bytes for each in huge.generated) / 1e6 if huge else None
    yield Budget("Generate at 100,000 runs of 6 files, peak memory", GENERATE_BYTES / 1e6, peak, "MB")


def _of_memory(results: Results) -> Budget:
    mine = [
        (each.peak_bytes, found.tree.runs)
        for found in results.of("Syncs")
        for each in found.samples
        if each.contender in OURS and not each.trouble
    ]
    most = f", up to {max(runs for _, runs in mine):,} runs" if mine else ""
    peak = max(size for size, _ in mine) / 1e6 if mine else None
    return Budget(f"Client memory, any sync{most}", CLIENT_BYTES / 1e6, peak, "MB")


def _of_watches(results: Results) -> Iterator[Budget]:
    found = _good(results.of("Watches", tree=SOME, line=USUAL))
    watched = found.watched[0] if found else None
    p95 = watched.p95 if watched else None
    yield Budget(
        "Event line on the server to whole line on the client, both watching, p95", LINE_SECONDS, p95, "s"
    )
    wrong = watched.torn + watched.lost + watched.doubled if watched else None
    yield Budget("The same: records torn, lost or doubled", 0, wrong)


def one(found: Iterable[Found]) -> Found | None:
    """The first, if there is any."""
    return next(iter(found), None)


def _good(found: Iterable[Found]) -> Found | None:
    return one(each for each in found if not each.troubles)


def ratios_to(found: Found, name: str, other: str, scene: str) -> list[float]:
    """A contender's times as ratios to those of another one in the same repetition."""

    def seconds(who: str) -> dict[int, float]:
        mine = [each for each in found.samples if (each.contender, each.scene) == (who, scene)]
        return {each.repetition: each.seconds for each in mine if not each.trouble}

    mine, theirs = seconds(name), seconds(other)
    return [mine[repetition] / theirs[repetition] for repetition in mine.keys() & theirs.keys()]


def _seconds(results: Results, tree: Tree, name: str, scene: str, line: Line = USUAL) -> float | None:
    found = one(results.of("Syncs", tree=tree, line=line))
    return median_seconds(found, name, scene) if found else None


def _counts(results: Results, tree: Tree) -> list[Counted]:
    return [each for found in results.of("Requests", tree=tree, line=USUAL) for each in found.counted]


def _counted(counted: list[Counted], scene: str, name: str) -> Counted | None:
    good = (each for each in counted if not each.trouble)
    return next((each for each in good if (each.contender, each.scene) == (name, scene)), None)


def _requests(counted: list[Counted], scene: str, name: str) -> int | None:
    found = _counted(counted, scene, name)
    return found.requests if found else None
