"""Watching a root: look, wait, look again, until it is told to end.

A connection that drops is made anew, and trouble that may pass is told and tried again for ever. What
cannot pass by itself (an unknown host key, a refused login, unsafe data) ends the watch.
"""

from __future__ import annotations

import logging
import random
import threading
from dataclasses import dataclass
from typing import Protocol

from runicorn.errors import (
    CancelledError,
    DiskFullError,
    MirrorBusyError,
    NoSuchRootError,
    RequestError,
    RunicornError,
    TransportError,
    UsageError,
)
from runicorn.manifest.rules import escape
from runicorn.remote_storage.clock import Clock, SleepDetector
from runicorn.remote_storage.options import MANIFEST, WALK
from runicorn.remote_storage.pace import Backoff, Pace, Staleness
from runicorn.remote_storage.report import (
    Connected,
    ConnectionLost,
    Observer,
    PublicationFresh,
    PublicationStale,
    SyncFailed,
    SyncFinished,
    SyncReport,
    ignore,
)

log = logging.getLogger(__name__)


class Session(Protocol):
    """What is watched, see `runicorn.remote_storage.live.LiveSession`."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""

    def connect(self) -> None:
        """Connect, unless that is done; what is needed on this side comes first."""

    @property
    def looked_at(self) -> float | None:
        """When the server had last looked, seconds of its clock."""

    def look(self) -> SyncReport | None:
        """Look for news, and bring them; None when there is nothing new."""

    def disconnect(self) -> None:
        """Give up the connection; the next look makes another one."""

    def close(self) -> None:
        """Give up everything."""


@dataclass(frozen=True)
class WatchOptions:
    """How a root is watched.

    Attributes:
        interval: seconds between two looks while there are changes.
        stretch: whether they become rarer while there are none, see `runicorn.remote_storage.pace`.
        persistent: whether it goes on after errors that cannot pass by themselves, too.
    """

    interval: float = 1.0
    stretch: bool = True
    persistent: bool = False

    def check(self) -> None:
        """Refuse what means nothing.

        Raises:
            UsageError: a value is out of bounds.
        """
        if not 0 < self.interval < float("inf"):
            raise UsageError("the interval between two looks must be positive")


class Watcher:
    """Watches one root, in the thread that calls `run`.

    Args:
        session: what is watched; it is closed in the end.
        options: how.
        observer: is told what happens, in the thread of `run`.
        clock: the clocks.

    Raises:
        UsageError: an option means nothing.
    """

    def __init__(
        self,
        session: Session,
        options: WatchOptions | None = None,
        observer: Observer = ignore,
        clock: Clock | None = None,
    ) -> None:
        self._options = options or WatchOptions()
        self._options.check()
        self._session = session
        self._observe = observer
        self._clock = clock or Clock()
        self._pace = Pace(self._options.interval, stretch=self._options.stretch, now=self._clock.monotonic())
        self._backoff = Backoff()
        self._staleness = Staleness()
        self._has_worked = False
        self._has_failed = False
        self._lost_at: float | None = None
        self._was_connected = False

    def run(self, stop: threading.Event) -> None:
        """Watch until the event is set.

        Raises:
            RunicornError: what cannot pass by itself; see `may_pass`.
        """
        sleep = SleepDetector(self._clock)
        try:
            while not stop.is_set():
                wait = self._look_once(stop)
                sleep.begin()
                if self._clock.wait(stop, wait):
                    return
                missing = sleep.slept(wait)
                if missing and self._session.is_connected:
                    self._lose(f"this machine slept for {missing:.0f} s", 0.0)
        finally:
            self._session.close()

    def _look_once(self, stop: threading.Event) -> float:
        """One look; returns the seconds until the next one."""
        try:
            self._session.connect()
            began = self._clock.monotonic()
            self._tell_connected(began)
            report = self._session.look()
        except RunicornError as error:
            if stop.is_set() or isinstance(error, CancelledError):
                return 0.0
            return self._failed(error)
        now = self._clock.monotonic()
        self._backoff.went_well(now)
        if report is not None and self._is_news(report):
            self._pace.changed(now)
        self._has_worked = True
        self._tell_staleness(now)
        return self._pace.wait(now, now - began, _cost(report))

    def _is_news(self, report: SyncReport) -> bool:
        """Tell of a sync, also of one without news when all is well again; returns whether it brought
        something."""
        brought = bool(report.files_synced or report.removed_count)
        if brought or report.failed_count or not self._has_worked or self._has_failed:
            self._observe(SyncFinished(report))
        self._has_failed = False
        return brought

    # -- trouble -----------------------------------------------------------------------------

    def _failed(self, error: RunicornError) -> float:
        self._staleness.missed()
        if not self._options.persistent and not may_pass(error, has_worked=self._has_worked):
            raise error
        wait = self._backoff.failed(random.random())  # noqa: S311 - spreads load, protects nothing
        if isinstance(error, TransportError) and not isinstance(error, RequestError):
            self._lose(escape(str(error)), wait)
        else:
            self._has_failed = True
            self._observe(SyncFailed(escape(str(error)), error.exit_code, wait))
        return wait

    def _lose(self, error: str, retry_in: float) -> None:
        self._session.disconnect()
        self._staleness.missed()
        if self._lost_at is None:
            self._lost_at = self._clock.monotonic()
        self._was_connected = False
        self._observe(ConnectionLost(error, retry_in))

    def _tell_connected(self, now: float) -> None:
        if self._was_connected:
            return
        self._was_connected = True
        lost, self._lost_at = self._lost_at, None
        self._observe(Connected(None if lost is None else now - lost))

    def _tell_staleness(self, now: float) -> None:
        state = self._staleness
        if not state.saw(self._session.looked_at, now):
            return
        if state.is_stale:
            self._observe(PublicationStale(state.unchanged(now), state.usual))
        else:
            self._observe(PublicationFresh())


def _cost(report: SyncReport | None) -> float:
    """Seconds that a look takes each time because it reads more than what is new; 0 for the journal."""
    if report is None or report.method not in (MANIFEST, WALK):
        return 0.0
    # With the manifest's news comes the place in the journal, so that the next look is a cheap one.
    return report.duration if report.skipped or report.method == WALK else 0.0


def may_pass(error: RunicornError, *, has_worked: bool) -> bool:
    """Whether trouble may end without anybody doing something about this watch.

    Args:
        error: the trouble.
        has_worked: whether a sync of this watch went well before.
    """
    if isinstance(error, MirrorBusyError):
        return has_worked  # who begins finds out at once that another watch is there
    if isinstance(error, NoSuchRootError):
        return has_worked  # a root that is not mounted at the moment
    return error.retryable or isinstance(error, DiskFullError)
