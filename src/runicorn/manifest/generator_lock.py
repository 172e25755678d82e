"""One generator at a time: a lock of the kernel, which dies with its process."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runicorn.errors import GeneratorBusy, PublishError
from runicorn.manifest.rules import escape

LOCK_NAME = "generator.lock"
_PAUSE = 0.05
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_OPEN_LOCK = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _taken(fd: int) -> bool:
    try:
        _lock(fd)
    except OSError as error:
        if error.errno not in _BUSY:
            raise
        return False
    return True


def _nothing() -> None:
    pass


def _wait(fd: int, timeout: float, waiting: Callable[[], None], beat: Callable[[], None]) -> None:
    deadline = time.monotonic() + timeout
    told = False
    while not _taken(fd):
        beat()
        left = deadline - time.monotonic()
        if left <= 0:
            raise GeneratorBusy(f"another generator has worked on the same root for {timeout:g} s")
        if not told:
            waiting()
            told = True
        time.sleep(min(_PAUSE, left))


def _unusable(folder: Path, error: OSError) -> PublishError:
    path = folder / LOCK_NAME
    return PublishError(f"cannot lock '{escape(str(path))}': {error.strerror}", path=str(path))


@contextmanager
def generator_lock(
    folder: Path, timeout: float, waiting: Callable[[], None], beat: Callable[[], None] = _nothing
) -> Iterator[int]:
    """Hold the lock of an output folder; the file stays, the lock ends with block or process.

    Args:
        folder: the output folder.
        timeout: how long to wait for another generator, seconds.
        waiting: called once when there is one.
        beat: called again and again while there is one; what it raises ends the waiting.

    Returns:
        The handle of the lock file.

    Raises:
        GeneratorBusy: another generator held it all the time.
        PublishError: the lock file cannot be opened or the file system knows no locks.
    """
    try:
        fd = os.open(folder / LOCK_NAME, _OPEN_LOCK, 0o666)
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        _wait(fd, timeout, waiting, beat)
        yield fd
    except OSError as error:
        raise _unusable(folder, error) from error
    finally:
        with suppress(OSError):  # nothing was written to it
            os.close(fd)


def now_by_all_clocks(lock: int, root: str) -> int:
    """The earlier one of the machine's clock and that of the root's file system (ns)."""
    now = time.time_ns()
    with suppress(OSError):
        os.utime(lock)
        status = os.fstat(lock)
        if status.st_dev == os.stat(root).st_dev:
            now = min(now, status.st_mtime_ns)
    return now
