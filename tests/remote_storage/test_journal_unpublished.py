"""A file that a walk brought before any revision listed it is no part of the state that the journal tells."""

from __future__ import annotations

import contextlib
import json

import pytest

from runicorn.errors import ConnectError
from runicorn.remote_storage.explain import explain
from runicorn.remote_storage.mirror_view import MirrorView
from tests.faults.forgery import Forgery, entry, files_frame, section
from tests.remote_storage.helpers import OLD, RUN, Refuse, Site, append, lines, put, run_files
from tests.remote_storage.journal_helpers import Cut, by_journal, head, places, state_of

NEW = f"{RUN}/media/new.png"
OPEN_FAILED = 4


@pytest.fixture
def walked(site: Site) -> Site:
    """A mirror to which a walk has brought a file that was never published."""
    site.publish()
    by_journal(site.sync())
    put(site.root / NEW, b"1", OLD)
    assert site.sync(method="walk").files_synced == 1
    return site


def go_on(site: Site, *, compact: bool = False) -> None:
    """A revision that has nothing to do with the file."""
    append(site.root / RUN / "logs.txt", "more\n")
    site.publish(compact=compact)


def explain_new(site: Site) -> str:
    with MirrorView(site.mirror) as view:
        return explain(view, NEW).reason


@pytest.mark.parametrize("method", ["journal", "auto", "manifest"])
@pytest.mark.parametrize("compact", [False, True])
def test_file_that_went_before_it_was_published_is_not_counted_and_gone(
    walked: Site, method: str, compact: bool
) -> None:
    (walked.root / NEW).unlink()
    go_on(walked, compact=compact)
    report = walked.sync(method=method)
    assert (report.method, report.fallback_reason) == (method.replace("auto", "journal"), "")
    assert (report.gone_count, report.kept_reason) == (1, "not asked to delete")
    assert (walked.mirror / NEW).exists()
    with MirrorView(walked.mirror) as view:
        assert view.totals().gone == 1
    assert walked.sync(method=method, delete=True).removed_count == 1
    walked.assert_equal()


@pytest.mark.parametrize("compact", [False, True])
def test_file_that_went_before_it_was_published_is_removed_with_leave(walked: Site, compact: bool) -> None:
    (walked.root / NEW).unlink()
    go_on(walked, compact=compact)
    assert by_journal(walked.sync(method="journal", delete=True)).removed_count == 1
    walked.assert_equal()


@pytest.mark.parametrize("compact", [False, True])
def test_file_that_is_published_as_the_walk_brought_it_is_listed(walked: Site, compact: bool) -> None:
    assert "no published state" in explain_new(walked)
    go_on(walked, compact=compact)
    report = by_journal(walked.sync(method="journal", delete=True))
    assert (report.gone_count, report.removed_count) == (0, 0)
    assert explain_new(walked) == "it is here as the server listed it"
    with state_of(walked) as state:
        assert state.listed_count() == head(walked).total_files
    go_on(walked, compact=True)
    by_journal(walked.sync(method="journal", delete=True))
    walked.assert_equal()


@pytest.mark.parametrize("method", ["journal", "manifest"])
def test_file_that_is_published_without_a_digest_is_listed(walked: Site, method: str) -> None:
    """The listing tells no more than the walk did, so that there is nothing to fetch or to note but this."""
    if method == "journal":
        forgery = Forgery(walked.root)
        statistics = dict(forgery.commit["statistics"])
        statistics["total_files"] += 1
        new = entry("media/new.png", size=1, mtime=OLD, priority=4)
        forgery.append(files_frame(section(RUN, new)), statistics=statistics)
    else:
        go_on(walked)
        manifest = walked.root / ".runicorn/full_manifest.json"
        document = json.loads(manifest.read_bytes())
        for listed in document["experiments"][0]["files"]:
            for name in ("sha256", "block_digest", "tail_hash", "mtime_ns"):
                listed.pop(name, None)
        manifest.write_text(json.dumps(document))
        manifest.with_suffix(".json.gz").unlink()
    assert walked.sync(method=method, delete=True).removed_count == 0
    with state_of(walked) as state:
        assert (state.unpublished(), state.gone()) == ([], [])
    assert (walked.mirror / NEW).exists()


def test_file_that_is_published_only_later_comes_back_to_the_list(walked: Site) -> None:
    content = (walked.root / NEW).read_bytes()
    (walked.root / NEW).unlink()
    go_on(walked)
    put(walked.root / NEW, content, OLD)
    go_on(walked, compact=True)
    report = by_journal(walked.sync(method="journal"))
    assert report.gone_count == 0
    walked.assert_equal()


def test_journal_that_begins_anew_does_not_count_it(walked: Site) -> None:
    (walked.root / NEW).unlink()
    put(walked.mirror / RUN / "summary.json", "changed here")
    go_on(walked, compact=True)
    assert by_journal(walked.sync(method="journal")).gone_count == 1
    assert by_journal(walked.sync(method="journal", delete=True)).removed_count == 1
    walked.assert_equal()


@pytest.mark.parametrize("method", ["journal", "auto", "manifest"])
@pytest.mark.parametrize("looks", [False, True])
def test_state_from_before_the_walk_does_not_tell_that_it_is_gone(
    walked: Site, method: str, looks: bool
) -> None:
    """It is on the server all the time: only the next revision can list it."""
    if looks:
        put(walked.mirror / RUN / "summary.json", "changed here")
    report = walked.sync(method=method, delete=True)
    assert (report.skipped, report.removed_count, report.gone_count) == (not looks, 0, 0)
    walked.assert_equal()
    go_on(walked, compact=True)
    report = by_journal(walked.sync(method="journal", delete=True))
    assert (report.removed_count, report.gone_count) == (0, 0)
    walked.assert_equal()


