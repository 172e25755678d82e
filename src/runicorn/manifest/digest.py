"""Digests of the format: SHA-256 of state files, block hashes of logs. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

BLOCK_SIZE = 1024 * 1024
"""Bytes of one block of a log."""

HASH_SIZE = 32
"""Bytes of one hash."""


def block_digest(hashes: Sequence[bytes]) -> str:
    """The digest of a log from the hashes of all its blocks (hex)."""
    return hashlib.sha256(b"".join(hashes)).hexdigest()


class Mark(NamedTuple):
    """A place within a log that a `BlockHasher` has passed.

    Attributes:
        size: bytes before it.
        full: how many full blocks these are.
        block: the hash object of the block that has begun.
    """

    size: int
    full: int
    block: Any


class BlockHasher:
    """Block hashes of a log that is read from a block boundary on.

    Args:
        done: hashes of the full blocks before that boundary.
    """

    def __init__(self, done: Sequence[bytes] = ()) -> None:
        self._done = list(done)
        self._block = hashlib.sha256()
        self._filled = 0

    @property
    def size(self) -> int:
        """Bytes of the log hashed so far."""
        return len(self._done) * BLOCK_SIZE + self._filled

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the log."""
        view = memoryview(data)
        while view:
            take = min(BLOCK_SIZE - self._filled, len(view))
            self._block.update(view[:take])
            self._filled += take
            view = view[take:]
            if self._filled == BLOCK_SIZE:
                self._done.append(self._block.digest())
                self._block = hashlib.sha256()
                self._filled = 0

    def copy(self) -> BlockHasher:
        """An independent hasher in the same state."""
        twin = BlockHasher(self._done)
        twin._block = self._block.copy()
        twin._filled = self._filled
        return twin

    def mark(self) -> Mark:
        """The place where the hasher stands; costs the same however long the log is."""
        return Mark(self.size, len(self._done), self._block.copy())

    def hashes_at(self, mark: Mark) -> list[bytes]:
        """What `hashes` gave at a mark of this hasher."""
        done = self._done[: mark.full]
        return done if done and mark.size == mark.full * BLOCK_SIZE else [*done, mark.block.digest()]

    def hashes(self) -> list[bytes]:
        """The hashes of all blocks so far, the last and shorter one included."""
        if self._filled or not self._done:
            return [*self._done, self._block.digest()]
        return list(self._done)
