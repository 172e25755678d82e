"""The one way to put a file in place by path: whole or not at all, also after a power cut."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_LONGEST_STEM = 180
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def _temp_name(name: str) -> str:
    return f".{name[:_LONGEST_STEM]}.{os.urandom(6).hex()}.tmp"


def fsync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the names in a folder durable, where the system can do that.

    Raises:
        OSError: the disk failed.
    """
    if os.name == "nt":
        return
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # a folder may be writable without being readable
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the name ``path`` when the block ends without an exception.

    It is written under a unique name beside it, made durable, renamed, and the folder is made durable. On
    any other exit nothing is left behind and an old file of that name stays as it was. The mode is 0666
    less the umask.

    Raises:
        OSError: it cannot be written.
    """
    temp = path.parent / _temp_name(path.name)
    stream: BinaryIO | None = None
    try:
        stream = os.fdopen(os.open(temp, _NEW_FILE, 0o666), "wb")
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()
        os.replace(temp, path)
    finally:
        if stream is not None:
            with suppress(OSError):  # closing flushes again what a full disk refused
                stream.close()
        with suppress(FileNotFoundError):
            os.unlink(temp)
    fsync_folder(path.parent)


def replace_link(path: Path, target: str) -> None:
    """Let a symbolic link lead to a file beside it; nothing waits for it to be durable. A file that has its
    name gives way, also where the system makes no links.

    Args:
        path: of the link.
        target: name of the file.

    Raises:
        OSError: the file that is there cannot be removed.
    """
    with suppress(OSError):
        if os.readlink(path) == target:
            return
    temp = path.parent / _temp_name(path.name)
    try:
        os.symlink(target, temp)
        os.replace(temp, path)
    except OSError:
        for each in (temp, *([] if path.is_symlink() else [path])):
            with suppress(FileNotFoundError):
                os.unlink(each)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A new file of this very name in the place of one that may be there; durable when the block ends.

    On any other exit it is removed. The mode is 0666 less the umask.

    Raises:
        OSError: it cannot be written.
    """
    with suppress(FileNotFoundError):
        os.unlink(path)
    stream: BinaryIO | None = None
    try:
        stream = os.fdopen(os.open(path, _NEW_FILE, 0o666), "wb")
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()
    except BaseException:
        if stream is not None:
            with suppress(OSError):  # closing flushes again what a full disk refused
                stream.close()
        with suppress(FileNotFoundError):
            os.unlink(path)
        raise
    fsync_folder(path.parent)


def scratch_file(folder: Path, mode: int = 0o600) -> BinaryIO:
    """A file without a name in a folder, open for writing and reading: it ends with the process.

    Args:
        folder: where it is made.
        mode: its mode, less the umask.

    Raises:
        OSError: it cannot be made.
    """
    with suppress(AttributeError, OSError):  # not every system and file system has it
        nameless = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
        return os.fdopen(os.open(folder, nameless, mode), "w+b")
    temp = folder / _temp_name("scratch")
    try:
        flags = _NEW_FILE | getattr(os, "O_TEMPORARY", 0)
        return os.fdopen(os.open(temp, flags, mode), "w+b")
    finally:
        if os.name != "nt":
            with suppress(FileNotFoundError):
                os.unlink(temp)


def close_scratch(stream: BinaryIO | None) -> None:
    """Give a scratch file back. What a full disk refused is tried again by closing, and wanted by nobody."""
    if stream is not None:
        with suppress(OSError):
            stream.close()


def sweep_temps(folder: Path, names: Iterable[str | re.Pattern[str]]) -> list[str]:
    """Remove what killed processes left of the functions above in a folder.

    The caller holds the lock under which files with these names are written in this folder.

    Args:
        folder: where to look.
        names: the names of the files that are written there, or patterns of them.

    Returns:
        The names of the removed files.

    Raises:
        OSError: the folder cannot be listed.
    """
    stems = "|".join(
        re.escape(name[:_LONGEST_STEM]) if isinstance(name, str) else name.pattern
        for name in (*names, "scratch")
    )
    ours = re.compile(rf"\.(?:{stems})\.[0-9a-f]{{12}}\.tmp").fullmatch
    removed = []
    for name in os.listdir(folder):
        if ours(name):
            with suppress(OSError):
                os.unlink(folder / name)
                removed.append(name)
    return removed
