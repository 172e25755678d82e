"""Reading one file of a run for its digest, while others may be writing it.

Files are opened through the handle of their folder, follow no link and never block; what is no regular
file, or another file than the one that was listed, is not read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher
from runicorn.manifest.model import ProblemKind

MAX_TRIES = 3
MAX_JSON = 1024 * 1024
"""Bytes of a ``meta.json`` or ``status.json`` that are parsed."""

VANISHED = (errno.ENOENT, errno.ENOTDIR)
_CHUNK = 1024 * 1024
_OPEN_FILE = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
)


class Trouble(Exception):  # noqa: N818 - becomes a problem of the manifest
    """Why a file cannot be listed."""

    def __init__(self, kind: ProblemKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message

    @classmethod
    def of(cls, error: OSError) -> Trouble:
        """The trouble that an error of the system means."""
        if error.errno == errno.ELOOP:
            return cls(ProblemKind.LINK, "a link is not followed")
        return cls(ProblemKind.UNREADABLE, os.strerror(error.errno) if error.errno else "cannot be read")


class StateContent(NamedTuple):
    """A state file as it was read: what the system said, its digest (hex) and, on demand, its bytes."""

    status: os.stat_result
    sha256: str
    data: bytes | None


class LogContent(NamedTuple):
    """A log as it was read.

    Attributes:
        status: what the system said when it was opened.
        hashes: of all its blocks.
        whole: whether all of them were made anew.
        read: bytes that were read.
    """

    status: os.stat_result
    hashes: list[bytes]
    whole: bool
    read: int


_Content = TypeVar("_Content", StateContent, LogContent)


class KnownLog(NamedTuple):
    """What an earlier scan knew of a log: inode, size in bytes, block hashes."""

    inode: int
    size: int
    hashes: Sequence[bytes]


def same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether a file has not been touched between two looks."""
    return (
        one.st_size == other.st_size
        and one.st_mtime_ns == other.st_mtime_ns
        and one.st_ctime_ns == other.st_ctime_ns
        and one.st_ino == other.st_ino
    )


def refuse_irregular(mode: int) -> None:
    """Raise the trouble that a file of this mode means when it is no regular file.

    Raises:
        Trouble: it is a link, FIFO, socket or device.
    """
    if stat.S_ISLNK(mode):
        raise Trouble(ProblemKind.LINK, "a link is not followed")
    if not stat.S_ISREG(mode):
        raise Trouble(ProblemKind.SPECIAL, "not a regular file")


def look(name: str, folder: int) -> os.stat_result:
    """What the system says about a name in an open folder, following no link.

    Raises:
        OSError: it cannot say.
    """
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


class _Unsettled(Exception):  # noqa: N818 - leads to another try
    """The file changed while it was looked at."""


def _opened(name: str, folder: int) -> tuple[int, os.stat_result]:
    """A handle on a regular file and what the system says about it; the caller closes it."""
    listed = look(name, folder)
    refuse_irregular(listed.st_mode)
    fd = os.open(name, _OPEN_FILE, dir_fd=folder)
    try:
        return fd, _checked(fd, listed)
    except BaseException:
        os.close(fd)
        raise


def _checked(fd: int, listed: os.stat_result) -> os.stat_result:
    status = os.fstat(fd)
    refuse_irregular(status.st_mode)
    if (status.st_dev, status.st_ino) != (listed.st_dev, listed.st_ino):
        raise _Unsettled
    return status


def _feed(fd: int, size: int, take: Callable[[bytes], object]) -> None:
    """Hand exactly ``size`` bytes from the handle's position on to ``take``."""
    while size > 0:
        data = os.read(fd, min(size, _CHUNK))
        if not data:
            raise _Unsettled
        take(data)
        size -= len(data)


def _state_once(name: str, folder: int, keep: bool) -> StateContent:
    fd, before = _opened(name, folder)
    try:
        digest = hashlib.sha256()
        parts: list[bytes] = []
        keep = keep and before.st_size <= MAX_JSON

        def take(data: bytes) -> None:
            digest.update(data)
            if keep:
                parts.append(data)

        _feed(fd, before.st_size, take)
        if not same_file(before, os.fstat(fd)):
            raise _Unsettled
    finally:
        os.close(fd)
    return StateContent(before, digest.hexdigest(), b"".join(parts) if keep else None)


def read_state_file(name: str, folder: int, *, keep: bool) -> StateContent | None:
    """Read a file that is replaced as a whole.

    Args:
        name: its name.
        folder: handle of its folder.
        keep: whether its bytes are wanted (never more than `MAX_JSON`).

    Returns:
        None when it is gone.

    Raises:
        Trouble: it cannot be listed.
    """
    return _settled(lambda: _state_once(name, folder, keep))


def _settled(attempt: Callable[[], _Content]) -> _Content | None:
    for _ in range(MAX_TRIES):
        try:
            return attempt()
        except _Unsettled:
            continue
        except OSError as error:
            if error.errno in VANISHED:
                return None
            raise Trouble.of(error) from error
    raise Trouble(ProblemKind.CHANGING, f"changed each of the {MAX_TRIES} times it was read")


def _proven_start(fd: int, size: int, known: KnownLog | None, inode: int) -> BlockHasher | None:
    """A hasher that stands at the end of the known part of a grown log, when that part is proven."""
    if known is None or inode != known.inode or size <= known.size or not known.hashes:
        return None
    start = (len(known.hashes) - 1) * BLOCK_SIZE
    hasher = BlockHasher(known.hashes[:-1])
    os.lseek(fd, start, os.SEEK_SET)
    _feed(fd, known.size - start, hasher.update)
    return hasher if hasher.hashes()[-1] == known.hashes[-1] else None


def _log_once(name: str, folder: int, known: KnownLog | None) -> LogContent:
    fd, before = _opened(name, folder)
    try:
        hasher = _proven_start(fd, before.st_size, known, before.st_ino)
        whole = hasher is None
        if hasher is None:
            hasher = BlockHasher()
            os.lseek(fd, 0, os.SEEK_SET)
        read = (
            before.st_size if whole else before.st_size - (len(known.hashes) - 1 if known else 0) * BLOCK_SIZE
        )
        _feed(fd, before.st_size - hasher.size, hasher.update)
        after = os.fstat(fd)
        if after.st_size < before.st_size or (
            after.st_size == before.st_size and after.st_mtime_ns != before.st_mtime_ns
        ):
            raise _Unsettled
    finally:
        os.close(fd)
    return LogContent(before, hasher.hashes(), whole, read)


def read_log(name: str, folder: int, known: KnownLog | None) -> LogContent | None:
    """Read a log up to the size it has when it is opened; it may grow meanwhile.

    Args:
        name: its name.
        folder: handle of its folder.
        known: what an earlier scan knew; None reads it from the start.

    Returns:
        None when it is gone.

    Raises:
        Trouble: it cannot be listed.
    """
    return _settled(lambda: _log_once(name, folder, known))
