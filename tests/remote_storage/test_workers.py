"""A first sync with the help of other processes: the same mirror, whatever becomes of them."""

from __future__ import annotations

import contextlib
import errno
import logging
import marshal
import os
import resource
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import (
    CancelledError,
    DamagedError,
    DiskFullError,
    MirrorError,
    RunicornError,
    UnsafeError,
)
from runicorn.journal.frames import FrameReader, Kind, Place, StoredFrame, beginning, encode_frame
from runicorn.journal.sections import encode_files
from runicorn.remote_storage import SyncOptions, SyncReport, durability, stager, synchronize
from runicorn.remote_storage import workers as workers_module
from runicorn.remote_storage.base_install import BaseInstaller
from runicorn.remote_storage.known import Cursor, LocalFile
from runicorn.remote_storage.messages import Messages
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.report import BytesReceived, FileDone, Observer, ignore
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.stager import StagedSection
from runicorn.remote_storage.staging import StagedFile, stage_file
from runicorn.remote_storage.state import MirrorState
from runicorn.remote_storage.transport import LocalTransport
from runicorn.remote_storage.workers import Worker, WorkerPool, Workers, most_workers
from tests.journal.forge import FILES, chained, content, seed, split, with_content
from tests.remote_storage.helpers import RUN, Site, make_run, put, run_files
from tests.remote_storage.journal_helpers import (
    boundaries,
    by_journal,
    by_manifest,
    change_head,
    cursor_of,
    epoch_bytes,
    epoch_path,
    head,
    small_frames,
)

RUNS = 12
PATIENCE_MS = 20_000


