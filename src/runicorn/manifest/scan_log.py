"""Reading a log for its digests, and for what it has grown by: in one pass.

The *boundary* of a log is the offset behind its last newline, or its size when its run has ended: up to there
the journal carries it. While the old part stays, the boundary never goes back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher, Mark, block_digest
from runicorn.manifest.rights import ALONE, READ, Audience
from runicorn.manifest.scan_read import CARRY_LIMIT, Unsettled, feed, no_beat, opened, settled


class Boundary(NamedTuple):
    """Up to where a log is carried, and the block digest (hex) of that part."""

    offset: int
    digest: str


START = Boundary(0, block_digest(BlockHasher().hashes()))


class KnownLog(NamedTuple):
    """What an earlier scan knew of a log.

    Attributes:
        inode: its inode.
        size: bytes.
        hashes: of all its blocks.
        boundary: up to where it was carried.
    """

    inode: int
    size: int
    hashes: Sequence[bytes]
    boundary: Boundary


class Wanted(NamedTuple):
    """How a log is to be read.

    Attributes:
        known: what an earlier scan knew.
        trusting: whether that may spare reading the log from its start.
        ended: whether its run has ended.
        keep: whether the bytes that the journal carries are wanted.
        audience: who may read the journal.
        beat: called again and again while it is read.
    """

    known: KnownLog | None = None
    trusting: bool = True
    ended: bool = False
    keep: bool = False
    audience: Audience = ALONE
    beat: Callable[[], None] = no_beat


class LogContent(NamedTuple):
    """A log as it was read.

    Attributes:
        status: what the system said when it was opened.
        hashes: of all its blocks.
        whole: whether all of them were made anew.
        read: bytes that were read.
        shown: whether the audience may read it.
        boundary: up to where it is carried.
        start: from where it is carried: the old boundary when the old part is proven to be there still.
        data: the bytes from ``start`` to the boundary; None when they are not wanted or too many.
        torn: whether it is seen to end within a record.
    """

    status: os.stat_result
    hashes: list[bytes]
    whole: bool
    read: int
    shown: bool
    boundary: Boundary
    start: int
    data: bytes | None
    torn: bool


class _Window:
    """The first bytes of a log behind some offset, `CARRY_LIMIT` at most."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def take(self, offset: int, data: bytes) -> None:
        """Take the bytes of the log at an offset."""
        first = max(0, self.start - offset)
        if offset <= self.start + self._size and first < len(data) and self._size < CARRY_LIMIT:
            part = memoryview(data)[first : first + CARRY_LIMIT - self._size]
            self._parts.append(data if len(part) == len(data) else bytes(part))
            self._size += len(part)

    def up_to(self, end: int) -> bytes | None:
        """The bytes from the start to an offset, if there are not too many."""
        size = end - self.start
        return b"".join(self._parts)[:size] if size <= self._size else None


class _Pass:
    """One attempt to read a log."""

    def __init__(self, fd: int, size: int, wanted: Wanted) -> None:
        self._fd = fd
        self._size = size
        self._wanted = wanted
        self._known = wanted.known
        self._newline: Mark | None = None
        self._hasher = BlockHasher()
        self._windows: list[_Window] = []
        self._old_part_stays = False
        self.read = 0
        self.whole = True

    def run(self, inode: int) -> None:
        """Read what has to be read.

        Raises:
            Unsettled: the log shrank meanwhile.
        """
        known = self._known
        if known is not None and self._wanted.trusting and inode == known.inode and self._size > known.size:
            self._from_last_block(known)
        if not self._old_part_stays:
            self._from_start()
        self._feed(self._size - self._hasher.size)

    def _from_last_block(self, known: KnownLog) -> None:
        start = (len(known.hashes) - 1) * BLOCK_SIZE
        self._hasher = BlockHasher(known.hashes[:-1])
        self._watch(known.boundary.offset)
        near = self._windows and known.size - known.boundary.offset <= CARRY_LIMIT
        if near and known.boundary.offset < start:
            os.lseek(self._fd, known.boundary.offset, os.SEEK_SET)
            self._gather(known.boundary.offset, start - known.boundary.offset)
        os.lseek(self._fd, start, os.SEEK_SET)
        self._feed(known.size - start)
        self._old_part_stays = self._hasher.hashes()[-1] == known.hashes[-1]
        self.whole = not self._old_part_stays

    def _from_start(self) -> None:
        known = self._known
        self._hasher = BlockHasher()
        self._windows.clear()
        self._newline = None
        self._watch(0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        if known is None or self._size < known.size:
            return
        if known.boundary.offset:
            self._watch(known.boundary.offset)
        self._feed(known.size)
        self._old_part_stays = self._hasher.hashes() == list(known.hashes)

    def _watch(self, start: int) -> None:
        if self._wanted.keep:
            self._windows.append(_Window(start))

    def _gather(self, offset: int, size: int) -> None:
        def take(data: bytes) -> None:
            nonlocal offset
            self._windows[0].take(offset, data)
            offset += len(data)

        feed(self._fd, size, take)
        self.read += size

    def _feed(self, size: int) -> None:
        feed(self._fd, size, self._take, self._wanted.beat)
        self.read += size

    def _take(self, data: bytes) -> None:
        for window in self._windows:
            window.take(self._hasher.size, data)
        cut = data.rfind(b"\n") + 1
        if cut:
            self._hasher.update(memoryview(data)[:cut])
            self._newline = self._hasher.mark()
        self._hasher.update(memoryview(data)[cut:])

    def content(self, status: os.stat_result, shown: bool) -> LogContent:
        """What was read."""
        hashes = self._hasher.hashes()
        boundary = self._boundary(hashes)
        start = self._known.boundary.offset if self._known is not None and self._old_part_stays else 0
        data = next((each.up_to(boundary.offset) for each in self._windows if each.start == start), None)
        torn = self._size > (self._newline.size if self._newline is not None else 0)
        return LogContent(status, hashes, self.whole, self.read, shown, boundary, start, data, torn)

    def _boundary(self, hashes: list[bytes]) -> Boundary:
        if self._wanted.ended:
            return Boundary(self._size, block_digest(hashes))
        old = self._known.boundary if self._known is not None and self._old_part_stays else START
        if self._newline is None or self._newline.size <= old.offset:
            return old
        return Boundary(self._newline.size, block_digest(self._hasher.hashes_at(self._newline)))


def _once(name: str, folder: int, wanted: Wanted) -> LogContent:
    fd, before = opened(name, folder)
    try:
        reading = _Pass(fd, before.st_size, wanted)
        reading.run(before.st_ino)
        shown = wanted.audience.has(READ, before, fd)
        after = os.fstat(fd)
        if after.st_size < before.st_size or (
            after.st_size == before.st_size and after.st_mtime_ns != before.st_mtime_ns
        ):
            raise Unsettled
    finally:
        os.close(fd)
    return reading.content(before, shown)


def read_log(name: str, folder: int, wanted: Wanted) -> LogContent | None:
    """Read a log up to the size it has when it is opened; it may grow meanwhile.

    Args:
        name: its name.
        folder: handle of its folder.
        wanted: how.

    Returns:
        None when it is gone.

    Raises:
        Trouble: it cannot be listed.
    """
    return settled(name, lambda: _once(name, folder, wanted))
