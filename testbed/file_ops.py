"""Operations of a process on the files below a folder, read from what `strace` wrote of its system calls."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CALLS = (
    "openat,open,write,pwrite64,lseek,ftruncate,fsync,fdatasync,syncfs,rename,renameat,renameat2"
    ",unlink,unlinkat,rmdir,mkdir,mkdirat,utimensat,fallocate,link,linkat,copy_file_range,sendfile,writev"
    ",pwritev,pwritev2,truncate,creat,fstat,newfstatat"
)

_LINE = re.compile(rb"(\d+) +(?:<\.\.\. (\w+) resumed>)?(.*)")
_CALL = re.compile(rb"(\w+)\((.*)\) += (-?\d+)(?:<(.*?)>)?(?: .*)?")
_UNFINISHED = b" <unfinished ...>"


class Op(NamedTuple):
    """One operation of the recorded process.

    Attributes:
        call: name of the system call, without the letters that tell its form.
        path: of the file or folder, relative to the recorded folder.
        other: of a rename: its new path; empty when that is outside.
        offset: of a write, or the new length.
        data: of a write.
        time: nanoseconds since the epoch.
        began: how many operations had ended when it began.
        number: of the inode, where the process asked for it.
    """

    call: str
    path: str
    other: str = ""
    offset: int = 0
    data: bytes = b""
    time: int = 0
    began: int = 0
    number: int = 0


class _Began(NamedTuple):
    text: bytes
    moment: int


def read_ops(trace: Path, folder: Path) -> Iterator[Op]:
    """The operations below a folder, in the order in which they ended.

    Args:
        trace: what `strace -f -y -v -xx` wrote of `CALLS`.
        folder: the folder.

    Raises:
        AssertionError: one of them is not modelled.
    """
    reader = _Reader(os.fsencode(folder.resolve()))
    began: dict[bytes, _Began] = {}
    done = 0
    with trace.open("rb") as lines:
        for line in lines:
            found = _LINE.fullmatch(line.rstrip(b"\n"))
            if found is None:
                continue
            pid, resumed, text = found.groups()
            if text.endswith(_UNFINISHED):
                began[pid] = _Began(text[: -len(_UNFINISHED)], done)
                continue
            moment = done
            if resumed:
                first = began.pop(pid)
                text, moment = first.text + text, first.moment
            op = reader.read(text)
            if op is not None:
                yield op._replace(began=moment)
                done += 1


class _Reader:
    """Makes operations of the lines of a trace."""

    def __init__(self, folder: bytes) -> None:
        self._folder = folder
        self._position: dict[bytes, int] = {}
        self._appends: set[bytes] = set()
        self._sizes: dict[str, int] = {}

    def read(self, text: bytes) -> Op | None:
        found = _CALL.fullmatch(text.strip())
        if found is None:
            return None
        call, inside, result, made = found.groups()
        if int(result) < 0:
            return None
        arguments = _split(inside)
        read = getattr(self, "_" + call.decode(), None)
        if read is None:
            paths = [path for path in map(self._relative, map(_plain, arguments)) if path is not None]
            assert not paths, f"{call.decode()} is not modelled: {paths}"
            return None
        op: Op | None = read(arguments, int(result), made)
        return op

    def _relative(self, path: bytes) -> str | None:
        if path == self._folder:
            return ""
        inside = path.startswith(self._folder + b"/") and not path.endswith(b" (deleted)")
        return os.fsdecode(path[len(self._folder) + 1 :]) if inside else None

    def _at(self, folder: bytes, name: bytes) -> str | None:
        path = _string(name)
        return self._relative(path if path.startswith(b"/") else _plain(folder) + b"/" + path)

    def _of(self, handle: bytes) -> str | None:
        return self._relative(_plain(handle))

    # -- one for each call -----------------------------------------------------------------

    def _openat(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        del made
        flags = arguments[2]
        handle = b"%d" % result
        self._position[handle] = 0
        self._appends.discard(handle)
        if b"O_APPEND" in flags:
            self._appends.add(handle)
        path = self._at(arguments[0], arguments[1])
        if path is None or b"O_TMPFILE" in flags:
            return None
        if b"O_TRUNC" in flags:
            assert b"O_CREAT" not in flags, (
                f"{path}: a file that is emptied when it is opened is not modelled"
            )
            return Op("ftruncate", path)
        return Op("create", path) if b"O_CREAT" in flags else None

    def _open(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        return self._openat([b"", *arguments], result, made)

    def _lseek(self, arguments: list[bytes], result: int, made: bytes | None) -> None:
        del made
        self._position[_handle(arguments[0])] = result

    def _write(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        del made
        path, handle = self._of(arguments[0]), _handle(arguments[0])
        if path is None:
            return None
        at = self._sizes.get(path, -1) if handle in self._appends else self._position.get(handle, 0)
        assert at >= 0, f"{path}: nobody knows where it ends"
        self._position[handle] = at + result
        return self._written(path, at, _string(arguments[1])[:result])

    def _pwrite64(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        del made
        path = self._of(arguments[0])
        return (
            None if path is None else self._written(path, int(arguments[3]), _string(arguments[1])[:result])
        )

    def _written(self, path: str, at: int, data: bytes) -> Op:
        self._sizes[path] = max(self._sizes.get(path, 0), at + len(data))
        return Op("write", path, offset=at, data=data)

    def _ftruncate(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        del result, made
        path = self._of(arguments[0])
        if path is None:
            return None
        self._sizes[path] = int(arguments[1])
        return Op("ftruncate", path, offset=int(arguments[1]))

    def _fsync(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        del result, made
        path = self._of(arguments[0])
        return None if path is None else Op("fsync", path)

    _fdatasync = _fsync

    def _syncfs(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        del result, made
        path = self._of(arguments[0])
        return None if path is None else Op("syncfs", path)

    def _fstat(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        del result, made
        path = self._of(arguments[0])
        number = re.search(rb"st_ino=(\d+)", b",".join(arguments[1:]))
        size = re.search(rb"st_size=(\d+)", b",".join(arguments[1:]))
        if path is None or number is None:
            return None
        if size is not None:
            self._sizes[path] = int(size.group(1))
        return Op("fstat", path, number=int(number.group(1)))

    def _newfstatat(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        if arguments[1] == b'""':
            return self._fstat([arguments[0], *arguments[2:]], result, made)
        path = self._at(*arguments[:2])
        number = re.search(rb"st_ino=(\d+)", b",".join(arguments[2:]))
        return Op("fstat", path, number=int(number.group(1))) if path and number else None

    def _renameat(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        del result, made
        old, new = self._at(*arguments[:2]), self._at(*arguments[2:4])
        assert (old is None) == (new is None), f"{old} -> {new}: a rename out of the folder or into it"
        return None if old is None or new is None else Op("rename", old, new)

    _renameat2 = _renameat

    def _rename(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        return self._renameat([b"", arguments[0], b"", arguments[1]], result, made)

    def _unlinkat(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        del result, made
        path = self._at(*arguments[:2])
        return None if path is None else Op("unlink", path)

    def _unlink(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        return self._unlinkat([b"", *arguments], result, made)

    _rmdir = _unlink

    def _mkdirat(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        del result, made
        path = self._at(*arguments[:2])
        return Op("mkdir", path) if path else None

    def _mkdir(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        return self._mkdirat([b"", *arguments], result, made)

    def _utimensat(self, arguments: list[bytes], result: int, made: bytes | None) -> Op | None:
        del result, made
        named = arguments[1] not in (b"NULL",)
        path = self._at(*arguments[:2]) if named else self._of(arguments[0])
        times = re.findall(rb"tv_sec=(\d+), tv_nsec=(\d+)", b", ".join(arguments[2:]))
        if path is None or len(times) < 2:
            return None
        return Op("utimensat", path, time=int(times[1][0]) * 10**9 + int(times[1][1]))


def _split(text: bytes) -> list[bytes]:
    """The arguments of a call; commas within brackets stay. All text is in hex, so nothing else has any."""
    found, depth, start = [], 0, 0
    for match in re.finditer(rb"[\[{(,)}\]]", text):
        sign = match.group()
        if sign in b"[{(":
            depth += 1
        elif sign in b")}]":
            depth -= 1
        elif depth == 0:
            found.append(text[start : match.start()].strip())
            start = match.end()
    return [*found, text[start:].strip()]


def _string(argument: bytes) -> bytes:
    return bytes.fromhex(argument.strip(b'"').replace(b"\\x", b"").decode())


def _handle(argument: bytes) -> bytes:
    return argument.partition(b"<")[0]


def _plain(argument: bytes) -> bytes:
    """The path of a handle; empty when it has none."""
    found = re.fullmatch(rb"[^<]*<((?:\\x[0-9a-f]{2})+)>(\(deleted\))?", argument)
    if found is None:
        return b""
    return _string(found.group(1)) + (b" (deleted)" if found.group(2) else b"")
