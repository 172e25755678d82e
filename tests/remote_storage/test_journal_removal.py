"""Deletion by the journal: each condition of law 4, and that nothing counts before its commit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from runicorn.errors import ConnectError
from runicorn.manifest import ManifestType
from tests.journal.forge import COMMIT, HEADER, split
from tests.remote_storage.helpers import (
    OLD,
    RUN,
    Site,
    append,
    lines,
    make_run,
    open_site,
    put,
    run_files,
    status,
    unprivileged,
)
from tests.remote_storage.journal_helpers import (
    Cut,
    Server,
    append_to_epoch,
    boundaries,
    by_journal,
    by_manifest,
    change_head,
    following,
    short_reads,
    small_frames,
    state_of,
)

RUNS = [RUN, *(f"vision/resnet/runs/r{number}" for number in range(2, 5))]
GONE = RUNS[3]


@pytest.fixture
def synced(site: Site) -> Site:
    """Four runs, synced by the journal."""
    for folder in RUNS[1:]:
        make_run(site.root, folder)
    site.publish()
    by_journal(site.sync())
    return site


def holds(site: Site, folder: str = GONE) -> bool:
    return (site.mirror / folder / "meta.json").exists()


def drop(site: Site, folder: str = GONE) -> None:
    shutil.rmtree(site.root / folder)
    site.publish()


# -- the common way ---------------------------------------------------------------------------


def test_removed_run_goes_with_its_folders(synced: Site) -> None:
    drop(synced)
    report = by_journal(synced.sync(delete=True))
    assert (report.removed_count, report.gone_count, report.kept_reason) == (6, 0, "")
    synced.assert_equal()
    assert not (synced.mirror / GONE).exists()
    assert by_journal(synced.sync(delete=True)).skipped


def test_removed_file_goes_alone(synced: Site) -> None:
    (synced.root / RUN / "media/a.png").unlink()
    synced.publish()
    assert by_journal(synced.sync(delete=True)).removed_count == 1
    synced.assert_equal()


def test_nothing_goes_unasked_and_all_goes_later(synced: Site) -> None:
    drop(synced)
    report = by_journal(synced.sync())
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert "asked" in report.kept_reason
    append(synced.root / RUN / "events.jsonl", lines(1, 20))
    synced.publish()
    assert by_journal(synced.sync()).gone_count == 6
    assert holds(synced)
    assert by_journal(synced.sync(delete=True)).removed_count == 6
    synced.assert_equal()


def test_deletion_with_nothing_new_is_made_up_for(synced: Site) -> None:
    drop(synced)
    by_journal(synced.sync())
    report = by_journal(synced.sync(delete=True))
    assert (report.removed_count, report.skipped) == (6, False)
    synced.assert_equal()


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("synced_between", [True, False])
def test_a_file_that_comes_back_stays(synced: Site, same: bool, synced_between: bool) -> None:
    path = synced.root / RUN / "summary.json"
    content, mtime = path.read_bytes(), OLD if same else OLD + 3
    path.unlink()
    synced.publish()
    if synced_between:
        by_journal(synced.sync())
    put(path, content if same else b'{"best": 9}', mtime)
    synced.publish()
    report = by_journal(synced.sync(delete=True))
    assert (report.removed_count, report.gone_count) == (0, 0)
    synced.assert_equal()
    with state_of(synced) as state:
        assert list(state.gone()) == []


@pytest.mark.parametrize("same", [True, False])
def test_a_log_that_comes_back_stays(synced: Site, same: bool) -> None:
    path = synced.root / RUN / "events.jsonl"
    content = path.read_bytes()
    for step in range(3):
        path.unlink()
        synced.publish()
        put(path, content if same else lines(step + 1, step), OLD + step)
        synced.publish()
    by_journal(synced.sync(delete=True))
    synced.assert_equal()


def test_a_run_that_comes_and_goes_within_one_sync_leaves_nothing(synced: Site) -> None:
    make_run(synced.root, "vision/resnet/runs/r9")
    synced.publish()
    drop(synced, "vision/resnet/runs/r9")
    assert by_journal(synced.sync(delete=True)).removed_count == 6
    synced.assert_equal()


def test_a_file_that_was_touched_and_then_removed_goes(synced: Site) -> None:
    """It is noted and marked in the same batch: the mark counts."""
    os.utime(synced.root / RUN / "summary.json", (OLD + 50, OLD + 50))
    synced.publish()
    (synced.root / RUN / "summary.json").unlink()
    synced.publish()
    assert by_journal(synced.sync(delete=True)).removed_count == 1
    synced.assert_equal()


def test_first_sync_removes_what_went_since_the_base(site: Site) -> None:
    """Of a mirror that had nothing before, the half is counted of what it has now."""
    for folder in RUNS[1:]:
        make_run(site.root, folder)
    site.publish()
    drop(site)
    report = by_journal(site.sync(delete=True))
    assert (report.removed_count, report.gone_count) == (6, 0)
    site.assert_equal()


# -- guards -------------------------------------------------------------------------------------


@pytest.fixture
def hidden() -> Iterator[Site]:
    """A site that was synced, with a run that the generator cannot read, and one that is removed."""
    with open_site() as site, unprivileged():
        for folder in RUNS:
            make_run(site.root, folder)
        site.publish()
        by_journal(site.sync())
        (site.root / RUNS[1]).chmod(0)
        drop(site)
        yield site
        (site.root / RUNS[1]).chmod(0o755)


def test_incomplete_commit_removes_nothing(hidden: Site) -> None:
    report = hidden.sync(delete=True)
    assert report.method in ("journal", "manifest")
    assert (report.removed_count, report.problem_count > 0) == (0, True)
    assert "problem" in report.kept_reason
    assert all(holds(hidden, folder) for folder in RUNS)


def test_gone_while_incomplete_is_removed_when_a_later_commit_is_complete(hidden: Site) -> None:
    """The journal does not tell of it a second time."""
    hidden.sync(delete=True)
    (hidden.root / RUNS[1]).chmod(0o755)
    hidden.publish()
    hidden.sync(delete=True)
    report = hidden.sync(delete=True)
    assert report.gone_count == 0
    hidden.assert_equal()
    by_journal(report)


def test_head_that_is_incomplete_removes_nothing(synced: Site) -> None:
    """With nothing new only HEAD tells."""
    drop(synced)
    by_journal(synced.sync())
    change_head(synced, complete=False)
    report = by_journal(synced.sync(delete=True))
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert holds(synced)
    change_head(synced, complete=True, problem_count=3)
    assert "more problems" in by_journal(synced.sync(delete=True)).kept_reason
    change_head(synced, complete=True, problem_count=0)
    assert by_journal(synced.sync(delete=True)).removed_count == 6


def test_a_problem_above_a_path_keeps_what_is_there(synced: Site) -> None:
    """A link in the place of a run hides no file of others, and its own are not taken for removed."""
    shutil.move(synced.root / GONE, synced.root.parent / "moved")
    (synced.root / GONE).symlink_to(synced.root.parent / "moved")
    synced.publish()
    report = by_journal(synced.sync(delete=True))
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert "problem" in report.kept_reason
    (synced.root / GONE).unlink()
    synced.publish()
    assert by_journal(synced.sync(delete=True)).removed_count == 6
    synced.assert_equal()


def test_the_same_after_a_manifest_in_between(synced: Site) -> None:
    """What a manifest keeps because of a problem is known to be gone where the journal goes on."""
    shutil.move(synced.root / GONE, synced.root.parent / "moved")
    (synced.root / GONE).symlink_to(synced.root.parent / "moved")
    synced.publish()
    assert synced.sync(delete=True, method="manifest").removed_count == 0
    by_manifest(synced.sync(delete=True))
    (synced.root / GONE).unlink()
    synced.publish()
    assert by_journal(synced.sync(delete=True)).removed_count == 6
    synced.assert_equal()


def test_more_than_half_needs_a_second_leave(synced: Site) -> None:
    for folder in RUNS[1:]:
        shutil.rmtree(synced.root / folder)
    synced.publish()
    report = by_journal(synced.sync(delete=True))
    assert (report.removed_count, report.gone_count) == (0, 18)
    assert "18 of 24" in report.kept_reason
    assert by_journal(synced.sync(delete=True, force_delete=True)).removed_count == 18
    synced.assert_equal()


def test_what_came_and_went_since_the_last_sync_does_not_count_as_half(synced: Site) -> None:
    """A client that was away while many short runs came and went takes nothing from its mirror."""
    short = [f"vision/short/runs/r{number}" for number in range(6)]
    for folder in short:
        make_run(synced.root, folder)
    synced.publish()
    for folder in short[1:]:
        drop(synced, folder)
    report = by_journal(synced.sync(delete=True))
    assert (report.gone_count, report.kept_reason) == (0, "")
    synced.assert_equal()
    for folder in (*RUNS[1:], short[0]):
        shutil.rmtree(synced.root / folder)
    make_run(synced.root, short[1])
    synced.publish()
    drop(synced, short[1])
    report = by_journal(synced.sync(delete=True))
    assert report.removed_count == 0
    assert "24 of 30 files would go, more than half" in report.kept_reason


def test_exactly_half_goes(synced: Site) -> None:
    for folder in RUNS[2:]:
        shutil.rmtree(synced.root / folder)
    synced.publish()
    assert by_journal(synced.sync(delete=True)).removed_count == 12


def test_an_emptied_root_removes_nothing(synced: Site) -> None:
    shutil.rmtree(synced.root / "vision")
    synced.publish()
    report = synced.sync(delete=True, force_delete=True)
    assert (report.removed_count, report.kept_reason != "") == (0, True)
    assert all(holds(synced, folder) for folder in RUNS)


def test_another_lineage_removes_nothing(synced: Site) -> None:
    shutil.rmtree(synced.root / ".runicorn")
    drop(synced)
    report = by_manifest(synced.sync(delete=True), "another history")
    assert report.removed_count == 0
    assert holds(synced)
    report = synced.sync(delete=True)
    assert report.removed_count == 0
    assert holds(synced)


def test_insisting_on_the_journal_of_another_root_removes_nothing(synced: Site) -> None:
    shutil.rmtree(synced.root / ".runicorn")
    drop(synced)
    report = by_journal(synced.sync(delete=True, force_delete=True, method="journal"))
    assert report.removed_count == 0
    assert "no complete sync of this root" in report.kept_reason
    assert holds(synced)


def test_what_another_program_changed_stays(synced: Site) -> None:
    (synced.mirror / GONE / "summary.json").write_text("mine", encoding="utf-8")
    drop(synced)
    by_manifest(synced.sync(delete=True), "another program")
    assert (synced.mirror / GONE / "summary.json").read_text(encoding="utf-8") == "mine"


def test_what_is_not_selected_stays(synced: Site) -> None:
    by_manifest(synced.sync(media=False))
    by_journal(synced.sync(media=False))
    (synced.root / RUN / "media/a.png").unlink()
    (synced.root / RUN / "summary.json").unlink()
    synced.publish()
    report = by_journal(synced.sync(media=False, delete=True))
    assert report.removed_count == 1
    assert (synced.mirror / RUN / "media/a.png").exists()


def test_a_file_that_cannot_be_removed_is_tried_again() -> None:
    with open_site() as site, unprivileged():
        for folder in RUNS:
            make_run(site.root, folder)
        site.publish()
        by_journal(site.sync())
        drop(site)
        (site.mirror / GONE).chmod(0o555)
        report = site.sync(delete=True)
        assert (report.method, report.failed_count) == ("journal", 5)
        assert report.removed_count == 1
        (site.mirror / GONE).chmod(0o755)
        assert by_journal(site.sync(delete=True)).removed_count == 5
        site.assert_equal()


# -- only with the commit -----------------------------------------------------------------------


def without_commit(site: Site, before: Server) -> bytes:
    """Take the generation since ``before`` back, but for its frames; gives the commit."""
    tail = before.tail()
    (*_, last) = split(tail)
    assert last.kind == COMMIT
    size = HEADER + len(last.stored)
    before.put_back()
    before.cut_epoch(len(tail) - size)
    assert site.root.exists()
    return tail[-size:]


def test_a_poll_that_sees_no_commit_removes_nothing(synced: Site) -> None:
    """Frames that nobody committed may be cut off: what they tell has not happened."""
    with following(synced) as follower:
        by_journal(follower.sync(delete=True))
        before = Server(synced)
        shutil.move(synced.root / GONE, synced.root.parent / "away")
        synced.publish()
        commit = without_commit(synced, before)
        report = by_journal(follower.sync(delete=True))
        assert (report.removed_count, report.gone_count, report.skipped) == (0, 0, True)
        assert holds(synced)
        with state_of(synced) as state:
            assert list(state.gone()) == []
        append_to_epoch(synced, commit)
        assert by_journal(follower.sync(delete=True)).removed_count == 6
        assert not holds(synced)


def test_frames_that_are_cut_off_and_written_otherwise(synced: Site) -> None:
    with following(synced) as follower:
        by_journal(follower.sync(delete=True))
        before = Server(synced)
        shutil.move(synced.root / GONE, synced.root.parent / "away")
        put(synced.root / RUN / "media/stray.png", b"never committed")
        synced.publish()
        without_commit(synced, before)
        by_journal(follower.sync(delete=True))
        (synced.root / RUN / "media/stray.png").unlink()
        shutil.move(synced.root.parent / "away", synced.root / GONE)
        append(synced.root / RUN / "events.jsonl", lines(2, 20))
        synced.publish()
        report = by_journal(follower.sync(delete=True))
        assert (report.removed_count, report.gone_count) == (0, 0)
        synced.assert_equal()


def test_interrupted_within_a_revision_removes_nothing(synced: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        small_frames(patch)
        put(synced.root / RUNS[1] / "summary.json", '{"best": 2}')
        put(synced.root / RUNS[2] / "summary.json", '{"best": 2}')
        drop(synced)
    short_reads(monkeypatch, 16)
    start = boundaries(synced)[-1]
    with state_of(synced) as state:
        assert state.cursor is not None
        assert state.cursor.place is not None
        start = state.cursor.place.offset
    ends = [end for end in boundaries(synced) if end > start]
    assert len(ends) >= 3
    for end in ends[:-1]:
        with pytest.raises(ConnectError):
            synced.sync(Cut(end + 40), delete=True)
        assert all(holds(synced, folder) for folder in RUNS)
    by_journal(synced.sync(delete=True))
    synced.assert_equal()


def test_a_server_that_is_put_back_before_a_revision_that_was_half_read(
    synced: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the half told of removals belongs to a state that does not exist any more."""
    before = Server(synced)
    with monkeypatch.context() as patch:
        small_frames(patch)
        shutil.move(synced.root / GONE, synced.root.parent / "away")
        put(synced.root / RUN / "summary.json", '{"best": 2}')
        synced.publish()
    with monkeypatch.context() as patch:
        short_reads(patch, 16)
        with pytest.raises(ConnectError):
            synced.sync(Cut(boundaries(synced)[-2] + 40), delete=True)
    with state_of(synced) as state:
        assert list(state.gone()) == []
    before.put_back()
    before.cut_epoch()
    shutil.move(synced.root.parent / "away", synced.root / GONE)
    put(synced.root / RUN / "summary.json", '{"best": 1}', OLD)
    report = by_journal(synced.sync(delete=True))
    assert (report.removed_count, report.gone_count) == (0, 0)
    assert holds(synced)


