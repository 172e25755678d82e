"""Power cuts: what a process writes below a folder is recorded, and a disk made of it that lost its power.

    recording = record(command, folder, trace)      # runs the command; the folder is as it leaves it
    cut = recording.cut(number, random.Random(1))   # the power fails after so many of its operations
    paths = cut.make(place)                         # a folder as the disk may hold it then

What is modelled is what POSIX promises, and no more. `fsync` of a file keeps its bytes and its time, not its
name; `fsync` of a folder keeps the names in it, not the files or folders that they lead to; `syncfs` keeps
all. Such a barrier covers what had ended before it began. Of all else any part may be there: each name of a
folder by itself, old or new (a rename is two of them: a name that goes, and a name that comes); of each file
any of the sectors or pages that were written, zeros in place of the others, and any length and time that it
had since. What the recorded process runs beside itself, by threads or processes, is part of it.

What is not modelled: a disk that lies about its barriers or spoils what it had; memory-mapped writes (only
SQLite's `-shm` has any, which is lost, as after any start of the system); access rights; hard links.
"""

from __future__ import annotations

import copy
import os
import random
import re
import shutil
import subprocess
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

CALLS = (
    "openat,open,write,pwrite64,lseek,ftruncate,fsync,fdatasync,syncfs,rename,renameat,renameat2"
    ",unlink,unlinkat,rmdir,mkdir,mkdirat,utimensat,fallocate,link,linkat,copy_file_range,sendfile,writev"
    ",pwritev,pwritev2,truncate,creat,fstat,newfstatat"
)
BARRIERS = ("fsync", "fdatasync", "syncfs")
SECTOR, PAGE = 512, 4096
LONGEST = 120.0
"""Seconds that a command may take."""

_LINE = re.compile(rb"(\d+) +(?:<\.\.\. (\w+) resumed>)?(.*)")
_CALL = re.compile(rb"(\w+)\((.*)\) += (-?\d+)(?:<(.*?)>)?(?: .*)?")
_UNFINISHED = b" <unfinished ...>"
_LOST_NAMES = re.compile(rb"-shm$")


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


# -- the disk ----------------------------------------------------------------------------------


@dataclass(eq=False)
class _Node:
    """A file or folder, and what became of it since the beginning.

    Attributes:
        number: the number of its inode while it was recorded; 0 when that is not known.
        content: of a file, at the beginning.
        time: of a file, at the beginning, nanoseconds.
        writes: of a file: what was done to it, and when.
        names: of a folder: what each name led to, and since when.
        synced: what was done before this moment is on disk.
    """

    is_folder: bool
    number: int = 0
    content: bytes = b""
    time: int = 0
    writes: list[tuple[int, Op]] = field(default_factory=list)
    names: dict[str, list[tuple[int, _Node | None]]] = field(default_factory=dict)
    synced: int = 0

    def now(self, name: str) -> _Node | None:
        """What a name leads to after all."""
        changes = self.names.get(name)
        return changes[-1][1] if changes else None

    def put(self, name: str, moment: int, node: _Node | None) -> None:
        """From a moment on a name leads elsewhere."""
        self.names.setdefault(name, []).append((moment, node))


