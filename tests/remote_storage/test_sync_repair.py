"""Failures, damage and interruptions: nothing wrong is kept, nothing right is fetched twice."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runicorn.errors import CancelledError, MirrorError, RunicornError, StallError
from runicorn.remote_storage import SyncOptions, synchronize
from runicorn.remote_storage.report import BytesReceived, FileDone, FileFailed
from runicorn.remote_storage.state import MirrorState
from runicorn.remote_storage.transport import LocalTransport, Open, Operation, Read, StatusCode
from testbed.trees import make_tree
from tests.remote_storage.helpers import (
    EVENTS,
    OLD,
    RUN,
    Meanwhile,
    RaiseAt,
    Refuse,
    Relay,
    Site,
    WrongBytes,
    append,
    lines,
    make_run,
    overwrite,
    put,
    run_files,
    status,
)

pytestmark = pytest.mark.rungs("journal", "manifest")

SUMMARY = f"{RUN}/summary.json"
MIB = 1024 * 1024


# -- files that fail -------------------------------------------------------------------------


@pytest.mark.rungs("listed", "manifest")
@pytest.mark.parametrize("name", ["summary.json", "events.jsonl", "a.png"])
def test_wrong_bytes_are_refused_and_healed_next_time(site: Site, name: str) -> None:
    site.publish()
    site.sync()
    path = next(site.root.rglob(name))
    inner = path.relative_to(site.root)
    old = (site.mirror / inner).read_bytes()
    put(path, lines(90, 50))
    right = path.read_bytes()
    site.publish()
    overwrite(path, right.replace(b"50", b"51"))
    for _ in range(2):
        report = site.sync()
        assert (report.failed_count, report.files_synced, report.skipped) == (1, 0, False)
        assert [each.path for each in report.failed] == [inner.as_posix()]
        assert "not what was published" in report.failed[0].error
        assert (site.mirror / inner).read_bytes() == old
        assert not site.staged()
    overwrite(path, right)
    assert site.sync().failed_count == 0
    site.assert_equal()
    assert site.sync().skipped


@pytest.mark.rungs("listed", "manifest")
def test_wrong_bytes_of_an_append_leave_the_log_alone(site: Site) -> None:
    site.publish()
    site.sync()
    inode = (site.mirror / EVENTS).stat().st_ino
    append(site.root / EVENTS, lines(5, 20))
    site.publish()
    report = site.sync(WrongBytes("events.jsonl"))
    assert (report.failed_count, report.incremental_count) == (1, 0)
    assert (site.mirror / EVENTS).read_text() == lines(20)
    assert site.sync().incremental_count == 1
    assert (site.mirror / EVENTS).stat().st_ino == inode
    site.assert_equal()


@pytest.mark.rungs("listed", "manifest")
def test_bytes_wrong_on_the_way_once_are_fetched_again(site: Site) -> None:
    site.publish()
    report = site.sync(WrongBytes("summary.json", times=3))
    assert (report.failed_count, report.files_synced) == (0, 6)
    site.assert_equal()


@pytest.mark.rungs("listed", "manifest")
def test_refused_file_is_tried_again_within_the_sync(site: Site) -> None:
    site.publish()
    flaky = Refuse("summary.json", StatusCode.FAILURE, times=2)
    seen: list[FileFailed] = []

    def watch(event: object) -> None:
        if isinstance(event, FileFailed):
            seen.append(event)

    report = synchronize(flaky, str(site.root), site.mirror, SyncOptions(), watch).report
    assert (report.failed_count, report.files_synced) == (0, 6)
    assert [(each.path, each.final) for each in seen] == [(SUMMARY, False)] * 2
    site.assert_equal()


@pytest.mark.rungs("listed", "manifest")
@pytest.mark.parametrize("kind", [Open, Read])
def test_refused_file_fails_alone_and_is_tried_next_time(site: Site, kind: type[Open | Read]) -> None:
    site.publish()
    refusing = Refuse("summary.json", StatusCode.FAILURE, kind)
    report = site.sync(refusing)
    assert (report.failed_count, report.files_synced, report.vanished_count) == (1, 5, 0)
    assert report.failed[0].path == SUMMARY
    assert sum(path.endswith("summary.json") for path in refusing.opened) >= 3
    assert not site.sync(refusing).skipped
    relay = Relay()
    assert site.sync(relay).files_synced == 1
    assert [path.rsplit("/", 1)[1] for path in relay.opened_runs()] == ["summary.json"]
    site.assert_equal()


@pytest.mark.rungs("listed", "manifest")
def test_forbidden_file_is_not_tried_again_within_the_sync(site: Site) -> None:
    site.publish()
    forbidding = Refuse("summary.json", StatusCode.PERMISSION_DENIED)
    assert site.sync(forbidding).failed_count == 1
    assert sum(path.endswith("summary.json") for path in forbidding.opened) == 1


def test_file_that_fails_in_a_walk_is_counted_once(site: Site) -> None:
    report = site.sync(Refuse("status.json", StatusCode.PERMISSION_DENIED), method="walk")
    assert (report.failed_count, report.files_synced) == (1, 5)
    assert [each.path for each in report.failed] == [f"{RUN}/status.json"]


def test_status_that_vanishes_in_a_walk_is_counted_once(site: Site) -> None:
    gone = Meanwhile("status.json", (site.root / RUN / "status.json").unlink)
    report = site.sync(gone, method="walk")
    assert (report.failed_count, report.vanished_count) == (0, 1)


class ChangingFile(Relay):
    """A file that is another one before each read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.count = path, 0

    def before(self, operation: Operation) -> None:
        if isinstance(operation, Read) and self.path_of(operation) == str(self.path):
            self.count += 1
            self.path.write_bytes(b"x" * self.count)


