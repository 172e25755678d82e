"""Syncs from end to end: what a mirror holds afterwards, and what it cost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import NoManifestError, NoSuchRootError, UnsafeError, UsageError
from runicorn.manifest import ManifestType
from runicorn.remote_storage import Selection, SyncOptions, SyncReport
from runicorn.remote_storage.transport import SshTarget, Transport, connect_ssh
from testbed.counting import read_counts, reset_counts, subsystem_command
from testbed.sshd import Sshd
from testbed.trees import Layout, append_run, make_tree
from tests.remote_storage.helpers import (
    EVENTS,
    NO_JOURNAL,
    OLD,
    RUN,
    TIMEOUT,
    Relay,
    Site,
    append,
    lines,
    make_run,
    put,
    run_files,
    transport_of,
)

pytestmark = pytest.mark.rungs("journal", "manifest")


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("counts")


@pytest.fixture(scope="module")
def sshd(counts: Path) -> Iterator[Sshd]:
    with Sshd(subsystem=subsystem_command(counts)) as server:
        yield server


def over_ssh(server: Sshd) -> Transport:
    return connect_ssh(SshTarget(server.host, command=tuple(server.ssh_command)), timeout=TIMEOUT)


# -- all of it -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["local", "sftp"])
@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
@pytest.mark.parametrize("layout", ["project", "path"])
def test_first_sync_brings_everything(site: Site, kind: str, method: str, layout: Layout) -> None:
    make_tree(site.root, 6, layout=layout, running=2)
    site.publish()
    with transport_of(kind) as transport:
        report = site.sync(transport, method=method)
    site.assert_equal()
    listed = run_files(site.root)
    assert (report.method, report.failed_count, report.fallback_reason) == (method, 0, "")
    assert report.files_synced == report.full_count == report.total_files == len(listed)
    assert report.bytes_downloaded == report.total_bytes == sum(map(len, listed.values()))
    assert report.total_experiments == 7
    for name in listed:
        there, here = (folder / name for folder in (site.root, site.mirror))
        assert here.stat().st_mtime_ns // 10**9 == there.stat().st_mtime_ns // 10**9


@pytest.mark.parametrize("method", ["auto", "journal", "manifest", "walk"])
def test_sync_with_nothing_changed_transfers_nothing(site: Site, method: str) -> None:
    site.publish()
    site.sync(method=method)
    before = {path: (site.mirror / path).stat().st_ino for path in run_files(site.mirror)}
    relay = Relay()
    report = site.sync(relay, method=method)
    assert (report.files_synced, report.bytes_downloaded, relay.opened_runs()) == (
        0,
        0,
        [],
    ) or method == "walk"
    assert report.files_synced == report.bytes_downloaded == report.failed_count == 0
    assert (report.skipped, report.reason) == ((False, "") if method == "walk" else (True, "no changes"))
    assert before == {path: (site.mirror / path).stat().st_ino for path in run_files(site.mirror)}


def test_skipped_sync_reports_the_age_of_what_is_shown(site: Site) -> None:
    first = site.publish()
    site.sync()
    again = site.publish()
    assert (again.revision, again.snapshot_id) == (first.revision, first.snapshot_id)
    report = site.sync()
    assert report.skipped
    assert report.generated_at == again.generated_at > first.generated_at
    assert report.manifest_revision == first.revision


@pytest.mark.parametrize(
    ("rung", "options", "most"),
    [
        ("journal", {}, 8),
        ("journal", {"method": "manifest"}, 8),
        ("manifest", {"method": "manifest"}, 8),
        ("manifest", {}, 9),
    ],
    ids=["journal", "manifest beside a journal", "manifest", "manifest after asking for a journal"],
)
def test_sync_with_nothing_changed_costs_8_requests_on_a_new_connection(
    tmp_path: Path, sshd: Sshd, counts: Path, rung: str, options: dict[str, Any], most: int
) -> None:
    site = Site(tmp_path / "root", tmp_path / "mirror", rung)
    make_tree(site.root, 30)
    site.publish()
    transport = over_ssh(sshd)
    first = site.sync(transport, **options)
    transport.close()
    read_counts(counts, timeout=TIMEOUT)
    reset_counts(counts)
    transport = over_ssh(sshd)
    report = site.sync(transport, **options)
    transport.close()
    counted = read_counts(counts, timeout=TIMEOUT)
    site.assert_equal()
    assert first.files_synced == 450
    assert report.skipped
    assert counted.requests["INIT"] == 1
    assert counted.total <= most
    assert counted.changing == 0


@pytest.mark.parametrize("rung", ["journal", "manifest"])
def test_sync_of_5_changed_runs_costs_little(tmp_path: Path, sshd: Sshd, counts: Path, rung: str) -> None:
    site = Site(tmp_path / "root", tmp_path / "mirror", rung)
    runs = make_tree(site.root, 30, running=5)
    site.publish()
    transport = over_ssh(sshd)
    site.sync(transport)
    transport.close()
    read_counts(counts, timeout=TIMEOUT)
    reset_counts(counts)
    appended = sum(append_run(run, 50) for run in runs[-5:])
    site.publish()
    packed = (site.root / ".runicorn/full_manifest.json.gz").stat().st_size
    transport = over_ssh(sshd)
    report = site.sync(transport)
    transport.close()
    counted = read_counts(counts, timeout=TIMEOUT)
    site.assert_equal()
    assert (report.method, report.incremental_count, report.full_count) == (rung, 10, 10)
    assert counted.total <= 60 + 20  # four files of each run changed, not three
    assert counted.bytes_down <= 1.2 * appended + packed + 64 * 1024
    assert counted.changing == 0


def test_manifest_is_not_asked_for_when_walking(site: Site) -> None:
    site.publish()
    relay = Relay()
    site.sync(relay, method="walk")
    assert not any("/.runicorn/" in path for path in relay.opened)


@pytest.mark.rungs("manifest")
def test_sync_without_a_manifest_walks_and_says_why(site: Site) -> None:
    report = site.sync()
    site.assert_equal()
    assert report.method == "walk"
    assert report.fallback_reason == f"{NO_JOURNAL}; the server publishes no manifest"
    assert (report.manifest_revision, report.lineage, report.generated_at) == (None, None, None)


def test_sync_by_manifest_only_fails_without_one(site: Site) -> None:
    with pytest.raises(NoManifestError):
        site.sync(method="manifest")


@pytest.mark.parametrize("method", ["auto", "manifest", "walk"])
def test_sync_of_a_missing_root_fails(tmp_path: Path, method: str) -> None:
    site = Site(tmp_path / "none", tmp_path / "mirror")
    with pytest.raises(NoSuchRootError):
        site.sync(method=method)


@pytest.mark.rungs("manifest")
def test_unsafe_manifest_is_refused_whole(site: Site) -> None:
    site.publish()
    path = site.root / ".runicorn/full_manifest.json"
    document = json.loads(path.read_bytes())
    document["experiments"][0]["files"][0]["path"] = "../outside.json"
    put(path, json.dumps(document))
    (site.root / ".runicorn/full_manifest.json.gz").unlink()
    with pytest.raises(UnsafeError):
        site.sync()
    assert run_files(site.mirror) == {}


@pytest.mark.rungs("manifest")
def test_damaged_manifest_is_left_for_a_walk(site: Site) -> None:
    site.publish()
    packed = site.root / ".runicorn/full_manifest.json.gz"
    put(packed, packed.read_bytes()[:-9])
    report = site.sync()
    site.assert_equal()
    assert report.method == "walk"
    assert "torn" in report.fallback_reason


def test_order_of_transfers(site: Site) -> None:
    make_run(site.root, "vision/resnet/runs/new", mtime=OLD + 1000)
    site.publish()
    done = [path.split("/runs/")[1] for path in site.order()]
    first = ["status.json", "meta.json"] if site.rung == "journal" else ["meta.json", "status.json"]
    names = first, ["summary.json"], ["events.jsonl", "logs.txt"], ["media/a.png"]
    assert done == [f"{run}/{name}" for group in names for run in ("new", "r1") for name in group]


def test_options_that_mean_nothing_are_refused(site: Site) -> None:
    for bad in (
        SyncOptions(method="telepathy"),
        SyncOptions(lock_timeout=-1.0),
        SyncOptions(force_delete=True),
        SyncOptions(method="journal", dry_run=True),
    ):
        with pytest.raises(UsageError):
            bad.check()
    with pytest.raises(UsageError):
        site.sync(method="telepathy")
    assert not site.mirror.exists()


def test_history_of_syncs_is_kept(site: Site) -> None:
    from runicorn.remote_storage.state import MirrorState

    site.publish()
    site.sync()
    site.sync()
    with MirrorState(site.database) as state:
        reports = state.reports()
    assert [report["skipped"] for report in reports] == [True, False]


# -- filters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_filters_select_files(site: Site, method: str) -> None:
    make_run(site.root, "speech/whisper/runs/r2")
    make_run(site.root, "runs/nlp/bert/base/r3")
    site.publish()
    report = site.sync(
        method=method, projects=("vision", "nlp"), include=("*.json",), exclude=("summary.json",)
    )
    wanted = [
        f"{run}/{name}" for run in ("runs/nlp/bert/base/r3", RUN) for name in ("meta.json", "status.json")
    ]
    assert sorted(run_files(site.mirror)) == wanted
    assert report.total_files == 4


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_no_media_selects_the_rest(site: Site, method: str) -> None:
    site.publish()
    site.sync(method=method, media=False)
    assert set(run_files(site.root)) - set(run_files(site.mirror)) == {f"{RUN}/media/a.png"}


def test_another_filter_is_not_no_changes(site: Site) -> None:
    site.publish()
    site.sync(media=False)
    assert site.sync(media=False).skipped
    report = site.sync()
    assert (report.skipped, report.files_synced) == (False, 1)
    site.assert_equal()
    assert site.sync().skipped
    assert not site.sync(media=False).skipped


def test_equal_selections_have_one_key() -> None:
    assert Selection().key == ""
    assert Selection(projects=("a",)).key != Selection(include=("a",)).key


# -- one way and the other -------------------------------------------------------------------


def test_walk_then_manifest_needs_no_second_download(site: Site) -> None:
    make_tree(site.root, 3)
    site.sync(method="walk")
    site.publish()
    for method in ("manifest", site.method):  # it takes a listing to find the way into the journal
        report = site.sync()
        assert (report.method, report.bytes_downloaded, report.files_synced) == (method, 0, 0)
    assert report.skipped


def test_manifest_then_walk_needs_no_second_download(site: Site) -> None:
    make_tree(site.root, 3)
    site.publish()
    site.sync()
    report = site.sync(method="walk")
    assert (report.method, report.bytes_downloaded, report.files_synced) == ("walk", 0, 0)
    assert site.sync().bytes_downloaded == 0


def test_manifest_older_than_a_mirror_that_walked(site: Site) -> None:
    """What the walk brought is newer than the manifest: files may go back to it, logs do not shrink."""
    site.publish()
    append(site.root / EVENTS, lines(5, 20))
    put(site.root / RUN / "summary.json", '{"best": 4}')
    site.sync(method="walk")
    site.assert_equal()
    report = site.sync()
    assert (report.failed_count, report.incremental_count) == (0, 0)
    assert (site.mirror / EVENTS).read_text() == lines(25)
    site.assert_equal()
    assert site.sync().skipped


def test_other_lineage_is_compared_in_full(site: Site) -> None:
    first = site.publish()
    site.sync()
    shutil.rmtree(site.root / ".runicorn")
    second = site.publish()
    assert (first.lineage, first.revision) != (second.lineage, second.revision)
    report = site.sync()
    assert (report.skipped, report.bytes_downloaded, report.files_synced) == (False, 0, 0)
    assert report.lineage == second.lineage
    assert site.sync().skipped


def test_active_manifest_is_laid_over_the_full_one(site: Site) -> None:
    site.publish()
    site.sync()
    append(site.root / EVENTS, lines(5, 20))
    site.publish(ManifestType.ACTIVE)
    assert site.sync().incremental_count == 1
    site.assert_equal()
    relay = Relay()
    assert site.sync(relay).skipped
    assert relay.opened_runs() == []
    site.publish()
    assert site.sync().files_synced == 0


def test_report_is_plain_data(site: Site) -> None:
    site.publish()
    assert json.loads(json.dumps(site.sync().as_dict()))["files_synced"] == 6
    assert SyncReport().as_dict()["failed"] == []
