"""Barriers: what was written before one is on disk when it returns.

One `syncfs` for a batch of files costs far less than one `fsync` for each of them; where the system
has none, or for a handful of files, each file is flushed by itself.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence

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
    """Flushes what batches of files wrote below one folder.

    Args:
        folder_fd: open folder on the file system that holds all files.
    """

    def __init__(self, folder_fd: int) -> None:
        self._folder_fd = folder_fd

    @property
    def batch_files(self) -> int:
        """How many files at most are worth one barrier."""
        return _BATCH_OF_SINGLE_FLUSHES if _SYNCFS is None else _BATCH

    @staticmethod
    def flushes_each(files: int) -> bool:
        """Whether so many files, and their folders, are flushed one by one; else `wait` is enough."""
        return _SYNCFS is None or files <= _FEW_FILES

    def contents(self, openers: Sequence[Callable[[], int]]) -> None:
        """Return when the content of every file of a batch is on disk.

        Args:
            openers: each opens one of the files; it is closed here.

        Raises:
            OSError: the disk refused.
        """
        if not self.flushes_each(len(openers)):
            self.wait()
            return
        for opener in openers:
            fd = opener()
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def names(self, folders: Sequence[Callable[[], int]], files: int) -> None:
        """Return when the names of a batch are on disk.

        Args:
            folders: each gives one of the folders in which files took their names; it stays open.
            files: how many files the batch has.

        Raises:
            OSError: the disk refused.
        """
        if not self.flushes_each(files):
            self.wait()
            return
        for folder in folders:
            os.fsync(folder())

    def wait(self) -> None:
        """Return when everything that was written to the file system is on disk.

        Raises:
            OSError: the disk refused.
        """
        if _SYNCFS is None:
            os.sync()
        elif _SYNCFS(self._folder_fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
