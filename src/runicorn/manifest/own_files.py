"""Opening what the generator itself keeps.

What else lies in such a place is neither followed, waited for, nor removed: it is somebody's.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from runicorn.errors import PublishError
from runicorn.manifest.rules import escape

LACKS_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What the system says when others made something, or may write to it alone."""

LACKS_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when more cannot be written."""

LACKS_HANDLES = (errno.EMFILE, errno.ENFILE)
"""What the system says when too many files are open already, whatever is to be opened."""

HANDLES_HINT = "raise the limit: ulimit -n 1024"

_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_ELSE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EMLINK)
_NAMES = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"))


def require_own(path: Path, *, folder: bool = False) -> bool:
    """Whether a file (or folder) is there.

    Raises:
        PublishError: something else has its name.
        OSError: that cannot be known.
    """
    return _require(path, stat.S_ISDIR if folder else stat.S_ISREG, "folder" if folder else "regular file")


def require_link(path: Path) -> bool:
    """Whether a symbolic link is there, or a file, as copying a link may leave.

    Raises:
        PublishError: something else has its name.
        OSError: that cannot be known.
    """
    return _require(path, lambda mode: stat.S_ISLNK(mode) or stat.S_ISREG(mode), "link")


def _require(path: Path, is_own: Callable[[int], bool], what: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not is_own(mode):
        raise _refusal(path, mode, what)
    return True


def require_handles(error: OSError, path: str | Path) -> None:
    """Too many open files are no property of what could not be opened: nothing can be told of it.

    Args:
        error: why it could not be opened.
        path: what.

    Raises:
        PublishError: there are too many open files.
    """
    if error.errno in LACKS_HANDLES:
        message = f"cannot open '{escape(str(path))}': {os.strerror(error.errno)}"
        raise PublishError(message, hint=HANDLES_HINT, path=str(path)) from error


def open_own(path: Path, flags: int = os.O_RDONLY) -> int:
    """A handle on a regular file; the caller closes it.

    Raises:
        PublishError: something else has its name, or there are too many open files.
        OSError: it cannot be opened.
    """
    try:
        fd = os.open(path, flags | _SAFELY)
    except OSError as error:
        require_handles(error, path)
        if error.errno in _ELSE:
            require_own(path)
        raise
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise _refusal(path, mode, "regular file")
    except (OSError, PublishError):
        os.close(fd)
        raise
    return fd


def _refusal(path: Path, mode: int, wanted: str) -> PublishError:
    found = next((name for is_that, name in _NAMES if is_that(mode)), "something else")
    return PublishError(
        f"'{escape(str(path))}' is {found}, where a {wanted} of the generator belongs",
        hint="look at what lies there and remove it; the generator touches nothing that it did not make",
        path=str(path),
    )
