"""A first sync with the help of other processes: the same mirror, whatever becomes of them."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runicorn.errors import (
    CancelledError,
    DamagedError,
    DiskFullError,
    MirrorError,
    RunicornError,
    UnsafeError,
)
from runicorn.journal.frames import Place
from runicorn.remote_storage import SyncOptions, synchronize
from runicorn.remote_storage import workers as workers_module
from runicorn.remote_storage.report import BytesReceived, FileDone
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.stager import StagedSection
from runicorn.remote_storage.transport import LocalTransport
from runicorn.remote_storage.workers import Worker, WorkerPool, Workers
from tests.journal.forge import FILES, chained, content, seed, split, with_content
from tests.remote_storage.first_syncs import RUNS, end_of, first_sync, recorded
from tests.remote_storage.helpers import Site, run_files
from tests.remote_storage.journal_helpers import (
    boundaries,
    by_journal,
    by_manifest,
    change_head,
    cursor_of,
    epoch_bytes,
    epoch_path,
    head,
)


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(2)
    assert len(workers.pids) == 2
    yield workers
    workers.close()


def test_with_and_without_helpers_the_same_is_in_place_and_recorded(
    framed: Site, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[object] = []
    answer = Worker.answer

    def counted(worker: Worker, check: Callable[[], None]) -> object:
        answers.append(answer(worker, check))
        return answers[-1]

    monkeypatch.setattr(Worker, "answer", counted)
    alone = Site(framed.root, tmp_path / "alone")
    done: list[object] = []
    report = by_journal(first_sync(framed, workers, done.append))
    framed.assert_equal()
    assert len(answers) > RUNS
    assert None not in answers  # all of it was their work
    other = by_journal(first_sync(alone, Workers(0)))
    alone.assert_equal()
    assert recorded(framed) == recorded(alone)
    for each in (report, other):
        assert (each.files_synced, each.full_count) == (6 * (RUNS + 1) + 1,) * 2
    assert report.bytes_downloaded == other.bytes_downloaded
    files = [each.path for each in done if isinstance(each, FileDone)]
    assert sorted(files) == sorted(run_files(framed.root))
    assert by_journal(framed.sync()).skipped


def test_they_end_with_the_sync(framed: Site, workers: Workers) -> None:
    pids = workers.pids
    first_sync(framed, workers)
    assert all(end_of(pid) for pid in pids)


def test_only_what_is_selected(framed: Site, workers: Workers) -> None:
    selection = Selection(exclude=("n1/", "logs.txt"), media=False)
    report = first_sync(framed, workers, options=SyncOptions(selection=selection, method="journal"))
    expected = {
        path: data
        for path, data in run_files(framed.root).items()
        if "/n1/" not in path and "/media/" not in path and not path.endswith("logs.txt")
    }
    assert run_files(framed.mirror) == expected
    assert report.files_synced == len(expected)


@pytest.mark.parametrize("frames", [1, 5, 20])
def test_one_that_is_killed_costs_nothing_but_time(framed: Site, workers: Workers, frames: int) -> None:
    seen: list[object] = []
    pid = workers.pids[0]

    def watch(event: object) -> None:
        if isinstance(event, BytesReceived):
            seen.append(event)
            if len(seen) == frames:
                os.kill(pid, signal.SIGKILL)

    by_journal(first_sync(framed, workers, watch))
    framed.assert_equal()


def test_all_gone_before_the_beginning(framed: Site, workers: Workers) -> None:
    for pid in workers.pids:
        os.kill(pid, signal.SIGKILL)
        assert end_of(pid)
    by_journal(first_sync(framed, workers))
    framed.assert_equal()


def test_none_can_be_started(framed: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(framed.root / "none"))
    workers = Workers(2)
    assert workers.pids == []
    by_journal(first_sync(framed, workers))
    framed.assert_equal()


def forge(site: Site, nth: int, old: bytes, new: bytes) -> None:
    """Other content in a files frame, with chains and HEAD that fit."""
    raws = split(epoch_bytes(site))
    at = [number for number, raw in enumerate(raws) if raw.kind == FILES][nth]
    text, data = content(raws[at])
    assert old in text + data
    raws[at] = with_content(raws[at], text.replace(old, new), data.replace(old, new))
    before = head(site)
    ends = boundaries(site)
    made = list(chained(seed(before.epoch), raws))
    epoch_path(site).write_bytes(b"".join(frame for frame, _ in made))
    offset = {0: 0}
    for number, end in enumerate(ends):
        offset[end] = offset[ends[number - 1] if number else 0] + len(made[number][0])
    chain = {end: made[number][1].hex() for number, end in enumerate(ends)}
    media = {"begin": offset[before.media.begin], "end": offset[before.media.end.offset]}
    assert before.manifest is None
    change_head(
        site,
        length=offset[before.end.offset],
        chain=chain[before.end.offset],
        base_length=offset[before.base.offset],
        base_chain=chain[before.base.offset],
        media={**media, "chain": chain[before.media.end.offset]},
    )


def nth_with(site: Site, old: bytes) -> int:
    """The files frame that has a text."""
    raws = [raw for raw in split(epoch_bytes(site)) if raw.kind == FILES]
    return next(number for number, raw in enumerate(raws) if old in b"".join(content(raw)))


def test_bytes_that_are_not_the_listed_ones_are_found_by_whoever_reads_them(
    framed: Site, workers: Workers
) -> None:
    forge(framed, nth_with(framed, b'"loss": 0.5'), b'"loss": 0.5', b'"loss": 0.6')
    by_manifest(first_sync(framed, workers), "events.jsonl", "not the listed ones")
    framed.assert_equal()


def test_what_would_harm_is_refused_whole(framed: Site, workers: Workers) -> None:
    forge(framed, nth_with(framed, b"media/a.png"), b"media/a.png", b"../../a.png")
    with pytest.raises(UnsafeError):
        first_sync(framed, workers)
    assert not framed.staged()
    assert not any(path.endswith("a.png") for path in run_files(framed.mirror))


# -- what goes wrong -----------------------------------------------------------------------------


def test_they_help_with_one_sync(framed: Site, workers: Workers, tmp_path: Path) -> None:
    by_journal(first_sync(framed, workers))
    other = Site(framed.root, tmp_path / "other")
    by_journal(first_sync(other, workers))
    other.assert_equal()


def test_one_that_hangs_costs_nothing_but_time(
    framed: Site, workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers_module, "_ANSWER_SECONDS", 0.5)
    caplog.set_level(logging.INFO, logger=workers_module.log.name)
    pid = workers.pids[0]
    os.kill(pid, signal.SIGSTOP)
    by_journal(first_sync(framed, workers))
    framed.assert_equal()
    assert end_of(pid)
    assert "frames were staged here" in caplog.text


def test_all_hang_from_the_first_file_on(
    framed: Site, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_ANSWER_SECONDS", 0.5)
    pids = workers.pids

    def watch(event: object) -> None:
        if isinstance(event, FileDone):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):  # a file that was fetched afterwards
                    os.kill(pid, signal.SIGSTOP)

    by_journal(first_sync(framed, workers, watch))
    framed.assert_equal()
    assert all(end_of(pid) for pid in pids)


@pytest.mark.parametrize("how", ["interrupt", "cancel"])
def test_damage_that_is_not_told_yet_does_not_hide_the_end_of_a_sync(
    framed: Site, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    nth = nth_with(framed, b'"loss": 0.5')
    forge(framed, nth, b'"loss": 0.5', b'"loss": 0.6')
    monkeypatch.setattr(Worker, "is_ready", lambda _self: False)
    seen: list[object] = []
    cancel = threading.Event()

    def watch(event: object) -> None:
        if isinstance(event, BytesReceived):
            seen.append(event)
            if len(seen) == nth + 3:
                if how == "interrupt":
                    raise KeyboardInterrupt
                cancel.set()

    with pytest.raises(KeyboardInterrupt if how == "interrupt" else CancelledError):
        synchronize(
            LocalTransport(), str(framed.root), framed.mirror, None, watch, cancel, workers=Workers(1)
        )
    assert not framed.staged()


@pytest.mark.parametrize("count", [0, 2])
def test_what_was_proven_before_damage_is_in_place(framed: Site, count: int) -> None:
    nth = nth_with(framed, b'"loss": 0.5')
    forge(framed, nth, b'"loss": 0.5', b'"loss": 0.6')
    with pytest.raises(DamagedError, match="not the listed ones"):
        first_sync(framed, Workers(count), options=SyncOptions(method="journal"))
    held = run_files(framed.mirror)
    statuses = [path for path in run_files(framed.root) if path.endswith(("status.json", "meta.json"))]
    assert set(statuses) <= set(held)
    place = cursor_of(framed).place
    assert place is not None
    assert place.offset == boundaries(framed)[nth]
    assert not framed.staged()


def test_one_that_may_not_write_leaves_the_files_to_be_fetched(framed: Site) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        workers = Workers(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    by_journal(first_sync(framed, workers))
    framed.assert_equal()
    assert not framed.staged()


def test_a_full_disk_ends_the_sync_and_is_told(
    framed: Site, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage_file(*_: object) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("runicorn.remote_storage.stager.stage_file", stage_file)
    os.kill(workers.pids[0], signal.SIGKILL)
    with pytest.raises(DiskFullError):
        first_sync(framed, workers)
    assert not framed.staged()
    monkeypatch.undo()
    by_journal(first_sync(framed, None))
    framed.assert_equal()


def test_what_a_killed_sync_left_is_swept(framed: Site, workers: Workers) -> None:
    folder = framed.mirror / ".runicorn/staging/0123-0"
    folder.mkdir(parents=True)
    (folder / "7").write_bytes(b"left")
    by_journal(first_sync(framed, workers))
    framed.assert_equal()
    assert not framed.staged()


@pytest.mark.parametrize("error", [UnsafeError("a name that would harm"), DamagedError("other bytes")])
def test_what_is_found_only_when_the_sync_is_stopped_is_met_by_the_next_one(
    framed: Site, monkeypatch: pytest.MonkeyPatch, error: RunicornError
) -> None:
    received: list[int] = []
    before: dict[str, bytes] = {}

    def stop(event: object) -> None:
        if isinstance(event, BytesReceived):
            received.append(event.count)
            if len(received) == 3:
                before.update(run_files(framed.mirror))
                raise CancelledError("stopped by the test")

    def found(_: WorkerPool) -> Iterator[tuple[Place, list[StagedSection]]]:
        yield from ()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(WorkerPool, "ready", found)
        with pytest.raises(CancelledError, match="by the test"):
            first_sync(framed, Workers(0), stop)
    assert len(received) == 3
    assert not framed.staged()
    # What was proven before takes its name; beside what would harm, nothing does any more.
    assert (len(run_files(framed.mirror)) > len(before)) is isinstance(error, DamagedError)
    by_journal(first_sync(framed, Workers(0)))
    framed.assert_equal()


def test_helper_of_which_the_folder_cannot_be_removed_ends_the_sync(
    framed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(pool: WorkerPool) -> None:
        close(pool)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    close = WorkerPool.close
    with monkeypatch.context() as patch:
        patch.setattr(WorkerPool, "close", failing)
        with pytest.raises(MirrorError, match=os.strerror(errno.EIO)):
            first_sync(framed, Workers(0))
    by_journal(framed.sync())
    framed.assert_equal()