def test_file_that_changes_at_each_read_fails_alone(site: Site) -> None:
    changing = ChangingFile(site.root / SUMMARY)
    report = site.sync(changing)
    assert (report.failed_count, report.files_synced) == (1, 5)
    assert report.failed[0].path == SUMMARY
    assert changing.count >= 3
    assert not (site.mirror / SUMMARY).exists()


# -- a mirror that is damaged by hand ----------------------------------------------------------


def _edit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:5] + bytes([data[5] ^ 1]) + data[6:])


DAMAGE: dict[str, tuple[str, Callable[[Path], object], int]] = {
    "deleted file": (SUMMARY, Path.unlink, 11),
    "edited file": (SUMMARY, _edit, 11),
    "grown file": (SUMMARY, lambda path: append(path, "x"), 11),
    "deleted log": (EVENTS, Path.unlink, len(lines(20))),
    "edited log": (EVENTS, _edit, len(lines(20))),
    # The end of what is listed is compared before it is taken for the server's.
    "extra bytes": (EVENTS, lambda path: append(path, "junk"), len(lines(20))),
    "extra records": (EVENTS, lambda path: append(path, lines(2, 20)), len(lines(20))),
    "shorter log": (EVENTS, lambda path: os.truncate(path, len(lines(15))), len(lines(5, 15))),
    "touched file": (SUMMARY, os.utime, 0),
    "touched log": (EVENTS, os.utime, 0),
}
assert DAMAGE["deleted file"][2] == len('{"best": 1}')


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_damaged_mirror_is_repaired(site: Site, damage: str, method: str) -> None:
    name, do, cost = DAMAGE[damage]
    site.publish()
    site.sync(method=method)
    do(site.mirror / name)
    relay = Relay()
    report = site.sync(relay, method=method)
    site.assert_equal()
    assert report.failed_count == 0
    assert {path for path in relay.opened_runs() if path.endswith((".json", ".jsonl"))} <= {
        str(site.root / name)
    }
    if method == "manifest":
        assert report.bytes_downloaded == cost
    elif method == "journal":  # it begins anew, and carries logs from their first byte
        assert report.bytes_downloaded in (cost, (site.root / name).stat().st_size)
    if method != "walk":
        assert site.sync().skipped


def test_torn_record_in_the_mirror_is_repaired(site: Site) -> None:
    """As a power cut may leave it, though the sync itself writes whole records only."""
    site.publish()
    site.sync()
    os.truncate(site.mirror / EVENTS, len(lines(15)) + 7)
    site.sync()
    site.assert_equal()


