"""Verify, repair and explain: what is said of each kind of difference, and what a repair leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import ConnectError, MirrorBusyError, MirrorError, UsageError
from runicorn.manifest.digest import BLOCK_SIZE
from runicorn.remote_storage import SyncOptions
from runicorn.remote_storage.explain import explain
from runicorn.remote_storage.mirror_view import MirrorView
from runicorn.remote_storage.opening import open_mirror
from runicorn.remote_storage.problems import problem_at, problems_of
from runicorn.remote_storage.repair import forget_differences
from runicorn.remote_storage.transport import Open, StatusCode
from runicorn.remote_storage.verify import Checked, Difference, Verifier
from tests.remote_storage.helpers import (
    LINE,
    RUN,
    RaiseAt,
    Refuse,
    Site,
    append,
    make_run,
    overwrite,
    put,
    run_files,
    snapshot,
)
from tests.remote_storage.journal_helpers import Cut, boundaries, short_reads, small_frames

RUNGS = pytest.mark.rungs("journal", "listed", "manifest")


def differences(site: Site) -> dict[str, str]:
    found = list(Verifier(site.mirror).differences())
    return {each.inner: each.kind for each in found}


def repair(site: Site, **options: Any) -> list[Difference]:
    """Repair, and give what is left."""
    verifier = Verifier(site.mirror)
    found = list(verifier.differences())
    forget_differences(site.mirror, found, SyncOptions(source=str(site.root)))
    site.sync(**options)
    return list(verifier.differences([(each.folder, each.inner) for each in found]))


def remove(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def add(path: Path) -> None:
    append(path, b"more\n")


def flip(path: Path) -> None:
    data = path.read_bytes()
    overwrite(path, bytes([data[0] ^ 1]) + data[1:])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": remove,
    "link": link,
    "not_a_file": folder,
    "short": cut,
    "extra": add,
    "changed": flip,
}


def test_mirror_without_differences_is_read_whole(site: Site) -> None:
    site.publish()
    site.sync()
    checked = Checked()
    assert not list(Verifier(site.mirror, checked).differences())
    files = [path for path in (site.root / "vision").rglob("*") if path.is_file()]
    assert (checked.files, checked.size) == (6, sum(path.stat().st_size for path in files))


@RUNGS
@pytest.mark.parametrize("name", ["summary.json", "events.jsonl", "media/a.png"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_each_difference_is_named_and_repaired(site: Site, kind: str, name: str) -> None:
    make_run(site.root, "vision/resnet/runs/r2")
    site.publish()
    site.sync()
    DAMAGES[kind](site.mirror / RUN / name)
    before = snapshot(site.mirror / "vision")
    assert differences(site) == {name: kind}
    assert snapshot(site.mirror / "vision") == before
    left = repair(site)
    if kind == "not_a_file":  # somebody's folder is not removed
        assert [each.kind for each in left] == ["wanted"]
        assert differences(site) == {name: "wanted"}
        (site.mirror / RUN / name).rmdir()
        left = repair(site)
    assert not left
    site.assert_equal()
    assert differences(site) == {}


@pytest.mark.parametrize("name", ["summary.json", "events.jsonl", "media/a.png"])
@pytest.mark.parametrize("kind", ["missing", "link", "short", "extra", "changed"])
def test_mirror_of_a_walk_is_repaired_too(site: Site, kind: str, name: str) -> None:
    site.sync(method="walk")
    DAMAGES[kind](site.mirror / RUN / name)
    assert differences(site) == {name: kind}
    assert not repair(site, method="walk")
    site.assert_equal()


def test_only_what_differs_is_fetched_again(site: Site) -> None:
    make_run(site.root, "vision/resnet/runs/r2")
    site.publish()
    site.sync()
    inodes = {path: path.stat().st_ino for path in site.mirror.rglob("*") if path.is_file()}
    flip(site.mirror / RUN / "summary.json")
    found = list(Verifier(site.mirror).differences())
    forget_differences(site.mirror, found, SyncOptions())
    report = site.sync()
    assert (report.files_synced, report.full_count) == (1, 1)
    kept = {path for path, inode in inodes.items() if path.exists() and path.stat().st_ino == inode}
    assert {path.name for path in inodes if path not in kept} - {"state.db-wal", "state.db-shm"} == {
        "summary.json"
    }


def test_link_is_not_followed_and_its_target_stays(site: Site, tmp_path: Path) -> None:
    site.publish()
    site.sync()
    outside = put(tmp_path / "outside", (site.mirror / RUN / "summary.json").read_bytes())
    (site.mirror / RUN / "summary.json").unlink()
    (site.mirror / RUN / "summary.json").symlink_to(outside)
    assert differences(site) == {"summary.json": "link"}
    media = site.mirror / RUN / "media"
    shutil.move(media, tmp_path / "elsewhere")
    media.symlink_to(tmp_path / "elsewhere")
    assert differences(site) == {"summary.json": "link", "media/a.png": "link"}


def test_long_log_is_compared_block_by_block_and_keeps_its_beginning(site: Site) -> None:
    log = site.root / RUN / "events.jsonl"
    line = LINE % 1
    put(log, line * (5 * BLOCK_SIZE // len(line)))
    site.sync(method="walk")  # no digest proves it
    mine = site.mirror / RUN / "events.jsonl"
    data = bytearray(mine.read_bytes())
    data[3 * BLOCK_SIZE + 17] ^= 1
    overwrite(mine, bytes(data))
    (found,) = Verifier(site.mirror).differences()
    assert (found.kind, found.intact) == ("changed", 3 * BLOCK_SIZE)
    inode = mine.stat().st_ino
    forget_differences(site.mirror, [found], SyncOptions())
    report = site.sync(method="walk")
    assert report.incremental_count == 1
    assert report.bytes_downloaded < 3 * BLOCK_SIZE
    assert mine.stat().st_ino == inode
    site.assert_equal()


def test_kept_file_that_the_server_removed_is_compared_as_well(site: Site) -> None:
    make_run(site.root, "vision/resnet/runs/r2")
    site.publish()
    site.sync()
    shutil.rmtree(site.root / RUN)
    site.publish()
    site.sync()
    flip(site.mirror / RUN / "summary.json")
    assert differences(site) == {"summary.json": "changed"}


@pytest.mark.rungs("listed")
def test_file_that_was_never_fetched_is_a_difference(site: Site) -> None:
    site.publish()
    site.sync(Refuse("summary.json", StatusCode.FAILURE, Open, times=3))
    assert differences(site) == {"summary.json": "wanted"}
    assert not repair(site)
    site.assert_equal()


@pytest.mark.rungs("journal", "listed", "manifest", "walk")
def test_mirror_whose_first_sync_was_cut_short_is_incomplete(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(site.root, "vision/resnet/runs/r2")
    with monkeypatch.context() as patch:
        small_frames(patch)
        if site.rung != "walk":
            site.publish()
    short_reads(monkeypatch, 64)
    method, nth, partly = site.rung if site.rung == "walk" else "auto", 1, 0
    while True:
        shutil.rmtree(site.mirror, ignore_errors=True)
        try:
            site.sync(RaiseAt(nth, ConnectError("cut on purpose")), method=method)
        except ConnectError:
            nth += 1
        else:
            break
        held = run_files(site.mirror)
        is_equal = held == run_files(site.root)
        if not is_equal and not differences(site):  # else they are recorded as wanted
            assert not Verifier(site.mirror).is_complete()
            missing = next(path for path in run_files(site.root) if path not in held)
            assert "no sync has got to its end" in verdict(site, missing)[1]
            partly += bool(held)
    assert partly or site.rung == "listed"
    assert Verifier(site.mirror).is_complete()
    assert not differences(site)
    site.assert_equal()


@RUNGS
@pytest.mark.parametrize("method", ["auto", "walk"])
def test_mirror_whose_repair_was_cut_short_is_incomplete(site: Site, method: str) -> None:
    site.publish()
    site.sync()
    flip(site.mirror / RUN / "summary.json")
    verifier = Verifier(site.mirror)
    forget_differences(site.mirror, list(verifier.differences()), SyncOptions(source=str(site.root)))
    assert not list(verifier.differences()), "it is not known any more"
    assert not verifier.is_complete()
    site.sync(method=method)
    assert verifier.is_complete()
    assert not list(verifier.differences())


def test_walk_completes_what_the_journal_began(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        small_frames(patch)
        site.publish()
    short_reads(monkeypatch, 64)
    with pytest.raises(ConnectError):
        site.sync(Cut(boundaries(site)[3] + 64))
    assert not Verifier(site.mirror).is_complete()
    site.sync(method="walk")
    assert Verifier(site.mirror).is_complete()
    site.assert_equal()
    append(site.root / RUN / "logs.txt", "more\n")
    site.publish()
    site.sync()
    assert Verifier(site.mirror).is_complete()
    site.assert_equal()


@pytest.mark.rungs("manifest")
def test_first_sync_that_ended_with_failures_tells_them_and_is_complete(site: Site) -> None:
    site.publish()
    site.sync(Refuse("summary.json", StatusCode.FAILURE, Open, times=3))
    assert Verifier(site.mirror).is_complete()
    assert differences(site) == {"summary.json": "wanted"}


def test_verify_stops_when_it_is_told_to(site: Site) -> None:
    site.publish()
    site.sync()
    for name in ("meta.json", "summary.json"):
        (site.mirror / RUN / name).unlink()
    checked = Checked()
    checked.stop = lambda: checked.files >= 4
    list(Verifier(site.mirror, checked).differences())
    assert checked.files == 4


def test_verify_works_while_a_sync_holds_the_mirror_and_repair_does_not(site: Site) -> None:
    import contextlib

    site.publish()
    site.sync()
    flip(site.mirror / RUN / "summary.json")
    with contextlib.ExitStack() as stack:
        open_mirror(stack, site.mirror, SyncOptions())
        verifier = Verifier(site.mirror)
        verifier._patience = 0.0
        found = list(verifier.differences())
        assert [each.kind for each in found] == ["changed"]
        with pytest.raises(MirrorBusyError):
            forget_differences(site.mirror, found, SyncOptions(lock_timeout=0.0))


def test_file_that_a_sync_is_about_to_record_is_no_difference(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish()
    site.sync()
    append(site.root / RUN / "logs.txt", "more\n")
    append(site.mirror / RUN / "logs.txt", "more\n")
    site.publish()
    looked = []

    def busy(view: MirrorView) -> bool:
        looked.append(view)
        if len(looked) == 2:
            site.sync()
        return True

    monkeypatch.setattr(MirrorView, "is_synced_now", busy)
    assert differences(site) == {}
    assert len(looked) == 3


@pytest.mark.parametrize("make", [lambda _path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_what_is_no_mirror_is_refused_and_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    place = tmp_path / "mirror"
    make(place)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MirrorError, match="is no mirror"):
        Verifier(place)
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_state_is_one_clear_error(site: Site) -> None:
    site.publish()
    site.sync()
    site.database.write_bytes(b"not a database" * 1000)
    with pytest.raises(MirrorError, match="cannot read the state"):
        Verifier(site.mirror)


# -- explain -----------------------------------------------------------------------------------


def verdict(site: Site, path: str) -> tuple[str, str]:
    with MirrorView(site.mirror) as view:
        found = explain(view, path)
    return found.verdict, found.reason


def test_file_in_place_is_explained_with_its_version(site: Site) -> None:
    manifest = site.publish()
    site.sync()
    with MirrorView(site.mirror) as view:
        found = explain(view, f"{RUN}/summary.json")
    entry = next(
        each for run in manifest.experiments for each in run.files if each.path.endswith("summary.json")
    )
    assert found.verdict == "in_place"
    assert found.details["size"] == entry.size
    assert found.details["listed_digest"] == entry.digest
    assert found.details["revision"] == manifest.revision


def test_changed_and_missing_files_are_told_apart(site: Site) -> None:
    site.publish()
    site.sync()
    add(site.mirror / RUN / "logs.txt")
    (site.mirror / RUN / "meta.json").unlink()
    assert verdict(site, f"{RUN}/logs.txt")[0] == "changed_here"
    assert verdict(site, f"{RUN}/meta.json")[0] == "missing_here"


@pytest.mark.parametrize(
    ("path", "word"),
    [
        (f"{RUN}/checkpoint.pt", "none of the files"),
        (f"{RUN}/.hidden", "hidden"),
        (f"{RUN}/media/a.png.tmp", "unfinished"),
        (".runicorn/state.db", "runicorn itself"),
        (RUN, "run folder"),
        ("notes.txt", "none of the files"),
    ],
)
def test_what_is_no_file_of_a_run_is_told_why(site: Site, path: str, word: str) -> None:
    site.publish()
    site.sync()
    found, reason = verdict(site, path)
    assert found == "not_of_a_run"
    assert word in reason


@pytest.mark.parametrize(
    ("options", "path", "word"),
    [
        ({"media": False}, f"{RUN}/media/a.png", "--no-media"),
        ({"exclude": ("*.txt",)}, f"{RUN}/logs.txt", "--exclude"),
        ({"projects": ("other",)}, f"{RUN}/logs.txt", "--project"),
    ],
)
def test_what_the_selection_left_out_is_told_by_what(
    site: Site, options: dict[str, Any], path: str, word: str
) -> None:
    site.publish()
    site.sync(**options)
    found, reason = verdict(site, path)
    assert found == "excluded"
    assert word in reason


def test_unknown_gone_and_wanted_files_are_told_apart(site: Site) -> None:
    make_run(site.root, "vision/resnet/runs/r2")
    site.publish()
    site.sync()
    assert verdict(site, "vision/resnet/runs/r9/meta.json")[0] == "not_listed"
    shutil.rmtree(site.root / RUN)
    site.publish()
    site.sync()
    found, reason = verdict(site, f"{RUN}/meta.json")
    assert found == "gone"
    assert "not asked to delete" in reason


@pytest.mark.rungs("listed")
def test_failed_file_is_explained_with_its_failure(site: Site) -> None:
    site.publish()
    site.sync(Refuse("summary.json", StatusCode.FAILURE, Open, times=3))
    found, reason = verdict(site, f"{RUN}/summary.json")
    assert found == "wanted"
    assert "refused on purpose" in reason


@pytest.mark.rungs("journal", "listed", "manifest", "walk")
def test_problem_that_hides_a_file_is_named_and_forgotten_when_it_is_gone(site: Site) -> None:
    path = site.root / RUN / "summary.json"
    link(path)
    site.publish()
    site.sync()
    found, reason = verdict(site, f"{RUN}/summary.json")
    assert found == "not_listed"
    assert "could not list it (link" in reason
    path.unlink()
    site.publish()
    site.sync()
    assert "could not list" not in verdict(site, f"{RUN}/summary.json")[1]


def test_problem_at_the_nearest_folder_counts_and_what_makes_no_sense_does_not() -> None:
    rows = [["p", "unreadable", "denied"], ["p/n\\x1b", "link", ""], ["p", "link"], "x", [1, 2, 3]]
    problems = problems_of(rows)
    assert [each.path for each in problems] == ["p", "p/n\\x1b"]
    assert problem_at(problems, "p/x/y") == problems[0]
    assert problem_at(problems, "p/n\x1b/z") == problems[1]
    assert problem_at(problems, "pp/x") is None
    assert problems_of({"p": 1}) == []


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\x1b[31m"])
def test_path_that_cannot_be_is_refused(site: Site, path: str) -> None:
    site.publish()
    site.sync()
    with pytest.raises(UsageError), MirrorView(site.mirror) as view:
        explain(view, path)


# -- looking changes nothing -------------------------------------------------------------------


def test_looking_leaves_no_trace(site: Site) -> None:
    site.publish()
    site.sync()
    before = snapshot(site.mirror)
    with MirrorView(site.mirror) as view:
        assert view.totals().files == 6
        assert view.source is None or view.source.path
        assert not view.is_synced_now()
        explain(view, f"{RUN}/logs.txt")
    list(Verifier(site.mirror).differences())
    assert snapshot(site.mirror) == before