def test_interrupted_base_and_then_other_rungs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a base has not named yet is marked; no lower rung may take that for the truth."""
    for folder in RUNS[1:]:
        make_run(site.root, folder)
    with monkeypatch.context() as patch:
        small_frames(patch)
        site.publish()
    site.sync(method="walk")
    short_reads(monkeypatch, 64)
    with pytest.raises(ConnectError):
        site.sync(Cut(boundaries(site)[8]), method="journal")
    with state_of(site) as state:
        assert len(list(state.gone())) > 6
    for method in ("walk", "manifest", "auto"):
        report = site.sync(method=method, delete=True, force_delete=True)
        assert (report.removed_count, report.failed_count) == (0, 0)
        site.assert_equal()
    by_journal(site.sync(delete=True, force_delete=True))
    with state_of(site) as state:
        assert list(state.gone()) == []
    site.assert_equal()


def test_an_active_manifest_tells_of_no_deletion(synced: Site) -> None:
    """The journal does, on its own account."""
    shutil.rmtree(synced.root / GONE)
    put(synced.root / RUN / "status.json", status("running"))
    synced.publish(ManifestType.ACTIVE)
    report = synced.sync(delete=True, method="manifest")
    assert report.removed_count == 0
    assert holds(synced)
    synced.sync(delete=True)
    by_journal(synced.sync(delete=True))
    assert not holds(synced)
    assert run_files(synced.mirror) == run_files(synced.root)
