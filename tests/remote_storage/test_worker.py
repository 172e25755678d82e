"""One process that helps with a first sync: what it is given, what it answers, and how it ends."""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runicorn.errors import (
    CancelledError,
)
from runicorn.journal.frames import FrameReader, Kind, StoredFrame, beginning, encode_frame
from runicorn.journal.sections import encode_files
from runicorn.remote_storage import workers as workers_module
from runicorn.remote_storage.messages import Messages
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.workers import Worker, most_workers
from tests.remote_storage.first_syncs import end_of


def empty_frame() -> StoredFrame:
    """A frame without runs."""
    at = beginning("0" * 32)
    reader = FrameReader(at)
    reader.feed(encode_frame(at, Kind.FILES, encode_files([]))[0])
    return next(reader.stored_frames())


def never() -> None:
    """Nothing ends the wait."""


@contextlib.contextmanager
def begun(folder: Path) -> Iterator[Worker]:
    """One that has begun, and stages in a folder."""
    worker = Worker()
    fd = os.open(folder, os.O_RDONLY)
    try:
        worker.begin(fd, "its-own", Selection(), 1)
        yield worker
    finally:
        worker.end()
        os.close(fd)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """One that has begun."""
    with begun(tmp_path) as worker:
        yield worker


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
from tests.remote_storage.test_worker import empty_frame, never

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
    with begun(tmp_path) as worker:
        worker.give(empty_frame())
        assert worker.answer(never) == []
        words = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    given = dict(word.split(b"=", 1) for word in words if word.startswith(b"MALLOC_"))
    assert given == {b"MALLOC_TRIM_THRESHOLD_": b"17", b"MALLOC_MMAP_THRESHOLD_": b"33554432"}


@pytest.mark.parametrize(("own", "its"), [(0, 5), (7, 12), (15, 19), (19, 19)])
def test_one_gives_way_to_the_process_that_it_helps(own: int, its: int) -> None:
    if os.getpriority(os.PRIO_PROCESS, 0) > own:
        pytest.fail("the tests run at a lower priority than they look at")
    program = (
        f"import os; os.nice({own} - os.getpriority(os.PRIO_PROCESS, 0)); "
        "from runicorn.remote_storage.workers import Worker; one = Worker(); "
        "print(os.getpriority(os.PRIO_PROCESS, one.pid)); one.end()"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert int(told.stdout) == its


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
    with begun(tmp_path) as worker:
        stop(worker)
        worker.give(replace(empty_frame(), stored=b"x" * 16 * 1024**2))
        assert worker.answer(never) is None
        assert end_of(worker.pid)


@pytest.mark.parametrize("said", [b"no marshal", marshal.dumps(7), marshal.dumps([(1, [(2,)])])])
def test_one_that_says_what_makes_no_sense_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    ours, theirs = map(Messages, socket.socketpair())
    with begun(tmp_path) as worker:
        monkeypatch.setattr(worker, "_messages", ours)
        theirs.send(said)
        assert worker.answer(never) is None
        assert end_of(worker.pid)
    theirs.close()


def test_one_of_another_version_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "__version__", "0.0.other")
    with begun(tmp_path) as worker:
        worker.give(empty_frame())
        assert worker.answer(never) is None


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
    with begun(tmp_path) as worker:
        worker.give(empty_frame())
        assert worker.answer(never) == []


@pytest.mark.parametrize("program", ["/usr/bin/viewer", ""])
def test_only_a_plain_interpreter_is_started_again(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(sys, "executable", program)
    assert most_workers() == 0


def test_a_frozen_program_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert most_workers() == 0
