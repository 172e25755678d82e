"""One look at a journal: HEAD, and in the same round trips bytes of one of its epochs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runicorn.errors import DamagedError, RequestError
from runicorn.journal.frames import FrameReader, Place, beginning
from runicorn.journal.head import MAX_HEAD
from runicorn.remote_storage.transport.base import (
    MAX_READ,
    Answer,
    Attributes,
    Close,
    Fstat,
    Handle,
    Job,
    Open,
    Operation,
    Read,
    Transport,
)


class Beside(NamedTuple):
    """What is read beside HEAD.

    Attributes:
        handle: of a file that is open, or None.
        path: of a file that is opened instead; empty when none is.
        offset: of the first byte.
        reads: how often at most `MAX_READ` bytes are read.
        is_sized: whether its size is asked for.
    """

    handle: Handle | None = None
    path: str = ""
    offset: int = 0
    reads: int = 1
    is_sized: bool = False


@dataclass(slots=True)
class Look:
    """What is seen.

    Attributes:
        refusal: why HEAD cannot be opened.
        head: its bytes, or why they cannot be read.
        handle: of the file beside it, when it is open.
        data: bytes of that, or why they cannot be read.
        size: bytes of that in all, when they were asked for and told.
        round_trip: seconds that the server took for small requests.
    """

    refusal: RequestError | None = None
    head: Answer = b""
    handle: Handle | None = None
    data: Answer = b""
    size: int = 0
    round_trip: float = 0.0


def look(transport: Transport, head: str, beside: Beside, closing: list[Operation]) -> Look:
    """Look once.

    Args:
        transport: the connection.
        head: path of HEAD.
        beside: what is read beside it.
        closing: is asked for as well.

    Raises:
        TransportError: the connection failed.
    """
    seen = Look()
    transport.run(iter([_job(seen, head, beside, closing)]))
    return seen


def _job(seen: Look, path: str, beside: Beside, closing: list[Operation]) -> Job:
    begun = time.monotonic()
    head, *others = yield [Open(path), *([Open(beside.path, keep=True)] if beside.path else [])]
    seen.round_trip = time.monotonic() - begun
    seen.handle = next((each for each in others if isinstance(each, Handle)), beside.handle)
    asked: list[Operation] = []
    if isinstance(head, Handle):
        asked += [Read(head, 0, MAX_HEAD + 1, once=True), Close(head)]
    elif isinstance(head, RequestError):
        seen.refusal = head
    if seen.handle is not None:
        places = range(beside.offset, beside.offset + beside.reads * MAX_READ, MAX_READ)
        asked += [Read(seen.handle, place, MAX_READ, once=True) for place in places]
    sizes = [Fstat(seen.handle)] if seen.handle is not None and beside.is_sized else []
    if not asked and not closing:
        return
    begun = time.monotonic()
    answers = yield [*asked, *sizes, *closing]
    seen.round_trip = min(seen.round_trip, time.monotonic() - begun)
    if seen.refusal is None:
        seen.head = answers[0]
    if seen.handle is not None:
        seen.data = _joined(answers[len(asked) - beside.reads : len(asked)])
    for each in answers[len(asked) : len(asked) + len(sizes)]:
        seen.size = (isinstance(each, Attributes) and each.size) or 0


def _joined(answers: Sequence[Answer]) -> Answer:
    """What was read from one place on: what follows a short answer does not follow its bytes."""
    data = answers[0]
    for each in answers[1:]:
        if not isinstance(data, bytes) or not isinstance(each, bytes) or len(data) % MAX_READ:
            break
        data += each
    return data


def leads_to(seen: Look, end: Place) -> bool:
    """Whether what was read beside HEAD is the beginning of its epoch, and goes to its end.

    The chain of the first frame covers the epoch's name; a copy that somebody has made may be older.
    """
    if not isinstance(seen.data, bytes) or seen.size < end.offset:
        return False
    reader = FrameReader(beginning(end.epoch))
    reader.feed(seen.data)
    try:
        return next(reader.stored_frames(), None) is not None
    except DamagedError:
        return False
