"""The clocks of this machine, and waiting by them."""

from __future__ import annotations

import threading
import time

SLEPT_AT_LEAST = 5.0
"""Seconds that a machine has been asleep for before a connection counts as dead."""

STOPPED_AT_LEAST = 60.0
"""Seconds that a process has stood still for, by its steady clock, before a connection counts as dead."""


class Clock:
    """Tells times, and waits."""

    def monotonic(self) -> float:
        """Seconds of a steady clock, which stands still while the machine sleeps on most systems."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since the epoch, by this machine's clock."""
        return time.time()

    def with_sleep(self) -> float:
        """Seconds of a clock that goes on while the machine sleeps."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.time()  # it is also set by hand: that costs a connection, no more

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until an event is set or the time is over; returns whether it is set."""
        return event.wait(seconds)


class SleepDetector:
    """Tells whether the machine slept, or this process stood still, during a wait.

    Args:
        clock: the clocks.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """The wait begins."""
        self._steady, self._all = self._clock.monotonic(), self._clock.with_sleep()

    def slept(self, waited: float) -> float:
        """Seconds that are missing since then; 0 when it is not enough to matter.

        Args:
            waited: seconds that were waited on purpose.
        """
        steady = self._clock.monotonic() - self._steady
        asleep = self._clock.with_sleep() - self._all - steady
        if asleep >= SLEPT_AT_LEAST:
            return asleep
        return steady - waited if steady - waited >= STOPPED_AT_LEAST else 0.0
