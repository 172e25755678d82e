"""Deletion: each condition of law 4 has its test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runicorn.manifest import ManifestType
from runicorn.remote_storage.transport import Open, OpenDir, StatusCode
from tests.remote_storage.helpers import OLD, RUN, Meanwhile, Refuse, Site, make_run, put, run_files, snapshot

pytestmark = pytest.mark.rungs("journal", "manifest")

RUNS = [f"vision/resnet/runs/r{number}" for number in range(1, 5)]
GONE = RUNS[3]


@pytest.fixture
def synced(site: Site) -> Site:
    """Four runs, synced; one of them is deleted and that is published."""
    for folder in RUNS:
        make_run(site.root, folder)
    site.publish()
    site.sync()
    shutil.rmtree(site.root / GONE)
    site.publish()
    return site


def kept(site: Site) -> bool:
    return (site.mirror / GONE / "meta.json").exists()


def republish(site: Site, **changes: object) -> None:
    """The full manifest with other header fields, under a new snapshot."""
    plain = site.root / ".runicorn/full_manifest.json"
    document = json.loads(plain.read_bytes())
    put(plain, json.dumps({**document, "snapshot_id": "another", **changes}))
    plain.with_name(plain.name + ".gz").unlink(missing_ok=True)


def test_removed_run_goes_with_its_folders(synced: Site) -> None:
    report = synced.sync(delete=True)
    assert (report.removed_count, report.gone_count, report.kept_reason) == (6, 0, "")
    synced.assert_equal()
    assert not (synced.mirror / GONE).exists()
    assert (synced.mirror / RUNS[0]).is_dir()
    assert synced.sync(delete=True).skipped


def test_removed_file_goes_alone(site: Site) -> None:
    site.publish()
    site.sync()
    (site.root / RUN / "media/a.png").unlink()
    site.publish()
    assert site.sync(delete=True).removed_count == 1
    site.assert_equal()
    assert not (site.mirror / RUN / "media").exists()


def test_nothing_goes_without_leave(synced: Site) -> None:
    report = synced.sync()
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert report.kept_reason == "not asked to delete"
    assert kept(synced)


def test_leave_given_later_works_though_nothing_else_changed(synced: Site) -> None:
    synced.sync()
    assert synced.sync().skipped
    assert synced.sync().skipped
    assert synced.sync(delete=True).removed_count == 6
    assert synced.sync(delete=True).skipped


def test_empty_listing_removes_nothing(synced: Site) -> None:
    synced.sync()
    for path in synced.root.iterdir():
        if path.name != ".runicorn":
            shutil.rmtree(path)
    synced.publish()
    report = synced.sync(delete=True, force_delete=True)
    assert (report.removed_count, report.gone_count) == (0, 24)
    assert "no run at all" in report.kept_reason


def test_empty_root_removes_nothing_when_walking(site: Site) -> None:
    site.sync(method="walk")
    shutil.rmtree(site.root)
    site.root.mkdir()
    report = site.sync(method="walk", delete=True, force_delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)


@pytest.mark.rungs("manifest")
def test_incomplete_listing_removes_nothing(synced: Site) -> None:
    republish(synced, complete=False)
    report = synced.sync(delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert "could not list everything" in report.kept_reason


@pytest.mark.rungs("manifest")
def test_problems_that_are_not_named_remove_nothing(synced: Site) -> None:
    republish(synced, problem_count=1, problems=[])
    report = synced.sync(delete=True)
    assert (report.removed_count, "more problems" in report.kept_reason) == (0, True)


def test_older_revision_removes_nothing(synced: Site) -> None:
    old = synced.root / ".runicorn"
    shutil.copytree(old, synced.root.parent / "backup")
    make_run(synced.root, GONE)
    synced.publish()
    synced.sync()
    shutil.rmtree(old)
    shutil.copytree(synced.root.parent / "backup", old)
    report = synced.sync(delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert "older" in report.kept_reason


@pytest.mark.rungs("manifest")
def test_other_lineage_removes_nothing(synced: Site) -> None:
    republish(synced, lineage="another-lineage")
    report = synced.sync(delete=True)
    assert (report.removed_count, report.gone_count, kept(synced)) == (0, 6, True)


@pytest.mark.rungs("manifest")
def test_files_of_another_root_stay_when_its_lineage_is_synced_again(synced: Site) -> None:
    """The second sync of the new root may delete, but not what the old one brought."""
    republish(synced, lineage="another-lineage")
    synced.sync()
    republish(synced, lineage="another-lineage", revision=10, snapshot_id="third")
    report = synced.sync(delete=True)
    assert (report.removed_count, report.gone_count, kept(synced)) == (0, 6, True)
    assert report.kept_reason == "synced from another root, or before this one was put back to an older state"


def test_root_whose_history_begins_anew_removes_nothing(synced: Site) -> None:
    """Neither at once nor later: the new history tells nothing of what the old one brought."""
    shutil.rmtree(synced.root / ".runicorn")
    synced.publish()
    for _ in range(2):
        report = synced.sync(delete=True, force_delete=True)
        assert (report.removed_count, kept(synced)) == (0, True)
        put(synced.root / RUNS[0] / "summary.json", f'{{"best": {report.manifest_revision}}}')
        synced.publish()
    assert synced.sync(delete=True).removed_count == 0
    assert kept(synced)


@pytest.mark.rungs("manifest")
def test_manifest_without_lineage_removes_nothing(synced: Site) -> None:
    republish(synced, lineage=None)
    report = synced.sync(delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert report.kept_reason


@pytest.mark.rungs("manifest")
def test_newest_listing_of_active_runs_removes_nothing(synced: Site) -> None:
    synced.sync()
    put(synced.root / RUNS[0] / "summary.json", "{}")
    synced.publish(ManifestType.ACTIVE)
    report = synced.sync(delete=True)
    assert (report.files_synced, report.removed_count, report.gone_count) == (1, 0, 6)
    assert "active" in report.kept_reason


def test_more_than_half_goes_with_a_second_leave_only(synced: Site) -> None:
    for folder in RUNS[1:3]:
        shutil.rmtree(synced.root / folder)
    synced.publish()
    report = synced.sync(delete=True)
    assert (report.removed_count, report.gone_count) == (0, 18)
    assert "more than half" in report.kept_reason
    report = synced.sync(delete=True, force_delete=True)
    assert (report.removed_count, report.gone_count) == (18, 0)
    synced.assert_equal()


def test_exactly_half_goes(synced: Site) -> None:
    shutil.rmtree(synced.root / RUNS[2])
    synced.publish()
    assert synced.sync(delete=True).removed_count == 12
    synced.assert_equal()


def test_file_changed_in_the_mirror_stays(synced: Site) -> None:
    put(synced.mirror / GONE / "summary.json", "my own words")
    report = synced.sync(delete=True)
    assert (report.removed_count, report.gone_count) == (5, 1)
    assert report.kept_reason == "changed in the mirror"
    assert list(run_files(synced.mirror / GONE)) == ["summary.json"]
    synced.sync(delete=True)
    assert (synced.mirror / GONE / "summary.json").read_text() == "my own words"


def test_file_that_was_never_synced_stays(synced: Site) -> None:
    put(synced.mirror / GONE / "notes.md", "mine")
    put(synced.mirror / GONE / "assets.json", "{}")
    assert synced.sync(delete=True).removed_count == 6
    assert sorted(run_files(synced.mirror / GONE)) == ["assets.json", "notes.md"]


def test_file_deleted_in_the_mirror_already_is_forgotten(synced: Site) -> None:
    shutil.rmtree(synced.mirror / GONE)
    report = synced.sync(delete=True)
    assert (report.removed_count, report.gone_count) == (0, 0)
    assert synced.sync(delete=True).skipped


def test_files_below_a_problem_stay_and_are_counted(site: Site) -> None:
    """The folder of media was moved away and a link takes its place."""
    for folder in RUNS:
        make_run(site.root, folder)
    site.publish()
    site.sync()
    (site.root / GONE / "media").rename(site.root.parent / "elsewhere")
    (site.root / GONE / "media").symlink_to(site.root.parent / "elsewhere")
    (site.root / GONE / "logs.txt").unlink()
    manifest = site.publish()
    assert [problem.kind for problem in manifest.problems] == ["link"]
    report = site.sync(delete=True)
    assert (report.removed_count, report.gone_count, report.problem_count) == (1, 1, 1)
    assert "problem" in report.kept_reason
    assert (site.mirror / GONE / "media/a.png").exists()
    assert not (site.mirror / GONE / "logs.txt").exists()


def test_files_that_are_not_selected_stay(synced: Site) -> None:
    report = synced.sync(delete=True, media=False)
    assert report.removed_count == 5
    assert list(run_files(synced.mirror / GONE)) == ["media/a.png"]


@pytest.mark.parametrize(
    "selection", [{"projects": ("speech",)}, {"exclude": ("r4/",)}, {"include": ("r1/",)}]
)
def test_runs_that_are_not_selected_stay(synced: Site, selection: dict[str, Any]) -> None:
    synced.sync(delete=True, **selection)
    assert kept(synced)


def test_dry_run_removes_nothing_and_tells(synced: Site) -> None:
    before = snapshot(synced.mirror)
    synced.sync(delete=True, dry_run=True)
    assert snapshot(synced.mirror) == before


@pytest.mark.rungs("listed", "manifest")
def test_failing_sync_removes_on_its_listing_all_the_same(synced: Site) -> None:
    """The listing is complete and newer; that one file cannot be read does not make it doubtful."""
    put(synced.root / RUNS[0] / "summary.json", '{"best": 9}')
    synced.publish()
    report = synced.sync(Refuse("summary.json", StatusCode.PERMISSION_DENIED), delete=True)
    assert (report.failed_count, report.removed_count) == (1, 6)


# -- walks -----------------------------------------------------------------------------------


def test_walk_removes_what_a_walk_brought(site: Site) -> None:
    for folder in RUNS:
        make_run(site.root, folder)
    site.sync(method="walk")
    shutil.rmtree(site.root / GONE)
    assert site.sync(method="walk").gone_count == 6
    assert site.sync(method="walk", delete=True).removed_count == 6
    site.assert_equal()


@pytest.mark.parametrize("source", [None, ""])
def test_walk_from_nowhere_removes_nothing(site: Site, source: str | None) -> None:
    for folder in RUNS:
        make_run(site.root, folder)
    site.sync(method="walk", source=source)
    shutil.rmtree(site.root / GONE)
    report = site.sync(method="walk", delete=True, source=source)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert "same root" in report.kept_reason


def test_walk_removes_nothing_that_a_manifest_brought(synced: Site) -> None:
    report = synced.sync(method="walk", delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert "walk" in report.kept_reason


@pytest.mark.parametrize("name", ["vision", "vision/resnet", "vision/resnet/runs", GONE, f"{GONE}/media"])
def test_walk_with_an_unreadable_folder_removes_nothing(site: Site, name: str) -> None:
    for folder in RUNS:
        make_run(site.root, folder)
    make_run(site.root, "speech/whisper/runs/r9")
    site.sync(method="walk")
    report = site.sync(
        Refuse(f"/root/{name}", StatusCode.PERMISSION_DENIED, OpenDir),
        method="walk",
        delete=True,
        force_delete=True,
    )
    assert report.removed_count == 0
    assert "could not list everything" in report.kept_reason
    site.assert_equal()


@pytest.mark.parametrize("name", ["vision", "vision/resnet", "vision/resnet/runs", GONE, "runs"])
def test_walk_that_meets_a_link_removes_nothing_below_it(site: Site, name: str) -> None:
    """Somebody moved a folder to another disk."""
    for folder in [*RUNS, "runs/nlp/bert/base/r7", *(f"speech/whisper/runs/s{n}" for n in range(9))]:
        make_run(site.root, folder)
    site.sync(method="walk")
    before = run_files(site.mirror)
    elsewhere = site.root.parent / "elsewhere"
    (site.root / name).rename(elsewhere)
    (site.root / name).symlink_to(elsewhere)
    report = site.sync(method="walk", delete=True)
    assert report.removed_count == 0
    assert report.gone_count > 0
    assert "problem" in report.kept_reason
    assert run_files(site.mirror) == before


def test_manifest_removes_what_a_walk_brought(site: Site) -> None:
    """Once a complete sync by manifest has listed it."""
    for folder in RUNS:
        make_run(site.root, folder)
    site.sync(method="walk")
    site.publish()
    site.sync()
    shutil.rmtree(site.root / GONE)
    site.publish()
    assert site.sync(delete=True).removed_count == 6
    site.assert_equal()


def test_walk_of_another_root_removes_nothing(tmp_path: Path, site: Site) -> None:
    site.sync(method="walk")
    other = Site(tmp_path / "other", site.mirror)
    for number in range(3):
        make_run(other.root, f"speech/whisper/runs/r{number}")
    other.sync(method="walk")
    report = other.sync(method="walk", delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert (site.mirror / RUN / "meta.json").exists()


def test_folder_swapped_for_a_link_is_not_followed(synced: Site) -> None:
    outside = synced.root.parent / "outside"
    shutil.move(synced.mirror / GONE, outside)
    (synced.mirror / GONE).symlink_to(outside)
    report = synced.sync(delete=True)
    assert report.removed_count == 0
    assert len(run_files(outside)) == 6


@pytest.mark.rungs("listed", "manifest")
def test_file_that_comes_back_during_the_sync_is_fetched_next_time(synced: Site) -> None:
    put(synced.root / RUNS[0] / "summary.json", '{"best": 9}', OLD + 1)
    synced.publish()
    back = Meanwhile("summary.json", lambda: make_run(synced.root, GONE), Open)
    assert synced.sync(back, delete=True).removed_count == 6
    synced.publish()
    assert synced.sync().files_synced == 6
    synced.assert_equal()
    assert not synced.staged()
