"""The watching generator publishes what changes: real files, real notices of the system."""

from __future__ import annotations

import os
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import UsageError
from runicorn.manifest import read_manifest
from runicorn.manifest.generation import Hooks
from runicorn.manifest.generator import ManifestGenerator
from runicorn.manifest.model import Header
from runicorn.manifest.notices import Heard
from runicorn.manifest.scan_limit import Limit, Span
from runicorn.manifest.scan_state import RunState
from runicorn.manifest.standing import Standing
from runicorn.manifest.watch import Watch
from tests.manifest.helpers import append, generate, make_run, paths, replace, write
from tests.manifest.journal_reader import head
from tests.manifest.watching import LONG, same, three_runs, watching


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return three_runs(tmp_path / "root")


def test_change_is_published_at_once_by_the_journal_alone(root: Path) -> None:
    with watching(root) as (_, told):
        before = read_manifest(root / ".runicorn/full_manifest.json")
        append(root / "p/n/runs/r1/logs.txt", b"one more line\n")
        header = told.until(lambda each: each.identity.revision == 2)
        assert header.total_bytes == before.total_bytes + len(b"one more line\n")
        same(root)
        published = head(root)
        assert published.identity == header.identity
        assert published.manifest is not None
        assert published.manifest.identity.revision == 1, "the manifest is older, its place is known"
        assert read_manifest(root / ".runicorn/full_manifest.json") == before
    after = read_manifest(root / ".runicorn/full_manifest.json")
    assert after.revision == 2, "a clean stop brings the manifest up to date"
    assert not (root / ".runicorn/scan_state.delta").exists()
    assert generate(root).revision == 2


def test_duration_is_that_of_the_last_look_at_the_whole_root(root: Path) -> None:
    with ManifestGenerator(root).session(Standing(), Hooks()) as session:
        session.publish()
        took = head(root).duration
        assert took is not None
        assert took > 0.002, "more than a sign of life takes"
        session.publish_changes(Limit(()), renew=True)
        assert head(root).duration == took
        append(root / "p/n/runs/r1/logs.txt", b"line\n")
        session.publish_changes(Limit(["p/n/runs/r1"]), renew=False)
        assert head(root).identity.revision == 2
        assert head(root).duration == took


def _new_run(root: Path) -> None:
    make_run(root, "other/name/runs/r9", status="running")


def _new_run_in_the_path_layout(root: Path) -> None:
    make_run(root, "runs/a/b/c/r9")


def _picture_in_a_new_folder(root: Path) -> None:
    write(root / "p/n/runs/r0/media/deep/er/b.png", b"picture")


def _removed_run(root: Path) -> None:
    shutil.rmtree(root / "p/n/runs/r2")


def _moved_project(root: Path) -> None:
    (root / "p").rename(root / "q")


def _state_replaced(root: Path) -> None:
    replace(root / "p/n/runs/r1/summary.json", '{"accuracy": 0.5}')


def _log_rotated(root: Path) -> None:
    replace(root / "p/n/runs/r1/logs.txt", "begun anew\n")


CHANGES = [
    _new_run,
    _new_run_in_the_path_layout,
    _picture_in_a_new_folder,
    _removed_run,
    _moved_project,
    _state_replaced,
    _log_rotated,
]


@pytest.mark.parametrize("change", CHANGES)
def test_each_kind_of_change_is_noticed(root: Path, change: Callable[[Path], None]) -> None:
    # The next scan of the whole root is an hour away: only notices can bring the change.
    with watching(root, interval=3600) as (_, told):
        change(root)
        want = {
            str(path.relative_to(root))
            for path in root.rglob("*.*")
            if path.is_file() and ".runicorn" not in path.parts
        }

        def all_there(header: Header) -> bool:
            return header.total_files == len(want) and header.identity.revision > 1

        told.until(all_there)
    assert set(paths(read_manifest(root / ".runicorn/full_manifest.json"))) == want
    same(root)


def test_change_of_a_moved_folder_is_noticed_under_its_new_name(root: Path) -> None:
    with watching(root, interval=3600) as (_, told):
        (root / "p").rename(root / "q")
        told.until(lambda each: each.identity.revision == 2)
        append(root / "q/n/runs/r1/logs.txt", b"there\n")
        told.until(lambda each: each.identity.revision == 3)
        same(root)


