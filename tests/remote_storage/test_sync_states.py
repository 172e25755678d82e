"""State files of a run: what is taken when they change, vanish, or are no valid JSON."""

from __future__ import annotations

import os

import pytest

from tests.remote_storage.helpers import (
    OLD,
    RUN,
    Meanwhile,
    Relay,
    Site,
    overwrite,
    put,
)

pytestmark = pytest.mark.rungs("journal", "manifest")


@pytest.mark.rungs("listed", "manifest")
def test_state_file_newer_than_the_manifest_is_accepted_once(site: Site) -> None:
    site.publish()
    put(site.root / RUN / "summary.json", '{"best": 2, "more": "than was listed"}', OLD + 9)
    report = site.sync()
    assert (report.failed_count, report.vanished_count) == (0, 0)
    site.assert_equal()
    relay = Relay()
    assert site.sync(relay).skipped
    site.publish()
    assert site.sync(relay).files_synced == 0
    assert relay.opened_runs() == []
    site.assert_equal()


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_state_file_of_the_same_size_is_fetched_anew(site: Site, method: str) -> None:
    site.publish()
    site.sync(method=method)
    put(site.root / RUN / "summary.json", '{"best": 2}')
    site.publish()
    assert site.sync(method=method).full_count == 1
    site.assert_equal()


@pytest.mark.parametrize("name", ["summary.json", "events.jsonl"])
def test_edit_that_leaves_no_trace_is_found_by_a_walk_while_the_file_is_young(site: Site, name: str) -> None:
    """SFTP tells whole seconds: the same size and the same second prove nothing yet."""
    path = site.root / RUN / name
    put(path, path.read_bytes())
    site.sync(method="walk")
    overwrite(path, path.read_bytes().replace(b"1", b"2"))
    report = site.sync(method="walk")
    assert report.failed_count == 0
    site.assert_equal()


@pytest.mark.parametrize("name", ["summary.json", "events.jsonl"])
def test_edit_that_leaves_no_trace_is_found_by_a_walk_behind_a_better_listing(site: Site, name: str) -> None:
    """That tells exact times and digests: they do not make a young file an old one."""
    path = site.root / RUN / name
    put(path, path.read_bytes())
    site.publish()
    site.sync()
    overwrite(path, path.read_bytes().replace(b"1", b"2"))
    assert site.sync(method="walk").failed_count == 0
    site.assert_equal()


@pytest.mark.parametrize("name", ["summary.json", "events.jsonl"])
def test_edit_that_leaves_no_trace_is_found_by_a_digest_behind_a_walk(site: Site, name: str) -> None:
    path = site.root / RUN / name
    site.sync(method="walk")
    overwrite(path, path.read_bytes().replace(b"1", b"2"))
    site.publish()
    assert site.sync().failed_count == 0
    site.assert_equal()


def test_log_that_was_cut_in_the_second_in_which_a_walk_brought_it_is_cut_here_too(site: Site) -> None:
    log = site.root / RUN / "events.jsonl"
    os.utime(log, ns=(OLD * 10**9, OLD * 10**9 + 1))
    site.sync(method="walk")
    log.write_bytes(b"")
    os.utime(log, ns=(OLD * 10**9, OLD * 10**9 + 2))
    site.publish()
    assert site.sync().failed_count == 0
    site.assert_equal()


def test_touched_file_is_not_fetched_again(site: Site) -> None:
    site.publish()
    site.sync()
    os.utime(site.root / RUN / "media/a.png", (OLD + 9, OLD + 9))
    site.publish()
    report = site.sync()
    assert (report.skipped, report.files_synced, report.bytes_downloaded) == (False, 0, 0)
    assert site.sync().skipped


@pytest.mark.rungs("listed", "manifest")
def test_file_that_vanished_is_no_failure_and_tried_again(site: Site) -> None:
    site.publish()
    summary = site.root / RUN / "summary.json"
    content = summary.read_bytes()
    summary.unlink()
    for _ in range(2):
        report = site.sync()
        assert (report.failed_count, report.vanished_count, report.skipped) == (0, 1, False)
    put(summary, content, OLD)
    report = site.sync()
    assert (report.vanished_count, report.files_synced) == (0, 1)
    site.assert_equal()
    assert site.sync().skipped


def test_run_that_vanished_while_walking_is_no_failure(site: Site) -> None:
    gone = Meanwhile("summary.json", (site.root / RUN / "summary.json").unlink)
    report = site.sync(gone, method="walk")
    assert (report.failed_count, report.vanished_count) == (0, 1)
    assert site.sync(method="walk").vanished_count == 0
    site.assert_equal()


def test_half_written_json_is_not_installed(site: Site) -> None:
    summary, mine = (folder / RUN / "summary.json" for folder in (site.root, site.mirror))
    site.sync()
    old = mine.read_bytes()
    put(summary, '{"best": 3, "half')
    seen: list[bytes] = []

    def go_on() -> None:
        seen.append(mine.read_bytes())
        put(summary, '{"best": 3, "half": 1}')

    assert site.sync(Meanwhile("summary.json", go_on, nth=2)).failed_count == 0
    assert seen == [old]
    site.assert_equal()


def test_json_that_stays_invalid_is_accepted_when_it_is_read_twice(site: Site) -> None:
    put(site.root / RUN / "summary.json", '{"best": NaN')
    relay = Relay()
    report = site.sync(relay)
    assert report.failed_count == 0
    assert [path.rsplit("/", 1)[1] for path in relay.opened].count("summary.json") == 2
    site.assert_equal()


def test_json_that_is_invalid_and_published_is_what_was_published(site: Site) -> None:
    put(site.root / RUN / "summary.json", "not JSON at all")
    site.publish()
    assert site.sync().failed_count == 0
    site.assert_equal()
