"""Where a sync writes: two at once, a full disk, a dry run, rights and modes, planted links."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runicorn.errors import DiskFullError, MirrorBusyError, MirrorError
from runicorn.remote_storage import mirror as mirror_module
from runicorn.remote_storage.durability import Barrier
from runicorn.remote_storage.known import LocalFile
from runicorn.remote_storage.staging import StagedFile
from runicorn.remote_storage.transport import LocalTransport, Read
from testbed.trees import make_tree
from tests.remote_storage.helpers import (
    OLD,
    RUN,
    TIMEOUT,
    Meanwhile,
    Site,
    append,
    lines,
    make_run,
    open_site,
    put,
    run_files,
    snapshot,
    unprivileged,
)

pytestmark = pytest.mark.rungs("journal", "manifest")

PROJECT_ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from runicorn.remote_storage import synchronize
from runicorn.remote_storage.report import FileDone
held = []
def watch(event):
    if isinstance(event, FileDone) and not held:
        held.append(event)
        print("working", flush=True)
        sys.stdin.readline()
from runicorn.remote_storage.transport import LocalTransport, Read
synchronize(LocalTransport(), sys.argv[1], Path(sys.argv[2]), observer=watch)
"""


class OtherSync:
    """A real process that syncs, and waits in the middle until it is told to go on."""

    def __init__(self, site: Site) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(site.root), str(site.mirror)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT_ROOT,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "working\n"

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> int:
        self._process.communicate(timeout=TIMEOUT)
        return self._process.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=TIMEOUT)


# -- two at once -----------------------------------------------------------------------------


def test_second_sync_says_that_the_mirror_is_busy(site: Site) -> None:
    site.publish()
    other = OtherSync(site)
    with pytest.raises(MirrorBusyError):
        site.sync(lock_timeout=0)
    other.go_on()
    assert other.end() == 0
    assert site.sync().skipped
    site.assert_equal()


def test_second_sync_waits(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.publish()
    other = OtherSync(site)

    class GoOn:
        """Lets the other sync go on when this one says that it waits."""

        def __call__(self, record: object) -> bool:
            if "another sync works on this mirror" in str(getattr(record, "msg", "")):
                other.go_on()
            return True

    waits = GoOn()
    caplog.handler.addFilter(waits)
    try:
        assert site.sync(lock_timeout=TIMEOUT).skipped
    finally:
        caplog.handler.removeFilter(waits)
    assert other.end() == 0
    site.assert_equal()


def test_killed_sync_leaves_no_lock(site: Site) -> None:
    site.publish()
    OtherSync(site).kill()
    assert site.sync(lock_timeout=0).failed_count == 0
    site.assert_equal()


def test_dry_run_does_not_wait_for_another_sync(site: Site) -> None:
    site.publish()
    other = OtherSync(site)
    site.sync(dry_run=True, lock_timeout=0)
    other.go_on()
    assert other.end() == 0


# -- a full disk -----------------------------------------------------------------------------


def _no_space(*_arguments: object, **_options: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _barrier_full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Barrier, "contents", _no_space)


def _flush_full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "fsync", _no_space)


def _write_full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "pwrite", _no_space)


def _rename_full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "rename", _no_space)


def _free_full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mirror_module.Mirror, "free_bytes", lambda _self: 10)


class FullDatabase(sqlite3.Connection):
    """A database that takes no more rows."""

    def executemany(self, *_arguments: object) -> sqlite3.Cursor:
        raise sqlite3.OperationalError("database or disk is full")


def _database_full(patch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    patch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, factory=FullDatabase, **more))