def test_whole_run_deleted_in_the_mirror_comes_back(site: Site) -> None:
    make_run(site.root, "vision/resnet/runs/r2")
    site.publish()
    site.sync()
    for path in sorted((site.mirror / RUN).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (site.mirror / RUN).rmdir()
    assert site.sync().files_synced == 6
    site.assert_equal()


# -- a state that is lost ----------------------------------------------------------------------


def _garbage(path: Path) -> None:
    path.write_bytes(b"garbage " * 5000)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def _future(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def _other_schema(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE files RENAME COLUMN hashes TO digests")
    database.close()


def _nonsense_values(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = '[1, 2'")
    database.close()


@pytest.mark.parametrize(
    "damage", [Path.unlink, _garbage, _empty, _torn, _future, _other_schema, _nonsense_values]
)
@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_lost_state_is_rebuilt_by_comparing(
    site: Site, damage: Callable[[Path], object], method: str
) -> None:
    put(site.root / EVENTS, lines(40_000), OLD)
    make_tree(site.root, 4)
    site.publish()
    site.sync(method=method)
    damage(site.database)
    relay = Relay()
    report = site.sync(relay, method=method)
    site.assert_equal()
    assert (report.bytes_downloaded, report.files_synced, report.skipped) == (0, 0, False)
    assert relay.opened_runs() == [] or method == "walk"
    assert site.sync().skipped or method == "walk"


def test_damaged_state_is_put_aside(site: Site) -> None:
    site.publish()
    site.sync()
    _garbage(site.database)
    site.sync()
    assert list(site.database.parent.glob("state.db.damaged-*"))
    with MirrorState(site.database) as state:
        assert state.count() == 6


def test_any_damage_of_the_state_is_survived(site: Site) -> None:
    """Bytes changed anywhere: the sync ends well or says why, and the one after it ends well."""
    make_tree(site.root, 4)
    site.publish()
    site.sync()
    whole = site.database.read_bytes()
    chance = random.Random(7)
    for _ in range(40):
        data = bytearray(whole)
        for at in (chance.randrange(len(data)) for _ in range(chance.choice([1, 8, 64]))):
            data[at] ^= chance.randrange(1, 256)
        site.database.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
        try:
            report = site.sync()
        except RunicornError:
            site.lose_state()
            report = site.sync()
        assert report.failed_count == 0
        site.assert_equal()


# -- interruptions -----------------------------------------------------------------------------


class Stop(BaseException):
    """Raised out of nowhere, as a signal is."""


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, Stop, lambda: StallError("no answer in time")])
@pytest.mark.parametrize("nth", [1, 2, 3, 6, 20, 33, 60])
def test_interrupted_sync_goes_on_where_it_stopped(
    site: Site, method: str, error: Callable[[], BaseException], nth: int
) -> None:
    make_run(site.root, "vision/resnet/runs/r2")
    site.publish()
    raised = error()
    interrupted = RaiseAt(nth, raised)
    try:
        site.sync(interrupted, method=method)
    except type(raised):
        pass
    else:
        assert interrupted.left > 0
    there = run_files(site.mirror)
    assert there.items() <= run_files(site.root).items()
    relay = Relay()
    report = site.sync(relay, method=method)
    assert report.files_synced == 12 - len(there)
    assert not {str(site.root / path) for path in there} & set(relay.opened_runs())
    site.assert_equal()


def test_cancelled_sync_ends_and_goes_on_later(site: Site) -> None:
    make_tree(site.root, 4)
    site.publish()
    cancel = threading.Event()

    def watch(event: object) -> None:
        if isinstance(event, BytesReceived):
            cancel.set()

    with pytest.raises(CancelledError):
        synchronize(LocalTransport(), str(site.root), site.mirror, SyncOptions(), watch, cancel)
    there = len(run_files(site.mirror))
    assert there == (1 if site.rung == "manifest" else 0)
    assert site.sync().files_synced == len(run_files(site.root)) - there
    site.assert_equal()


@pytest.mark.rungs("listed", "manifest")
def test_sync_cancelled_while_it_waits_to_try_again_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish()
    cancel = threading.Event()
    monkeypatch.setattr("runicorn.remote_storage.transfer.BACKOFF", (60.0, 60.0))

    def watch(event: object) -> None:
        if isinstance(event, FileFailed):
            cancel.set()

    refusing = Refuse("summary.json", StatusCode.FAILURE)
    with pytest.raises(CancelledError):
        synchronize(refusing, str(site.root), site.mirror, SyncOptions(), watch, cancel)
    assert len(run_files(site.mirror)) == 5


def test_observer_that_raises_ends_the_sync_and_loses_nothing(site: Site) -> None:
    site.publish()
    done: list[str] = []

    def watch(event: object) -> None:
        if isinstance(event, FileDone):
            done.append(event.path)
            if len(done) == 2:
                raise Stop

    with pytest.raises(Stop):
        synchronize(LocalTransport(), str(site.root), site.mirror, SyncOptions(), watch)
    site.sync()
    site.assert_equal()


@pytest.mark.parametrize("name", ["media/film.mp4", "logs.txt"])
def test_interrupted_download_of_a_large_file_is_resumed(site: Site, name: str) -> None:
    content = random.Random(3).randbytes(20 * MIB).replace(b"\n", b" ") + b"\n"
    put(site.root / RUN / name, content, OLD)
    site.publish()
    site.sync(exclude=(name.rsplit("/", 1)[-1],))
    stop = Meanwhile(name.rsplit("/", 1)[-1], _raise_stop, Read, nth=45)
    with pytest.raises(Stop):
        site.sync(stop)
    assert [staged.endswith(".partial") for staged in site.staged()] == [True]
    report = site.sync()
    site.assert_equal()
    assert (report.failed_count, report.files_synced) == (0, 1)
    assert 0 < report.bytes_downloaded < 13 * MIB


def _raise_stop() -> None:
    raise Stop


def test_partial_download_that_does_not_fit_is_not_used(site: Site) -> None:
    content = random.Random(3).randbytes(9 * MIB)
    put(site.root / RUN / "media/film.mp4", content, OLD)
    site.publish()
    stop = Meanwhile("film.mp4", _raise_stop, Read, nth=35)
    with pytest.raises(Stop):
        site.sync(stop)
    (partial,) = (site.mirror / ".runicorn/staging").iterdir()
    _edit(partial)
    assert site.sync().failed_count == 0
    site.assert_equal()


def test_file_changed_after_the_interruption_is_fetched_anew(site: Site) -> None:
    put(site.root / RUN / "media/film.mp4", bytes(9 * MIB), OLD)
    site.publish()
    with pytest.raises(Stop):
        site.sync(Meanwhile("film.mp4", _raise_stop, Read, nth=35))
    put(site.root / RUN / "media/film.mp4", b"1" * (9 * MIB))
    site.publish()
    assert site.sync().bytes_downloaded == 9 * MIB
    (partial,) = site.staged()  # of the old content: it is swept when it is old enough
    os.utime(site.mirror / ".runicorn/staging" / partial, (OLD, OLD))
    site.sync()
    site.assert_equal()


def test_what_killed_syncs_left_is_swept(site: Site) -> None:
    site.publish()
    site.sync()
    put(site.mirror / ".runicorn/staging/0123456789abcdef01234567", b"left")
    site.sync()
    assert not site.staged()
    put(site.mirror / ".runicorn/staging/0123-0/7", b"left by a process that helped")
    site.sync()
    assert not site.staged()
    (site.mirror / ".runicorn/staging/folder/inner").mkdir(parents=True)
    with pytest.raises(MirrorError, match="folder"):
        site.sync()


def test_run_that_ended_while_the_sync_was_down(site: Site) -> None:
    put(site.root / EVENTS, lines(20) + "torn", OLD)
    site.publish()
    with pytest.raises(KeyboardInterrupt):
        site.sync(RaiseAt(25 if site.rung == "manifest" else 4, KeyboardInterrupt()))
    put(site.root / RUN / "status.json", status("finished"))
    site.publish()
    site.sync()
    site.assert_equal()
