"""When a watch looks again, and when what is published counts as old."""

from __future__ import annotations

import threading

import pytest

from runicorn.remote_storage.clock import SLEPT_AT_LEAST, STOPPED_AT_LEAST, Clock, SleepDetector
from runicorn.remote_storage.contact import Contact
from runicorn.remote_storage.pace import STALE_AT_LEAST, STALE_UNKNOWN, Backoff, Pace, Staleness


def test_waits_after_failures_double_up_to_the_longest() -> None:
    backoff = Backoff(1.0, 60.0)
    assert [backoff.failed(0.0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_failures_are_forgotten_when_it_has_gone_well_for_long_enough() -> None:
    backoff = Backoff(1.0, 60.0)
    assert [backoff.failed(0.0) for _ in range(3)] == [1, 2, 4]
    for now in (100.0, 129.9):
        backoff.went_well(now)
    assert backoff.failed(0.0) == 8.0
    backoff.went_well(200.0)
    assert backoff.failed(0.0) == 16.0
    for now in (300.0, 330.0):
        backoff.went_well(now)
    assert backoff.failed(0.0) == 1.0


def test_chance_takes_up_to_a_half_of_a_wait() -> None:
    assert Backoff(8.0).failed(1.0) == 4.0
    assert Backoff(8.0).failed(0.5) == 6.0


def test_very_many_failures_do_not_overflow() -> None:
    backoff = Backoff()
    for _ in range(5000):
        assert backoff.failed(0.0) <= 60.0
    assert backoff.failed(0.0) == 60.0


@pytest.mark.parametrize(("idle", "wait"), [(0, 1), (60, 1), (61, 2), (600, 2), (601, 5), (1e9, 5)])
def test_interval_stretches_while_nothing_changes(idle: float, wait: float) -> None:
    assert Pace(1.0, stretch=True, now=100.0).wait(100.0 + idle) == wait
    assert Pace(1.0, stretch=False, now=100.0).wait(100.0 + idle) == 1.0


def test_first_change_brings_the_interval_back() -> None:
    pace = Pace(2.0, stretch=True, now=0.0)
    assert pace.wait(5000.0) == 10.0
    pace.changed(5000.0)
    assert pace.wait(5001.0) == 2.0


def test_costly_look_is_followed_by_a_long_wait_but_not_for_ever() -> None:
    pace = Pace(1.0, stretch=True, now=0.0)
    assert pace.wait(0.0, costly=3.0) == 30.0
    assert pace.wait(0.0, costly=1000.0) == 300.0
    assert Pace(1.0, stretch=False, now=0.0).wait(0.0, costly=3.0) == 1.0
    assert Pace(0.25, stretch=False, now=0.0).wait(0.0, costly=3.0) == 0.25


@pytest.mark.parametrize(("took", "wait"), [(0.0, 2.0), (0.25, 1.75), (1.5, 1.0), (60.0, 1.0)])
def test_what_a_look_takes_is_part_of_the_interval(took: float, wait: float) -> None:
    assert Pace(2.0, stretch=True, now=0.0).wait(0.0, took) == wait
    assert Pace(2.0, stretch=True, now=0.0).wait(0.0, took, costly=3.0) == 30.0


def test_publication_is_stale_by_the_servers_own_rhythm() -> None:
    state = Staleness()
    for number in range(5):  # the server's clock is a year off, and that does not matter
        assert not state.saw(1000.0 + 100 * number, now=50.0 + 100 * number)
    assert state.usual == 100.0
    assert not state.saw(1400.0, now=450.0 + 300)
    assert state.saw(1400.0, now=450.0 + 301)
    assert state.is_stale
    assert state.unchanged(751.0) == 301.0
    assert not state.saw(1400.0, now=900.0)  # it is told once
    assert state.saw(1500.0, now=901.0)
    assert not state.is_stale


def test_fast_server_is_not_stale_at_once_and_an_unknown_one_much_later() -> None:
    fast = Staleness()
    for number in range(3):
        fast.saw(float(number), now=float(number))
    assert not fast.saw(2.0, now=2.0 + STALE_AT_LEAST)
    assert fast.saw(2.0, now=2.1 + STALE_AT_LEAST)
    unknown = Staleness()
    unknown.saw(5.0, now=0.0)
    assert not unknown.saw(5.0, now=STALE_UNKNOWN)
    assert unknown.saw(5.0, now=STALE_UNKNOWN + 1)


def test_server_whose_clock_goes_back_is_alive() -> None:
    state = Staleness()
    state.saw(1000.0, now=0.0)
    state.saw(10.0, now=5000.0)
    assert not state.is_stale
    assert state.usual is None


def test_time_in_which_the_server_could_not_be_seen_is_none_of_its_gaps() -> None:
    state = Staleness()
    state.saw(100.0, now=0.0)
    state.saw(400.0, now=300.0)
    state.missed()
    state.saw(36000.0, now=35900.0)
    assert state.usual == 300.0
    state.saw(36200.0, now=36100.0)
    assert state.usual == 300.0
    assert state.saw(36200.0, now=36100.0 + 901)


def test_gap_that_was_long_ago_does_not_count() -> None:
    state = Staleness()
    looks = [0.0, 1000.0, *(1000.0 + 200 * number for number in range(1, 8))]
    for at in looks:
        state.saw(at, now=at)
    assert state.usual == 1000.0  # the first of the last eight
    state.saw(2600.0, now=2600.0)
    assert state.usual == 200.0
    assert state.limit == 600.0


def test_first_looks_tell_no_gap() -> None:
    state = Staleness()
    assert state.usual is None
    assert state.limit == STALE_UNKNOWN
    assert state.unchanged(70.0) == 70.0
    state.saw(None, now=0.0)
    state.saw(500.0, now=1.0)
    state.missed()
    state.saw(None, now=2.0)
    state.saw(900.0, now=3.0)
    assert state.usual is None
    state.saw(900.5, now=4.0)
    assert state.usual == 0.5


def test_nothing_published_is_never_stale() -> None:
    state = Staleness()
    assert not state.saw(None, now=0.0)
    assert not state.saw(None, now=1e9)


class FakeClock(Clock):
    """Time that a test moves."""

    def __init__(self) -> None:
        self.steady, self.asleep = 100.0, 0.0

    def monotonic(self) -> float:
        return self.steady

    def wall(self) -> float:
        return 1e9 + self.steady + self.asleep

    def with_sleep(self) -> float:
        return self.steady + self.asleep

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.steady += seconds
        return event.is_set()


@pytest.mark.parametrize(
    ("asleep", "late", "missing"),
    [
        (0.0, 0.0, 0.0),
        (SLEPT_AT_LEAST - 0.1, 0.0, 0.0),
        (SLEPT_AT_LEAST, 0.0, SLEPT_AT_LEAST),
        (0.0, STOPPED_AT_LEAST - 1, 0.0),
        (0.0, STOPPED_AT_LEAST, STOPPED_AT_LEAST),
        (3600.0, 1.0, 3600.0),
    ],
)
def test_sleep_and_standing_still_are_noticed(asleep: float, late: float, missing: float) -> None:
    clock = FakeClock()
    detector = SleepDetector(clock)
    detector.begin()
    clock.steady += 2.0 + late
    clock.asleep += asleep
    assert detector.slept(2.0) == pytest.approx(missing)


def test_real_clock_goes_on() -> None:
    clock = Clock()
    before = (clock.monotonic(), clock.wall(), clock.with_sleep())
    assert not clock.wait(threading.Event(), 0.01)
    after = (clock.monotonic(), clock.wall(), clock.with_sleep())
    assert all(late > early for early, late in zip(before, after, strict=True))


def test_age_of_a_publication_lies_between_two_looks() -> None:
    first = Contact(10.0, 900.0, 11.0, None)
    same = first.then(20.0, 21.0, 900.0)
    assert (same.at, same.seen_at, same.older_at) == (20.0, 11.0, None)
    newer = same.then(30.0, 31.0, 905.0)
    assert (newer.at, newer.looked_at, newer.seen_at, newer.older_at) == (30.0, 905.0, 31.0, 20.0)
    again = newer.then(40.0, 41.0, 905.0)
    assert (again.seen_at, again.older_at) == (31.0, 20.0)
    assert again.then(50.0, 51.0, None).looked_at is None


@pytest.mark.parametrize("raw", [None, [], "x", [1, 2, 3], [1, 2, 3, "4"], [None, 1, 2, 3], {"at": 1}])
def test_contact_that_makes_no_sense_is_none(raw: object) -> None:
    assert Contact.of(raw) is None


def test_clock_of_ours_that_went_back_bounds_no_age() -> None:
    late = Contact(5000.0, 900.0, 5000.0, 4000.0)
    same = late.then(100.0, 101.0, 900.0)
    assert (same.at, same.seen_at, same.older_at) == (100.0, 101.0, None)
    newer = late.then(100.0, 101.0, 905.0)
    assert (newer.seen_at, newer.older_at) == (101.0, None)
