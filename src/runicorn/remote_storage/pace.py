"""When a watch looks again: while all is well, after trouble; and when what is published counts as old. Pure.

A retry library wraps one call; here the wait is also cut short by the user, by a wake-up of the machine, and
told to observers before it begins.
"""

from __future__ import annotations

from collections import deque

FIRST_RETRY = 1.0
LONGEST_RETRY = 60.0
SETTLED = 30.0
"""Seconds without a failure after which the next one counts as the first."""

STRETCH = ((60.0, 1.0), (600.0, 2.0), (float("inf"), 5.0))
"""Up to so many seconds without a change the interval is taken times the second number."""

COSTLY_SHARE = 10.0
"""A look that reads more than what is new is followed by a wait of so many times what it took."""

LONGEST_FOR_COST = 300.0
"""Seconds; the most that this makes of a wait."""

STALE_AT_LEAST = 120.0
STALE_UNKNOWN = 1800.0
STALE_GAPS = 3.0
_GAPS_KEPT = 8


class Backoff:
    """Waits after failures that follow each other: each up to twice as long as the one before.

    Args:
        first: seconds of the first one.
        longest: seconds of the longest ones.
    """

    def __init__(self, first: float = FIRST_RETRY, longest: float = LONGEST_RETRY) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0
        self._well_since: float | None = None

    def failed(self, chance: float) -> float:
        """Seconds to wait after one more failure.

        Args:
            chance: a random number from 0 to 1; it takes up to a half off, so that many clients do not come
                at once to a server that is back.
        """
        longest = min(self._longest, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        self._well_since = None
        return longest * (1.0 - chance / 2)

    def went_well(self, now: float) -> None:
        """It went well; once it has for `SETTLED` seconds, what failed before is forgotten.

        So a server that drops each connection after its first answer is left alone for longer and longer.

        Args:
            now: seconds of a steady clock.
        """
        if self._well_since is None:
            self._well_since = now
        if now - self._well_since >= SETTLED:
            self._failures = 0


class Pace:
    """Waits between looks that went well.

    Args:
        interval: seconds while there are changes.
        stretch: whether it grows while there are none, see `STRETCH`.
        now: seconds of a steady clock.
    """

    def __init__(self, interval: float, *, stretch: bool, now: float) -> None:
        self._interval = interval
        self._stretch = stretch
        self._changed_at = now

    def changed(self, now: float) -> None:
        """There was a change."""
        self._changed_at = now

    def wait(self, now: float, took: float = 0.0, costly: float = 0.0) -> float:
        """Seconds until the next look.

        Args:
            now: seconds of the same clock.
            took: seconds that the last look took. They are part of the interval, up to a half of it: a server
                that is slow is left alone for the rest.
            costly: the same when it read more than what was new, else 0.
        """
        idle = now - self._changed_at
        factor = next(times for until, times in STRETCH if idle <= until) if self._stretch else 1.0
        share = min(LONGEST_FOR_COST, costly * COSTLY_SHARE) if self._stretch else 0.0
        interval = self._interval * factor
        return max(interval - min(took, interval / 2), share)


class Staleness:
    """Whether what the server publishes has become old, without comparing its clock with this machine's.

    How often it looks is told by its own times; how long it has not looked, by this machine's steady clock
    since these times were last seen to change.
    """

    def __init__(self) -> None:
        self._looked_at: float | None = None
        self._seen = 0.0
        self._gaps: deque[float] = deque(maxlen=_GAPS_KEPT)
        self._is_gap_known = False
        self.is_stale = False

    @property
    def usual(self) -> float | None:
        """The longest of the last gaps between two looks of the server, seconds; None when unknown."""
        return max(self._gaps) if self._gaps else None

    @property
    def limit(self) -> float:
        """Seconds without a change after which it is old."""
        usual = self.usual
        return STALE_UNKNOWN if usual is None else max(STALE_AT_LEAST, STALE_GAPS * usual)

    def unchanged(self, now: float) -> float:
        """Seconds since the server's time was last seen to change."""
        return now - self._seen

    def missed(self) -> None:
        """The server could not be seen for a while: how often it looked meanwhile is not known."""
        self._is_gap_known = False

    def saw(self, looked_at: float | None, now: float) -> bool:
        """Take note of the server's time of its last look; returns whether `is_stale` has changed.

        Args:
            looked_at: seconds of the server's clock; None when nothing is published.
            now: seconds of a steady clock of this machine.
        """
        was = self.is_stale
        if looked_at is None or looked_at != self._looked_at:
            gap = 0.0 if looked_at is None or self._looked_at is None else looked_at - self._looked_at
            if gap > 0 and self._is_gap_known:
                self._gaps.append(gap)
            self._looked_at, self._seen, self.is_stale = looked_at, now, False
            self._is_gap_known = True
        else:
            self.is_stale = self.unchanged(now) > self.limit
        return self.is_stale != was
