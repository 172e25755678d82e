"""A folder of this machine in the part of a server."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from runicorn.errors import ConnectError, RequestError
from runicorn.remote_storage.transport import wire
from runicorn.remote_storage.transport.base import (
    Answer,
    Attributes,
    Close,
    DirectoryEntry,
    Fstat,
    Handle,
    Job,
    Open,
    OpenDir,
    Operation,
    Read,
    Stat,
    Traffic,
    Transport,
)
from runicorn.remote_storage.transport.wire import StatusCode

_NAMES_AT_ONCE: Final = 100
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CODES: Final = {
    errno.ENOENT: StatusCode.NO_SUCH_FILE,
    errno.ENOTDIR: StatusCode.NO_SUCH_FILE,
    errno.EACCES: StatusCode.PERMISSION_DENIED,
    errno.EPERM: StatusCode.PERMISSION_DENIED,
}


class _OpenFile:
    def __init__(self, fd: int, path: str, *, keep: bool) -> None:
        self.fd = fd
        self.path = path
        self.keep = keep
        self._names: Iterator[os.DirEntry[str]] | None = None
        self._stack = contextlib.ExitStack()
        self._stack.callback(os.close, fd)

    def names(self) -> Iterator[os.DirEntry[str]]:
        if self._names is None:
            self._names = self._stack.enter_context(os.scandir(self.fd))
        return self._names

    def close(self) -> None:
        self._stack.close()


class LocalTransport:
    """A `Transport` that runs its jobs, one after the other, against the local file system.

    Files are opened without following a link in the last part of their path, and only if they are
    regular. Handles are numbers of this transport, never file descriptors.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        """``root`` is where relative paths start; None = the current folder."""
        self._root = os.fspath(root) if root is not None else ""
        self._open: dict[bytes, _OpenFile] = {}
        self._count = 0
        self._requests = 0
        self._received = 0
        self._closed = False

    @property
    def traffic(self) -> Traffic:
        """Operations done and file bytes read; nothing is sent."""
        return Traffic(self._requests, self._received, 0)

    def run(self, jobs: Iterable[Job]) -> None:
        """See `Transport.run`.

        Raises:
            ConnectError: the transport is closed.
        """
        if self._closed:
            raise ConnectError("the connection is closed")
        try:
            for job in jobs:
                try:
                    self._run(job)
                finally:
                    job.close()
                    self._close_unkept()
        except BaseException:
            self._close_all()
            raise

    def open_more(self, count: int) -> list[Transport]:  # noqa: ARG002 - see `Transport`
        """None: more of them would read no faster."""
        return []

    def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        self._close_all()

    def _run(self, job: Job) -> None:
        try:
            batch = next(job)
            while True:
                batch = job.send(self._answers(batch))
        except StopIteration:
            return

    def _answers(self, batch: Sequence[Operation]) -> list[Answer]:
        return [self._answer(operation) for operation in batch]

    def _answer(self, operation: Operation) -> Answer:
        self._requests += 1
        path = operation.path if isinstance(operation, Open | OpenDir | Stat) else ""
        try:
            if isinstance(operation, Open | OpenDir | Stat):
                wire.encode_path(path)
                return self._by_path(operation)
            return self._by_handle(operation.handle, operation)
        except RequestError as error:
            return error
        except OSError as error:
            code = _CODES.get(error.errno or 0, StatusCode.FAILURE)
            return wire.request_error(code, error.strerror or type(error).__name__, path)

    def _by_path(self, operation: Open | OpenDir | Stat) -> Answer:
        path = os.path.join(self._root, operation.path)
        if isinstance(operation, Stat):
            return _attributes(os.stat(path))
        fd = os.open(path, _FILE_FLAGS if isinstance(operation, Open) else _FOLDER_FLAGS)
        try:
            if isinstance(operation, Open) and not stat.S_ISREG(os.fstat(fd).st_mode):
                raise wire.request_error(StatusCode.FAILURE, "not a regular file", operation.path)
        except (OSError, RequestError):
            os.close(fd)
            raise
        self._count += 1
        value = b"%d" % self._count
        keep = isinstance(operation, Open) and operation.keep
        self._open[value] = _OpenFile(fd, operation.path, keep=keep)
        return Handle(value)

    def _by_handle(self, handle: Handle, operation: Operation) -> Answer:
        if isinstance(operation, Close):
            closed = self._open.pop(handle.value, None)
            if closed is not None:
                closed.close()
            return None
        file = self._open.get(handle.value)
        if file is None:
            raise wire.request_error(StatusCode.FAILURE, "the handle is not open", "")
        if isinstance(operation, Read):
            return self._read(file, operation)
        if isinstance(operation, Fstat):
            return _attributes(os.fstat(file.fd))
        return _next_names(file.names())

    def _read(self, file: _OpenFile, read: Read) -> bytes:
        chunks: list[bytes] = []
        offset, left = read.offset, read.length
        while left > 0:
            chunk = os.pread(file.fd, left, offset)
            if not chunk:
                break
            chunks.append(chunk)
            offset += len(chunk)
            left -= len(chunk)
        data = b"".join(chunks)
        self._received += len(data)
        return data

    def _close_unkept(self) -> None:
        for value in [value for value, file in self._open.items() if not file.keep]:
            self._open.pop(value).close()

    def _close_all(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def _attributes(found: os.stat_result) -> Attributes:
    return Attributes(found.st_size, found.st_mode, found.st_mtime_ns // 1_000_000_000)


def _next_names(names: Iterator[os.DirEntry[str]]) -> tuple[DirectoryEntry, ...]:
    entries: list[DirectoryEntry] = []
    for name in names:
        try:
            attributes = _attributes(name.stat(follow_symlinks=False))
        except FileNotFoundError:
            continue
        except OSError:
            attributes = Attributes(None, None, None)
        entries.append(DirectoryEntry(name.name, attributes))
        if len(entries) == _NAMES_AT_ONCE:
            break
    return tuple(entries)
