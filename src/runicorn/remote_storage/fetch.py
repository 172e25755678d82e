"""Jobs that fetch one file: what is asked of the server, and what counts as proof. No mirror here.

Each function is part of a job (see `transport.base`): it yields operations and returns when the
content has gone to a sink, proven, or raises. Success is the expected size and digest; a file that
has changed since it was listed is taken as it is now when it is proven to be whole, and otherwise
left for the next sync.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar, cast

from runicorn.errors import ChangedError, DamagedError, DiskFullError, RequestError
from runicorn.manifest import rules
from runicorn.manifest.digest import BlockHasher, block_digest
from runicorn.manifest.model import FileEntry
from runicorn.remote_storage.known import Listed
from runicorn.remote_storage.transport.base import (
    MAX_READ,
    Answer,
    Attributes,
    Close,
    Fstat,
    Handle,
    Open,
    Operation,
    Read,
)

T = TypeVar("T")
Part: TypeAlias = Generator[Sequence[Operation], Sequence[Answer], T]
Sink: TypeAlias = Callable[[bytes, int], None]
"""Takes bytes and their offset, in order of offset."""

READS_AT_ONCE = 16
OVERLAP = 64 * 1024
"""Bytes of the local prefix of a log that are compared when the listing has no digest."""

_MAX_PARSED_JSON = 32 * 1024 * 1024
_SFTP_NO_SUCH_FILE = 2


@dataclass(frozen=True, slots=True)
class Content:
    """What was received.

    Attributes:
        size: bytes.
        hashes: SHA-256 of a state file; of a log the hashes of its blocks.
        listed: the description that the content belongs to: the entry's, with the digest of what came.
        mtime_ns: time of last change on the server, nanoseconds since the epoch.
    """

    size: int
    hashes: tuple[bytes, ...]
    listed: Listed
    mtime_ns: int


def checked(answer: Answer, path: str) -> Answer:
    """An answer that is no refusal.

    Raises:
        ChangedError: the file is not there any more.
        RequestError: the server refused for another reason.
    """
    if isinstance(answer, RequestError):
        if answer.code == _SFTP_NO_SUCH_FILE:
            raise ChangedError("it is not on the server any more", path=path) from answer
        raise answer
    return answer


def open_file(path: str, remote: str) -> Part[Handle]:
    """Open a file of the server."""
    (answer,) = yield [Open(remote)]
    return cast(Handle, checked(answer, path))


def read_all(handle: Handle, path: str, start: int, end: int, sink: Sink) -> Part[int]:
    """Read from ``start`` to ``end``; returns where the file ended."""
    offset = start
    while offset < end:
        stop = min(end, offset + READS_AT_ONCE * MAX_READ)
        ranges = [(at, min(MAX_READ, stop - at)) for at in range(offset, stop, MAX_READ)]
        answers = yield [Read(handle, at, length) for at, length in ranges]
        for (at, length), answer in zip(ranges, answers, strict=True):
            data = cast(bytes, checked(answer, path))
            sink(data, at)
            if len(data) < length:
                return at + len(data)
        offset = stop
    return offset


class Hashing:
    """A sink that hashes what it passes on.

    Args:
        is_log: whether block hashes are made.
        sink: where the bytes go.

    Attributes:
        received: bytes that have come so far.
    """

    def __init__(self, is_log: bool, sink: Sink) -> None:
        self._digest = None if is_log else hashlib.sha256()
        self._blocks = BlockHasher()
        self._sink = sink
        self.received = 0

    def __call__(self, data: bytes, offset: int) -> None:
        """Hash bytes and pass them on."""
        self.take(data)
        self._sink(data, offset)

    def take(self, data: bytes) -> None:
        """Hash bytes that the sink has already."""
        if self._digest is not None:
            self._digest.update(data)
        else:
            self._blocks.update(data)
        self.received += len(data)

    def hashes(self) -> tuple[bytes, ...]:
        """The hashes of all that came."""
        return (self._digest.digest(),) if self._digest is not None else tuple(self._blocks.hashes())

    def digest(self) -> str:
        """The digest that an entry would have."""
        return self._digest.hexdigest() if self._digest is not None else block_digest(self._blocks.hashes())


def fetch_listed(entry: FileEntry, remote: str, hashing: Hashing) -> Part[Content | None]:
    """Fetch a file whose digest is listed, in two round trips when it is small.

    Args:
        entry: how it was listed.
        remote: its path on the server.
        hashing: where the bytes go; what it has received already is not fetched again.

    Returns:
        None when what came is not what is listed.
    """
    handle = yield from open_file(entry.path, remote)
    end = _wanted(entry, entry.size)
    start = hashing.received
    if 0 < end - start <= MAX_READ:
        data, _ = yield [Read(handle, start, end - start), Close(handle)]
        hashing(cast(bytes, checked(data, entry.path)), start)
    else:
        yield from read_all(handle, entry.path, start, end, hashing)
        yield [Close(handle)]
    if hashing.received != entry.size or hashing.digest() != entry.digest:
        return None
    listed = Listed.of(entry)
    return Content(entry.size, hashing.hashes(), listed, entry.time_ns)


def fetch_current(entry: FileEntry, remote: str, sink: Sink, most: int) -> Part[Content]:
    """Fetch a file as it is now, proven by its attributes before and after.

    Args:
        entry: how it was listed.
        remote: its path on the server.
        sink: where the bytes go.
        most: bytes that there is room for.

    Raises:
        ChangedError: it changed while it was read, or is not whole.
        DiskFullError: it has more bytes than there is room for.
        DamagedError: it is as it was listed, but its content is not.
    """
    hashing = Hashing(entry.is_log, sink)
    attributes = None
    if 0 < _wanted(entry, entry.size) <= MAX_READ:
        attributes = yield from _read_as_listed(entry, remote, hashing)
    before, after = attributes or (yield from _read_as_found(entry, remote, hashing, most))
    size = hashing.received
    if before.size != size or not _is_stable(entry, before, after):
        raise ChangedError("it changed while it was read", path=entry.path)
    as_listed = size == entry.size and before.mtime == int(entry.mtime)
    if as_listed and entry.digest is not None and hashing.digest() != entry.digest:
        raise DamagedError("its content is not what was published", path=entry.path)
    listed = Listed.of(entry)
    if as_listed:
        return Content(size, hashing.hashes(), listed, entry.time_ns)
    # Under its own digest, so that a server which puts the listed content back is noticed.
    listed = replace(listed, digest=hashing.digest() if entry.digest is not None else None)
    return Content(size, hashing.hashes(), listed, (before.mtime or 0) * 10**9)


def _wanted(entry: FileEntry, size: int) -> int:
    """One byte more than its size shows a state file that has grown; a log may grow."""
    return size if entry.is_log else size + 1


def _read_as_listed(
    entry: FileEntry, remote: str, hashing: Hashing
) -> Part[tuple[Attributes, Attributes] | None]:
    """Read a small file in two round trips; None when its size is not the listed one."""
    handle = yield from open_file(entry.path, remote)
    wanted = _wanted(entry, entry.size)
    first, data, last, _ = yield [Fstat(handle), Read(handle, 0, wanted), Fstat(handle), Close(handle)]
    before = cast(Attributes, checked(first, entry.path))
    if before.size != entry.size:
        return None
    hashing(cast(bytes, checked(data, entry.path)), 0)
    return before, cast(Attributes, checked(last, entry.path))


def _read_as_found(
    entry: FileEntry, remote: str, hashing: Hashing, most: int
) -> Part[tuple[Attributes, Attributes]]:
    """Read a file of whatever size it has now."""
    handle = yield from open_file(entry.path, remote)
    (first,) = yield [Fstat(handle)]
    before = cast(Attributes, checked(first, entry.path))
    if before.size is None:
        raise ChangedError("the server does not tell its size", path=entry.path)
    if before.size > most:
        raise DiskFullError(f"{rules.escape(entry.path)} has {before.size} bytes, there is room for {most}")
    yield from read_all(handle, entry.path, 0, _wanted(entry, before.size), hashing)
    last, _ = yield [Fstat(handle), Close(handle)]
    return before, cast(Attributes, checked(last, entry.path))


def _is_stable(entry: FileEntry, before: Attributes, after: Attributes) -> bool:
    if entry.is_log:
        return (after.size or 0) >= (before.size or 0)
    return (before.size, before.mtime) == (after.size, after.mtime)


def has_to_parse(entry: FileEntry, size: int) -> bool:
    """Whether a file that no digest proves has to parse as JSON to be taken for whole."""
    return not entry.is_log and entry.path.endswith(".json") and size <= _MAX_PARSED_JSON


def parses(data: bytes) -> bool:
    """Whether the bytes are JSON."""
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def fetch_windows(entry: FileEntry, remote: str, windows: Sequence[tuple[int, int]], sink: Sink) -> Part[int]:
    """Fetch some ranges of a log, each by its start and end, as far as it reaches; gives where it ends."""
    handle = yield from open_file(entry.path, remote)
    (answer,) = yield [Fstat(handle)]
    end = cast(Attributes, checked(answer, entry.path)).size or 0
    for start, stop in windows:
        yield from read_all(handle, entry.path, start, min(stop, end), sink)
    yield [Close(handle)]
    return end


def fetch_tail(entry: FileEntry, remote: str, start: int, sink: Sink) -> Part[bool | None]:
    """Fetch the bytes of a log from ``start`` to its listed size.

    Returns:
        Whether the log was seen to end there, which a digest makes needless; None when it is
        shorter than listed, and so another one.
    """
    handle = yield from open_file(entry.path, remote)
    beyond = 0 if entry.block_digest is not None else 1
    length = entry.size - start

    def listed_part(data: bytes, offset: int) -> None:
        sink(data[: entry.size - offset], offset)

    if 0 < length + beyond <= MAX_READ:
        answer, _ = yield [Read(handle, start, length + beyond), Close(handle)]
        data = cast(bytes, checked(answer, entry.path))
        listed_part(data, start)
        end = start + len(data)
    else:
        end = yield from read_all(handle, entry.path, start, entry.size + beyond, listed_part)
        yield [Close(handle)]
    if end < entry.size:
        return None
    return beyond == 0 or end == entry.size
