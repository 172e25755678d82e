"""Logs of a run: appended in place, whole records only, replaced when they were rewritten."""

from __future__ import annotations

import pytest

from tests.remote_storage.helpers import (
    EVENTS,
    OLD,
    RUN,
    Meanwhile,
    Relay,
    Site,
    append,
    lines,
    put,
    status,
    transport_of,
)

pytestmark = pytest.mark.rungs("journal", "manifest")


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
@pytest.mark.parametrize("kind", ["local", "sftp"])
def test_append_moves_only_what_was_appended(site: Site, kind: str, method: str) -> None:
    put(site.root / EVENTS, lines(9000), OLD)
    site.publish()
    with transport_of(kind) as transport:
        site.sync(transport, method=method)
        inode = (site.mirror / EVENTS).stat().st_ino
        append(site.root / EVENTS, lines(10, 9000))
        site.publish()
        report = site.sync(transport, method=method)
    site.assert_equal()
    assert (report.incremental_count, report.full_count) == (1, 0)
    assert (site.mirror / EVENTS).stat().st_ino == inode
    overlap = 64 * 1024 if method == "walk" else 0
    assert report.bytes_downloaded == len(lines(10, 9000)) + overlap


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_append_over_several_blocks(site: Site, method: str) -> None:
    put(site.root / EVENTS, lines(50_000), OLD)
    site.publish()
    site.sync(method=method)
    append(site.root / EVENTS, lines(60_000, 50_000))
    site.publish()
    report = site.sync(method=method)
    site.assert_equal()
    assert report.incremental_count == 1
    assert report.bytes_downloaded < len(lines(60_000, 50_000)) + 70_000


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_torn_record_is_withheld_until_it_is_whole(site: Site, method: str) -> None:
    whole = lines(20)
    put(site.root / EVENTS, whole + '{"step": 20, "lo', OLD)
    site.publish()
    site.sync(method=method)
    assert (site.mirror / EVENTS).read_text() == whole
    inode = (site.mirror / EVENTS).stat().st_ino
    put(site.root / EVENTS, lines(21), OLD + 5)
    site.publish()
    report = site.sync(method=method)
    site.assert_equal()
    assert (report.incremental_count, (site.mirror / EVENTS).stat().st_ino) == (1, inode)


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_torn_record_of_an_append_is_withheld(site: Site, method: str) -> None:
    site.publish()
    site.sync(method=method)
    append(site.root / EVENTS, lines(1, 20) + '{"step": 21')
    site.publish()
    site.sync(method=method)
    assert (site.mirror / EVENTS).read_text() == lines(21)
    append(site.root / EVENTS, lines(1, 21)[len('{"step": 21') :])
    site.publish()
    site.sync(method=method)
    site.assert_equal()


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_torn_record_is_delivered_when_the_run_ends(site: Site, method: str) -> None:
    put(site.root / EVENTS, lines(20) + "killed here", OLD)
    site.publish()
    site.sync(method=method)
    assert (site.mirror / EVENTS).read_text() == lines(20)
    put(site.root / RUN / "status.json", status("failed"), OLD + 60)
    site.publish()
    report = site.sync(method=method)
    site.assert_equal()
    assert report.failed_count == 0
    assert site.sync(method=method).files_synced == 0


def test_log_that_is_one_torn_record_is_there_and_empty(site: Site) -> None:
    put(site.root / EVENTS, "no newline yet", OLD)
    site.publish()
    site.sync()
    assert (site.mirror / EVENTS).read_bytes() == b""


def test_empty_log(site: Site) -> None:
    put(site.root / EVENTS, "", OLD)
    site.publish()
    assert site.sync().failed_count == 0
    site.assert_equal()
    append(site.root / EVENTS, lines(3))
    site.publish()
    assert site.sync().incremental_count == 1
    site.assert_equal()


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
@pytest.mark.parametrize(
    "content",
    [
        lines(100, 7),
        lines(10),
        lines(19) + lines(1, 5_000_000)[: len(LAST)] if (LAST := lines(1, 19)) else "",
    ],
    ids=["rotated and bigger", "truncated", "same size"],
)
def test_rewritten_log_is_replaced(site: Site, method: str, content: str) -> None:
    site.publish()
    site.sync(method=method)
    put(site.root / EVENTS, content.rstrip("\n") + "\n", OLD + 50)
    site.publish()
    report = site.sync(method=method)
    site.assert_equal()
    assert (report.full_count, report.incremental_count, report.failed_count) == (1, 0, 0)


def test_log_rewritten_inside_the_last_block_is_not_fetched_twice(site: Site) -> None:
    """The tail hash tells before anything is fetched that an append would be in vain."""
    text = lines(40_000)
    put(site.root / EVENTS, text, OLD)
    site.publish()
    site.sync()
    changed = text[:100] + "#" + text[101:] + lines(10, 40_000)
    put(site.root / EVENTS, changed, OLD + 5)
    site.publish()
    report = site.sync()
    site.assert_equal()
    assert (report.full_count, report.incremental_count) == (1, 0)
    assert report.bytes_downloaded == len(changed)


def test_log_rewritten_before_the_last_block_is_replaced(site: Site) -> None:
    text = lines(60_000)
    put(site.root / EVENTS, text, OLD)
    site.publish()
    site.sync()
    changed = text[:100] + "#" + text[101:] + lines(40_000, 60_000)
    put(site.root / EVENTS, changed, OLD + 5)
    site.publish()
    report = site.sync()
    site.assert_equal()
    assert report.full_count == 1


@pytest.mark.rungs("listed", "manifest")
def test_log_that_grows_during_the_sync_is_a_prefix(site: Site) -> None:
    site.publish()
    grow = Meanwhile("events.jsonl", lambda: append(site.root / EVENTS, lines(5, 20)))
    assert site.sync(grow).failed_count == 0
    assert (site.mirror / EVENTS).read_text() == lines(20)
    site.publish()
    assert site.sync().incremental_count == 1
    site.assert_equal()


@pytest.mark.rungs("listed", "manifest")
def test_log_that_was_rewritten_after_the_listing_is_taken_as_it_is(site: Site) -> None:
    site.publish()
    put(site.root / EVENTS, lines(50, 100))
    report = site.sync()
    assert report.failed_count == 0
    site.assert_equal()
    relay = Relay()
    assert site.sync(relay).skipped
    assert relay.opened_runs() == []
