"""What is in the way of a journal's files: refused bytes, folders in their place, a full disk, the user."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runicorn.errors import CancelledError, DiskFullError
from runicorn.remote_storage import SyncOptions, synchronize
from runicorn.remote_storage.transport import StatusCode
from tests.remote_storage.helpers import (
    EVENTS,
    RUN,
    Refuse,
    Site,
    WrongBytes,
    append,
    lines,
    make_run,
    put,
    run_files,
)
from tests.remote_storage.journal_helpers import (
    Counting,
    by_journal,
    cursor_of,
    following,
    head,
    state_of,
)

BIG = f"{RUN}/media/big.bin"


@pytest.fixture
def synced(site: Site) -> Site:
    site.publish()
    by_journal(site.sync())
    return site


def a_large_file(site: Site) -> None:
    """A file that the journal only lists."""
    put(site.root / BIG, bytes(range(256)) * 5000)
    append(site.root / EVENTS, lines(2, 20))
    site.publish()


# -- wanted files -------------------------------------------------------------------------------


def test_a_wanted_file_that_fails_is_tried_again_without_a_replay(synced: Site) -> None:
    a_large_file(synced)
    refuse = Refuse("big.bin", StatusCode.PERMISSION_DENIED)
    report = synced.sync(refuse)
    assert (report.method, report.failed_count, report.files_synced) == ("journal", 1, 1)
    assert [each.path for each in report.failed] == [BIG]
    assert cursor_of(synced).place == head(synced).end
    assert (synced.mirror / EVENTS).read_bytes() == (synced.root / EVENTS).read_bytes()
    report = synced.sync(refuse)
    assert (report.failed_count, report.skipped) == (1, False)
    counting = Counting()
    report = by_journal(synced.sync(counting))
    assert (report.files_synced, counting.read) == (1, 0)
    synced.assert_equal()
    assert by_journal(synced.sync()).skipped


def test_a_wanted_file_is_tried_again_by_polls(synced: Site) -> None:
    refuse = Refuse("big.bin", StatusCode.FAILURE, times=4)
    with following(synced, refuse) as follower:
        follower.sync()
        a_large_file(synced)
        assert follower.sync().failed_count == 1
        report = by_journal(follower.sync())
        assert report.files_synced == 1
        synced.assert_equal()


def test_a_wanted_file_with_wrong_bytes_is_not_taken(synced: Site) -> None:
    a_large_file(synced)
    assert synced.sync(WrongBytes("big.bin")).failed_count == 1
    assert not (synced.mirror / BIG).exists()
    by_journal(synced.sync())
    synced.assert_equal()


def test_a_wanted_file_that_is_not_listed_any_more_is_forgotten(synced: Site) -> None:
    a_large_file(synced)
    assert synced.sync(Refuse("big.bin", StatusCode.FAILURE)).failed_count == 1
    (synced.root / BIG).unlink()
    assert synced.sync().vanished_count == 1
    synced.publish()
    by_journal(synced.sync())
    assert by_journal(synced.sync()).skipped
    synced.assert_equal()


def test_a_wanted_file_that_changed_is_fetched_as_it_is_listed_last(synced: Site) -> None:
    a_large_file(synced)
    assert synced.sync(Refuse("big.bin", StatusCode.FAILURE)).failed_count == 1
    put(synced.root / BIG, b"small now")
    synced.publish()
    by_journal(synced.sync())
    synced.assert_equal()
    assert by_journal(synced.sync()).skipped


def test_a_wanted_file_that_somebody_put_there_is_noted(synced: Site) -> None:
    a_large_file(synced)
    assert synced.sync(Refuse("big.bin", StatusCode.FAILURE)).failed_count == 1
    shutil.copy2(synced.root / BIG, synced.mirror / BIG)
    counting = Counting()
    by_journal(synced.sync(counting))
    assert counting.opened_runs() == []
    assert by_journal(synced.sync()).skipped


def test_a_manifest_forgets_what_the_journal_wanted(synced: Site) -> None:
    a_large_file(synced)
    assert synced.sync(Refuse("big.bin", StatusCode.FAILURE)).failed_count == 1
    assert synced.sync(method="manifest").failed_count == 0
    with state_of(synced) as state:
        assert state.wants_nothing()
    synced.assert_equal()


# -- something in the way ---------------------------------------------------------------------------


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look at the mirror finds what others did."""
    monkeypatch.setattr("runicorn.remote_storage.sync.FOLDERS_LOOKED_AT", 0)


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize("inner", ["summary.json", "events.jsonl", "media/new.png"])
def test_a_folder_in_the_place_of_a_file_fails_that_file(synced: Site, inner: str) -> None:
    place = synced.mirror / RUN / inner
    place.unlink(missing_ok=True)
    (place / "mine").mkdir(parents=True)
    put(synced.root / RUN / "summary.json", '{"best": 2}')
    append(synced.root / EVENTS, lines(2, 20))
    put(synced.root / RUN / "media/new.png", b"new")
    synced.publish()
    for _ in range(2):
        report = synced.sync()
        assert (report.method, report.failed_count) == ("journal", 1)
        assert "folder" in report.failed[0].error
        assert synced.staged() == []
    assert (place / "mine").is_dir()
    shutil.rmtree(place)
    assert by_journal(synced.sync()).files_synced == 1
    synced.assert_equal()


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize("what", ["file", "link"])
def test_something_in_the_place_of_a_folder_fails_what_belongs_there(synced: Site, what: str) -> None:
    outside = synced.mirror.parent / "outside"
    outside.mkdir()
    shutil.rmtree(synced.mirror / RUN / "media")
    if what == "file":
        (synced.mirror / RUN / "media").write_text("mine", encoding="utf-8")
    else:
        (synced.mirror / RUN / "media").symlink_to(outside)
    put(synced.root / RUN / "media/new.png", b"new")
    append(synced.root / EVENTS, lines(2, 20))
    synced.publish()
    report = synced.sync()
    assert (report.method, report.failed_count, report.files_synced) == ("journal", 1, 1)
    assert list(outside.iterdir()) == []
    (synced.mirror / RUN / "media").unlink()
    by_journal(synced.sync())
    assert (synced.mirror / RUN / "media/new.png").read_bytes() == b"new"


