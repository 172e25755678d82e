"""What a watching generator holds of its last scan, so that the next one looks only at what changed.

The runs lie in memory as they lie in the scan state, compressed one by one: a hundred thousand of them have
to fit.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, insort
from collections.abc import Iterator

from runicorn.manifest.scan_limit import Limit, Span
from runicorn.manifest.scan_problems import Problems
from runicorn.manifest.scan_state import RunState, Summary, Sums


class Standing:
    """The runs of the last scan, their sums, and what could not be listed.

    Attributes:
        summary: of that scan; None before the first one, or when it cannot be gone on from.
        sums: of all runs.
        problems: what could not be listed.
        audience: for whom that scan looked (see `ForJournal.told`).
    """

    def __init__(self) -> None:
        self.summary: Summary | None = None
        self.sums = Sums(0, 0, 0)
        self.problems = Problems()
        self.audience = ("", False)
        self._runs: dict[str, tuple[int, bytes]] = {}
        self._newest: dict[str, int] = {}
        self._order: list[str] = []

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, folder: str) -> bool:
        return folder in self._runs

    def put(self, state: RunState) -> None:
        """Take a run, in the place of one of the same folder."""
        text = state.encoded()
        known = self._runs.get(state.folder)
        if known is not None and known[0] == hash(text):
            return
        if known is None:
            insort(self._order, state.folder + "/")
        else:
            self.sums = self.sums.minus(self._decoded(known[1]).sums)
        self._runs[state.folder] = hash(text), zlib.compress(text, 1)
        self._newest[state.folder] = state.sums.newest_ns
        self.sums = self.sums.plus(state.sums)

    def drop(self, folder: str) -> None:
        """Forget a run, if it is there."""
        known = self._runs.pop(folder, None)
        if known is not None:
            del self._newest[folder]
            del self._order[bisect_left(self._order, folder + "/")]
            self.sums = self.sums.minus(self._decoded(known[1]).sums)

    def keep_only(self, folders: set[str]) -> None:
        """Forget all runs but these."""
        for folder in [each for each in self._runs if each not in folders]:
            self.drop(folder)

    def get(self, folder: str) -> RunState:
        """The run of a folder that is there."""
        return self._decoded(self._runs[folder][1])

    def covered(self, limit: Limit | None) -> Iterator[RunState]:
        """The runs that a scan looks at, in order of run folder."""
        if limit is None:
            for key in [*self._order]:
                yield self.get(key[:-1])
            return
        if isinstance(limit, Span):
            end = None if limit.end is None else bisect_left(self._order, limit.end)
            for key in self._order[bisect_left(self._order, limit.start) : end]:
                yield self.get(key[:-1])
            return
        for folder in sorted(limit.folders, key=lambda each: each + "/"):
            start = folder + "/"
            for at in range(bisect_left(self._order, start), len(self._order)):
                if not self._order[at].startswith(start):
                    break
                yield self.get(self._order[at][:-1])

    def spans(self, count: int) -> list[Span]:
        """The whole root in parts of about so many runs."""
        starts = ["", *self._order[count::count]]
        ends = [*starts[1:], None]
        return [Span(start, end) for start, end in zip(starts, ends, strict=True)]

    def newest(self, since: int, count: int) -> list[str]:
        """The folders of the runs that changed last.

        Args:
            since: at this time (ns) or later.
            count: how many at most.
        """
        late = [folder for folder, newest in self._newest.items() if newest >= since]
        return sorted(late, key=lambda each: self._newest[each])[-count:]

    def run_of(self, path: str) -> str | None:
        """The run folder that a path is in or is, if there is one."""
        parts = path.split("/")
        above = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((each for each in above if each in self._runs), None)

    @staticmethod
    def _decoded(packed: bytes) -> RunState:
        return RunState.decoded(zlib.decompress(packed)[:-1])