class Disk:
    """A folder on a disk that knows what has reached it.

    Args:
        folder: as it is now, all of it on disk.
    """

    def __init__(self, folder: Path) -> None:
        self._nodes: list[_Node] = []
        self._moment = 0
        self.root = self._taken(folder) if folder.is_dir() else self._new(is_folder=True)

    def _new(self, *, is_folder: bool) -> _Node:
        node = _Node(is_folder)
        self._nodes.append(node)
        return node

    def _taken(self, path: Path) -> _Node:
        status = path.lstat()
        node = self._new(is_folder=path.is_dir())
        node.number, node.time = status.st_ino, status.st_mtime_ns
        if node.is_folder:
            for each in path.iterdir():
                node.put(each.name, -1, self._taken(each))
        else:
            node.content = path.read_bytes()
        return node

    def _found(self, path: str) -> _Node | None:
        node: _Node | None = self.root
        for name in path.split("/") if path else ():
            node = node.now(name) if node is not None else None
        return node

    def _parent(self, path: str) -> tuple[_Node, str]:
        folder, _, name = path.rpartition("/")
        parent = self._found(folder)
        assert parent is not None, f"{folder} is not known: the recording lacks something"
        return parent, name

    def do(self, op: Op) -> None:
        """The next operation."""
        moment, self._moment = self._moment, self._moment + 1
        if op.call == "syncfs":
            for each in self._nodes:
                each.synced = max(each.synced, op.began)
            return
        if op.call in ("mkdir", "create"):
            parent, name = self._parent(op.path)
            if parent.now(name) is None:
                parent.put(name, moment, self._new(is_folder=op.call == "mkdir"))
        elif op.call == "unlink":
            parent, name = self._parent(op.path)
            parent.put(name, moment, None)
        elif op.call == "rename":
            self._rename(op, moment)
        else:
            self._do_to_node(op, moment)

    def _rename(self, op: Op, moment: int) -> None:
        parent, name = self._parent(op.path)
        node = parent.now(name)
        target, new = self._parent(op.other)
        target.put(new, moment, node)
        parent.put(name, moment, None)

    def _do_to_node(self, op: Op, moment: int) -> None:
        node = self._found(op.path)
        if node is None:
            return  # it has no name any more, or never had one
        if op.call in BARRIERS:
            node.synced = max(node.synced, op.began)
        elif op.call == "fstat":
            node.number = op.number
        else:
            node.writes.append((moment, op))

    def cut(self, chance: random.Random) -> Cut:
        """What may be there when the power fails now."""
        return Cut(self._kept(self.root, chance))

    def seen(self) -> Cut:
        """What every process sees now, whether or not it is on disk."""
        for each in self._nodes:
            each.synced = self._moment
        return self.cut(random.Random(0))

    def _kept(self, node: _Node, chance: random.Random) -> Kept:
        if not node.is_folder:
            return _kept_content(node, chance)
        inside: dict[str, Kept] = {}
        luck = chance.choice((0.0, 0.5, 1.0))
        for name, changes in node.names.items():
            kept = sum(1 for moment, _ in changes if moment < node.synced)
            while kept < len(changes) and chance.random() < luck:
                kept += 1
            target = changes[kept - 1][1] if kept else None
            if target is not None and not _LOST_NAMES.search(os.fsencode(name)):
                inside[name] = self._kept(target, chance)
        return Kept(node.number, inside=inside)


def _kept_content(node: _Node, chance: random.Random) -> Kept:
    content, time = bytearray(node.content), node.time
    sizes, times = [len(content)], [time]
    luck, step = chance.choice((0.0, 0.5, 0.9, 1.0)), chance.choice((SECTOR, PAGE))
    in_order = chance.random() < 0.3
    size = synced = len(content)
    for moment, op in node.writes:
        if moment < node.synced:
            time = _do_all(content, op) or time
            size, sizes, times = len(content), [len(content)], [time]
            synced = size
            continue
        if op.call == "utimensat":
            times.append(op.time)
        elif op.call == "ftruncate":
            size = op.offset
        else:
            size = max(size, op.offset + len(op.data))
            _do_part(content, op, step, luck, chance)
        sizes.append(size)
    size = sizes[-1] if in_order else chance.choice(sizes)
    del content[size:]
    content.extend(bytes(size - len(content)))
    return Kept(node.number, bytes(content), times[-1] if in_order else chance.choice(times), synced)


