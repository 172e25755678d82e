"""Reading one file of a run for its digest, while others may be writing it.

Files are opened through the handle of their folder, follow no link and never block; what is no regular
file, or another file than the one that was listed, is not read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from runicorn.manifest.model import ProblemKind
from runicorn.manifest.own_files import require_handles
from runicorn.manifest.rights import ALONE, READ, Audience

MAX_TRIES = 3
CARRY_LIMIT = 1024 * 1024
"""Bytes of one file that a change carries in the journal, and of a ``status.json`` that is parsed."""

VANISHED = (errno.ENOENT, errno.ENOTDIR)
DENIED = (errno.EACCES, errno.EPERM)
_CHUNK = 1024 * 1024
OPEN_ROOT = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
OPEN_FOLDER = OPEN_ROOT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""How the root, and a folder below it, are opened."""

OPEN_FILE = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
)
"""How a file below the root is opened."""


class Trouble(Exception):  # noqa: N818 - becomes a problem of the manifest
    """Why a file cannot be listed."""

    def __init__(self, kind: ProblemKind, message: str, *, denied: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.denied = denied

    @classmethod
    def of(cls, error: OSError, name: str) -> Trouble:
        """The trouble that an error of the system means for a file of this name.

        Raises:
            PublishError: there are too many open files.
        """
        require_handles(error, name)
        if error.errno == errno.ELOOP:
            return cls(ProblemKind.LINK, "a link is not followed")
        text = os.strerror(error.errno) if error.errno else "cannot be read"
        return cls(ProblemKind.UNREADABLE, text, denied=error.errno in DENIED)


class StateContent(NamedTuple):
    """A state file as it was read.

    Attributes:
        status: what the system said when it was opened.
        sha256: its digest (hex).
        data: its bytes, on demand.
        shown: whether the audience may read it.
    """

    status: os.stat_result
    sha256: str
    data: bytes | None
    shown: bool


_Content = TypeVar("_Content")


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


class Unsettled(Exception):  # noqa: N818 - leads to another try
    """A file changed while it was looked at."""


def opened(name: str, folder: int) -> tuple[int, os.stat_result]:
    """A handle on a regular file and what the system says about it; the caller closes it.

    Raises:
        OSError: it cannot be opened.
        Trouble: it is no regular file.
        Unsettled: it was replaced meanwhile.
    """
    listed = look(name, folder)
    refuse_irregular(listed.st_mode)
    fd = os.open(name, OPEN_FILE, dir_fd=folder)
    try:
        return fd, _checked(fd, listed)
    except BaseException:
        os.close(fd)
        raise


def _checked(fd: int, listed: os.stat_result) -> os.stat_result:
    status = os.fstat(fd)
    refuse_irregular(status.st_mode)
    if (status.st_dev, status.st_ino) != (listed.st_dev, listed.st_ino):
        raise Unsettled
    return status


def no_beat() -> None:
    """Nobody wants to know that it gets on."""


def feed(fd: int, size: int, take: Callable[[bytes], object], beat: Callable[[], None] = no_beat) -> None:
    """Hand exactly ``size`` bytes from the handle's position on to ``take``.

    Raises:
        Unsettled: there are fewer.
    """
    while size > 0:
        data = os.read(fd, min(size, _CHUNK))
        if not data:
            raise Unsettled
        take(data)
        size -= len(data)
        beat()


def _state_once(
    name: str, folder: int, keep: bool, audience: Audience, beat: Callable[[], None]
) -> StateContent:
    fd, before = opened(name, folder)
    try:
        digest = hashlib.sha256()
        parts: list[bytes] = []
        keep = keep and before.st_size <= CARRY_LIMIT

        def take(data: bytes) -> None:
            digest.update(data)
            if keep:
                parts.append(data)

        feed(fd, before.st_size, take, beat)
        shown = audience.has(READ, before, fd)
        if not same_file(before, os.fstat(fd)):
            raise Unsettled
    finally:
        os.close(fd)
    return StateContent(before, digest.hexdigest(), b"".join(parts) if keep else None, shown)


def read_state_file(
    name: str, folder: int, *, keep: bool, audience: Audience = ALONE, beat: Callable[[], None] = no_beat
) -> StateContent | None:
    """Read a file that is replaced as a whole.

    Args:
        name: its name.
        folder: handle of its folder.
        keep: whether its bytes are wanted (never more than `CARRY_LIMIT`).
        audience: who may read the journal.
        beat: called again and again while it is read.

    Returns:
        None when it is gone.

    Raises:
        Trouble: it cannot be listed.
    """
    return settled(name, lambda: _state_once(name, folder, keep, audience, beat))


def settled(name: str, attempt: Callable[[], _Content]) -> _Content | None:
    """What an attempt on a file gives that is made again when it meets a change; None when the file is gone.

    Raises:
        Trouble: the file cannot be listed.
        PublishError: there are too many open files.
    """
    for _ in range(MAX_TRIES):
        try:
            return attempt()
        except Unsettled:
            continue
        except OSError as error:
            if error.errno in VANISHED:
                return None
            raise Trouble.of(error, name) from error
    raise Trouble(ProblemKind.CHANGING, f"changed each of the {MAX_TRIES} times it was read")