def test_file_that_was_removed_and_came_back_is_not_removed_by_what_told_of_its_removal(walked: Site) -> None:
    go_on(walked)
    by_journal(walked.sync())
    (walked.root / NEW).unlink()
    go_on(walked)
    assert by_journal(walked.sync()).gone_count == 1
    put(walked.root / NEW, b"1", OLD)
    walked.sync(method="walk")
    assert walked.sync(delete=True).removed_count == 0
    walked.assert_equal()
    go_on(walked, compact=True)
    by_journal(walked.sync(method="journal", delete=True))
    walked.assert_equal()


def test_file_that_is_listed_and_that_a_walk_fetched_is_counted(site: Site) -> None:
    site.publish()
    by_journal(site.sync())
    put(site.root / NEW, bytes(2 * 1024 * 1024), OLD)
    site.publish()
    assert site.sync(Refuse("new.png", OPEN_FAILED)).failed_count == 1
    assert site.sync(method="walk").files_synced == 1
    go_on(site, compact=True)
    by_journal(site.sync(method="journal"))
    site.assert_equal()


def test_file_that_the_journal_lists_and_a_walk_changed_is_counted(walked: Site) -> None:
    go_on(walked)
    by_journal(walked.sync())
    put(walked.root / NEW, b"22", OLD + 1)
    walked.sync(method="walk")
    assert (walked.mirror / NEW).read_bytes() == b"22"
    go_on(walked, compact=True)
    by_journal(walked.sync(method="journal"))
    walked.assert_equal()


def test_another_change_by_hand_to_it_costs_no_manifest(walked: Site) -> None:
    (walked.mirror / NEW).unlink()
    assert by_journal(walked.sync()).skipped
    go_on(walked, compact=True)
    by_journal(walked.sync())
    walked.assert_equal()


@pytest.mark.parametrize("delete", [False, True])
def test_first_sync_that_was_cut_removes_nothing_that_a_walk_brought(site: Site, delete: bool) -> None:
    """What a base brought and the same journal removes goes without leave, but a walk's files never do."""
    put(site.root / RUN / "media" / "b.png", bytes(range(256)) * 40, OLD)
    site.publish()
    second = places(site)[1][1].offset
    with contextlib.suppress(ConnectError):
        site.sync(Cut(second), method="journal")
    put(site.root / NEW, b"1", OLD)
    site.sync(method="walk")
    (site.root / NEW).unlink()
    go_on(site)
    report = by_journal(site.sync(method="journal", delete=delete))
    assert (report.removed_count, report.gone_count) == (0, 1)
    assert (site.mirror / NEW).exists()
    by_journal(site.sync(method="journal", delete=True))
    site.assert_equal()


def test_file_that_is_not_selected_is_not_said_to_be_gone(site: Site) -> None:
    site.publish()
    by_journal(site.sync(media=False))
    site.sync(method="walk")
    go_on(site)
    assert by_journal(site.sync(media=False, delete=True)).gone_count == 0
    with MirrorView(site.mirror) as view:
        assert view.totals().gone == 0
    site.sync(delete=True)
    go_on(site, compact=True)
    by_journal(site.sync(method="journal", delete=True))
    site.assert_equal()


def test_walk_without_a_lineage_lists_what_it_brings(site: Site) -> None:
    site.sync(method="walk")
    with state_of(site) as state:
        assert state.listed_count() == len(run_files(site.root))
    append(site.root / RUN / "events.jsonl", lines(2, 20))
    site.publish()
    by_journal(site.sync(method="journal"))
    site.assert_equal()


@pytest.mark.parametrize("name", ["summary.json", "logs.txt"])
@pytest.mark.parametrize("how", ["grown", "other"])
def test_file_that_was_changed_here_outlives_a_journal_that_is_read_anew_and_removes_it(
    site: Site, name: str, how: str
) -> None:
    path, old = f"{RUN}/{name}", site.root / RUN / name
    site.publish()
    site.sync()
    content = old.read_bytes()
    mine = content + b"mine\n" if how == "grown" else b"?" * (len(content) - 1) + b"\n"
    put(site.mirror / path, mine, OLD)
    old.unlink()
    site.publish()
    report = site.sync(method="journal", delete=True, force_delete=True)
    assert (report.method, report.removed_count, report.gone_count) == ("journal", 0, 1)
    assert (site.mirror / path).read_bytes() == mine


@pytest.mark.parametrize("name", ["summary.json", "logs.txt"])
def test_file_that_was_changed_here_and_is_listed_is_brought_by_a_journal_that_is_read_anew(
    site: Site, name: str
) -> None:
    site.publish()
    site.sync()
    put(site.mirror / RUN / name, b"mine\n", OLD)
    append(site.root / RUN / name, "more\n")
    site.publish()
    assert site.sync(method="journal").method == "journal"
    site.assert_equal()


@pytest.mark.parametrize("method", ["journal", "auto", "manifest"])
@pytest.mark.parametrize("goes", [False, True])
def test_newer_revision_that_was_made_before_the_walk_does_not_tell_that_it_is_gone(
    site: Site, method: str, goes: bool
) -> None:
    """A new run may come at any time: only the server knows whether it has gone since."""
    site.publish()
    by_journal(site.sync())
    go_on(site)
    put(site.root / NEW, b"1", OLD)
    assert site.sync(method="walk").failed_count == 0
    if goes:
        (site.root / NEW).unlink()
    report = site.sync(method=method, delete=True)
    assert (report.removed_count, report.gone_count) == (int(goes), 0)
    site.assert_equal()
    go_on(site)
    assert site.sync(method=method, delete=True).removed_count == 0
    site.assert_equal()
