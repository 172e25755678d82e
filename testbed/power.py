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
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from testbed.file_ops import CALLS, Op, read_ops

BARRIERS = ("fsync", "fdatasync", "syncfs")
SECTOR, PAGE = 512, 4096
LONGEST = 120.0
"""Seconds that a command may take."""

_LOST_NAMES = re.compile(rb"-shm$")


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
    return Recording(before, [*read_ops(trace, folder)])
