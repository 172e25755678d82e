"""What keeps a sync by the journal from removing, forgetting or believing too much."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runicorn.errors import DiskFullError
from runicorn.remote_storage import ManifestSyncClient, SyncOptions
from runicorn.remote_storage.transport import LocalTransport
from tests.remote_storage.helpers import RUN, Site, make_run, put, run_files
from tests.remote_storage.journal_helpers import (
    Counting,
    by_journal,
    by_manifest,
    change_head,
    forget_sealed_epochs,
    head,
    head_path,
    places,
    put_cursor,
    state_of,
)

OTHERS = [f"vision/resnet/runs/other{number}" for number in range(4)]


@pytest.fixture
def synced(site: Site) -> Site:
    for folder in OTHERS:
        make_run(site.root, folder)
    site.publish()
    by_journal(site.sync())
    return site


def client_of(site: Site, **options: object) -> ManifestSyncClient:
    settings = SyncOptions(source="here", **options)  # type: ignore[arg-type]
    return ManifestSyncClient(LocalTransport(), str(site.root), site.mirror, jitter_max=0, options=settings)


def test_first_sync_does_not_keep_what_went_since_the_base(site: Site) -> None:
    """The lower rungs would never have brought it, so no leave is needed."""
    make_run(site.root, OTHERS[0])
    site.publish()
    shutil.rmtree(site.root / OTHERS[0])
    site.publish()
    report = by_journal(site.sync())
    assert (report.removed_count, report.gone_count) == (0, 0)
    site.assert_equal()


@pytest.mark.parametrize("compact", [False, True])
def test_what_a_poll_brought_is_not_half_of_the_mirror(synced: Site, compact: bool) -> None:
    with client_of(synced, delete=True) as client:
        client.sync()
        for folder in [RUN, *OTHERS]:
            shutil.rmtree(synced.root / folder)
        for number in range(20):
            make_run(synced.root, f"vision/resnet/runs/new{number}")
        synced.publish()
        synced.publish(compact=compact)
        stats = client.sync()
    assert stats["method"] == "journal"
    assert (stats["removed_count"], "more than half" in stats["kept_reason"]) == (0, True)


def test_an_older_base_that_is_insisted_on_removes_nothing(synced: Site, tmp_path: Path) -> None:
    shutil.copytree(synced.root, tmp_path / "backup")
    make_run(synced.root, "vision/resnet/runs/later")
    synced.publish()
    synced.publish(compact=True)
    by_journal(synced.sync())
    shutil.rmtree(synced.root)
    shutil.copytree(tmp_path / "backup", synced.root)
    report = synced.sync(method="journal", delete=True)
    assert report.removed_count == 0
    assert "older" in report.kept_reason
    assert (synced.mirror / "vision/resnet/runs/later/meta.json").exists()


def test_a_listed_file_that_is_put_back_within_one_sync_is_not_wanted(site: Site) -> None:
    image = site.root / RUN / "media" / "large.png"
    put(image, b"a" * (2 * 1024 * 1024))
    site.publish()
    by_journal(site.sync())
    stamp = image.stat().st_mtime_ns
    for content, time in ((b"b", stamp + 10**9), (b"a", stamp + 2 * 10**9)):
        put(image, content * (2 * 1024 * 1024), time // 10**9)
        site.publish()
    counting = Counting()
    report = by_journal(site.sync(counting))
    assert report.failed_count == 0
    with state_of(site) as state:
        assert state.wants_nothing()
    site.assert_equal()
    assert by_journal(site.sync()).skipped


@pytest.mark.parametrize("narrower", [False, True])
def test_what_is_kept_or_not_selected_may_go_by_hand(synced: Site, narrower: bool) -> None:
    if narrower:
        put(synced.root / RUN / "media" / "a.png", b"1")
        synced.publish()
        synced.sync()
        synced.sync(media=False)
        (synced.mirror / RUN / "media" / "a.png").unlink()
    else:
        (synced.root / RUN / "summary.json").unlink()
        synced.publish()
        assert by_journal(synced.sync()).gone_count == 1
        (synced.mirror / RUN / "summary.json").unlink()
    assert by_journal(synced.sync(media=not narrower)).skipped


def test_a_poll_without_news_tells_of_runs(synced: Site) -> None:
    with client_of(synced) as client:
        first = client.sync()
        poll = client.sync()
    assert poll["skipped"]
    assert poll["total_experiments"] == first["total_experiments"] == 1 + len(OTHERS)
    assert (poll["total_files"], poll["total_bytes"]) == (0, 0)


def test_media_are_skipped_also_by_a_client_that_stopped_in_front_of_them(site: Site) -> None:
    put(site.root / RUN / "media" / "a.png", bytes(range(256)) * 4000)
    site.publish()
    by_journal(site.sync(media=False))
    now = head(site)
    before = next(place for _, place, _ in places(site) if place.offset == now.media.begin)
    put_cursor(site, before, None)
    report = by_journal(site.sync(media=False))
    assert report.bytes_received < 20_000
    assert not any("media" in path for path in run_files(site.mirror))


def test_a_sealed_epoch_that_is_gone_costs_one_sync_by_manifest(synced: Site) -> None:
    put(synced.root / RUN / "summary.json", "{}")
    synced.publish(compact=True)
    forget_sealed_epochs(synced)
    assert synced.sync().method == "manifest"
    assert by_journal(synced.sync()).skipped


def test_a_sum_that_no_disk_has_room_for_is_looked_up_in_the_manifest(site: Site) -> None:
    site.publish()
    statistics = json.loads(head_path(site).read_bytes().partition(b"\n")[0])["statistics"]
    change_head(site, statistics={**statistics, "total_bytes": 2**63 - 1})
    with pytest.raises(DiskFullError):
        site.sync(method="journal")
    by_manifest(site.sync(), "no room")
    site.assert_equal()


def test_a_mirror_that_missed_a_file_is_noticed_behind_a_seal(synced: Site) -> None:
    """The next epoch has a chain of its own: the number of files tells of what an older one hid."""
    left = head(synced).epoch
    put(synced.root / RUN / "media" / "hidden.png", b"1")
    synced.publish(compact=True)
    (_, place, identity) = next(each for each in reversed(places(synced, left)) if each[2] is not None)
    put_cursor(synced, place, identity)
    report = synced.sync()
    assert (report.method, "another number of files" in report.fallback_reason) == ("manifest", True)
    synced.assert_equal()
    assert by_journal(synced.sync()).skipped
