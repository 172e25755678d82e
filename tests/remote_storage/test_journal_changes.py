"""Going on in the journal: changed files, logs in all their forms, many revisions at once, replays."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from runicorn.manifest import ManifestType
from tests.remote_storage.helpers import (
    EVENTS,
    OLD,
    RUN,
    Site,
    append,
    lines,
    make_run,
    overwrite,
    put,
    run_files,
    status,
)
from tests.remote_storage.journal_helpers import (
    Counting,
    by_journal,
    by_manifest,
    cursor_of,
    epoch_bytes,
    head,
    places,
    put_cursor,
    state_of,
)

LOGS = f"{RUN}/logs.txt"


@pytest.fixture
def synced(site: Site) -> Site:
    """A site that was synced by the journal."""
    site.publish()
    by_journal(site.sync())
    return site


def brought(site: Site) -> dict[str, bytes]:
    """Publish, sync by the journal; the mirror is as the root is."""
    site.publish()
    by_journal(site.sync())
    site.assert_equal()
    return run_files(site.mirror)


# -- state files ------------------------------------------------------------------------------


def test_changed_state_file_comes_with_the_frame(synced: Site) -> None:
    put(synced.root / RUN / "summary.json", '{"best": 2}')
    synced.publish()
    counting = Counting()
    report = by_journal(synced.sync(counting))
    assert (report.files_synced, report.full_count, report.bytes_downloaded) == (1, 1, 11)
    assert counting.opened_runs() == []
    assert counting.read < 2000
    synced.assert_equal()


def test_new_run_and_new_folders(synced: Site) -> None:
    make_run(synced.root, "runs/a/b/c/d/r9", state="finished")
    put(synced.root / RUN / "media/x/y/z.png", b"deep")
    brought(synced)


def test_empty_files(synced: Site) -> None:
    put(synced.root / RUN / "media/empty.bin", b"")
    put(synced.root / RUN / "events.jsonl", b"")
    put(synced.root / RUN / "assets.json", b"{}")
    brought(synced)


def test_touched_file_is_noted_and_not_carried(synced: Site) -> None:
    inode = (synced.mirror / RUN / "summary.json").stat().st_ino
    os.utime(synced.root / RUN / "summary.json", (OLD + 9, OLD + 9))
    os.utime(synced.root / EVENTS, (OLD + 9, OLD + 9))
    synced.publish()
    report = by_journal(synced.sync())
    assert (report.files_synced, report.bytes_downloaded) == (0, 0)
    assert (synced.mirror / RUN / "summary.json").stat().st_ino == inode
    with state_of(synced) as state:
        assert state.run_files(RUN)["summary.json"].listed.mtime == OLD + 9  # type: ignore[union-attr]


def test_same_content_again_is_not_put_in_place_again(synced: Site) -> None:
    inode = (synced.mirror / RUN / "summary.json").stat().st_ino
    put(synced.root / RUN / "summary.json", '{"best": 2}')
    synced.publish()
    put(synced.root / RUN / "summary.json", '{"best": 1}')
    synced.publish()
    brought(synced)
    put(synced.root / RUN / "summary.json", '{"best": 1}')
    synced.publish()
    kept = (synced.mirror / RUN / "summary.json").stat().st_ino
    assert kept != inode
    by_journal(synced.sync())
    assert (synced.mirror / RUN / "summary.json").stat().st_ino == kept


def test_a_file_that_changed_in_every_revision_ends_as_the_last_one(synced: Site) -> None:
    for number in range(12):
        put(synced.root / RUN / "summary.json", f'{{"best": {number}}}')
        append(synced.root / EVENTS, lines(number % 3, number))
        if number % 4 == 1:
            put(synced.root / RUN / "media/a.png", bytes([number]) * 100)
        synced.publish()
    by_journal(synced.sync())
    synced.assert_equal()


def a_change(root: Path, runs: list[str], step: int, chance: random.Random) -> None:
    """One random change of some run."""
    run = root / chance.choice(runs)
    log = run / chance.choice(["events.jsonl", "logs.txt"])
    changes: list[Callable[[], object]] = [
        *[lambda: append(log, lines(chance.randrange(1, 9), step))] * 3,
        lambda: put(run / "summary.json", f'{{"best": {chance.random()}}}'),
        lambda: put(log, lines(chance.randrange(4), step)),
        lambda: put(run / "media/b.png", chance.randbytes(chance.randrange(3000))),
        lambda: put(run / "status.json", status(chance.choice(["running", "finished"]))),
        lambda: append(log, "half a line"),
        lambda: runs.append(make_run(root, f"vision/resnet/runs/n{step}").relative_to(root).as_posix()),
        lambda: shutil.rmtree(root / runs.pop(1)) if len(runs) > 2 else None,
    ]
    chance.choice(changes)()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_life_in_many_syncs(synced: Site, seed: int) -> None:
    chance = random.Random(seed)
    runs = [RUN]
    for step in range(40):
        a_change(synced.root, runs, step, chance)
        synced.publish(compact=step % 13 == 12)
        if chance.random() < 0.4:
            by_journal(synced.sync(delete=True, force_delete=True))
    for folder in runs:
        put(synced.root / folder / "status.json", status("finished"))
    synced.publish()
    by_journal(synced.sync(delete=True, force_delete=True))
    synced.assert_equal()


# -- logs ---------------------------------------------------------------------------------------


def test_appended_log_grows_on_the_same_inode(synced: Site) -> None:
    before = (synced.mirror / EVENTS).stat().st_ino
    with (synced.mirror / EVENTS).open("rb") as viewer:
        viewer.seek(0, os.SEEK_END)
        for step in range(3):
            append(synced.root / EVENTS, lines(5, 20 + step))
            synced.publish()
            report = by_journal(synced.sync())
            assert (report.incremental_count, report.full_count) == (1, 0)
            assert report.bytes_downloaded == len(lines(5, 20 + step))
            assert viewer.read() == lines(5, 20 + step).encode()
    assert (synced.mirror / EVENTS).stat().st_ino == before
    synced.assert_equal()


def test_many_appends_in_one_sync_grow_on_the_same_inode(synced: Site) -> None:
    before = (synced.mirror / EVENTS).stat().st_ino
    for step in range(6):
        append(synced.root / EVENTS, lines(2, step))
        synced.publish()
    by_journal(synced.sync())
    assert (synced.mirror / EVENTS).stat().st_ino == before
    synced.assert_equal()


def test_half_a_record_waits_for_its_end(synced: Site) -> None:
    whole = (synced.root / EVENTS).read_bytes()
    append(synced.root / EVENTS, '{"half": ')
    synced.publish()
    by_journal(synced.sync())
    assert (synced.mirror / EVENTS).read_bytes() == whole
    append(synced.root / EVENTS, '1}\n{"next": ')
    synced.publish()
    by_journal(synced.sync())
    assert (synced.mirror / EVENTS).read_bytes() == whole + b'{"half": 1}\n'
    append(synced.root / EVENTS, "2}\n")
    brought(synced)


def test_half_a_record_follows_when_the_run_has_ended(synced: Site) -> None:
    append(synced.root / LOGS, "no newline")
    synced.publish()
    by_journal(synced.sync())
    assert (synced.mirror / LOGS).read_bytes() == b"begin\n"
    inode = (synced.mirror / LOGS).stat().st_ino
    put(synced.root / RUN / "status.json", status("finished"))
    brought(synced)
    assert (synced.mirror / LOGS).stat().st_ino == inode


def test_a_run_that_goes_on_after_its_end(synced: Site) -> None:
    put(synced.root / RUN / "status.json", status("finished"))
    append(synced.root / LOGS, "the end")
    brought(synced)
    put(synced.root / RUN / "status.json", status("running"))
    append(synced.root / LOGS, ", or not\nmore\nhalf")
    synced.publish()
    by_journal(synced.sync())
    assert (synced.mirror / LOGS).read_bytes() == b"begin\nthe end, or not\nmore\n"
    put(synced.root / RUN / "status.json", status("finished"))
    brought(synced)


def test_first_sync_with_half_a_record(site: Site) -> None:
    append(site.root / LOGS, "half")
    site.publish()
    by_journal(site.sync())
    assert (site.mirror / LOGS).read_bytes() == b"begin\n"
    put(site.root / RUN / "status.json", status("failed"))
    site.publish()
    by_journal(site.sync())
    site.assert_equal()


@pytest.mark.parametrize(
    "content",
    [lines(3, 100), lines(40, 100), lines(20, 100), "", "x", lines(19)],
    ids=["shorter", "longer", "same size", "empty", "half a record", "cut"],
)
@pytest.mark.parametrize("in_place", [True, False])
def test_rewritten_log_is_replaced(synced: Site, content: str, in_place: bool) -> None:
    path = synced.root / EVENTS
    if in_place:
        path.write_text(content, encoding="utf-8")
    else:
        put(path, content)
    put(synced.root / RUN / "status.json", status("finished"))
    brought(synced)


def test_log_that_was_rewritten_twice_and_went_on(synced: Site) -> None:
    put(synced.root / EVENTS, lines(5, 100))
    synced.publish()
    append(synced.root / EVENTS, lines(5, 105))
    synced.publish()
    put(synced.root / EVENTS, lines(2, 200))
    synced.publish()
    append(synced.root / EVENTS, lines(5, 202))
    brought(synced)


def test_log_of_several_blocks(site: Site) -> None:
    """Longer than a block of the digest, so that the hashes of full blocks are carried over."""
    put(site.root / EVENTS, lines(60_000), OLD)
    site.publish()
    by_journal(site.sync())
    for step in range(3):
        append(site.root / EVENTS, lines(20_000, 60_000 + step))
        site.publish()
        counting = Counting()
        report = by_journal(site.sync(counting))
        assert (report.incremental_count, counting.opened_runs()) == (1, [])
        site.assert_equal()


def test_large_append_is_fetched_by_range(synced: Site) -> None:
    inode = (synced.mirror / EVENTS).stat().st_ino
    append(synced.root / EVENTS, lines(90_000, 20))
    synced.publish()
    counting = Counting()
    report = by_journal(synced.sync(counting))
    assert [Path(path).name for path in counting.opened_runs()] == ["events.jsonl"]
    assert report.incremental_count == 1
    assert (synced.mirror / EVENTS).stat().st_ino == inode
    synced.assert_equal()


# -- a mirror that others touch -----------------------------------------------------------------


@pytest.mark.parametrize("change", ["longer", "shorter", "other bytes", "gone", "half a record"])
def test_log_changed_in_the_mirror_is_put_right(synced: Site, change: str) -> None:
    """A look at the mirror sees it before; what that misses is seen when the frame is applied."""
    path = synced.mirror / EVENTS
    data = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "longer": data + b"mine\n",
                "shorter": data[: len(data) // 2],
                "other bytes": data.replace(b"loss", b"LOSS"),
                "half a record": data + lines(1, 20)[:9].encode(),
            }[change]
        )
    append(synced.root / EVENTS, lines(3, 20))
    synced.publish()
    by_manifest(synced.sync(), "changed by another program")
    synced.assert_equal()
    assert by_journal(synced.sync()).skipped


@pytest.mark.parametrize("change", ["longer", "shorter", "other bytes", "gone", "half a record"])
def test_log_that_no_look_has_seen_changed(
    synced: Site, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runicorn.remote_storage.sync.FOLDERS_LOOKED_AT", 0)
    path = synced.mirror / EVENTS
    data = path.read_bytes()
    if change == "gone":
        path.unlink()
    elif change == "other bytes":
        overwrite(path, data.replace(b"loss", b"LOSS"))
    else:
        path.write_bytes(
            {
                "longer": data + b"mine\n",
                "shorter": data[: len(data) // 2],
                "half a record": data + lines(1, 20)[:9].encode(),
            }[change]
        )
    append(synced.root / EVENTS, lines(3, 20))
    synced.publish()
    by_journal(synced.sync())
    synced.assert_equal()


def test_state_file_that_no_look_has_seen_changed(synced: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicorn.remote_storage.sync.FOLDERS_LOOKED_AT", 0)
    (synced.mirror / RUN / "summary.json").write_text("mine", encoding="utf-8")
    put(synced.root / RUN / "summary.json", '{"best": 3}')
    brought(synced)


# -- replays --------------------------------------------------------------------------------------


def a_life(site: Site) -> None:
    """Revisions with every kind of change."""
    changes: list[Callable[[], object]] = [
        lambda: append(site.root / EVENTS, lines(3, 20)),
        lambda: put(site.root / RUN / "summary.json", '{"best": 2}'),
        (site.root / RUN / "media/a.png").unlink,
        lambda: append(site.root / EVENTS, lines(3, 23) + "half"),
        lambda: put(site.root / RUN / "media/a.png", b"again"),
        lambda: put(site.root / LOGS, "rotated\n"),
        partial(make_run, site.root, "vision/resnet/runs/r2"),
        lambda: append(site.root / LOGS, "and on\n"),
        lambda: put(site.root / RUN / "summary.json", '{"best": 1}'),
        lambda: shutil.rmtree(site.root / "vision/resnet/runs/r2"),
        lambda: put(site.root / RUN / "status.json", status("finished")),
    ]
    for change in changes:
        change()
        site.publish()


def test_replaying_from_every_older_place_does_no_harm(synced: Site) -> None:
    a_life(synced)
    by_journal(synced.sync(delete=True, force_delete=True))
    synced.assert_equal()
    found = places(synced)
    commits = [(place, identity) for _, place, identity in found if identity is not None]
    assert len(commits) == 12
    inode = (synced.mirror / EVENTS).stat().st_ino
    for place, identity in commits:
        put_cursor(synced, place, identity)
        by_journal(synced.sync(delete=True, force_delete=True))
        synced.assert_equal()
    assert (synced.mirror / EVENTS).stat().st_ino == inode
    within_base = [place for _, place, _ in found if place.offset < commits[0][0].offset]
    for place in within_base:
        put_cursor(synced, place, None)
        by_journal(synced.sync(delete=True, force_delete=True))
        synced.assert_equal()


def test_going_on_from_every_place_gives_the_same_mirror(site: Site, tmp_path: Path) -> None:
    """One mirror for each revision, each brought to the end in one sync."""
    site.publish()
    mirrors = []
    root, mirror = site.root, site.mirror
    changes = iter(range(100))

    class Snap(Site):
        def publish(self, kind: ManifestType = ManifestType.FULL, **options: object) -> object:  # type: ignore[override]
            made = super().publish(kind, **options)
            self.mirror = tmp_path / f"mirror-{next(changes)}"
            by_journal(self.sync(delete=True, force_delete=True))
            mirrors.append(self.mirror)
            return made

    snap = Snap(root, mirror)
    a_life(snap)
    for each in mirrors:
        snap.mirror = each
        by_journal(snap.sync(delete=True, force_delete=True))
        snap.assert_equal()
        assert by_journal(snap.sync()).skipped


# -- manifests in between -------------------------------------------------------------------------


def test_active_manifest_over_the_full_one_and_then_the_journal(synced: Site) -> None:
    """The journal goes on from the full one's place: nothing in between is passed over."""
    make_run(synced.root, "vision/resnet/runs/r2")
    append(synced.root / EVENTS, lines(3, 20))
    synced.publish(ManifestType.ACTIVE)
    assert synced.sync(method="manifest").method == "manifest"
    # An old file, which the active manifest does not list.
    put(synced.root / "vision/resnet/runs/r2/summary.json", '{"best": 7}', OLD + 5)
    (synced.root / RUN / "media/a.png").unlink()
    synced.publish(ManifestType.ACTIVE)
    synced.sync()
    by_journal(synced.sync(delete=True))
    synced.assert_equal()
    append(synced.root / EVENTS, lines(3, 23))
    synced.publish(ManifestType.ACTIVE)
    by_journal(synced.sync())
    synced.assert_equal()


