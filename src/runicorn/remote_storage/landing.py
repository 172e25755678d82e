"""Where the bytes of one download land before they are proven: in memory, or staged on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.staging import StagedFile

IN_MEMORY = 256 * 1024
"""Bytes up to which a download is kept in memory."""

_SEARCH_STEP = 64 * 1024


class Landing:
    """Takes the bytes of a download, in order.

    Args:
        mirror: where large ones are staged.
        start: offset of the first byte within the file.
        size: how many bytes are expected.
        key: under which an interrupted download is found again, or None.
    """

    def __init__(self, mirror: Mirror, start: int, size: int, key: str | None = None) -> None:
        self._mirror = mirror
        self._start = start
        self._key = key
        self._memory: bytearray | None = bytearray() if size <= IN_MEMORY else None
        self._staged: StagedFile | None = None if size <= IN_MEMORY else mirror.staging.stage(key)
        self._size = 0

    def __call__(self, data: bytes, offset: int) -> None:
        """Take the next bytes of the file; ``offset`` is within the file."""
        at = offset - self._start
        if self._memory is not None and at + len(data) > IN_MEMORY:
            self._spill()
        if self._memory is not None:
            self._memory[at:] = data
        elif self._staged is not None:
            self._staged.write(data, at)
        self._size = at + len(data)

    def _spill(self) -> None:
        self._staged = self._mirror.staging.stage(self._key)
        self._staged.write(bytes(self._memory or b""), 0)
        self._memory = None

    @property
    def end(self) -> int:
        """Offset within the file after the last byte."""
        return self._start + self._size

    def read(self, start: int, end: int) -> bytes:
        """Bytes that have landed, by their offsets within the file."""
        if self._memory is not None:
            return bytes(self._memory[start - self._start : end - self._start])
        if self._staged is None:
            return b""
        return self._staged.read(start - self._start, end - start)

    def last_record_end(self) -> int:
        """Offset after the last newline that has landed; the start when there is none."""
        end = self.end
        while end > self._start:
            start = max(self._start, end - _SEARCH_STEP)
            found = self.read(start, end).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return self._start

    def cut(self, end: int) -> None:
        """Forget what lies behind an offset within the file."""
        self._size = end - self._start
        if self._memory is not None:
            del self._memory[self._size :]
        elif self._staged is not None:
            self._staged.cut(self._size)

    def hashes(self, full: list[bytes]) -> tuple[bytes, ...]:
        """The block hashes of a log that has landed from its first byte on.

        Args:
            full: the hashes of the full blocks; those behind the end are left out.
        """
        done = full[: self.end // BLOCK_SIZE]
        hasher = BlockHasher(done)
        for data in self.chunks(len(done) * BLOCK_SIZE, self.end):
            hasher.update(data)
        return tuple(hasher.hashes())

    def resume(self, size: int, take: Callable[[bytes], None]) -> None:
        """Take up what an interrupted download left.

        Args:
            size: bytes of the whole file; what was left behind it is no part of it.
            take: is given the bytes that are there already.
        """
        if self._staged is None:
            return
        left = self._staged.size
        if left > size:
            self._staged.cut(0)
            return
        for data in self.chunks(self._start, self._start + left):
            take(data)
        self._size = left

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes that have landed, in pieces, by their offsets within the file."""
        while start < end:
            data = self.read(start, min(end, start + BLOCK_SIZE))
            if not data:
                return
            yield data
            start += len(data)

    def to_staged(self) -> StagedFile:
        """What has landed, as a staged file that the caller owns from now on."""
        staged = self._staged
        if staged is None:
            staged = self._mirror.staging.stage()
            try:
                staged.write(bytes(self._memory or b""), 0)
            except BaseException:
                staged.discard()
                raise
        elif staged.size != self._size:
            staged.cut(self._size)
        self._staged = None
        return staged

    def discard(self) -> None:
        """Forget everything."""
        if self._staged is not None:
            self._staged.discard()
            self._staged = None
        self._memory = bytearray()
        self._size = 0

    def keep(self) -> None:
        """Leave a staged download for the next sync; it is removed when it has no key."""
        if self._staged is not None and self._key is not None:
            self._staged = None
        else:
            self.discard()