def test_without_notices_lively_runs_and_the_whole_root_are_looked_at(root: Path) -> None:
    with watching(root, interval=1, notices=False) as (_, told):
        append(root / "p/n/runs/r1/logs.txt", b"there\n")
        told.until(lambda each: each.identity.revision == 2)
        make_run(root, "p/n/runs/r9")
        told.until(lambda each: each.total_experiments == 4)
        same(root)


def test_missing_library_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inotify_simple", None)
    with watching(root, interval=1) as (_, told):
        assert "the extra 'watch'" in told.line("scanning instead")
        make_run(root, "p/n/runs/r9")
        told.until(lambda each: each.total_experiments == 4)


def test_limit_of_inotify_is_said_and_scanning_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import inotify_simple

    real = inotify_simple.INotify.add_watch
    left = [5]

    def add_watch(self: object, path: str, mask: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(real(self, path, mask))

    monkeypatch.setattr(inotify_simple.INotify, "add_watch", add_watch)
    with watching(root, interval=1) as (_, told):
        assert "max_user_watches" in told.line("scanning instead")
        make_run(root, "p/n/runs/r9")
        told.until(lambda each: each.total_experiments == 4)


def test_lost_events_lead_to_a_whole_scan(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import inotify_simple

    real = inotify_simple.INotify.read

    def read(self: object, timeout: int | None = None) -> list[object]:
        events = list(real(self, timeout=timeout))
        lost = inotify_simple.Event(-1, inotify_simple.flags.Q_OVERFLOW, 0, "")
        return [lost] if events else []

    monkeypatch.setattr(inotify_simple.INotify, "read", read)
    with watching(root, interval=3600) as (_, told):
        make_run(root, "p/n/runs/r9")
        told.until(lambda each: each.total_experiments == 4)


def test_storm_during_a_long_scan_loses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runicorn.manifest.notices import Notices
    from runicorn.manifest.scan import Found, Scanner

    for number in range(3, 10):
        make_run(root, f"p/n/runs/r{number}", status="running")
    held = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    real, read = Scanner.scan, Notices.read
    lost: list[bool] = []

    def scan(self: Scanner, previous: Iterator[RunState]) -> Iterator[Found]:
        for found in real(self, previous):
            yield found
            if found.now is not None and found.now.folder == "p/n/runs/r4":
                append(root / "p/n/runs/r4/logs.txt", b"in the storm\n")
            for each in range(held // 6):  # alternately: equal ones in a row are told once
                os.utime(root / f"p/n/runs/r{each % 2}/logs.txt")

    def reading(self: Notices, standing: Standing) -> Heard:
        heard = read(self, standing)
        lost.append(heard.everything)
        return heard

    monkeypatch.setattr(Scanner, "scan", scan)
    monkeypatch.setattr(Notices, "read", reading)
    with watching(root, interval=3600) as (_, told):
        monkeypatch.setattr(Scanner, "scan", real)
        told.until(lambda each: each.identity.revision == 2)
        same(root)
    assert len(lost) > 1
    assert not any(lost)


def test_rights_taken_away_are_seen_at_once(root: Path) -> None:
    secret = write(root / "p/n/runs/r1/summary.json", '{"secret": 1}')
    secret.chmod(0o644)
    with watching(root, interval=3600) as (_, told):
        epoch = head(root).epoch
        secret.chmod(0o600)
        told.until(lambda _: head(root).epoch != epoch)
        assert not (root / f".runicorn/journal/{epoch}.journal").exists()


def _many_kinds_of_trouble(root: Path) -> None:
    for number in range(8):
        make_run(root, f"p{number % 2}/n/runs/r{number}", status="running")
        make_run(root, f"runs/a/b{number}/x/r{number}")
    os.mkfifo(root / "p0/n/runs/r2/summary.json")
    (root / "p1/n/runs/link").symlink_to("/nowhere")
    (root / "runs/a/b3/link").symlink_to("/nowhere")
    (root / "runs/a/b4/x/bad\x01name").mkdir()
    (root / f"runs/{'/'.join('deep' for _ in range(40))}").mkdir(parents=True)


def _changes_of_many_kinds(root: Path) -> None:
    append(root / "p0/n/runs/r0/logs.txt", b"line\n")
    append(root / "runs/a/b7/x/r7/logs.txt", b"line\n")
    make_run(root, "a/first/runs/r")
    make_run(root, "p0/n/runs/r00")
    make_run(root, "runs/a/b3/between/r")
    make_run(root, "z/last/runs/r")
    shutil.rmtree(root / "p0/n/runs/r4")
    shutil.rmtree(root / "runs/a/b5")
    (root / "p0/n/runs/r2/summary.json").unlink()
    (root / "runs/a/b6/link").symlink_to("/nowhere")


@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_scan_in_parts_finds_what_a_whole_one_finds(root: Path, count: int) -> None:
    _many_kinds_of_trouble(root)
    standing = Standing()
    with ManifestGenerator(root).session(standing, Hooks()) as session:
        before = session.publish()[0]
        assert before.problem_count >= 4
        spans = standing.spans(count)
        assert len(spans) == -(-len(standing) // count)
        for span in spans:
            session.publish_changes(span, renew=False)
        assert head(root).identity == before.identity, "nothing changed"
        _changes_of_many_kinds(root)
        for span in standing.spans(count):
            session.publish_changes(span, renew=False)
        found = head(root)
        assert found.identity.revision > 1
        assert standing.summary is not None
        assert standing.summary.identity == found.identity
        header, _ = session.publish(still=True)
        assert header.identity == found.identity, "all is known"
    manifest = read_manifest(root / ".runicorn/full_manifest.json")
    assert manifest.header == header
    assert generate(root, incremental=False).header.identity == found.identity
    assert paths(read_manifest(root / ".runicorn/full_manifest.json")) == paths(manifest)
    same(root)


@pytest.mark.parametrize("which", ["MANIFESTS_S", "INTERVAL_S"])
def test_change_does_not_wait_for_a_scan_of_the_whole_root(
    root: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    from runicorn.manifest.session import Session

    real = Session.publish_changes
    begun, steps = threading.Event(), queue.Queue[str]()

    def publish_changes(self: Session, limit: Limit, **options: Any) -> object:
        done = real(self, limit, **options)
        if isinstance(limit, Span):
            steps.put(f"part from {limit.start}")
            if not begun.is_set():
                append(root / "p/n/runs/r0/logs.txt", b"line\n")  # behind the part that has it
                begun.set()
        elif begun.is_set():
            steps.put(f"changed: {limit.folders}")
        return done

    monkeypatch.setattr(Session, "publish_changes", publish_changes)
    monkeypatch.setattr("runicorn.manifest.watch._PART_RUNS", 1)
    monkeypatch.setattr(f"runicorn.manifest.pace.{which}", 0.1)
    with watching(root) as (_, told):
        told.until(lambda each: each.identity.revision == 2)
        seen = [steps.get(timeout=LONG) for _ in range(4)]
    assert seen == [
        "part from ",
        "changed: ['p/n/runs/r0']",
        "part from p/n/runs/r1/",
        "part from p/n/runs/r2/",
    ]


def test_problem_comes_and_goes(root: Path) -> None:
    with watching(root, interval=3600) as (_, told):
        os.mkfifo(root / "p/n/runs/r1/summary.json")
        assert told.until(lambda each: each.problem_count == 1).problems[0].kind == "special"
        append(root / "p/n/runs/r2/logs.txt", b"elsewhere\n")
        revision = told.until(lambda each: each.identity.revision == 3)
        assert revision.problem_count == 1, "what another scan found stays until it is looked at again"
        (root / "p/n/runs/r1/summary.json").unlink()
        told.until(lambda each: each.problem_count == 0)
    assert generate(root).revision == 4, "a whole scan finds the same"


def test_whole_scan_finds_nothing_new_after_many_parts(root: Path) -> None:
    os.mkfifo(root / "p/n/runs/r0/media/b.png")
    (root / "p/n/runs/link").symlink_to("/nowhere")
    with watching(root, interval=3600) as (_, told):
        for number in range(5):
            append(root / f"p/n/runs/r{number % 3}/logs.txt", b"line\n")
            told.until(lambda each, want=number + 2: each.identity.revision == want)  # type: ignore[misc]
    assert head(root).identity.revision == 6
    assert generate(root).revision == 6


@pytest.mark.parametrize("options", [{"interval": 0}, {"interval": 1e9}, {"debounce": 2.0}])
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Watch(tmp_path, **options)  # type: ignore[arg-type]


def test_without_a_journal_manifests_are_published(root: Path) -> None:
    with watching(root, journal=False):
        append(root / "p/n/runs/r1/logs.txt", b"line\n")
    assert not (root / ".runicorn/journal").exists()
    assert read_manifest(root / ".runicorn/full_manifest.json").total_experiments == 3