def test_rungs_in_turns(synced: Site) -> None:
    methods = ["manifest", "auto", "walk", "auto", "auto", "manifest", "manifest", "auto", "auto"]
    for number, method in enumerate(methods):
        append(synced.root / EVENTS, lines(2, number))
        # A walk sees sizes and whole seconds.
        put(synced.root / RUN / "summary.json", f'{{"best": {10**number}}}')
        synced.publish()
        synced.sync(method=method)
        synced.assert_equal()
    by_journal(synced.sync())


def test_the_cursor_stands_where_head_says_after_a_manifest(site: Site) -> None:
    site.publish()
    site.sync(method="manifest")
    assert site.sync().method == "manifest"
    assert cursor_of(site).place == head(site).end
    counting = Counting()
    assert by_journal(site.sync(counting)).skipped
    assert counting.read == 0
    assert not [path for path in counting.opened if "manifest" in path]


def test_lost_state_is_built_anew_and_the_journal_goes_on(synced: Site) -> None:
    synced.lose_state()
    report = by_manifest(synced.sync())
    assert report.files_synced == 0
    append(synced.root / EVENTS, lines(2, 20))
    synced.publish()
    by_journal(synced.sync())
    synced.assert_equal()


def test_damaged_state_is_built_anew(synced: Site) -> None:
    synced.database.write_bytes(b"rubbish" * 1000)
    for path in synced.database.parent.glob("state.db-*"):
        path.unlink()
    append(synced.root / EVENTS, lines(2, 20))
    synced.publish()
    synced.sync()
    synced.assert_equal()
    by_journal(synced.sync())


