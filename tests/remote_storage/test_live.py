"""Sessions that stay open over real roots."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import MirrorBusyError, MirrorError, MirrorGoneError, NoSuchRootError
from runicorn.remote_storage import LiveSession, SyncOptions, SyncReport, Watcher, WatchOptions
from runicorn.remote_storage.live import FULL_LOOK
from runicorn.remote_storage.mirror_view import MirrorView
from runicorn.remote_storage.report import Event, SyncFinished
from runicorn.remote_storage.transport import LocalTransport, Open, StatusCode, Transport
from runicorn.remote_storage.watch import may_pass
from tests.remote_storage.helpers import (
    RUN,
    TIMEOUT,
    Refuse,
    Site,
    append,
    make_run,
    overwrite,
    run_files,
)
from tests.remote_storage.journal_helpers import epoch_path
from tests.remote_storage.test_pace import FakeClock


class Live:
    """A live session of a site, and what it asked of the server."""

    def __init__(self, site: Site, clock: FakeClock | None = None, **options: Any) -> None:
        self.clock = clock or FakeClock()
        self.made: list[Transport] = []
        self.site = site
        self.transport: Callable[[], Transport] = LocalTransport
        self.session = LiveSession(
            self._connect,
            str(site.root),
            site.mirror,
            SyncOptions(source=str(site.root), **options),
            clock=self.clock,
        )

    def _connect(self) -> Transport:
        self.made.append(self.transport())
        return self.made[-1]

    def requests(self) -> int:
        return sum(each.traffic.requests for each in self.made)

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()


def history(site: Site) -> int:
    with MirrorView(site.mirror) as view:
        return len(view.history())


def settled(live: Live) -> None:
    """Look until a look finds nothing."""
    for _ in range(4):
        if live.session.look() is None:
            return
    raise AssertionError("it does not come to rest")


def test_look_without_news_is_two_requests_and_writes_nothing(site: Site) -> None:
    site.publish()
    with Live(site) as live:
        assert live.session.look() is not None
        site.assert_equal()
        settled(live)
        before, rows = live.requests(), history(site)
        wal = site.database.with_name("state.db-wal")
        size = wal.stat().st_size
        for _ in range(5):
            assert live.session.look() is None
        assert live.requests() - before == 10
        assert history(site) == rows == 1
        assert wal.stat().st_size == size


def test_news_come_with_the_look_that_finds_them(site: Site) -> None:
    site.publish()
    with Live(site) as live:
        settled(live)
        for number in range(3):
            append(site.root / RUN / "logs.txt", f"line {number}\n")
            site.publish()
            before = live.requests()
            report = live.session.look()
            assert report is not None
            assert (report.method, report.incremental_count) == ("journal", 1)
            assert report.requests == live.requests() - before == 2
            site.assert_equal()
        assert history(site) == 4


def test_full_look_finds_what_other_programs_changed(site: Site) -> None:
    site.publish()
    with Live(site) as live:
        settled(live)
        (site.mirror / RUN / "summary.json").unlink()
        assert live.session.look() is None
        live.clock.steady += FULL_LOOK
        report = live.session.look()
        assert report is not None
        assert report.method == "manifest"
        site.assert_equal()


def test_contact_is_recorded_when_the_session_ends(site: Site) -> None:
    site.publish()
    with Live(site) as live:
        settled(live)
        live.clock.steady += 30.0
        assert live.session.look() is None
        at = live.clock.wall()
    with MirrorView(site.mirror) as view:
        contact = view.contact
    assert contact is not None
    assert contact.at == at


def test_mirror_is_locked_as_long_as_the_session_lives(site: Site) -> None:
    site.publish()
    with Live(site) as live:
        live.session.look()
        with pytest.raises(MirrorBusyError):
            site.sync(lock_timeout=0.0)
        with MirrorView(site.mirror) as view:
            assert view.is_synced_now()
    with MirrorView(site.mirror) as view:
        assert not view.is_synced_now()
    assert site.sync().skipped


def test_busy_mirror_is_found_before_anybody_has_to_log_in(site: Site) -> None:
    site.publish()
    with Live(site) as first:
        first.session.look()
        with Live(site, lock_timeout=0.0) as second:
            with pytest.raises(MirrorBusyError):
                second.session.connect()
            assert not second.made


def test_mirror_that_was_moved_away_is_made_anew(site: Site) -> None:
    site.publish()
    with Live(site) as live:
        settled(live)
        moved = site.mirror.with_name("moved")
        site.mirror.rename(moved)
        append(site.root / RUN / "logs.txt", "more\n")
        site.publish()
        live.session.look()
        site.assert_equal()
        assert "more" not in (moved / RUN / "logs.txt").read_text()


@pytest.mark.parametrize("step", ["open_mirror", "synchronize_open"])
def test_mirror_that_is_removed_under_a_look_is_made_anew_by_the_next(
    site: Site, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(*_: object) -> None:
        shutil.rmtree(site.mirror)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    site.publish()
    with Live(site) as live:
        settled(live)
        if step == "open_mirror":
            site.mirror.rename(site.mirror.with_name("away"))
            site.mirror.mkdir()
        append(site.root / RUN / "logs.txt", "more\n")
        site.publish()
        with monkeypatch.context() as patch:
            patch.setattr(f"runicorn.remote_storage.live.{step}", remove)
            with pytest.raises(MirrorGoneError) as caught:
                live.session.look()
        assert may_pass(caught.value, has_worked=True)
        live.session.look()
        site.assert_equal()


def test_state_that_cannot_be_read_any_more_is_an_error_of_the_mirror(site: Site) -> None:
    site.publish()
    with Live(site) as live:
        settled(live)
    with contextlib.closing(sqlite3.connect(site.database)) as database, database:
        database.execute("UPDATE meta SET value = 'no json' WHERE key = 'contact'")
    with Live(site) as live, pytest.raises(MirrorError, match="state of the mirror"):
        live.session.look()


def test_disconnected_session_connects_again_and_goes_on(site: Site) -> None:
    site.publish()
    with Live(site) as live:
        settled(live)
        live.session.disconnect()
        assert not live.session.is_connected
        append(site.root / RUN / "logs.txt", "more\n")
        site.publish()
        report = live.session.look()
        assert report is not None
        assert report.incremental_count == 1
        assert len(live.made) == 2
        site.assert_equal()


def test_failure_of_a_look_is_recorded(site: Site) -> None:
    site.publish()
    with Live(site) as live:
        settled(live)
        away = site.root.with_name("away")
        site.root.rename(away)
        live.session.disconnect()
        with pytest.raises(NoSuchRootError):
            live.session.look()
        away.rename(site.root)
    with MirrorView(site.mirror) as view:
        failure = view.failure
    assert failure is not None
    assert failure.exit_code == 6
    assert "there is no folder" in failure.error


@pytest.mark.rungs("listed")
def test_failed_file_is_tried_again_by_the_next_full_look_only(site: Site) -> None:
    make_run(site.root, "vision/resnet/runs/r2")
    site.publish()
    with Live(site) as live:
        live.transport = lambda: Refuse("r2/summary.json", StatusCode.FAILURE, Open, times=3)
        report = live.session.look()
        assert report is not None
        assert report.failed_count == 1
        assert live.session.look() is None
        live.clock.steady += FULL_LOOK
        live.session.look()
        site.assert_equal()


def test_server_without_a_journal_is_watched_by_its_manifest(site: Site) -> None:
    site.rung = "manifest"
    site.publish()
    with Live(site) as live:
        live.session.look()
        append(site.root / RUN / "logs.txt", "more\n")
        site.publish()
        report = live.session.look()
        assert report is not None
        assert report.method == "manifest"
        site.assert_equal()


def test_deleted_and_compacted_is_followed(site: Site) -> None:
    make_run(site.root, "vision/resnet/runs/r2")
    make_run(site.root, "vision/resnet/runs/r3")
    site.publish()
    with Live(site, delete=True) as live:
        settled(live)
        shutil.rmtree(site.root / "vision/resnet/runs/r2")
        site.publish()
        live.session.look()
        site.publish(compact=True)
        append(site.root / RUN / "logs.txt", "more\n")
        site.publish()
        settled(live)
        assert run_files(site.mirror) == run_files(site.root)


def test_servers_clock_that_was_years_ahead_and_is_put_right_is_believed(site: Site) -> None:
    site.publish()
    with Live(site) as live:
        settled(live)
        for moment in (3_000_000_000, 1_700_000_000, 1_700_000_300):
            os.utime(epoch_path(site), (moment, moment))
            assert live.session.look() is None
            assert live.session.looked_at == moment
            live.clock.steady += FULL_LOOK
            report = live.session.look()
            assert report is not None
            assert report.generated_at == live.session.looked_at == moment


def test_watcher_over_a_real_root_brings_each_change(site: Site, tmp_path: Path) -> None:
    site.publish()
    arrived: list[SyncReport] = []
    came, stop = threading.Semaphore(0), threading.Event()

    def watch(event: Event) -> None:
        if isinstance(event, SyncFinished):
            arrived.append(event.report)
            came.release()

    session = LiveSession(LocalTransport, str(site.root), site.mirror, SyncOptions(), watch, stop)
    watcher = Watcher(session, WatchOptions(0.01), watch)
    thread = threading.Thread(target=watcher.run, args=(stop,), daemon=True)
    thread.start()
    assert came.acquire(timeout=TIMEOUT)
    for number in range(5):
        append(site.root / RUN / "events.jsonl", f'{{"step": {number}}}\n')
        site.publish()
        assert came.acquire(timeout=TIMEOUT)
        site.assert_equal()
    stop.set()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert len(arrived) == 6
    overwrite(tmp_path / "mirror" / RUN / "summary.json", '{"best": 2}')  # nobody holds it any more
