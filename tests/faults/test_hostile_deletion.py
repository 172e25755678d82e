"""Manifests that are played again, or list too little: nothing is deleted for what they leave out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.lab import Lab, file_named, run_named
from tests.faults.process import run_files
from tests.manifest.helpers import PROJECT_RUN


def _older(document: dict[str, Any]) -> None:
    document["revision"] = 1


def _other_lineage(document: dict[str, Any]) -> None:
    document["lineage"] = "another"


def _no_lineage(document: dict[str, Any]) -> None:
    del document["lineage"]


def _incomplete(document: dict[str, Any]) -> None:
    document["complete"] = False


def _problem_at_all(document: dict[str, Any]) -> None:
    document["problems"], document["problem_count"] = [], 2


@pytest.mark.parametrize("change", [_older, _other_lineage, _no_lineage, _incomplete, _problem_at_all])
def test_listing_that_proves_no_deletion_deletes_nothing(
    quick: Lab, change: Callable[[dict[str, Any]], None]
) -> None:
    quick.publish(quick.document)
    quick.sync_quietly()
    quick.document["revision"] += 1
    evil = copy.deepcopy(quick.document)
    # One file of many goes, so that no other rule stands in the way.
    run = run_named(evil)
    run["files"] = [entry for entry in run["files"] if not entry["path"].endswith("a.png")]
    change(evil)
    quick.publish(evil)
    before = run_files(quick.mirror)
    done = quick.attack("--delete", "--force-delete").expect(3)
    assert "kept" in done.err
    assert run_files(quick.mirror) == before
    quick.recovers()


def test_restored_snapshot_is_compared_and_deletes_nothing(lab: Lab) -> None:
    lab.publish(lab.document)
    lab.sync_quietly()
    old = copy.deepcopy(lab.document)
    old["revision"] -= 1
    entry = file_named(run_named(old), "summary.json")
    (lab.root / entry["path"]).write_text('{"best": 1}', encoding="utf-8")
    del entry["sha256"], entry["mtime_ns"]
    entry.update(size=11, mtime=1704060000.0)
    old["experiments"] = [run_named(old)]
    lab.publish(old)
    before = run_files(lab.mirror)
    done = lab.attack("--delete", "--force-delete").expect(3)
    assert "older" in done.err
    assert run_files(lab.mirror) == {**before, entry["path"]: b'{"best": 1}'}


def test_same_revision_with_another_snapshot_is_not_taken_for_no_changes(lab: Lab) -> None:
    lab.sync_quietly()
    (lab.mirror / PROJECT_RUN / "meta.json").stat()
    again = copy.deepcopy(lab.document)
    again["snapshot_id"] = "another"
    run_named(again)["files"] = run_named(again)["files"][:1]
    lab.publish(again)
    assert not lab.attack("--json").expect(0).statistics["skipped"]


@pytest.mark.parametrize("force", [[], ["--force-delete"]])
def test_emptied_manifest_deletes_nothing(lab: Lab, force: list[str]) -> None:
    lab.publish(lab.document)
    lab.sync_quietly()
    before = run_files(lab.mirror)
    empty = {**lab.document, "experiments": [], "revision": lab.document["revision"] + 1}
    lab.publish(empty)
    done = lab.attack("--delete", *force).expect(3)
    assert "no run at all" in done.err
    assert run_files(lab.mirror) == before
    lab.document["revision"] += 1
    lab.recovers()


def test_more_than_half_is_deleted_only_with_a_second_leave(lab: Lab) -> None:
    lab.publish(lab.document)
    lab.sync_quietly()
    before = run_files(lab.mirror)
    lab.document["revision"] += 1
    run = run_named(lab.document)
    lab.document["experiments"] = [{**run, "files": run["files"][:2]}]
    lab.publish(lab.document)
    done = lab.attack("--delete").expect(3)
    assert "--force-delete" in done.err
    assert run_files(lab.mirror) == before
    lab.attack("--delete", "--force-delete").expect(0)
    lab.matches()
