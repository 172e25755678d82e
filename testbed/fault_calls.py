"""File-system calls of runicorn that fail on purpose: the n-th one, once or from then on.

    with FaultyCalls() as calls:            # counts
        sync()
    for nth, call in enumerate(calls.seen, 1):
        for error in call.errors:
            with FaultyCalls(nth, error):   # fails
                sync()

Only calls from the code of runicorn count, those that it makes through the standard library and `filelock`
included. What C code does, as SQLite's, is not seen here.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import errno
import fcntl
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple, cast
from unittest import mock

import runicorn
from runicorn.remote_storage import durability

SHORT = "SHORT"
"""Not an error: half of what was asked for is read or written."""

_PACKAGE = f"{Path(runicorn.__file__).parent}/"
_LIBRARY = f"{Path(os.__file__).parent}/"
_PASSED_ON = {"os", "pathlib", "tempfile", "shutil", "genericpath", "posixpath", "contextlib", "gzip"}
_MAY_VANISH = ("manifest/", "remote_storage/transport/")
"""What reads a root: there training scripts remove files at any time. In a mirror it would be a lie."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NO_ROOM = ("ENOSPC", "EDQUOT")

ERRORS: dict[str, tuple[str, ...]] = {
    "open": ("EACCES", "EMFILE", "EIO", "ENOENT"),
    "open to write": ("EACCES", "EMFILE", "EIO", *_NO_ROOM, "EROFS", "ENOENT"),
    "read": ("EIO", SHORT),
    "pread": ("EIO", SHORT),
    "write": (*_NO_ROOM, "EIO", SHORT),
    "pwrite": (*_NO_ROOM, "EIO", SHORT),
    "stream.read": ("EIO", SHORT),
    "stream.write": (*_NO_ROOM, "EIO", SHORT),
    "fsync": ("EIO", *_NO_ROOM),
    "syncfs": ("EIO", *_NO_ROOM),
    "ftruncate": ("EIO", "EROFS"),
    "close": ("EIO",),
    "lseek": ("EIO",),
    "dup": ("EMFILE",),
    "pipe": ("EMFILE",),
    "stat": ("EACCES", "EIO", "ENOENT"),
    "lstat": ("EACCES", "EIO", "ENOENT"),
    "fstat": ("EIO",),
    "entry.stat": ("EACCES", "EIO", "ENOENT"),
    "fstatvfs": ("EIO",),
    "access": (),
    "scandir": ("EACCES", "EMFILE", "EIO", "ENOENT"),
    "listdir": ("EACCES", "EMFILE", "EIO", "ENOENT"),
    "readdir": ("EIO",),
    "mkdir": ("EACCES", "EROFS", *_NO_ROOM, "EIO"),
    "rmdir": ("EACCES", "EROFS", "EIO"),
    "rename": ("EACCES", "EROFS", *_NO_ROOM, "EIO", "ENOENT"),
    "replace": ("EACCES", "EROFS", *_NO_ROOM, "EIO", "ENOENT"),
    "link": ("EACCES", "EROFS", *_NO_ROOM, "EIO"),
    "unlink": ("EACCES", "EROFS", "EIO"),
    "utime": ("EACCES", "EROFS", "EIO"),
    "fchmod": ("EPERM", "EROFS", "EIO"),
    "chown": ("EPERM", "EROFS", "EIO"),
    "getxattr": ("EIO",),
    "removexattr": ("EACCES", "EIO"),
    "flock": ("ENOLCK",),
}
"""What each call can fail with. EINTR is not among it: Python itself does such a call again."""


class Call(NamedTuple):
    """One call.

    Attributes:
        name: of the function.
        site: file and line of runicorn from which it came.
        errors: what it can fail with.
    """

    name: str
    site: str
    errors: tuple[str, ...]

    @property
    def is_of_the_source(self) -> bool:
        """Whether it reads the root of a sync from a local folder, in the place of a server."""
        return "/transport/" in self.site