@pytest.mark.parametrize(
    "fault", [_barrier_full, _flush_full, _write_full, _rename_full, _free_full, _database_full]
)
def test_full_disk_leaves_the_old_copy_and_no_temp(
    site: Site, monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    if fault is _free_full:
        site.rung = "manifest"  # how much news there is, is not known before the journal has been read
    site.publish()
    site.sync()
    old = run_files(site.mirror)
    put(site.root / RUN / "summary.json", '{"best": 5, "longer": 1}')
    append(site.root / RUN / "events.jsonl", lines(4, 20))
    site.publish()
    with monkeypatch.context() as patch:
        fault(patch)
        with pytest.raises(DiskFullError):
            site.sync()
    assert not site.staged()
    now, there = run_files(site.mirror), run_files(site.root)
    for name in old:
        assert now[name] in (old[name], there[name])
    assert site.sync().failed_count == 0
    site.assert_equal()
    assert site.sync().skipped


@pytest.mark.rungs("manifest")
def test_content_that_cannot_be_finished_leaves_the_old_copy_and_no_temp(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish()
    site.sync()
    put(site.root / RUN / "summary.json", '{"best": 2}')
    site.publish()
    before = run_files(site.mirror)

    def failing(*_: object) -> LocalFile:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(StagedFile, "finish", failing)
        with contextlib.suppress(MirrorError):
            assert site.sync().failed_count
    assert run_files(site.mirror) == before
    assert not site.staged()
    assert site.sync().failed_count == 0
    site.assert_equal()


def test_too_little_space_is_seen_before_anything_is_fetched(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish()
    _free_full(monkeypatch)
    with pytest.raises(DiskFullError, match="bytes have to be fetched"):
        site.sync()
    assert run_files(site.mirror) == {}


def test_full_disk_under_a_large_file_leaves_a_partial_to_go_on_with(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(site.root / RUN / "media/film.mp4", bytes(12 * 1024 * 1024), OLD)
    site.publish()
    full = Meanwhile("film.mp4", lambda: _write_full(monkeypatch), Read, nth=40)
    with pytest.raises(DiskFullError):
        site.sync(full)
    monkeypatch.undo()
    monkeypatch.setattr("runicorn.remote_storage.transfer.BACKOFF", (0.0, 0.0))
    assert len(site.staged()) <= 1
    assert site.sync().failed_count == 0
    site.assert_equal()


# -- dry runs --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", "manifest", "walk"])
def test_dry_run_makes_no_mirror(site: Site, method: str) -> None:
    site.publish()
    before = snapshot(site.root.parent)
    report = site.sync(dry_run=True, method=method, delete=True)
    assert snapshot(site.root.parent) == before
    assert (report.dry_run, report.files_synced, report.bytes_downloaded) == (True, 0, 0)
    assert report.total_files == 6


@pytest.mark.parametrize("method", ["auto", "manifest", "walk"])
@pytest.mark.parametrize("state", ["synced", "lost", "damaged", "no state folder"])
def test_dry_run_changes_nothing(site: Site, method: str, state: str) -> None:
    site.publish()
    site.sync(method=method)
    if state == "lost":
        site.lose_state()
    elif state == "damaged":
        site.database.write_bytes(b"garbage" * 1000)
    elif state == "no state folder":
        for path in sorted((site.mirror / ".runicorn").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (site.mirror / ".runicorn").rmdir()
    put(site.root / RUN / "summary.json", '{"best": 5, "longer": 1}')
    append(site.root / RUN / "events.jsonl", lines(4, 20))
    (site.root / RUN / "logs.txt").unlink()
    site.publish()
    before = snapshot(site.mirror)
    site.sync(dry_run=True, method=method, delete=True)
    assert snapshot(site.mirror) == before


def test_dry_run_plans_what_the_sync_does(site: Site) -> None:
    from runicorn.remote_storage import SyncOptions, synchronize

    make_tree(site.root, 2)
    site.publish()
    site.sync(projects=("vision",))
    append(site.root / RUN / "events.jsonl", lines(4, 20))
    site.publish()
    options = SyncOptions(dry_run=True)
    plan = synchronize(LocalTransport(), str(site.root), site.mirror, options).plan
    assert plan is not None
    report = site.sync()
    assert (report.files_synced, report.bytes_downloaded) == (len(plan.transfers), plan.total_bytes)


# -- rights and modes ------------------------------------------------------------------------


def test_modes_of_the_server_are_never_applied(site: Site) -> None:
    for name, mode in (("meta.json", 0o4755), ("summary.json", 0o666), ("events.jsonl", 0o400)):
        (site.root / RUN / name).chmod(mode)
    site.publish()
    before = os.umask(0o027)
    try:
        site.sync()
    finally:
        os.umask(before)
    for path in (site.mirror / RUN).rglob("*"):
        wanted = 0o750 if path.is_dir() else 0o640
        assert stat.S_IMODE(path.stat().st_mode) == wanted


def test_read_only_folder_fails_alone() -> None:
    with open_site() as site:
        make_run(site.root)
        make_run(site.root, "vision/resnet/runs/r2")
        site.publish()
        with unprivileged():
            site.sync()
            (site.mirror / RUN).chmod(0o555)
        for folder in (RUN, "vision/resnet/runs/r2"):
            put(site.root / folder / "summary.json", '{"best": 77}')
        site.publish()
        with unprivileged():
            report = site.sync()
            assert (report.failed_count, report.files_synced) == (1, 1)
            assert [each.path for each in report.failed] == [f"{RUN}/summary.json"]
            assert not site.staged()
            (site.mirror / RUN).chmod(0o755)
            assert site.sync().files_synced == 1
        site.assert_equal()


def test_read_only_folder_keeps_what_should_go() -> None:
    with open_site() as site:
        for number in range(1, 4):
            make_run(site.root, f"vision/resnet/runs/r{number}")
        site.publish()
        with unprivileged():
            site.sync()
            (site.mirror / RUN).chmod(0o555)
        for folder in (RUN, "vision/resnet/runs/r2"):
            (site.root / folder / "summary.json").unlink()
        site.publish()
        with unprivileged():
            report = site.sync(delete=True)
            assert (report.removed_count, report.failed_count) == (1, 1)
            assert [each.path for each in report.failed] == [f"{RUN}/summary.json"]
            (site.mirror / RUN).chmod(0o755)
            assert site.sync(delete=True).removed_count == 1
        site.assert_equal()


def test_unreadable_file_in_the_mirror_is_fetched_anew() -> None:
    with open_site() as site:
        make_run(site.root)
        site.publish()
        with unprivileged():
            site.sync()
            for name in ("events.jsonl", "summary.json"):
                (site.mirror / RUN / name).chmod(0)
            site.lose_state()
            assert site.sync().failed_count == 0
        site.assert_equal()


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_mirror_that_cannot_be_written_says_so(mode: int) -> None:
    with open_site() as site:
        make_run(site.root)
        site.publish()
        with unprivileged():
            site.mirror.mkdir()
            site.mirror.chmod(mode)
            with pytest.raises(MirrorError):
                site.sync()


def test_mirror_that_is_a_file_says_so(site: Site) -> None:
    put(site.mirror, "not a folder")
    for dry_run in (True, False):
        with pytest.raises(MirrorError):
            site.sync(dry_run=dry_run)


# -- links and other things that lie in the way ------------------------------------------------


@pytest.fixture
def outside(site: Site) -> Path:
    """A folder that nobody may write to, with a file in it."""
    folder = site.root.parent / "outside"
    put(folder / "summary.json", "mine", OLD)
    put(folder / "events.jsonl", lines(3), OLD)
    put(folder / "state.db", "mine too", OLD)
    return folder


@pytest.mark.parametrize("name", ["vision", "vision/resnet/runs", RUN, f"{RUN}/media"])
@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_link_in_the_place_of_a_folder_is_not_followed(
    site: Site, outside: Path, name: str, method: str
) -> None:
    site.publish()
    before = snapshot(outside)
    link = site.mirror / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    report = site.sync(method=method)
    assert report.failed_count == (1 if name.endswith("media") else 6)
    assert snapshot(outside) == before
    link.unlink()
    assert site.sync(method=method).failed_count == 0
    site.assert_equal()


@pytest.mark.parametrize("name", ["summary.json", "events.jsonl"])
def test_link_in_the_place_of_a_file_is_replaced(site: Site, outside: Path, name: str) -> None:
    before = snapshot(outside)
    site.publish()
    link = site.mirror / RUN / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / name)
    assert site.sync().failed_count == 0
    assert not link.is_symlink()
    site.assert_equal()
    assert snapshot(outside) == before


def test_log_swapped_for_a_link_during_the_sync_is_not_appended_to(site: Site, outside: Path) -> None:
    site.publish()
    site.sync()
    append(site.root / RUN / "events.jsonl", lines(2, 20))
    site.publish()
    before = snapshot(outside)
    log = site.mirror / RUN / "events.jsonl"

    def swap() -> None:
        log.unlink()
        log.symlink_to(outside / "events.jsonl")

    site.sync(Meanwhile("events.jsonl", swap))
    assert snapshot(outside) == before
    site.sync()
    assert not log.is_symlink()
    site.assert_equal()


@pytest.mark.parametrize(
    "name", [".runicorn", ".runicorn/staging", ".runicorn/state.db", ".runicorn/sync.lock"]
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_planted_link_in_the_state_folder_is_refused(
    site: Site, outside: Path, name: str, dry_run: bool
) -> None:
    site.publish()
    before = snapshot(outside)
    link = site.mirror / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / "state.db" if "." in name[1:] else outside)
    with contextlib.suppress(MirrorError) if dry_run else pytest.raises(MirrorError):
        site.sync(dry_run=dry_run)
    assert snapshot(outside) == before


def test_folder_in_the_place_of_a_file_fails_alone(site: Site) -> None:
    site.publish()
    put(site.mirror / RUN / "summary.json/mine", "x")
    report = site.sync()
    assert (report.failed_count, report.files_synced) == (1, 5)
    assert (site.mirror / RUN / "summary.json/mine").read_text() == "x"


def test_fifo_in_the_place_of_a_log_is_replaced(site: Site) -> None:
    site.publish()
    (site.mirror / RUN).mkdir(parents=True)
    os.mkfifo(site.mirror / RUN / "events.jsonl")
    assert site.sync().failed_count == 0
    site.assert_equal()


def test_many_files_are_flushed_as_one_batch(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(site.root, 3)
    site.publish()
    waits: list[int] = []
    real = Barrier.wait

    def wait(self: Barrier) -> None:
        waits.append(1)
        real(self)

    monkeypatch.setattr(Barrier, "wait", wait)
    assert site.sync().files_synced == 51
    assert len(waits) <= 6
    site.assert_equal()
