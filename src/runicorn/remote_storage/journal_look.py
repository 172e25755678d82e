"""One look at a journal: HEAD, and in the same round trips bytes of one of its epochs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runicorn.errors import DamagedError, RequestError
from runicorn.journal.frames import FrameReader, beginning
from runicorn.journal.head import MAX_HEAD, Head
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
        is_guess: whether it may be another file than the one that is looked for; then its status is asked.
    """

    handle: Handle | None = None
    path: str = ""
    offset: int = 0
    reads: int = 1
    is_guess: bool = False


@dataclass(slots=True)
class Look:
    """What is seen.

    Attributes:
        refusal: why HEAD cannot be opened.
        head: its bytes, or why they cannot be read.
        handle: of the file beside it, when it is open.
        data: bytes of that, or why they cannot be read.
        status: its attributes, when they were asked for.
        round_trip: seconds that the server took for small requests.
    """

    refusal: RequestError | None = None
    head: Answer = b""
    handle: Handle | None = None
    data: Answer = b""
    status: Answer = None
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
    opens: list[Operation] = [Open(path)]
    if beside.path:
        opens.append(Open(beside.path, keep=True, once=beside.is_guess))
    begun = time.monotonic()
    head, *others = yield opens
    seen.round_trip = time.monotonic() - begun
    seen.handle = next((each for each in others if isinstance(each, Handle)), beside.handle)
    if not isinstance(head, Handle):
        seen.refusal = head if isinstance(head, RequestError) else None
        if closing:
            yield closing
        return
    asked: list[Operation] = [Read(head, 0, MAX_HEAD + 1, once=True), Close(head)]
    before = len(asked) + beside.is_guess
    if seen.handle is not None:
        asked += [Fstat(seen.handle)] if beside.is_guess else []
        places = range(beside.offset, beside.offset + beside.reads * MAX_READ, MAX_READ)
        asked += [Read(seen.handle, place, MAX_READ, once=True) for place in places]
    begun = time.monotonic()
    answers = yield [*asked, *closing]
    seen.round_trip = min(seen.round_trip, time.monotonic() - begun)
    seen.head = answers[0]
    if seen.handle is not None:
        seen.status = answers[before - 1] if beside.is_guess else None
        seen.data = _joined(answers[before : len(asked)])


def _joined(answers: Sequence[Answer]) -> Answer:
    """What was read from one place on: what follows a short answer does not follow its bytes."""
    data = answers[0]
    for each in answers[1:]:
        if not isinstance(data, bytes) or not isinstance(each, bytes) or len(data) % MAX_READ:
            break
        data += each
    return data


def leads_to(seen: Look, head: Head) -> bool:
    """Whether what was read beside HEAD is the file of its epoch, as it was left with HEAD.

    The chain of the first frame covers the epoch's name. A copy of the file, as somebody may have made, has
    another size or time as soon as a generator has looked since.
    """
    status = seen.status
    if not isinstance(seen.data, bytes) or not isinstance(status, Attributes):
        return False
    if (status.size or 0) < head.end.offset or status.mtime != int(head.generated_at):
        return False
    reader = FrameReader(beginning(head.epoch))
    reader.feed(seen.data)
    try:
        return next(reader.stored_frames(), None) is not None
    except DamagedError:
        return False
