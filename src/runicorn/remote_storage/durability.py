"""Barriers: what was written before one is on disk when it returns.

One `syncfs` for a batch of files costs far less than one `fsync` for each of them; where the system
has none, or for a handful of files, each file is flushed by itself.
"""

from __future__ import annotations

import ctypes
import os
import sys

_FEW_FILES = 16
_BATCH = 4096
_BATCH_OF_SINGLE_FLUSHES = 64


def _find_syncfs() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int]
    return function


_SYNCFS = _find_syncfs()


class Barrier:
    """Flushes what a batch of files wrote below one folder.

    Args:
        folder_fd: open folder on the file system that holds all files of the batch.
        files: how many files are going to be written in all.

    Attributes:
        flushes_each: whether every file is flushed by itself.
        batch_files: how many files at most are worth one barrier. Their folders stay open until
            the barrier when each is flushed by itself.
    """

    def __init__(self, folder_fd: int, files: int) -> None:
        self._folder_fd = folder_fd
        self.flushes_each = _SYNCFS is None or files <= _FEW_FILES
        self.batch_files = _BATCH_OF_SINGLE_FLUSHES if self.flushes_each else _BATCH

    def file_written(self, fd: int) -> None:
        """Call this for every file after its last byte was written."""
        if self.flushes_each:
            os.fsync(fd)

    def names_changed(self, fds: set[int]) -> None:
        """Call this after files took or lost their names in these open folders."""
        if self.flushes_each:
            for fd in fds:
                os.fsync(fd)
        else:
            self.wait()

    def wait(self) -> None:
        """Return when every file of the batch is on disk.

        Raises:
            OSError: the disk refused.
        """
        if self.flushes_each or _SYNCFS is None:
            return
        if _SYNCFS(self._folder_fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
