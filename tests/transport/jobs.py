"""Jobs that the tests of the transports share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runicorn.errors import RequestError
from runicorn.remote_storage.transport import (
    MAX_READ,
    Answer,
    Attributes,
    Close,
    DirectoryEntry,
    Fstat,
    Handle,
    Job,
    Open,
    OpenDir,
    Operation,
    Read,
    ReadDir,
    Stat,
)


def read_small(path: str, size: int, found: dict[str, bytes | RequestError]) -> Job:
    """Read a file of ``size`` bytes; one byte more is asked for, so that a grown file shows."""
    (handle,) = yield [Open(path)]
    if isinstance(handle, RequestError):
        found[path] = handle
        return
    assert isinstance(handle, Handle)
    data, closed = yield [Read(handle, 0, size + 1), Close(handle)]
    assert isinstance(data, bytes | RequestError)
    assert closed is None
    found[path] = data


def read_big(path: str, found: dict[str, bytes | RequestError], *, step: int = MAX_READ) -> Job:
    """Read a file to its end, several reads in flight."""
    (handle,) = yield [Open(path)]
    assert isinstance(handle, Handle)
    (attributes,) = yield [Fstat(handle)]
    assert isinstance(attributes, Attributes)
    assert attributes.size is not None
    data = b""
    reads = [Read(handle, offset, step) for offset in range(0, attributes.size, step)]
    for start in range(0, len(reads), 8):
        for part in (yield reads[start : start + 8]):
            assert isinstance(part, bytes)
            data += part
    yield [Close(handle)]
    found[path] = data


def list_folder(path: str, found: dict[str, Attributes]) -> Job:
    """List a folder, several requests in flight."""
    (handle,) = yield [OpenDir(path)]
    if isinstance(handle, RequestError):
        raise handle
    assert isinstance(handle, Handle)
    more = True
    while more:
        for answer in (yield [ReadDir(handle)] * 3):
            if isinstance(answer, RequestError):
                raise answer
            assert isinstance(answer, tuple)
            more = more and bool(answer)
            for entry in answer:
                assert isinstance(entry, DirectoryEntry)
                if entry.name not in {".", ".."}:
                    found[entry.name] = entry.attributes
    yield [Close(handle)]


def ask(operations: Sequence[Operation], found: list[Answer]) -> Job:
    """One batch."""
    found += yield operations


def one_answer(path: Path | str) -> tuple[Job, list[Answer]]:
    """A job that asks for the attributes of a path, and the list that its answer will be in."""
    found: list[Answer] = []
    return ask([Stat(str(path))], found), found
