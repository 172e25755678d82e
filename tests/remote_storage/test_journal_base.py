"""The first sync by the journal: what comes first, where an interrupted one goes on, that all rungs agree."""

from __future__ import annotations

import json
import random
import shutil
import threading
from pathlib import Path

import pytest

from runicorn.errors import CancelledError, ConnectError, DiskFullError, RunicornError
from runicorn.remote_storage import SyncOptions, synchronize
from runicorn.remote_storage.report import BytesReceived
from runicorn.remote_storage.transport import LocalTransport
from tests.remote_storage.helpers import (
    OLD,
    RUN,
    Site,
    lines,
    make_run,
    names,
    put,
    run_files,
)
from tests.remote_storage.journal_helpers import (
    Counting,
    Cut,
    boundaries,
    by_journal,
    by_manifest,
    cursor_of,
    epoch_bytes,
    forget_sealed_epochs,
    head,
    short_reads,
    small_frames,
)

OTHER = "runs/nlp/bert/r2"


@pytest.fixture
def framed(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Two runs, published in many small frames that are read in small pieces."""
    make_run(site.root, OTHER, state="finished", mtime=OLD + 10)
    with monkeypatch.context() as patch:
        small_frames(patch)
        site.publish()
    short_reads(monkeypatch, 64)
    assert len(boundaries(site)) >= 12
    return site


@pytest.mark.parametrize("method", ["auto", "journal", "manifest", "walk"])
def test_all_rungs_give_the_same_mirror(site: Site, method: str) -> None:
    make_run(site.root, OTHER, state="finished")
    put(site.root / OTHER / "logs.txt", "first\nno newline at the end", OLD)
    put(site.root / RUN / "logs.txt", "", OLD)
    put(site.root / RUN / "media/deep/er/naïve (1).bin", bytes(70_000), OLD)
    site.publish()
    report = site.sync(method=method)
    assert report.method == {"auto": "journal"}.get(method, method)
    assert (report.files_synced, report.full_count, report.failed_count) == (13, 13, 0)
    assert report.total_files == 13
    site.assert_equal()
    for path in run_files(site.root):
        assert (site.mirror / path).stat().st_mtime_ns == (site.root / path).stat().st_mtime_ns


def test_first_sync_tells_what_it_did(site: Site) -> None:
    manifest = site.publish()
    report = by_journal(site.sync())
    assert not report.skipped
    assert report.manifest_revision == manifest.revision
    assert report.lineage == manifest.lineage
    assert report.generated_at == head(site).generated_at
    assert (report.total_experiments, report.total_files) == (1, 6)
    assert report.total_bytes == sum(map(len, run_files(site.root).values()))
    assert by_journal(site.sync()).skipped


def test_status_and_meta_are_in_place_before_the_rest_is_read(framed: Site) -> None:
    """The connection ends in the middle of the base: what is of first use is there, of all runs."""
    first = [end for end in boundaries(framed) if end][1:]
    seen: list[set[str]] = []
    for end in first:
        shutil.rmtree(framed.mirror, ignore_errors=True)
        with pytest.raises(ConnectError):
            framed.sync(Cut(end))
        seen.append({Path(path).name for path in run_files(framed.mirror)})
        if len(run_files(framed.mirror)) == 4:
            break
    assert seen[-1] == {"status.json", "meta.json"}
    assert {path.rpartition("/")[0] for path in run_files(framed.mirror)} == {RUN, OTHER}


def test_the_order_of_first_use(framed: Site) -> None:
    """Status and meta, the other JSON, logs, media; the run that changed last comes first in each."""
    order = framed.order()
    kinds = [Path(path).name for path in order]
    assert set(kinds[:4]) == {"status.json", "meta.json"}
    assert kinds[4:] == ["summary.json"] * 2 + kinds[6:10] + ["a.png"] * 2
    assert set(kinds[6:10]) == {"events.jsonl", "logs.txt"}
    assert [path.startswith(OTHER) for path in order[:2]] == [True, True]
    assert order[4].startswith(OTHER)
    assert order[10].startswith(OTHER)


def test_interrupted_at_every_frame_goes_on_there(framed: Site) -> None:
    """Nothing that was proven is read again."""
    ends = boundaries(framed)
    for end in ends[:-1]:
        shutil.rmtree(framed.mirror, ignore_errors=True)
        with pytest.raises(ConnectError):
            framed.sync(Cut(end))
        place = cursor_of(framed).place
        assert place is not None
        # The last piece before the cut may be missing: pieces do not end where frames do.
        done = max([0, *(each for each in ends[1:] if each <= end - end % 64)])
        assert place.offset == done
        rest = Counting()
        by_journal(framed.sync(rest))
        assert rest.read == ends[-1] - done
        framed.assert_equal()


def test_interrupted_at_bytes_in_between_goes_on_behind_the_last_whole_frame(
    framed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runicorn.remote_storage.transport.stream.MAX_READ", 7)
    ends = boundaries(framed)
    for end in range(1, ends[-1], 331):
        shutil.rmtree(framed.mirror, ignore_errors=True)
        with pytest.raises(ConnectError):
            framed.sync(Cut(end))
        for path, content in run_files(framed.mirror).items():
            assert content == (framed.root / path).read_bytes()
        rest = Counting()
        by_journal(framed.sync(rest))
        assert rest.read == ends[-1] - max([0, *(each for each in ends[1:] if each <= end - end % 7)])
        framed.assert_equal()


def test_interrupted_again_and_again_comes_to_its_end(framed: Site) -> None:
    """Each connection lives for two frames more."""
    ends = boundaries(framed)
    for end in ends[2:-1:2]:
        with pytest.raises(ConnectError):
            framed.sync(Cut(end + 70))
    by_journal(framed.sync())
    framed.assert_equal()


def test_interrupted_base_goes_on_after_more_was_published(framed: Site) -> None:
    with pytest.raises(ConnectError):
        framed.sync(Cut(boundaries(framed)[5] + 64))
    kept = set(run_files(framed.mirror))
    assert kept
    put(framed.root / RUN / "summary.json", '{"best": 2}')
    (framed.root / OTHER / "summary.json").unlink()
    framed.publish()
    by_journal(framed.sync(delete=True))
    framed.assert_equal()


def test_interrupted_base_is_left_with_its_epoch(framed: Site) -> None:
    with pytest.raises(ConnectError):
        framed.sync(Cut(boundaries(framed)[5] + 64))
    for _ in range(4):
        framed.publish(compact=True)
    forget_sealed_epochs(framed)
    report = by_manifest(framed.sync(), "epoch")
    assert report.files_synced < 12
    framed.assert_equal()
    assert by_journal(framed.sync()).skipped


def test_interrupted_base_of_an_epoch_that_is_sealed_goes_on(framed: Site) -> None:
    with pytest.raises(ConnectError):
        framed.sync(Cut(boundaries(framed)[5] + 64))
    framed.publish(compact=True)
    put(framed.root / RUN / "summary.json", '{"best": 2}')
    framed.publish()
    by_journal(framed.sync())
    framed.assert_equal()


def test_a_lower_rung_may_finish_what_the_base_began(framed: Site) -> None:
    with pytest.raises(ConnectError):
        framed.sync(Cut(boundaries(framed)[5] + 64))
    report = framed.sync(method="manifest")
    assert report.failed_count == 0
    framed.assert_equal()
    put(framed.root / RUN / "summary.json", '{"best": 2}')
    framed.publish()
    framed.sync()
    by_journal(framed.sync())
    framed.assert_equal()


def test_damage_within_the_base_goes_on_with_the_manifest(framed: Site) -> None:
    path = framed.root / f".runicorn/journal/{head(framed).epoch}.journal"
    data = bytearray(epoch_bytes(framed))
    data[boundaries(framed)[7] + 60] ^= 1
    path.write_bytes(bytes(data))
    report = by_manifest(framed.sync(), "damaged")
    assert report.files_synced == 12
    framed.assert_equal()
    assert by_journal(framed.sync()).skipped


def test_cancelled_first_sync_keeps_what_was_proven(framed: Site) -> None:
    cancel = threading.Event()
    frames: list[object] = []

    def watch(event: object) -> None:
        if isinstance(event, BytesReceived):
            frames.append(event)
            if len(frames) == 5:
                cancel.set()

    with pytest.raises(CancelledError):
        synchronize(LocalTransport(), str(framed.root), framed.mirror, SyncOptions(), watch, cancel)
    held = run_files(framed.mirror)
    assert 0 < len(held) < 12
    assert not framed.staged()
    rest = Counting()
    report = by_journal(framed.sync(rest))
    assert report.files_synced == 12 - len(held)
    assert rest.read < boundaries(framed)[-1]
    framed.assert_equal()


def test_no_room_for_all_is_said_before_anything_is_fetched(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish()
    monkeypatch.setattr("runicorn.remote_storage.mirror.Mirror.free_bytes", lambda _self: 100)
    with pytest.raises(DiskFullError) as caught:
        site.sync()
    assert caught.value.exit_code == 9
    assert run_files(site.mirror) == {}
    monkeypatch.undo()
    by_journal(site.sync())
    site.assert_equal()


def test_media_are_skipped_unread(site: Site) -> None:
    put(site.root / RUN / "media/big.bin", random.Random(1).randbytes(600_000), OLD)
    site.publish()
    counting = Counting()
    report = by_journal(site.sync(counting, media=False))
    assert counting.read < 10_000
    assert report.total_files == 5
    wanted = {path: data for path, data in run_files(site.root).items() if "/media/" not in path}
    assert run_files(site.mirror) == wanted
    put(site.root / RUN / "summary.json", '{"best": 2}')
    put(site.root / RUN / "media/b.png", b"new")
    site.publish()
    by_journal(site.sync(media=False))
    wanted[f"{RUN}/summary.json"] = b'{"best": 2}'
    assert run_files(site.mirror) == wanted


def test_a_mirror_with_files_of_its_own_does_not_begin_with_the_base(site: Site) -> None:
    """What is there is compared, not fetched again: that is what manifests are for."""
    shutil.copytree(site.root / RUN, site.mirror / RUN)
    site.publish()
    report = by_manifest(site.sync())
    assert report.files_synced == 0
    assert by_journal(site.sync()).skipped


def test_a_user_who_insists_begins_with_the_base(site: Site) -> None:
    shutil.copytree(site.root / RUN, site.mirror / RUN)
    put(site.mirror / RUN / "summary.json", "other")
    site.publish()
    report = by_journal(site.sync(method="journal"))
    assert report.files_synced == 1
    site.assert_equal()


@pytest.mark.parametrize("missing", ["HEAD", "epoch"])
def test_a_user_who_insists_is_told(site: Site, missing: str) -> None:
    site.publish()
    folder = site.root / ".runicorn/journal"
    for path in folder.iterdir():
        if (path.name == "HEAD") == (missing == "HEAD"):
            path.unlink()
    with pytest.raises(RunicornError) as caught:
        site.sync(method="journal")
    assert caught.value.exit_code == 1
    assert str(caught.value)
    assert run_files(site.mirror) == {}


def test_an_empty_root_is_synced(tmp_path: Path) -> None:
    site = Site(tmp_path / "root", tmp_path / "mirror")
    site.root.mkdir()
    site.publish()
    assert by_journal(site.sync()).total_files == 0
    make_run(site.root)
    site.publish()
    by_journal(site.sync())
    site.assert_equal()


def test_listed_only_files_are_fetched_by_range(site: Site) -> None:
    put(site.root / RUN / "media/large.bin", bytes(range(256)) * 6000, OLD)
    put(site.root / RUN / "events.jsonl", lines(90_000), OLD)
    (site.root / RUN / "summary.json").chmod(0o600)
    site.publish()
    assert max(boundaries(site)) < 100_000
    counting = Counting()
    by_journal(site.sync(counting))
    opened = [Path(path).name for path in counting.opened_runs()]
    assert sorted(opened) == ["events.jsonl", "large.bin", "summary.json"]
    site.assert_equal()
    again = Counting()
    assert by_journal(site.sync(again)).skipped
    assert again.opened_runs() == []


def test_nothing_is_staged_or_left_behind(site: Site) -> None:
    site.publish()
    site.sync()
    assert site.staged() == []
    assert json.loads((site.mirror / RUN / "meta.json").read_bytes())
    assert sorted(name for name in names(site.mirror / ".runicorn") if "state.db" not in name) == [
        "staging",
        "sync.lock",
    ]
