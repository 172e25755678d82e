"""Watching: the loop, with a clock that stands still."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from runicorn.errors import (
    ConnectError,
    DamagedError,
    DiskFullError,
    HostKeyError,
    LoginError,
    MirrorBusyError,
    MirrorError,
    NoSuchRootError,
    RequestError,
    RunicornError,
    StallError,
    UnsafeError,
    UsageError,
)
from runicorn.remote_storage import SyncReport, Watcher, WatchOptions
from runicorn.remote_storage.report import (
    Connected,
    ConnectionLost,
    Event,
    PublicationFresh,
    PublicationStale,
    SyncFailed,
    SyncFinished,
)
from runicorn.remote_storage.watch import may_pass
from tests.remote_storage.test_pace import FakeClock

NEWS = SyncReport(method="journal", files_synced=1)


class Session:
    """Does what a list says, one entry for each look; None is a look without news."""

    def __init__(
        self, clock: FakeClock, *looks: SyncReport | RunicornError | Callable[[], None] | None
    ) -> None:
        self.clock, self.looks = clock, list(looks)
        self.stop = threading.Event()
        self.is_connected = False
        self.looked_at: float | None = 1.0
        self.connects, self.closed = 0, False
        self.times: list[float] = []
        self.events: list[Event] = []

    def connect(self) -> None:
        if not self.is_connected:
            self.connects += 1
            self.is_connected = True

    def look(self) -> SyncReport | None:
        self.times.append(self.clock.steady)
        if not self.looks:
            self.stop.set()
            return None
        step = self.looks.pop(0)
        if isinstance(step, RunicornError):
            raise step
        if callable(step):
            return step()
        return step

    def disconnect(self) -> None:
        self.is_connected = False

    def close(self) -> None:
        self.closed = True

    def run(self, options: WatchOptions | None = None) -> None:
        Watcher(self, options, self.events.append, self.clock).run(self.stop)

    def kinds(self) -> list[type]:
        return [type(event) for event in self.events]


def test_dropped_connection_is_made_anew_and_told() -> None:
    session = Session(FakeClock(), NEWS, ConnectError("cut"), StallError("silent"), NEWS)
    session.run()
    assert session.kinds() == [
        Connected, SyncFinished, ConnectionLost, Connected, ConnectionLost, Connected, SyncFinished,
    ]  # fmt: skip
    assert session.connects == 3
    assert session.closed
    lost = [event for event in session.events if isinstance(event, ConnectionLost)]
    assert [event.error for event in lost] == ["cut", "silent"]
    assert 0.5 <= lost[0].retry_in <= 1.0 <= lost[1].retry_in <= 2.0
    again = session.events[3]
    assert isinstance(again, Connected)
    assert again.away == pytest.approx(lost[0].retry_in)


def test_transient_trouble_is_tried_for_ever_and_said_each_time() -> None:
    session = Session(FakeClock(), *[ConnectError("no route") for _ in range(300)])
    session.run()
    assert sum(isinstance(event, ConnectionLost) for event in session.events) == 300
    assert (
        max(later - earlier for earlier, later in zip(session.times, session.times[1:], strict=False)) <= 60
    )


def test_server_that_drops_each_connection_after_one_answer_is_left_alone_for_longer_and_longer() -> None:
    looks: list[SyncReport | RunicornError] = [NEWS, ConnectError("dropped")]
    session = Session(FakeClock(), *looks * 12)
    session.run()
    lost = [event.retry_in for event in session.events if isinstance(event, ConnectionLost)]
    assert all(longest / 2 <= wait <= longest for longest, wait in zip((1, 2, 4, 8, 16), lost, strict=False))
    assert all(wait >= 30 for wait in lost[-3:])


def test_trouble_that_is_not_the_connections_keeps_it() -> None:
    session = Session(
        FakeClock(), NEWS, RequestError("refused", code=3), DiskFullError("full"), DamagedError("torn")
    )
    session.run()
    assert session.connects == 1
    failed = [event for event in session.events if isinstance(event, SyncFailed)]
    assert [(event.error, event.exit_code) for event in failed] == [("refused", 1), ("full", 9), ("torn", 7)]


def test_end_of_trouble_is_told_once_although_nothing_is_new() -> None:
    still = SyncReport(method="journal", skipped=True)
    session = Session(FakeClock(), NEWS, NoSuchRootError("gone"), still, still)
    session.run()
    assert session.kinds() == [Connected, SyncFinished, SyncFailed, SyncFinished]


@pytest.mark.parametrize(
    "error",
    [
        HostKeyError("other key"),
        LoginError("denied"),
        UnsafeError("evil"),
        UsageError("what"),
        MirrorError("no"),
    ],
)
def test_what_cannot_pass_ends_the_watch(error: RunicornError) -> None:
    session = Session(FakeClock(), NEWS, error, NEWS)
    with pytest.raises(type(error)):
        session.run()
    assert session.closed
    assert len(session.times) == 2


def test_persistent_watch_goes_on_after_all_the_same() -> None:
    session = Session(FakeClock(), HostKeyError("other key"), NEWS)
    session.run(WatchOptions(persistent=True))
    assert SyncFinished in session.kinds()


def test_missing_root_and_busy_mirror_end_only_a_watch_that_never_worked() -> None:
    for error in (NoSuchRootError("gone"), MirrorBusyError("busy")):
        assert not may_pass(error, has_worked=False)
        assert may_pass(error, has_worked=True)


def test_sleep_leads_to_a_new_connection_at_once() -> None:
    clock = FakeClock()
    session = Session(clock, NEWS, None, None)
    real = clock.wait

    def wait(event: threading.Event, seconds: float) -> bool:
        if len(session.times) == 2:
            clock.asleep += 3600.0
        return real(event, seconds)

    clock.wait = wait  # type: ignore[method-assign]
    session.run()
    assert session.connects == 2
    lost = next(event for event in session.events if isinstance(event, ConnectionLost))
    assert "slept for 3600 s" in lost.error
    assert lost.retry_in == 0.0
    assert session.times[2] - session.times[1] == pytest.approx(1.0)


def test_idle_looks_are_not_told_and_become_rarer() -> None:
    session = Session(FakeClock(), NEWS, *[None] * 500, NEWS, None)
    session.run()
    assert session.kinds().count(SyncFinished) == 2
    gaps = [round(later - earlier) for earlier, later in zip(session.times, session.times[1:], strict=False)]
    assert set(gaps[:500]) == {1, 2, 5}
    assert gaps[:60] == [1] * 60
    assert gaps[499] == 5
    assert gaps[501] == 1


def test_stale_publication_is_said_once_and_so_is_its_end() -> None:
    clock = FakeClock()
    session = Session(clock)
    session.looked_at = 50.0

    def older() -> None:
        session.looked_at = 60.0

    def newer() -> None:
        session.looked_at = 9000.0

    session.looks = [None, older, *[None] * 400, newer, None]
    session.run()
    kinds = session.kinds()
    assert kinds.count(PublicationStale) == kinds.count(PublicationFresh) == 1
    stale = next(event for event in session.events if isinstance(event, PublicationStale))
    assert stale.usual == 10.0
    assert stale.unchanged > 120.0


def test_stopping_closes_the_session_without_another_look() -> None:
    session = Session(FakeClock())
    session.stop.set()
    session.run()
    assert session.closed
    assert not session.times


@pytest.mark.parametrize("interval", [0.0, -1.0, float("inf"), float("nan")])
def test_interval_that_means_nothing_is_refused(interval: float) -> None:
    with pytest.raises(UsageError):
        Watcher(Session(FakeClock()), WatchOptions(interval))