def test_reads_of_the_journal_follow_what_is_new(synced: Site) -> None:
    """Not the length of the epoch."""
    put(synced.root / RUN / "media/b.bin", random.Random(1).randbytes(400_000))
    brought(synced)
    append(synced.root / EVENTS, lines(1, 20))
    synced.publish()
    counting = Counting()
    by_journal(synced.sync(counting))
    assert counting.read < 1500


@pytest.mark.parametrize("state", ["running", None])
@pytest.mark.parametrize("is_touched", [False, True])
def test_the_end_of_a_run_tells_the_end_of_its_logs_once_more(
    site: Site, state: str | None, is_touched: bool
) -> None:
    """Who comes while the run goes on again, or does not tell its status, is given whole records only."""
    path = site.root / RUN / "status.json"
    put(path, status("done"))
    append(site.root / LOGS, "half")
    site.publish()
    put(path, status(state)) if state else path.unlink()
    site.publish(compact=True)
    if is_touched:
        os.utime(site.root / LOGS, (OLD + 9, OLD + 9))
        site.publish()
    by_journal(site.sync())
    assert (site.mirror / LOGS).read_text() == "begin\n"
    put(path, status("done"))
    site.publish()
    by_journal(site.sync())
    assert (site.mirror / LOGS).read_text() == "begin\nhalf"
    site.assert_equal()
    ends = len(epoch_bytes(site))
    put(path, status("killed"))
    site.publish()
    assert LOGS.rpartition("/")[2].encode() not in epoch_bytes(site)[ends:]