@pytest.fixture
def framed(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Some runs, published in many small frames; one file is too large to be carried."""
    for number in range(RUNS):
        make_run(site.root, f"runs/nlp/bert/n{number}", state="finished" if number % 2 else "running")
    put(site.root / RUN / "media/large.bin", os.urandom(1024**2 + 1))
    put(site.root / "runs/nlp/bert/n1/logs.txt", "first\nno newline at the end")
    with monkeypatch.context() as patch:
        small_frames(patch)
        site.publish()
    assert len(boundaries(site)) > RUNS
    return site


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(2)
    assert len(workers.pids) == 2
    yield workers
    workers.close()


def first_sync(
    site: Site, workers: Workers | None, observe: Observer = ignore, options: SyncOptions | None = None
) -> SyncReport:
    options = options or SyncOptions(source=str(site.root))
    transport = LocalTransport()
    return synchronize(transport, str(site.root), site.mirror, options, observe, workers=workers).report


def recorded(site: Site) -> list[tuple[object, ...]]:
    """What is remembered of every file, but for the number that the disk gave it."""
    with sqlite3.connect(site.database) as database:
        rows = database.execute(
            "SELECT folder, inner, size, mtime_ns, hashes, listed_size, listed_mtime, listed_mtime_ns,"
            " listed_digest, young_at, epoch, gone FROM files ORDER BY folder, inner"
        ).fetchall()
    database.close()
    return rows


def end_of(pid: int) -> bool:
    """Wait for the end of a process, however it is related to this one."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        return bool(waiting.poll(PATIENCE_MS))
    finally:
        os.close(fd)


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


# -- one process ---------------------------------------------------------------------------------


def empty_frame() -> StoredFrame:
    """A frame without runs."""
    at = beginning("0" * 32)
    reader = FrameReader(at)
    reader.feed(encode_frame(at, Kind.FILES, encode_files([]))[0])
    return next(reader.stored_frames())


def never() -> None:
    """Nothing ends the wait."""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """One that has begun."""
    worker = Worker()
    fd = os.open(tmp_path, os.O_RDONLY)
    worker.begin(fd, "its-own", Selection(), 1)
    yield worker
    worker.end()
    os.close(fd)


def stop(worker: Worker) -> None:
    """It hangs, from now on."""
    worker.give(empty_frame())
    assert worker.answer(never) == []
    os.kill(worker.pid, signal.SIGSTOP)


def test_one_that_is_killed_with_the_process_that_it_helps_although_the_connection_stays_open() -> None:
    program = """
import os, subprocess, sys
from runicorn.remote_storage.workers import Worker
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.state import MirrorState
from tests.remote_storage.test_workers import empty_frame, never

worker = Worker()
socket = os.dup(worker._socket.fileno())
worker.begin(os.open(".", os.O_RDONLY), "its-own", Selection(), 1)
worker.give(empty_frame())
assert worker.answer(never) == []
keeper = subprocess.Popen(["sleep", "60"], pass_fds=[socket], stdout=subprocess.DEVNULL)
print(worker.pid, keeper.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pid, keeper = map(int, process.stdout.readline().split())
        try:
            process.kill()
            process.wait(20)
            assert end_of(pid)
        finally:
            os.kill(keeper, signal.SIGKILL)


def test_one_keeps_the_memory_that_it_has_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "17")
    worker = Worker()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        worker.begin(fd, "its-own", Selection(), 1)
        worker.give(empty_frame())
        assert worker.answer(never) == []
        words = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    finally:
        worker.end()
        os.close(fd)
    given = dict(word.split(b"=", 1) for word in words if word.startswith(b"MALLOC_"))
    assert given == {b"MALLOC_TRIM_THRESHOLD_": b"17", b"MALLOC_MMAP_THRESHOLD_": b"33554432"}


def test_one_that_is_ended_twice(worker: Worker) -> None:
    worker.end()
    worker.end()
    assert end_of(worker.pid)


def test_one_that_hangs_is_ended(worker: Worker) -> None:
    stop(worker)
    worker.end()
    assert end_of(worker.pid)


def test_one_that_hangs_is_waited_for_as_long_as_nothing_speaks_against_it(worker: Worker) -> None:
    stop(worker)
    worker.give(empty_frame())

    def check() -> None:
        raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        worker.answer(check)


def test_one_that_takes_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_SEND_SECONDS", 1)
    worker = Worker()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        worker.begin(fd, "its-own", Selection(), 1)
        stop(worker)
        worker.give(replace(empty_frame(), stored=b"x" * 16 * 1024**2))
        assert worker.answer(never) is None
        assert end_of(worker.pid)
    finally:
        worker.end()
        os.close(fd)


@pytest.mark.parametrize("said", [b"no marshal", marshal.dumps(7), marshal.dumps([(1, [(2,)])])])
def test_one_that_says_what_makes_no_sense_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    ours, theirs = map(Messages, socket.socketpair())
    worker = Worker()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        worker.begin(fd, "its-own", Selection(), 1)
        monkeypatch.setattr(worker, "_messages", ours)
        theirs.send(said)
        assert worker.answer(never) is None
        assert end_of(worker.pid)
    finally:
        worker.end()
        theirs.close()
        os.close(fd)


def test_one_of_another_version_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "__version__", "0.0.other")
    worker = Worker()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        worker.begin(fd, "its-own", Selection(), 1)
        worker.give(empty_frame())
        assert worker.answer(never) is None
    finally:
        worker.end()
        os.close(fd)


def test_its_modules_do_not_come_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets.py").write_text("open('executed', 'w').close()")
    monkeypatch.chdir(tmp_path)
    test_one_that_is_waited_for(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("seconds", [None, 0.001])
def test_a_default_timeout_of_the_program_means_nothing(tmp_path: Path, seconds: float | None) -> None:
    socket.setdefaulttimeout(seconds)
    try:
        test_one_that_is_waited_for(tmp_path)
    finally:
        socket.setdefaulttimeout(None)


def test_one_that_is_waited_for(tmp_path: Path) -> None:
    worker = Worker()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        worker.begin(fd, "its-own", Selection(), 1)
        worker.give(empty_frame())
        assert worker.answer(never) == []
    finally:
        worker.end()
        os.close(fd)


@pytest.mark.parametrize("program", ["/usr/bin/viewer", ""])
def test_only_a_plain_interpreter_is_started_again(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(sys, "executable", program)
    assert most_workers() == 0


def test_a_frozen_program_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert most_workers() == 0


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


# -- the disk ------------------------------------------------------------------------------------


class Disk:
    """What is on disk for sure: contents and names, as far as the barriers went that were waited for."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.staging = site.mirror / ".runicorn/staging"
        self.contents: set[str] = set()
        self.names: set[str] = set()
        self.given: list[str] = []
        self.recorded = 0
        wait, fsync, rename = durability.Barrier.wait, os.fsync, os.rename
        record = MirrorState.record_base

        def barrier(this: durability.Barrier) -> None:
            staged = {str(path.relative_to(self.staging)) for path in self.staging.rglob("*")}
            given = set(self.given)
            wait(this)
            self.contents |= staged
            self.names |= given

        def flush(fd: int) -> None:
            path = Path(f"/proc/self/fd/{fd}").readlink()
            fsync(fd)
            if self.staging in path.parents:
                self.contents.add(str(path.relative_to(self.staging)))
            self.names.update(name for name in self.given if Path(name).parent == path)

        def give(old: str, new: str, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            if src_dir_fd is not None:
                assert old in self.contents
                self.given.append(str(Path(f"/proc/self/fd/{dst_dir_fd}").readlink() / new))
            rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        def put(state: MirrorState, rows: Iterable[tuple[Any, ...]], wanted: list[Any], at: Cursor) -> None:
            rows = list(rows)
            for folder, inner, *_ in rows:
                assert str(site.mirror / folder / inner) in self.names
            self.recorded += len(rows)
            record(state, rows, wanted, at)

        monkeypatch.setattr(durability.Barrier, "wait", barrier)
        monkeypatch.setattr(os, "fsync", flush)
        monkeypatch.setattr(os, "rename", give)
        monkeypatch.setattr(MirrorState, "record_base", put)


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("count", [0, 2])
def test_contents_are_on_disk_before_their_names_and_names_before_the_record(
    framed: Site, monkeypatch: pytest.MonkeyPatch, one_by_one: bool, count: int
) -> None:
    monkeypatch.setattr("runicorn.remote_storage.base_install.BATCH_SECONDS", 0.0)
    if not one_by_one:
        monkeypatch.setattr(durability, "_FEW_FILES", -1)
    disk = Disk(framed, monkeypatch)
    by_journal(first_sync(framed, Workers(count)))
    framed.assert_equal()
    assert disk.recorded == len(disk.given) - 1 == 6 * (RUNS + 1)  # one file was fetched afterwards


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_barrier_that_fails_records_nothing_of_its_batch(
    framed: Site, monkeypatch: pytest.MonkeyPatch, number: int, nth: int
) -> None:
    calls, wait = iter(range(1, 1000)), durability.Barrier.wait

    def failing(this: durability.Barrier) -> None:
        if next(calls) == nth:
            raise OSError(number, os.strerror(number))
        wait(this)

    monkeypatch.setattr("runicorn.remote_storage.base_install.BATCH_BYTES", 1)
    monkeypatch.setattr(durability, "_FEW_FILES", -1)
    with monkeypatch.context() as patch:
        patch.setattr(durability.Barrier, "wait", failing)
        with pytest.raises(DiskFullError if number == errno.ENOSPC else MirrorError):
            first_sync(framed, Workers(0))
    assert not framed.staged()
    for path, data in run_files(framed.mirror).items():
        assert (framed.root / path).read_bytes().startswith(data)
    by_journal(first_sync(framed, Workers(0)))
    framed.assert_equal()


def test_second_interrupt_within_the_first_does_not_let_names_go_before_contents(
    framed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runicorn.remote_storage.base_install.BATCH_SECONDS", 0.0)
    monkeypatch.setattr(durability, "_FEW_FILES", -1)
    disk = Disk(framed, monkeypatch)
    results: list[object] = []
    discards: list[object] = []
    is_waited_for = threading.Event()
    result, wait, discard = Future.result, durability.Barrier.wait, BaseInstaller.discard

    def slow(this: durability.Barrier) -> None:
        assert is_waited_for.wait(PATIENCE_MS / 1000)
        wait(this)

    def interrupted(future: Future[None], timeout: float | None = None) -> None:
        results.append(future)
        if len(results) == 1:
            raise KeyboardInterrupt
        is_waited_for.set()
        result(future, timeout)

    def interrupted_again(installer: BaseInstaller) -> None:
        discards.append(installer)
        if len(discards) == 1:
            raise KeyboardInterrupt
        discard(installer)

    monkeypatch.setattr(durability.Barrier, "wait", slow)
    monkeypatch.setattr(Future, "result", interrupted)
    monkeypatch.setattr(BaseInstaller, "discard", interrupted_again)
    with pytest.raises(KeyboardInterrupt):
        first_sync(framed, Workers(0))
    assert results[0] is results[1]
    assert disk.recorded == len(disk.given) > 0
    assert not framed.staged()


def test_batch_that_is_full_is_put_in_place_at_once(framed: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    record = MirrorState.record_base

    def put(state: MirrorState, rows: Iterable[tuple[Any, ...]], wanted: list[Any], at: Cursor) -> None:
        rows = list(rows)
        batches.append(len(rows))
        record(state, rows, wanted, at)

    monkeypatch.setattr(MirrorState, "record_base", put)
    monkeypatch.setattr("runicorn.remote_storage.base_install.BATCH_BYTES", 1)
    by_journal(first_sync(framed, Workers(0)))
    framed.assert_equal()
    assert len(batches) > RUNS
    assert sum(batches) == 6 * (RUNS + 1)


def test_few_files_share_their_barrier_with_others_although_the_disk_rests(
    framed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[set[str]] = []
    record = MirrorState.record_base

    def put(state: MirrorState, rows: Iterable[tuple[Any, ...]], wanted: list[Any], at: Cursor) -> None:
        rows = list(rows)
        batches.append({inner for _, inner, *_ in rows})
        record(state, rows, wanted, at)

    monkeypatch.setattr(MirrorState, "record_base", put)
    monkeypatch.setattr(durability, "_FEW_FILES", 10_000)
    monkeypatch.setattr("runicorn.remote_storage.base_install.RESTING_SECONDS", 0.0)
    monkeypatch.setattr("runicorn.remote_storage.base_install.BATCH_SECONDS", 1e9)
    by_journal(first_sync(framed, Workers(0)))
    framed.assert_equal()
    first_use = {"status.json", "meta.json"}
    assert len([batch for batch in batches if batch and batch <= first_use]) > 1
    # The first of them goes on with the last of first use, which wait for nobody.
    assert len([batch for batch in batches if batch - first_use]) <= 2


def test_at_the_end_what_is_staged_does_not_wait_for_the_rest(
    framed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[object] = []
    recorded_at: list[int] = []
    rests = threading.Event()
    rests.set()
    answer, record = Worker.answer, MirrorState.record_base
    submit = ThreadPoolExecutor.submit

    def answered(worker: Worker, check: Callable[[], None]) -> object:
        assert rests.wait(PATIENCE_MS / 1000)
        answers.append(answer(worker, check))
        return answers[-1]

    def submitted(pool: ThreadPoolExecutor, function: Callable[[], None]) -> Future[None]:
        rests.clear()
        future = submit(pool, function)
        future.add_done_callback(lambda _: rests.set())
        return future

    def put(state: MirrorState, rows: Iterable[tuple[Any, ...]], wanted: list[Any], at: Cursor) -> None:
        recorded_at.append(len(answers))
        record(state, rows, wanted, at)

    monkeypatch.setattr(Worker, "is_ready", lambda _self: False)  # until all frames have been given
    monkeypatch.setattr(Worker, "answer", answered)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", submitted)
    monkeypatch.setattr(MirrorState, "record_base", put)
    monkeypatch.setattr(durability, "_FEW_FILES", 0)
    for name in ("BATCH_SECONDS", "RESTING_SECONDS"):
        monkeypatch.setattr(f"runicorn.remote_storage.base_install.{name}", 1e9)
    by_journal(first_sync(framed, Workers(1)))
    framed.assert_equal()
    assert len(answers) > RUNS
    assert len([at for at in recorded_at if at < len(answers)]) > RUNS


def test_what_has_its_names_is_recorded_although_the_next_cannot_take_theirs(
    framed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    install = Mirror.install

    def failing(mirror: Mirror, staged: StagedFile, path: str) -> None:
        if len(given) == 2 * (RUNS + 1):  # status and meta of all runs
            staged.discard()
            raise DiskFullError("no room for a name")
        given.append(path)
        install(mirror, staged, path)

    monkeypatch.setattr(Mirror, "install", failing)
    with pytest.raises(DiskFullError):
        first_sync(framed, Workers(0))
    assert {f"{folder}/{inner}" for folder, inner, *_ in recorded(framed)} == set(given)
    assert not framed.staged()
    monkeypatch.undo()
    by_journal(first_sync(framed, Workers(0)))
    framed.assert_equal()


def test_file_that_cannot_be_staged_is_fetched_afterwards(
    framed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def failing(folder_fd: int, name: str, data: bytes | memoryview, mtime_ns: int) -> LocalFile:
        if len(refused) < 3:
            refused.append(name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return stage_file(folder_fd, name, data, mtime_ns)

    monkeypatch.setattr(stager, "stage_file", failing)
    report = first_sync(framed, Workers(0))
    by_journal(report)
    assert (len(refused), report.failed_count) == (3, 0)
    framed.assert_equal()


def test_without_one_barrier_for_all_each_file_is_flushed(
    framed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        flushed.append(fd)
        real(fd)

    monkeypatch.setattr("runicorn.remote_storage.durability._SYNCFS", None)
    monkeypatch.setattr(os, "fsync", fsync)
    by_journal(first_sync(framed, Workers(0)))
    framed.assert_equal()
    assert len(flushed) > 6 * (RUNS + 1)
