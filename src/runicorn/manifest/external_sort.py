"""Sorting more records than fit into memory."""

from __future__ import annotations

import heapq
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from runicorn._files import close_scratch, scratch_file

_CHUNK = 8 * 1024**2
"""Bytes of records that are sorted at once."""

_WAYS = 64
_BUFFER = 64 * 1024
_LENGTH = struct.Struct(">I")


def sorted_records(records: Iterable[bytes], folder: Path) -> Iterator[bytes]:
    """The records in order.

    Args:
        records: each at most 4 GiB; compared byte by byte.
        folder: where files without a name are made.

    Raises:
        OSError: they cannot be written.
    """
    chunk: list[bytes] = []
    size = 0
    with _Spill(folder) as spill:
        for record in records:
            chunk.append(record)
            size += len(record) + 64
            if size >= _CHUNK:
                spill.add(sorted(chunk))
                chunk.clear()
                size = 0
        chunk.sort()
        yield from heapq.merge(chunk, *spill.parts()) if spill.count else chunk


class _Spill:
    """Sorted parts on disk, never more than can be merged at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stream: BinaryIO | None = None
        self._ranges: list[tuple[int, int]] = []

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, *_: object) -> None:
        close_scratch(self._stream)

    @property
    def count(self) -> int:
        """Number of parts."""
        return len(self._ranges)

    def add(self, records: Iterable[bytes]) -> None:
        """Write one part; too many are merged into one."""
        if self._stream is None:
            self._stream = scratch_file(self._folder)
        self._ranges.append(_write(self._stream, records))
        if len(self._ranges) == _WAYS:
            with self._stream, scratch_file(self._folder) as merged:
                self._ranges = [_write(merged, heapq.merge(*self.parts()))]
                self._stream = os.fdopen(os.dup(merged.fileno()), "w+b")
                self._stream.seek(0, os.SEEK_END)

    def parts(self) -> list[Iterator[bytes]]:
        """The parts, to be read side by side."""
        if self._stream is None:
            return []
        self._stream.flush()
        fd = self._stream.fileno()
        return [_read(fd, start, end) for start, end in self._ranges]


def _write(stream: BinaryIO, records: Iterable[bytes]) -> tuple[int, int]:
    start = stream.tell()
    for record in records:
        stream.write(_LENGTH.pack(len(record)))
        stream.write(record)
    stream.flush()
    return start, stream.tell()


def _read(fd: int, at: int, end: int) -> Iterator[bytes]:
    held = b""
    start = 0
    while at < end or start < len(held):
        need = _LENGTH.size
        if len(held) - start >= need:
            need += _LENGTH.unpack_from(held, start)[0]
        if len(held) - start < need:
            data = os.pread(fd, min(max(_BUFFER, need), end - at), at)
            at += len(data)
            held = held[start:] + data
            start = 0
            if not data:
                raise OSError(5, "a scratch file became shorter")
            continue
        yield held[start + _LENGTH.size : start + need]
        start += need