class FaultyCalls:
    """Context manager: counts the calls of runicorn, and lets the ``nth`` (from 1) fail with ``error``.

    Args:
        nth: 0 for none.
        error: name of an errno, or SHORT.
        forever: whether all later calls that can fail with this error do so, too.

    Attributes:
        seen: all calls so far, in order.
        failed: those that failed.
    """

    def __init__(self, nth: int = 0, error: str = "EIO", *, forever: bool = False) -> None:
        self._nth = nth
        self._error = error
        self._forever = forever
        self.seen: list[Call] = []
        self.failed: list[Call] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> FaultyCalls:
        with contextlib.ExitStack() as stack:
            for name in ERRORS:
                if hasattr(os, name) and name not in ("open", "scandir"):
                    stack.enter_context(mock.patch.object(os, name, self._wrapped(name, getattr(os, name))))
            stack.enter_context(mock.patch.object(fcntl, "flock", self._wrapped("flock", fcntl.flock)))
            stack.enter_context(mock.patch.object(os, "open", self._opening(os.open)))
            stack.enter_context(mock.patch.object(os, "scandir", self._scanning(os.scandir)))
            streams = self._streaming(io.open)
            stack.enter_context(mock.patch.object(io, "open", streams))
            stack.enter_context(mock.patch.object(builtins, "open", streams))
            if durability._SYNCFS is not None:
                syncfs = self._syncing(durability._SYNCFS)
                stack.enter_context(mock.patch.object(durability, "_SYNCFS", syncfs))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def take(self, name: str, site: str, errors: tuple[str, ...] | None = None) -> str | None:
        """Count a call; gives what it fails with, or None."""
        errors = ERRORS[name] if errors is None else errors
        if not site.startswith(_MAY_VANISH):
            errors = tuple(each for each in errors if each != "ENOENT")
        call = Call(name, site, errors)
        self.seen.append(call)
        number = len(self.seen)
        is_due = number == self._nth or (self._forever and 0 < self._nth < number)
        if not is_due or self._error not in call.errors:
            return None
        self.failed.append(call)
        return self._error

    # -- what stands in for the functions --------------------------------------------------

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            site = site_of(sys._getframe(1))
            found = self.take(name, site, _errors_of(name, args)) if site else None
            if found is None:
                return real(*args, **options)
            if found == SHORT:
                return _half(name, real, args)
            if name == "close":
                real(*args)  # Linux closes it whatever it answers
            raise _error_of(found, args)

        return call

    def _opening(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, *args: Any, **options: Any) -> int:
            site = site_of(sys._getframe(1))
            writing = flags & _WRITING or flags & os.O_TMPFILE == os.O_TMPFILE
            found = self.take("open", site, ERRORS["open to write" if writing else "open"]) if site else None
            if found is not None:
                raise _error_of(found, (path,))
            return real(path, flags, *args, **options)

        return call

    def _scanning(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            site = site_of(sys._getframe(1))
            if not site:
                return real(*args)
            found = self.take("scandir", site)
            if found is not None:
                raise _error_of(found, args)
            return _Names(self, site, real(*args))

        return call

    def _streaming(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            site = site_of(sys._getframe(1))
            if not site:
                return real(file, mode, *args, **options)
            opener = options.get("opener")
            if not isinstance(file, int) and opener is None:
                writing = set(mode) & set("wax+")
                found = self.take("open", site, ERRORS["open to write" if writing else "open"])
                if found is not None:
                    raise _error_of(found, (file,))
            raw = _Raw(self, site, file, mode.replace("b", "").replace("t", ""), opener)
            return _buffered(raw, mode, options)

        return call

    def _syncing(self, real: Any) -> Callable[[int], int]:
        def call(fd: int) -> int:
            site = site_of(sys._getframe(1))
            found = self.take("syncfs", site) if site else None
            if found is None:
                return cast(int, real(fd))
            ctypes.set_errno(getattr(errno, found))
            return -1

        return call


def site_of(frame: FrameType | None) -> str:
    """The place in runicorn from which a call came, maybe through the standard library; else empty."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE):
            return f"{name[len(_PACKAGE) :]}:{frame.f_lineno}"
        if not _is_passed_on(name):
            return ""
        frame = frame.f_back
    return ""


def _is_passed_on(name: str) -> bool:
    if "/filelock/" in name:
        return True
    module = name[len("<frozen ") : -1] if name.startswith("<frozen ") else name.removeprefix(_LIBRARY)
    return module.partition(".")[0] in _PASSED_ON


def _errors_of(name: str, args: tuple[Any, ...]) -> tuple[str, ...] | None:
    """What this very call can fail with, when that is not what others of its name can.

    Closing fails only where something was written: a file system over a network tells it that late. A pipe
    or a socket fails otherwise than a disk.
    """
    if name == "close":
        return None if _is_written(args[0]) else ()
    if name in ("read", "write") and not stat.S_ISREG(os.fstat(args[0]).st_mode):
        return () if stat.S_ISFIFO(os.fstat(args[0]).st_mode) else ("ECONNRESET", SHORT)
    return None


def _is_written(fd: int) -> bool:
    flags: int = fcntl.fcntl(fd, fcntl.F_GETFL)
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) and stat.S_ISREG(os.fstat(fd).st_mode)


def _error_of(name: str, args: tuple[Any, ...]) -> OSError:
    number = getattr(errno, name)
    path = args[0] if args and isinstance(args[0], str | bytes | os.PathLike) else None
    return OSError(number, os.strerror(number), *([] if path is None else [os.fspath(path)]))


def _half(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    fd, what, *rest = args
    if name in ("read", "pread"):
        return real(fd, max(1, what // 2), *rest)
    view = memoryview(what)
    return real(fd, view[: max(1, len(view) // 2)], *rest)


def _buffered(raw: _Raw, mode: str, options: dict[str, Any]) -> Any:
    if "+" in mode:
        stream: Any = io.BufferedRandom(raw)
    elif raw.writable():
        stream = io.BufferedWriter(raw)
    else:
        stream = io.BufferedReader(raw)
    if "b" in mode:
        return stream
    encoding, errors, newline = (options.get(key) for key in ("encoding", "errors", "newline"))
    return io.TextIOWrapper(stream, encoding, errors, newline)


class _Raw(io.FileIO):
    """A stream whose reads and writes count."""

    def __init__(self, calls: FaultyCalls, site: str, file: Any, mode: str, opener: Any) -> None:
        self._calls = calls
        self._site = site
        super().__init__(file, mode, opener=opener)

    def _found(self, name: str) -> str | None:
        site = site_of(sys._getframe(2))
        found = self._calls.take(name, site or self._site)
        if found not in (None, SHORT):
            raise _error_of(str(found), ())
        return found

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        if self._found("stream.write"):
            view = view[: max(1, len(view) // 2)]
        return super().write(view)

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        if self._found("stream.read"):
            view = view[: max(1, len(view) // 2)]
        return cast(int, super().readinto(view))

    def readall(self) -> bytes:
        self._found("stream.read")
        return super().readall()


class _Names:
    """What `os.scandir` gives."""

    def __init__(self, calls: FaultyCalls, site: str, real: Any) -> None:
        self._calls = calls
        self._site = site
        self._real = real

    def __enter__(self) -> _Names:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[_Entry]:
        return self

    def __next__(self) -> _Entry:
        found = self._calls.take("readdir", self._site)
        if found is not None:
            self.close()
            raise _error_of(found, ())
        return _Entry(self._calls, next(self._real))

    def close(self) -> None:
        """Give up the folder."""
        self._real.close()


class _Entry:
    """An `os.DirEntry` whose looks count."""

    def __init__(self, calls: FaultyCalls, real: os.DirEntry[Any]) -> None:
        self._calls = calls
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __fspath__(self) -> Any:
        return self._real.path

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As of `os.DirEntry`."""
        site = site_of(sys._getframe(1))
        found = self._calls.take("entry.stat", site) if site else None
        if found is not None:
            raise _error_of(found, (self._real.path,))
        return self._real.stat(follow_symlinks=follow_symlinks)