def _do_all(content: bytearray, op: Op) -> int:
    """All of an operation; the time that it sets, or 0."""
    if op.call == "utimensat":
        return op.time
    if op.call == "ftruncate":
        del content[op.offset :]
        content.extend(bytes(op.offset - len(content)))
        return 0
    content.extend(bytes(max(0, op.offset + len(op.data) - len(content))))
    content[op.offset : op.offset + len(op.data)] = op.data
    return 0


def _do_part(content: bytearray, op: Op, step: int, luck: float, chance: random.Random) -> None:
    """Some of the sectors or pages of a write."""
    at, end = op.offset, op.offset + len(op.data)
    while at < end:
        after = min(end, (at // step + 1) * step)
        if chance.random() < luck:
            part = op.data[at - op.offset : after - op.offset]
            _do_all(content, op._replace(call="write", offset=at, data=part))
        at = after


class Kept(NamedTuple):
    """A file or folder that was kept.

    Attributes:
        number: of its inode, while it was recorded; 0 when that is not known.
        content: of a file.
        time: of a file, nanoseconds since the epoch.
        synced: of a file: so many bytes, if it has as many, are what a barrier has put on disk.
        inside: of a folder.
    """

    number: int
    content: bytes = b""
    time: int = 0
    synced: int = 0
    inside: dict[str, Kept] | None = None


class Cut(NamedTuple):
    """What a disk held when it lost its power."""

    root: Kept

    def make(self, place: Path) -> dict[str, Kept]:
        """Make it in a folder that is not there; gives the files by their paths."""
        files: dict[str, Kept] = {}
        _make(self.root, place, "", files)
        return files


def _make(kept: Kept, place: Path, path: str, files: dict[str, Kept]) -> None:
    if kept.inside is None:
        place.write_bytes(kept.content)
        os.utime(place, ns=(kept.time, kept.time))
        files[path] = kept
        return
    place.mkdir()
    for name, each in kept.inside.items():
        _make(each, place / name, f"{path}/{name}" if path else name, files)


# -- the recording -----------------------------------------------------------------------------


@dataclass
class Recording:
    """What a process did below a folder.

    Attributes:
        before: a copy of the folder as it was, with the numbers of its inodes as they were.
        ops: what was done, in order.
    """

    before: Disk
    ops: list[Op]

    def cut(self, number: int, chance: random.Random) -> Cut:
        """What may be there when the power fails after so many operations."""
        return self.after(number).cut(chance)

    def after(self, number: int) -> Disk:
        """The disk after so many operations."""
        disk = copy.deepcopy(self.before)
        for op in self.ops[:number]:
            disk.do(op)
        return disk

    def then(self, later: Recording) -> Recording:
        """This recording, and one that was made after it of the same folder."""
        shift = len(self.ops)
        return Recording(self.before, [*self.ops, *(op._replace(began=op.began + shift) for op in later.ops)])


def record(
    command: Sequence[str],
    folder: Path,
    trace: Path,
    env: Mapping[str, str] | None = None,
    codes: Container[int] = (0,),
) -> Recording:
    """Run a command to its end, and record what it does below a folder.

    Args:
        command: the command.
        folder: the folder; it may be missing yet.
        trace: a file for the trace.
        env: the environment of the command.
        codes: with which of these exit codes it has to end.

    Raises:
        RuntimeError: it failed.
    """
    before = Disk(folder)
    tracer = shutil.which("strace")
    assert tracer is not None, "strace is not installed: scripts/setup.sh all"
    options = ["-f", "-y", "-v", "-xx", "-s", str(2**24), "-e", "signal=none", "-e", f"trace={CALLS}"]
    with subprocess.Popen(
        [tracer, *options, "-o", str(trace), *command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        said, _ = process.communicate(timeout=LONGEST)
    if process.returncode not in codes:
        raise RuntimeError(f"exit code {process.returncode}: {said.decode(errors='replace')}")
    return Recording(before, [*_ops(trace, folder)])


class _Began(NamedTuple):
    text: bytes
    moment: int


def _ops(trace: Path, folder: Path) -> Iterator[Op]:
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
