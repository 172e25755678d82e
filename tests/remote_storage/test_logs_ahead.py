"""A log that a walk has brought is ahead of what the journal and the manifest tell: it must not go back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicorn.errors import ConnectError
from runicorn.journal.frames import StoredFrame
from runicorn.manifest.digest import BLOCK_SIZE
from runicorn.remote_storage import transfer
from runicorn.remote_storage.fetch import OVERLAP
from runicorn.remote_storage.landing import IN_MEMORY
from runicorn.remote_storage.replay import Replay
from tests.remote_storage.helpers import OLD, RUN, STATE_FILES, Site, append, lines, overwrite, put, status
from tests.remote_storage.journal_helpers import Counting, by_journal

LOG = f"{RUN}/logs.txt"


def rewrite(path: Path, content: str, at: float = OLD + 10) -> None:
    """Another content of the same file."""
    path.write_text(content)
    os.utime(path, ns=(int(at * 10**9), int(at * 10**9)))


held_open = contextlib.ExitStack()
"""Logs that were looked at: as long as one is open, no other file gets its inode."""


@pytest.fixture(autouse=True)
def _close_them() -> Iterator[None]:
    with held_open:
        yield


def inode(site: Site) -> int:
    log = held_open.enter_context((site.mirror / LOG).open("rb"))
    return os.fstat(log.fileno()).st_ino


@pytest.fixture
def behind(site: Site) -> Site:
    """A mirror behind its root: between the two the log was another one."""
    rewrite(site.root / LOG, "first\nsecond\n", OLD)
    site.publish()
    by_journal(site.sync())
    rewrite(site.root / LOG, "other\n", OLD + 5)
    site.publish()
    rewrite(site.root / LOG, "first\nsecond\nthird\n", OLD + 9)
    return site


@pytest.mark.parametrize("method", ["journal", "auto", "manifest"])
@pytest.mark.parametrize("is_published", [False, True])
def test_log_that_a_walk_brought_does_not_go_back_to_what_was_before_it(
    behind: Site, method: str, is_published: bool
) -> None:
    behind.sync(method="walk")
    held = inode(behind)
    if is_published:
        behind.publish()
    report = behind.sync(method=method)
    assert (report.method, report.failed_count) == (method.replace("auto", "journal"), 0)
    assert inode(behind) == held
    behind.assert_equal()
    append(behind.root / LOG, "fourth\n")
    behind.publish()
    behind.sync(method=method)
    assert inode(behind) == held
    behind.assert_equal()
    assert behind.sync(method=method).skipped


def test_log_that_goes_on_beyond_what_the_walk_brought_grows(behind: Site) -> None:
    behind.sync(method="walk")
    held = inode(behind)
    append(behind.root / LOG, "fourth\nhalf")
    behind.publish()
    by_journal(behind.sync())
    assert (inode(behind), (behind.mirror / LOG).read_text()) == (held, "first\nsecond\nthird\nfourth\n")


def test_log_that_is_another_one_by_now_is_replaced(behind: Site) -> None:
    behind.sync(method="walk")
    rewrite(behind.root / LOG, "first\nanother\nthird\n", OLD + 12)
    by_journal(behind.sync())
    behind.assert_equal()
    behind.publish()
    by_journal(behind.sync())
    behind.assert_equal()


@pytest.mark.parametrize("method", ["journal", "auto", "manifest"])
@pytest.mark.parametrize("first", ["journal", "manifest"])
def test_log_that_was_cut_within_the_second_of_the_walk_is_cut_in_the_mirror(
    site: Site, method: str, first: str
) -> None:
    site.publish()
    site.sync(method=first)
    rewrite(site.root / LOG, "begin\nmore\n", OLD + 5.25)
    site.sync(method="walk")
    rewrite(site.root / LOG, "begin\n", OLD + 5.75)
    site.publish(compact=True)
    assert site.sync(method=method).failed_count == 0
    assert (site.mirror / LOG).read_text() == "begin\n"
    site.assert_equal()


@pytest.mark.parametrize("method", ["journal", "auto", "manifest"])
def test_log_that_grew_within_the_second_of_its_listing_stays_as_the_walk_brought_it(
    site: Site, method: str
) -> None:
    site.publish()
    by_journal(site.sync())
    rewrite(site.root / LOG, "begin\nmore\n", OLD + 5.25)
    site.publish()
    append(site.root / LOG, "most\n")
    os.utime(site.root / LOG, ns=(OLD * 10**9 + 5_750_000_000,) * 2)
    site.sync(method="walk")
    held = inode(site)
    site.sync(method=method)
    assert (inode(site), (site.mirror / LOG).read_text()) == (held, "begin\nmore\nmost\n")


def test_end_that_a_run_has_left_half_stays_with_a_log_that_goes_on(site: Site) -> None:
    """What was taken whole when the run had ended is not cut to its last record afterwards."""
    site.publish()
    by_journal(site.sync())
    rewrite(site.root / LOG, "other\n", OLD + 5)
    site.publish()
    rewrite(site.root / LOG, "first\nhalf", OLD + 9)
    put(site.root / RUN / "status.json", status("done"), OLD + 9)
    site.sync(method="walk")
    held = inode(site)
    assert (site.mirror / LOG).read_text() == "first\nhalf"
    put(site.root / RUN / "status.json", status("running"), OLD + 10)
    by_journal(site.sync())
    assert (inode(site), (site.mirror / LOG).read_text()) == (held, "first\nhalf")


def test_long_log_that_a_walk_brought_grows_in_place(site: Site) -> None:
    """Longer than what is kept in memory, and than one block."""
    site.publish()
    by_journal(site.sync())
    rewrite(site.root / LOG, "other\n", OLD + 5)
    site.publish()
    long = lines(2 * BLOCK_SIZE // len(lines(1)))
    rewrite(site.root / LOG, long, OLD + 9)
    site.sync(method="walk")
    held = inode(site)
    append(site.root / LOG, lines(10))
    by_journal(site.sync())
    assert inode(site) == held
    site.assert_equal()


@pytest.mark.parametrize("compact", [False, True])
def test_journal_that_is_read_anew_takes_no_log_through_its_past(site: Site, compact: bool) -> None:
    texts = ["one\n", "two\ntwo\n", "", "three\n", "three\nthree\n"]
    for number, text in enumerate(texts):
        rewrite(site.root / LOG, text, OLD + number)
        site.publish(compact=compact and number == 1)
    by_journal(site.sync())
    held = inode(site)
    for name in STATE_FILES:
        (site.mirror / RUN / name).unlink()
    by_journal(site.sync(method="journal"))
    assert inode(site) == held
    site.assert_equal()


@pytest.mark.parametrize("method", ["journal", "auto", "manifest"])
def test_log_that_a_kill_has_left_longer_than_it_is_recorded_does_not_go_back(
    site: Site, method: str
) -> None:
    """A sync that was ended within its append has told nobody; the next one begins before it."""
    site.publish()
    by_journal(site.sync())
    rewrite(site.root / LOG, "begin\nmore\n", OLD + 5)
    site.publish()
    append(site.root / LOG, "most\n")
    append(site.mirror / LOG, "more\nmost\n")
    held = inode(site)
    report = site.sync(method=method)
    assert (report.failed_count, inode(site)) == (0, held)
    site.assert_equal()
    assert site.sync(method=method).skipped


def test_log_that_somebody_has_lengthened_costs_no_more_than_its_end(site: Site) -> None:
    rewrite(site.root / LOG, lines(40_000), OLD + 5)
    site.publish()
    by_journal(site.sync())
    append(site.mirror / LOG, "mine\n")
    report = site.sync()
    assert (report.method, report.failed_count) == ("manifest", 0)
    assert report.bytes_downloaded <= OVERLAP + len("mine\n")
    site.assert_equal()


def test_log_that_is_another_one_by_now_does_not_go_back_to_its_listed_beginning(site: Site) -> None:
    """What is listed is not there any more: neither what the mirror holds beyond it, nor its beginning."""
    site.publish()
    by_journal(site.sync())
    rewrite(site.root / LOG, "begin\nmore\n", OLD + 5)
    site.publish()
    append(site.root / LOG, "most\n")
    site.sync(method="walk")
    rewrite(site.root / LOG, "new\n", OLD + 20)
    by_journal(site.sync())
    assert (site.mirror / LOG).read_text() == "new\n"
    site.publish()
    by_journal(site.sync())
    site.assert_equal()


@pytest.mark.parametrize("listed", ["", "begin\nx\n"])
@pytest.mark.parametrize("method", ["journal", "auto", "manifest"])
def test_log_of_which_the_server_has_another_end_is_not_cut_to_what_both_have(
    site: Site, method: str, listed: str
) -> None:
    """The generator may be dead: nobody would bring the rest."""
    site.publish()
    by_journal(site.sync())
    rewrite(site.root / LOG, listed, OLD + 5)
    site.publish()
    rewrite(site.root / LOG, listed + "most\n", OLD + 6)
    site.sync(method="walk")
    rewrite(site.root / LOG, listed + "other\n", OLD + 20)
    assert site.sync(method=method).failed_count == 0
    site.assert_equal()


@pytest.mark.parametrize("grown", ["", "third\n"])
@pytest.mark.parametrize("method", ["journal", "auto", "manifest"])
def test_log_that_is_shorter_than_an_older_one_stays(site: Site, method: str, grown: str) -> None:
    site.publish()
    by_journal(site.sync())
    rewrite(site.root / LOG, "other " * 20 + "\n", OLD + 5)
    site.publish()
    rewrite(site.root / LOG, "first\nsecond\n", OLD + 9)
    site.sync(method="walk")
    held = inode(site)
    append(site.root / LOG, grown)
    assert site.sync(method=method).failed_count == 0
    assert inode(site) == held
    site.assert_equal()


@pytest.mark.parametrize("is_cut", [False, True])
def test_log_far_ahead_of_its_listing_is_compared_at_its_ends(site: Site, is_cut: bool) -> None:
    site.publish()
    by_journal(site.sync())
    append(site.root / LOG, "more\n")
    site.publish()
    listed = (site.root / LOG).read_text()
    append(site.root / LOG, lines(100_000))
    site.sync(method="walk")
    held = inode(site)
    if is_cut:
        rewrite(site.root / LOG, listed, OLD + 50)
    report = by_journal(site.sync())
    assert report.bytes_downloaded < 4 * OVERLAP
    assert (inode(site) == held) is not is_cut
    site.assert_equal()


def test_log_that_was_rewritten_while_the_mirror_is_ahead_is_fetched_once(site: Site) -> None:
    site.publish()
    by_journal(site.sync())
    rewrite(site.root / LOG, lines(40_000), OLD + 5)
    site.publish()
    append(site.root / LOG, lines(10))
    site.sync(method="walk")
    rewrite(site.root / LOG, lines(50_000, 7), OLD + 20)
    report = by_journal(site.sync())
    assert report.bytes_downloaded < (site.root / LOG).stat().st_size + 4 * OVERLAP
    site.assert_equal()


def test_first_sync_takes_what_is_carried_of_a_log_that_was_rewritten(site: Site) -> None:
    for number in range(4):
        rewrite(site.root / LOG, f"{number}\n" * (5 - number), OLD + number)
        site.publish()
    counting = Counting()
    by_journal(site.sync(counting))
    assert not [path for path in counting.opened if path.endswith("logs.txt")]
    site.assert_equal()


def test_journal_that_is_read_anew_in_two_turns_takes_no_log_through_its_past(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, text in enumerate(["one\n", "two\ntwo\n", "three\nthree\n"]):
        rewrite(site.root / LOG, text, OLD + number)
        site.publish()
    by_journal(site.sync())
    held = inode(site)
    for name in STATE_FILES:
        (site.mirror / RUN / name).unlink()
    take = Replay.take

    def take_first(replay: Replay, frame: StoredFrame) -> None:
        take(replay, frame)
        replay.flush()
        assert inode(site) == held
        if replay.identity is not None:
            raise ConnectError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(Replay, "take", take_first)
        with pytest.raises(ConnectError, match="cut"):
            site.sync(method="journal")
    with monkeypatch.context() as patch:
        patch.setattr(Replay, "take", lambda *each: (take(*each), each[0].flush()))
        by_journal(site.sync(method="journal"))
    assert inode(site) == held
    site.assert_equal()


@pytest.mark.parametrize("method", ["journal", "manifest"])
def test_log_that_was_taken_as_it_is_now_stays_while_the_server_still_tells_of_an_older_one(
    site: Site, method: str
) -> None:
    """What is fetched is newer than what is listed, and shorter."""
    rewrite(site.root / LOG, "old\n" * 20, OLD + 1)
    site.publish()
    site.sync(method=method)
    rewrite(site.root / LOG, "older\n" * 30, OLD + 5)
    site.rung = "listed"
    site.publish()
    rewrite(site.root / LOG, "new\n", OLD + 20)
    site.sync(method=method)
    held = inode(site)
    assert (site.mirror / LOG).read_text() == "new\n"
    rewrite(site.root / LOG, "older\n" * 40, OLD + 6)
    site.publish()
    rewrite(site.root / LOG, "new\nmore\n", OLD + 21)
    site.sync(method=method)
    assert (inode(site), (site.mirror / LOG).read_text()) == (held, "new\nmore\n")


def test_log_that_grows_from_what_was_fetched_whole_leaves_nothing_staged(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download of a large file has a name that the next sync would know it by."""
    monkeypatch.setattr(transfer, "RESUME_FROM", IN_MEMORY)
    many = IN_MEMORY // 5
    site.rung = "manifest"
    put(site.root / LOG, "first\n" * many, OLD)
    site.publish()
    site.sync()
    before = inode(site)
    overwrite(site.mirror / LOG, "other\n" * many)
    put(site.root / LOG, "other\n" * many + "more\n", OLD + 5)
    site.publish()
    site.sync()
    assert (site.mirror / LOG).read_text() == "other\n" * many + "more\n"
    assert inode(site) == before
    assert site.staged() == []
