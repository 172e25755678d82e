"""The base of a first sync on the disk: contents before names, names before the record."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import (
    DiskFullError,
    MirrorError,
)
from runicorn.remote_storage import durability, stager
from runicorn.remote_storage.base_install import BaseInstaller
from runicorn.remote_storage.known import Cursor, LocalFile
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.staging import StagedFile, stage_file
from runicorn.remote_storage.state import MirrorState
from runicorn.remote_storage.workers import Worker, Workers
from tests.remote_storage.first_syncs import PATIENCE_MS, RUNS, first_sync, recorded
from tests.remote_storage.helpers import Site, run_files
from tests.remote_storage.journal_helpers import (
    by_journal,
)


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
