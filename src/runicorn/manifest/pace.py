"""When a watching generator does what. By the monotonic clock, in seconds; no I/O.

What costs much is done seldom: the share of a core that scanning takes is bounded, however large the root.
What something costs is the time that it kept a core busy, not that of waiting for a disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MANIFESTS_S = 60.0
"""Time between two writings of the manifests."""

SIGN_S = 10.0
"""Time after which HEAD is renewed when the system has told of no change."""

LOOK_S = 1.0
"""Without notices: time between two looks at the runs that changed lately."""

INTERVAL_S = 60.0
INTERVAL_ALONE_S = 30.0
"""Time between two scans of the whole root: with notices, and without."""

WHOLE = 200.0
"""A whole generation is not begun before this many times what the last one took."""

ALONE = 20.0
"""The same of a scan of the whole root without notices."""

PART = 10.0
"""The same of a publication of what changed, as long as it is not kept waiting too long."""

_RETRY_S = 5.0


class Pace:
    """The next moments of a watching generator.

    Args:
        interval: between two scans of the whole root; None takes the default.
        debounce: between the first change and its publication.
        longest: the same under constant writing, at most.
        clock: the time now.
        work: the time that this process has kept a core busy.

    Attributes:
        journal: whether a journal carries what changes; without it there are whole generations only.
        listening: whether the system tells of changes.
    """

    def __init__(
        self,
        interval: float | None,
        debounce: float,
        longest: float,
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.process_time,
    ) -> None:
        self._interval = interval
        self._debounce = debounce
        self._longest = longest
        self._clock = clock
        self._work = work
        self.journal = True
        now = clock()
        self._all = self._scan = self._look = self._sign = now
        self._first_change = now
        self._rested = now
        self._soonest_all = now
        self.listening = False

    def due(self, *, changed: bool) -> float:
        """The moment of the next thing to do.

        Args:
            changed: whether a change waits for its publication.
        """
        moments = [self._all]
        if self.journal:
            moments += [self._scan, self._sign if self.listening else self._look]
            moments += [self._changes_at()] if changed else []
        return min(moments)

    def _changes_at(self) -> float:
        wanted = self._first_change + self._debounce
        return max(wanted, min(self._rested, self._first_change + self._longest))

    def all_is_due(self) -> bool:
        """Whether a whole generation is."""
        return self._clock() >= self._all

    def scan_is_due(self) -> bool:
        """Whether a scan of the whole root is."""
        return self.journal and self._clock() >= self._scan

    def changes_are_due(self) -> bool:
        """Whether the publication of what changed is."""
        return self.journal and self._clock() >= self._changes_at()

    def look_is_due(self) -> bool:
        """Whether a look at the runs that changed lately is."""
        return self.journal and not self.listening and self._clock() >= self._look

    def sign_is_due(self) -> bool:
        """Whether HEAD has to be renewed."""
        return self.journal and self.listening and self._clock() >= self._sign

    def first_change(self) -> None:
        """A change was told, and none waits."""
        self._first_change = self._clock()

    def signed(self) -> None:
        """HEAD was renewed."""
        self._sign = self._clock() + SIGN_S

    def all_soon(self, *, hold: bool) -> None:
        """A whole generation is needed.

        Args:
            hold: whether what changed has to wait for it.
        """
        self._all = min(self._all, max(self._clock(), self._soonest_all))
        if hold:
            self._first_change = max(self._first_change, self._all)

    def failed(self) -> None:
        """Something could not be done; all is tried again after a while."""
        later = self._clock() + _RETRY_S
        self._all = self._scan = self._look = self._sign = later
        self._soonest_all = max(self._soonest_all, later)
        self._first_change = later

    @contextmanager
    def measured_all(self) -> Iterator[None]:
        """Around a whole generation."""
        began = self._work()
        yield
        now, cost = self._clock(), self._work() - began
        self._all = now + max(MANIFESTS_S, WHOLE * cost)
        self._soonest_all = now + ALONE * cost
        self._plan_scan(cost)
        self.signed()

    @contextmanager
    def measured_scan(self) -> Iterator[None]:
        """Around a scan of the whole root."""
        began = self._work()
        yield
        self._plan_scan(self._work() - began)

    def _plan_scan(self, cost: float) -> None:
        default = INTERVAL_S if self.listening else INTERVAL_ALONE_S
        interval = self._interval if self._interval is not None else default
        now = self._clock()
        self._scan = now + max(interval, (WHOLE if self.listening else ALONE) * cost)
        self._look = now + LOOK_S

    @contextmanager
    def measured_changes(self) -> Iterator[None]:
        """Around a publication of what changed."""
        began = self._work()
        yield
        self._rested = self._clock() + PART * (self._work() - began)

    @contextmanager
    def measured_look(self) -> Iterator[None]:
        """Around a look at the runs that changed lately."""
        began = self._work()
        yield
        self._look = self._clock() + max(LOOK_S, WHOLE / 2 * (self._work() - began))
