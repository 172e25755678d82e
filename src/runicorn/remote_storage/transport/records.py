"""What a session remembers of jobs, handles and requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runicorn.remote_storage.transport import wire
from runicorn.remote_storage.transport.base import Answer, Handle, Job, Open, OpenDir, Operation, Read, Stat
from runicorn.remote_storage.transport.wire import DATA_OVERHEAD, Kind

KIND_OF: Final = {Open: Kind.OPEN, OpenDir: Kind.OPENDIR, Stat: Kind.STAT}
"""The kind of request that an operation on a path is."""
REPLY_OF: Final = {
    Kind.OPEN: Kind.HANDLE,
    Kind.OPENDIR: Kind.HANDLE,
    Kind.READ: Kind.DATA,
    Kind.READDIR: Kind.NAME,
    Kind.STAT: Kind.ATTRS,
    Kind.FSTAT: Kind.ATTRS,
    Kind.EXTENDED: Kind.EXTENDED_REPLY,
}
"""The kind of packet that answers a request, unless it is a STATUS."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session behaves.

    Attributes:
        timeout: seconds an answer may take, besides the time that the bytes before it need on a
            line of 1 KiB/s.
        window: requests in flight, jobs under way and open handles, each at most so many.
        first_id: the number of the first request.
        settle: whether a run ends only when all handles were closed, not when that was asked for.
    """

    timeout: float = 60.0
    window: int = 512
    first_id: int = 1
    settle: bool = False


class RunningJob:
    """A job under way: the answers of its batch, and how many of them are missing."""

    __slots__ = ("answers", "generator", "handles", "missing")

    def __init__(self, generator: Job) -> None:
        self.generator = generator
        self.answers: list[Answer] | None = None
        self.missing = 0
        self.handles: dict[bytes, OpenHandle] = {}


class OpenHandle:
    """An open handle: how many answers from it are missing, and whether it is to be closed.

    ``job`` is the one that holds it, None for a kept handle.
    """

    __slots__ = ("busy", "close_wanted", "job", "path", "public", "value")

    def __init__(self, public: Handle, path: str, job: RunningJob | None) -> None:
        self.public = public
        self.value = public.value
        self.path = path
        self.job = job
        self.busy = 0
        self.close_wanted = False

    def serves(self, job: RunningJob, handle: Handle) -> bool:
        """Whether the job may ask something of it under the name ``handle``."""
        return self.public == handle and (self.job is None or self.job is job) and not self.close_wanted


class Gather:
    """One `Read` that took several requests: pieces side by side, each of one or more replies."""

    __slots__ = ("chunks", "failed", "left", "whole")

    def __init__(self, count: int) -> None:
        self.chunks: list[list[bytes]] = [[] for _ in range(count)]
        self.whole = [False] * count
        self.left = count
        self.failed: Answer = None

    def join(self) -> bytes:
        """The bytes up to the first piece that the file did not fill."""
        parts: list[bytes] = []
        for chunks, whole in zip(self.chunks, self.whole, strict=True):
            parts += chunks
            if not whole:
                break
        return b"".join(parts)


class Request:
    """One request: what it asks, for whom, and until when its answer must be there.

    ``raw`` is the path or the handle as it goes over the wire; ``expected`` counts the bytes that
    the reply may have; ``due`` is 0 until it is sent; ``bound`` is the number of open handles below
    which a refused open is tried again, 0 for one that was not refused yet.
    """

    __slots__ = (
        "bound",
        "due",
        "expected",
        "final",
        "gather",
        "handle",
        "index",
        "job",
        "keep",
        "kind",
        "length",
        "offset",
        "once",
        "path",
        "piece",
        "raw",
    )

    def __init__(  # noqa: PLR0913 - a record; its many fields come from one place each
        self,
        kind: Kind,
        job: RunningJob | None,
        index: int = 0,
        path: str = "",
        raw: bytes = b"",
        *,
        handle: OpenHandle | None = None,
        expected: int = 0,
    ) -> None:
        self.kind = kind
        self.job = job
        self.index = index
        self.path = path
        self.raw = raw
        self.handle = handle
        self.expected = expected
        self.due = 0.0
        self.bound = 0
        self.final = False
        self.offset = 0
        self.length = 0
        self.piece = 0
        self.once = False
        self.keep = False
        self.gather: Gather | None = None

    def follow(self, operation: Operation) -> None:
        """Take over what an `Open` says beside its path."""
        if isinstance(operation, Open):
            self.keep, self.once = operation.keep, operation.once

    def set_range(self, offset: int, length: int, piece: int) -> None:
        """Make it a READ of ``length`` bytes at ``offset``, piece ``piece`` of its operation."""
        self.offset = offset
        self.length = length
        self.piece = piece
        self.expected = length + DATA_OVERHEAD

    def encode(self, number: int) -> bytes:
        """The packet, under the request number ``number``."""
        if self.kind == Kind.READ:
            return wire.encode_read(number, self.raw, self.offset, self.length)
        if self.kind == Kind.OPEN:
            return wire.encode_open(number, self.raw)
        if self.kind == Kind.EXTENDED:
            return wire.encode_limits(number)
        return wire.encode_string_request(self.kind, number, self.raw)


def read_requests(job: RunningJob, index: int, read: Read, handle: OpenHandle, most: int) -> list[Request]:
    """The READs of at most ``most`` bytes that an operation takes."""
    count = 1 if read.once else -(-read.length // most)
    gather = Gather(count) if count > 1 else None
    requests = []
    for number in range(count):
        done = number * most
        request = Request(Kind.READ, job, index, handle.path, handle.value, handle=handle)
        request.set_range(read.offset + done, min(most, read.length - done), number)
        request.gather = gather
        request.once = read.once
        requests.append(request)
    return requests