def test_a_file_in_the_way_of_a_first_sync(site: Site) -> None:
    site.publish()
    by_journal(site.sync())
    shutil.rmtree(site.root / "vision")
    (site.root / "vision").mkdir()
    make_run(site.root, "vision/resnet/runs/r2")
    (site.mirror / "vision/resnet/runs/r2").write_text("mine", encoding="utf-8")
    site.publish()
    report = site.sync()
    assert (report.method, report.failed_count) == ("journal", 6)
    (site.mirror / "vision/resnet/runs/r2").unlink()
    assert by_journal(site.sync()).files_synced == 6


# -- a full disk ----------------------------------------------------------------------------------


def full(real: Callable[..., Any], after: int) -> Callable[..., Any]:
    left = [after]

    def call(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **options)

    return call


@pytest.mark.parametrize("name", ["pwrite", "rename", "fsync", "open"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_full_disk_ends_the_sync_and_the_next_one_goes_on(
    synced: Site, monkeypatch: pytest.MonkeyPatch, name: str, after: int
) -> None:
    for step in range(3):
        put(synced.root / RUN / "summary.json", f'{{"best": {step}}}')
        append(synced.root / EVENTS, lines(2, 20 + step))
        put(synced.root / RUN / f"media/{step}.png", bytes([step]) * 500)
        synced.publish()
    old, new = run_files(synced.mirror), run_files(synced.root)
    inode = (synced.mirror / EVENTS).stat().st_ino
    if name == "open":
        real = os.open

        def opened(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if flags & os.O_CREAT and options.get("dir_fd") is not None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(path, flags, *arguments, **options)

        monkeypatch.setattr(os, "open", opened)
    else:
        monkeypatch.setattr(os, name, full(getattr(os, name), after))
    try:
        with pytest.raises(DiskFullError) as caught:
            synced.sync()
    except BaseException:
        monkeypatch.undo()
        if name != "fsync":  # a batch may go to disk by another call
            raise
        return
    monkeypatch.undo()
    assert caught.value.exit_code == 9
    for path, content in run_files(synced.mirror).items():
        if path == EVENTS:
            assert new[path].startswith(content)
            assert content.endswith(b"\n")
        else:
            assert content in (old.get(path), new.get(path), b'{"best": 0}', b'{"best": 1}')
    synced.sync()
    synced.assert_equal()
    assert (synced.mirror / EVENTS).stat().st_ino == inode
    assert synced.staged() == []


# -- a user who stops ------------------------------------------------------------------------------


def test_cancelled_before_anything(synced: Site) -> None:
    append(synced.root / EVENTS, lines(2, 20))
    synced.publish()
    before = run_files(synced.mirror)
    cancel = threading.Event()
    cancel.set()
    with following(synced) as follower:
        with pytest.raises(CancelledError):
            synchronize(
                follower.transport,
                str(synced.root),
                synced.mirror,
                SyncOptions(),
                cancel=cancel,
                journal=follower.reader,
            )
        assert run_files(synced.mirror) == before
        by_journal(follower.sync())
        synced.assert_equal()
