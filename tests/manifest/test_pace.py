"""When a watching generator does what, by a clock that the test moves; and which file systems are shared."""

from __future__ import annotations

import pytest

from runicorn.manifest.notices import shared_file_system
from runicorn.manifest.pace import Pace


class Clock:
    """Time, and the time that a core was kept busy."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.busy = 0.0

    def pace(self, interval: float | None = None) -> Pace:
        pace = Pace(interval, 0.2, 1.0, lambda: self.now, lambda: self.busy)
        pace.listening = True
        return pace

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.busy += seconds


def whole(clock: Clock, pace: Pace, cost: float) -> None:
    with pace.measured_all():
        clock.work(cost)


def test_everything_is_due_at_the_beginning() -> None:
    clock = Clock()
    pace = Pace(None, 0.2, 1.0, lambda: clock.now, lambda: clock.busy)
    assert pace.due(changed=False) == clock.now
    assert pace.all_is_due()
    assert pace.scan_is_due()
    assert not pace.changes_are_due()
    clock.now += 0.2
    assert pace.changes_are_due()
    assert (pace.look_is_due(), pace.sign_is_due()) == (True, False)
    pace.listening = True
    assert (pace.look_is_due(), pace.sign_is_due()) == (False, True)
    pace.journal = False
    assert not pace.scan_is_due()
    assert not pace.changes_are_due()


@pytest.mark.parametrize("soon", [False, True])
def test_what_is_due_is_so_at_its_very_moment(soon: bool) -> None:
    clock = Clock()
    pace = clock.pace(interval=10)
    whole(clock, pace, 0.0)
    moment = clock.now + 10
    clock.now = moment - (0.5 if soon else 0.0)
    assert pace.scan_is_due() is pace.sign_is_due() is not soon
    pace.listening = False
    clock.now = moment - 9 - (0.5 if soon else 0.0)
    assert pace.look_is_due() is not soon
    clock.now = moment
    pace.first_change()
    clock.now += 0.2 - (0.1 if soon else 0.0)
    assert pace.changes_are_due() is not soon


def test_soonest_whole_generation_at_the_beginning_is_at_once() -> None:
    clock = Clock()
    pace = clock.pace()
    clock.now += 100
    pace.all_soon(hold=False)
    assert pace.all_is_due()
    whole(clock, pace, 0.0)
    assert pace.due(changed=False) > clock.now
    pace.all_soon(hold=False)
    assert pace.due(changed=False) == clock.now


def test_first_change_is_published_after_the_debounce() -> None:
    clock = Clock()
    pace = clock.pace()
    whole(clock, pace, 0.1)
    clock.now += 5
    pace.first_change()
    assert pace.due(changed=True) == pytest.approx(clock.now + 0.2)
    assert not pace.changes_are_due()
    clock.now += 0.25
    assert pace.changes_are_due()


@pytest.mark.parametrize(("cost", "pause"), [(0.01, 0.2), (0.05, 0.5), (0.09, 0.9), (0.5, 1.0)])
def test_constant_writing_is_published_by_its_cost_but_within_a_second(cost: float, pause: float) -> None:
    clock = Clock()
    pace = clock.pace()
    whole(clock, pace, 0.1)
    with pace.measured_changes():
        clock.work(cost)
    pace.first_change()
    assert pace.due(changed=True) == pytest.approx(clock.now + pause)


def test_waiting_for_a_disk_is_no_work() -> None:
    clock = Clock()
    pace = clock.pace()
    whole(clock, pace, 0.1)
    with pace.measured_changes():
        clock.now += 3
    pace.first_change()
    assert pace.due(changed=True) == pytest.approx(clock.now + 0.2)


@pytest.mark.parametrize(("cost", "pause"), [(0.1, 60), (0.35, 70), (20, 4000)])
def test_whole_generations_take_less_than_one_percent_of_a_core(cost: float, pause: float) -> None:
    clock = Clock()
    pace = clock.pace(interval=86400)
    whole(clock, pace, cost)
    clock.now += pause - 0.1
    assert not pace.all_is_due()
    clock.now += 0.2
    assert pace.all_is_due()
    assert cost / pause < 0.01


@pytest.mark.parametrize(
    ("listening", "interval", "cost", "pause"),
    [
        (True, None, 0.1, 60),
        (True, 5.0, 0.1, 20),
        (True, 5.0, 0.01, 5),
        (False, None, 0.1, 30),
        (False, 1.0, 0.01, 1),
        (False, 1.0, 0.5, 10),
    ],
)
def test_scans_of_the_root_stretch_with_their_cost(
    listening: bool, interval: float | None, cost: float, pause: float
) -> None:
    clock = Clock()
    pace = clock.pace(interval)
    pace.listening = listening
    with pace.measured_scan():
        clock.work(cost)
    clock.now += pause - 0.01
    assert not pace.scan_is_due()
    clock.now += 0.02
    assert pace.scan_is_due()


def test_sign_of_life_with_notices_and_looks_without() -> None:
    clock = Clock()
    pace = clock.pace(interval=3600)
    whole(clock, pace, 0.1)
    assert pace.due(changed=False) == pytest.approx(clock.now + 10)
    clock.now += 11
    assert pace.sign_is_due()
    assert not pace.look_is_due()
    pace.listening = False
    assert pace.look_is_due()
    assert not pace.sign_is_due()
    with pace.measured_look():
        clock.work(0.05)
    assert pace.due(changed=False) == pytest.approx(clock.now + 5)


def test_without_a_journal_there_are_whole_generations_only() -> None:
    clock = Clock()
    pace = clock.pace()
    pace.journal = False
    whole(clock, pace, 0.1)
    pace.first_change()
    assert pace.due(changed=True) == pytest.approx(clock.now + 60)


def test_changes_do_not_wait_for_the_whole_generation_that_lost_events_need() -> None:
    clock = Clock()
    pace = clock.pace()
    whole(clock, pace, 2.0)
    pace.first_change()
    pace.all_soon(hold=False)
    assert pace.due(changed=True) == pytest.approx(clock.now + 0.2)
    clock.now += 40
    assert pace.all_is_due()


def test_failure_makes_everything_wait() -> None:
    clock = Clock()
    pace = clock.pace()
    whole(clock, pace, 0.1)
    pace.first_change()
    pace.failed()
    pace.all_soon(hold=True)
    assert pace.due(changed=True) == pytest.approx(clock.now + 5)
    assert not pace.changes_are_due()
    clock.now += 5
    assert pace.all_is_due()


MOUNTS = [
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
    "30 22 0:40 / /data rw,relatime shared:2 - nfs4 server:/data rw",
    "31 30 8:2 / /data/local rw - xfs /dev/sdb rw",
    "32 22 0:41 / /mnt/with\\040space rw - fuse.sshfs host: rw",
    "33 22 0:42 / /datax rw - ext4 /dev/sdc rw",
    "34 22 0:43 / /data/Läufe\\0401 rw - nfs server:/l rw",
    "35 22 8:4 / /media/\udce4\\0401 rw - vfat /dev/sdd rw",
    "torn",
]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/x", None),
        ("/data", "nfs4"),
        ("/data/experiments", "nfs4"),
        ("/data/local/x", None),
        ("/datax/y", None),
        ("/mnt/with space/x", "fuse.sshfs"),
        ("/data/Läufe 1/x", "nfs"),
    ],
)
def test_shared_file_systems(path: str, kind: str | None) -> None:
    assert shared_file_system(path, MOUNTS) == kind
