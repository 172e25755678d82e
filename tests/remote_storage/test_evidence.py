"""What a published state proves, and what it does not: regressions."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runicorn.manifest import ManifestType
from runicorn.remote_storage.published import Listing
from runicorn.remote_storage.removal import Evidence
from tests.remote_storage.helpers import (
    EVENTS,
    OLD,
    RUN,
    Site,
    make_run,
    put,
    run_files,
)

pytestmark = pytest.mark.rungs("journal", "manifest")

SUMMARY = f"{RUN}/summary.json"
RUNS = [f"vision/resnet/runs/r{number}" for number in range(1, 4)]
"""Three runs of six files each."""


def edit_manifest(site: Site, change: Callable[[dict[str, Any]], object], kind: str = "full") -> None:
    """Publish the manifest with a change and sums that fit."""
    plain = site.root / f".runicorn/{kind}_manifest.json"
    document = json.loads(plain.read_bytes())
    change(document)
    entries = [entry for run in document["experiments"] for entry in run["files"]]
    document["statistics"] = {
        "total_experiments": len(document["experiments"]),
        "total_files": len(entries),
        "total_bytes": sum(entry["size"] for entry in entries),
    }
    put(plain, json.dumps(document))
    plain.with_name(plain.name + ".gz").unlink(missing_ok=True)


@pytest.mark.rungs("manifest")
def test_sync_when_the_full_manifest_comes_up_to_the_active_one_is_not_skipped(site: Site) -> None:
    site.publish()
    make_run(site.root, RUNS[1], mtime=int(time.time()))
    make_run(site.root, RUNS[2], mtime=OLD)  # an old run that was moved here: no active manifest has it
    active = site.publish(ManifestType.ACTIVE).header.identity
    site.sync()
    assert not (site.mirror / RUNS[2]).exists()
    assert site.publish().header.identity == active
    assert not site.sync().skipped
    site.assert_equal()
    assert site.sync().skipped


@pytest.mark.rungs("manifest")
def test_delete_by_another_manifest_of_the_same_revision_removes_nothing(site: Site) -> None:
    for folder in RUNS:
        make_run(site.root, folder)
    site.publish()
    site.sync()
    before = run_files(site.mirror)

    def other(document: dict[str, Any]) -> None:
        document["snapshot_id"] = "another"
        document["experiments"].pop()

    edit_manifest(site, other)
    report = site.sync(delete=True, force_delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert "is another one" in report.kept_reason
    assert run_files(site.mirror) == before


@pytest.mark.parametrize(("method", "new_runs"), [("manifest", 6), ("walk", 6), ("walk", 14)])
def test_delete_of_more_than_half_when_more_is_new_needs_leave(
    site: Site, method: str, new_runs: int
) -> None:
    """15 of 18 files are gone; the files that come, be it in the same sync, are none of the 18."""
    for folder in RUNS:
        make_run(site.root, folder)
    site.publish()
    site.sync(method=method)
    for folder in RUNS[1:]:
        shutil.rmtree(site.root / folder)
    for name in ("summary.json", "logs.txt", "media/a.png"):
        (site.root / RUN / name).unlink()
    for number in range(new_runs):
        make_run(site.root, f"speech/whisper/runs/s{number}")
    site.publish()
    report = site.sync(method=method, delete=True)
    assert (report.removed_count, report.gone_count) == (0, 15)
    assert "15 of 18" in report.kept_reason
    assert len(run_files(site.mirror)) == 18 + 6 * new_runs


@pytest.mark.rungs("manifest")
def test_project_that_the_manifest_makes_up_selects_nothing(site: Site) -> None:
    make_run(site.root, "secret/net/runs/r1")
    site.publish()

    def lie(document: dict[str, Any]) -> None:
        for run in document["experiments"]:
            run["project"] = "public"

    edit_manifest(site, lie)
    report = site.sync(projects=("public",))
    assert (report.total_files, run_files(site.mirror)) == (0, {})
    site.sync(projects=("secret",))
    assert {path.split("/")[0] for path in run_files(site.mirror)} == {"secret"}


@pytest.mark.rungs("listed", "manifest")
def test_state_file_restored_after_a_newer_one_was_taken_is_fetched_again(site: Site) -> None:
    listed = (site.root / SUMMARY).read_bytes()
    site.publish()
    put(site.root / SUMMARY, '{"best": 2, "more": "than was listed"}')
    site.sync()
    site.assert_equal()
    put(site.root / SUMMARY, listed, OLD)
    put(site.root / RUN / "meta.json", "{}", OLD + 1)  # the root is at a new revision
    site.publish()
    site.sync()
    site.assert_equal()


@pytest.mark.rungs("listed", "manifest")
def test_log_restored_after_another_one_was_taken_is_fetched_again(site: Site) -> None:
    listed = (site.root / EVENTS).read_bytes()
    site.publish()
    put(site.root / EVENTS, b'{"rotated": true}\n')
    site.sync()
    site.assert_equal()
    put(site.root / EVENTS, listed, OLD)
    put(site.root / RUN / "meta.json", "{}", OLD + 1)  # the root is at a new revision
    site.publish()
    site.sync()
    site.assert_equal()


def test_problems_are_looked_up_not_searched() -> None:
    class NotSearched(frozenset[str]):
        def __iter__(self) -> Iterator[str]:
            raise AssertionError

    listing = Listing(None, None, None, problem_paths=NotSearched({"vision/resnet", "speech"}))
    evidence = Evidence.of_listing(listing)
    assert evidence.has_problem_at(f"{RUN}/meta.json")
    assert evidence.has_problem_at("speech")
    assert not evidence.has_problem_at("vision/resnet2/runs/r1/meta.json")
