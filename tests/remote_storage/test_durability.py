"""Barriers: one for a batch where the system can, file by file for a handful or where it cannot."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicorn.remote_storage import durability
from runicorn.remote_storage.durability import Barrier
from tests.remote_storage.helpers import names


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How what is on disk got there."""
    made: list[str] = []
    sync, real = durability._SYNCFS, os.fsync
    assert sync is not None

    def fsync(fd: int) -> None:
        made.append("file")
        real(fd)

    def syncfs(fd: int) -> int:
        made.append("all")
        return int(sync(fd))

    monkeypatch.setattr("runicorn.remote_storage.durability.os.fsync", fsync)
    monkeypatch.setattr(durability, "_SYNCFS", syncfs)
    return made


@pytest.fixture
def folder_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def opener(folder_fd: int) -> int:
    return os.open(".", os.O_RDONLY, dir_fd=folder_fd)


@pytest.mark.parametrize(("files", "expected"), [(0, []), (1, ["file"]), (16, ["file"] * 16), (17, ["all"])])
def test_a_handful_is_flushed_one_by_one(
    flushed: list[str], folder_fd: int, files: int, expected: list[str]
) -> None:
    before = len(names("/proc/self/fd"))
    barrier = Barrier(folder_fd)
    barrier.contents([lambda: opener(folder_fd)] * files)
    assert flushed == expected
    barrier.names([lambda: folder_fd] * min(files, 1), files)
    assert flushed == expected + (expected if files > 16 else expected[:1])
    assert len(names("/proc/self/fd")) == before
    assert barrier.batch_files == 4096


def test_each_file_is_flushed_where_there_is_no_barrier(
    flushed: list[str], folder_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "_SYNCFS", None)
    barrier = Barrier(folder_fd)
    assert barrier.batch_files == 64
    barrier.wait()
    barrier.contents([lambda: opener(folder_fd)] * 40)
    assert flushed == ["file"] * 40


def test_disk_that_refuses_is_an_error(folder_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def syncfs(fd: int) -> int:
        assert fd == folder_fd
        ctypes.set_errno(errno.EIO)
        return -1

    monkeypatch.setattr(durability, "_SYNCFS", syncfs)
    with pytest.raises(OSError, match="Input/output error") as refused:
        Barrier(folder_fd).wait()
    assert refused.value.errno == errno.EIO


def test_system_without_a_barrier_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert durability._find_syncfs() is not None
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda *_, **__: object())
        assert durability._find_syncfs() is None
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert durability._find_syncfs() is None
