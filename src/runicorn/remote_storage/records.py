"""Writing records to the end of a log so that no half record is ever left (law 3)."""

from __future__ import annotations

import os
from collections.abc import Iterator

from runicorn.remote_storage.staging import write_all

_STEP = 4096
_LONGEST_HELD = 64 * 1024 * 1024


def append_records(fd: int, offset: int, data: Iterator[bytes]) -> None:
    """Write the bytes of a log from ``offset`` on; what a failed write left is cut off again."""
    for step in record_steps(data):
        try:
            write_all(fd, step, offset)
        except BaseException:
            os.ftruncate(fd, offset)
            raise
        offset += len(step)


def record_steps(data: Iterator[bytes]) -> Iterator[bytes]:
    """Cut the bytes of a log into single writes that each end with a record.

    A killed process has done any number of its writes, and systems do what a write brings to one page whole
    or not at all; a record that lies on more than one can be torn by a kill in the very moment of its write,
    or seen in part by who looks in that moment, and the next sync goes on behind what is there. What follows
    the last newline comes last.
    """
    held = b""
    for chunk in data:
        held += chunk
        start = 0
        while len(held) - start > _STEP:
            end = held.rfind(b"\n", start, start + _STEP) + 1 or held.find(b"\n", start) + 1
            if not end and len(held) - start > _LONGEST_HELD:
                end = len(held)
            if not end:
                break
            yield held[start:end]
            start = end
        held = held[start:]
    end = held.rfind(b"\n") + 1
    if end:
        yield held[:end]
    if end < len(held):
        yield held[end:]
