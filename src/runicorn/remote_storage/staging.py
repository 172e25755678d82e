"""Files of the mirror that are being written: staged ones, and what their completion takes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from runicorn.remote_storage.folders import FOLDER_FLAGS
from runicorn.remote_storage.known import LocalFile

FILE_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""No link is followed, and nothing that is no regular file makes anybody wait."""

_TRIES = 100


def signature_of(status: os.stat_result) -> LocalFile:
    """What a file looks like, from what the system says of it."""
    return LocalFile(status.st_size, status.st_mtime_ns, status.st_ino)


class StagedFile:
    """A file that has no name in the mirror yet. It is open only while it is worked on: hundreds of
    downloads may be under way at once."""

    def __init__(self, folder_fd: int, name: str) -> None:
        self._folder_fd = folder_fd
        self.name = name

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """The file, open for reading and writing."""
        fd = self.open()
        try:
            yield fd
        finally:
            os.close(fd)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return os.stat(self.name, dir_fd=self._folder_fd, follow_symlinks=False).st_size

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset`` (bytes)."""
        with self.opened() as fd:
            write_all(fd, data, offset)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes written before; fewer at the end."""
        with self.opened() as fd:
            return os.pread(fd, length, offset)

    def cut(self, size: int) -> None:
        """Forget what lies behind ``size`` bytes."""
        with self.opened() as fd:
            os.ftruncate(fd, size)

    def open(self) -> int:
        """The file, open for reading and writing; the caller closes it."""
        return os.open(self.name, os.O_RDWR | FILE_FLAGS, dir_fd=self._folder_fd)

    def finish(self, mtime_ns: int) -> LocalFile:
        """Give it its time (nanoseconds since the epoch), and say what it will look like in the mirror."""
        with self.opened() as fd:
            return finish_file(fd, mtime_ns)

    def discard(self) -> None:
        """Remove it."""
        try:
            os.unlink(self.name, dir_fd=self._folder_fd)
        except FileNotFoundError:
            return


def stage_file(folder_fd: int, name: str, data: bytes | memoryview, mtime_ns: int) -> LocalFile:
    """Make a staged file that is complete.

    Args:
        folder_fd: open folder for staged files.
        name: its name there, which is free.
        data: its content.
        mtime_ns: its time of last change, nanoseconds since the epoch.

    Returns:
        What it will look like in the mirror.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | FILE_FLAGS, 0o666, dir_fd=folder_fd)
    try:
        try:
            write_all(fd, data, 0)
            return finish_file(fd, mtime_ns)
        finally:
            os.close(fd)
    except BaseException:
        with contextlib.suppress(OSError):  # why it could not be written says more
            os.unlink(name, dir_fd=folder_fd)
        raise


def discard_folder(staging_fd: int, name: str) -> None:
    """Remove a folder of staged files, by its name in the folder for staged files, when it is there.

    A helper of a sync that was killed may still put files into it; without its folder it puts no more
    anywhere. The folder stays when that goes on.

    Raises:
        OSError: it cannot be removed, or is no folder.
    """
    try:
        fd = os.open(name, FOLDER_FLAGS, dir_fd=staging_fd)
    except FileNotFoundError:
        return
    try:
        for _ in range(_TRIES):
            for each in os.listdir(fd):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(each, dir_fd=fd)
            try:
                os.rmdir(name, dir_fd=staging_fd)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return
    finally:
        os.close(fd)


def finish_file(fd: int, mtime_ns: int) -> LocalFile:
    """Set the time of an open file that is complete, and say what it looks like now."""
    os.utime(fd, ns=(mtime_ns, mtime_ns))
    return signature_of(os.fstat(fd))


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset`` (bytes) of an open file."""
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], offset + done)
