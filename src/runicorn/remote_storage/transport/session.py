"""The jobs of one SFTP connection: which request goes out next, and whose answer a reply is.

No input or output happens here: an engine takes encoded requests and brings replies.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from runicorn.errors import ProtocolError, RequestError
from runicorn.remote_storage.transport import wire
from runicorn.remote_storage.transport.base import (
    MAX_READ,
    Answer,
    Close,
    Fstat,
    Handle,
    Job,
    Open,
    OpenDir,
    Operation,
    Read,
    Stat,
)
from runicorn.remote_storage.transport.records import (
    KIND_OF,
    REPLY_OF,
    Gather,
    OpenHandle,
    Request,
    RunningJob,
    SessionOptions,
    read_requests,
)
from runicorn.remote_storage.transport.window import HandleWindow
from runicorn.remote_storage.transport.wire import Kind, StatusCode

PLAIN_READ: Final = 32 * 1024
"""Bytes of a READ that every server answers, whether it tells its limits or not."""
_SMALLEST_READ: Final = 4096
_PACKET_OVERHEAD: Final = 1024
_IDS: Final = 1 << 30
_BYTES_IN_FLIGHT: Final = 4 * 1024 * 1024
_SLOWEST_LINE: Final = 1024
_SMALL_REPLY: Final = 256
_NAMES_REPLY: Final = 32 * 1024


class Session:
    """Runs jobs against replies.

    A CLOSE is sent when the last answer from its handle is there, and nobody waits for its answer:
    a short read can always be asked for again, and it costs the job no round trip.
    """

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._max_read = PLAIN_READ
        self._short_reads = False
        self._window = HandleWindow(options.window)
        self._source: Iterator[Job] | None = None
        self._jobs: dict[RunningJob, None] = {}
        self._handles: dict[bytes, OpenHandle] = {}
        self._opens: deque[Request] = deque()
        self._retries: list[tuple[int, int, Request]] = []
        self._tickets = itertools.count(1)
        self._ready: deque[Request] = deque()
        self._closes: deque[Request] = deque()
        self._pending: dict[int, Request] = {}
        self._count = 0
        self._expected = 0
        self._now = 0.0
        self.failure: BaseException | None = None
        """What a job, or the iterable of jobs, has raised in this run."""

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        return self._count

    @property
    def expected(self) -> int:
        """Bytes that the outstanding replies may have."""
        return self._expected

    @property
    def outstanding(self) -> int:
        """Requests without an answer, and closes that are not sent yet."""
        return len(self._pending) + len(self._closes)

    @property
    def due(self) -> float | None:
        """When the oldest outstanding answer must be there, on the clock given to `fill`."""
        return next(iter(self._pending.values())).due if self._pending else None

    @property
    def finished(self) -> bool:
        """Whether all jobs have ended and all requests are handed out."""
        if self._source is not None or self._jobs or self._closes:
            return False
        return not (self._options.settle and self._pending)

    @property
    def holds_handles(self) -> bool:
        """Whether handles are open; between runs these are the kept ones."""
        return bool(self._handles)

    def begin(self, jobs: Iterable[Job]) -> None:
        """Start a run."""
        self.failure = None
        self._source = iter(jobs)

    def ask_limits(self) -> bytes:
        """The request for the server's limits; they hold from its answer on."""
        return self._encode(Request(Kind.EXTENDED, None, expected=_SMALL_REPLY))

    def fill(self, now: float) -> list[bytes]:
        """The requests that may be sent now; ``now`` is in seconds on the engine's clock."""
        self._now = now
        self._admit()
        out = []
        while self._closes:
            out.append(self._encode(self._closes.popleft()))
        while self._ready and self._has_room(self._ready[0]):
            out.append(self._encode(self._ready.popleft()))
        while (request := self._next_open()) is not None:
            out.append(self._encode(request))
        return out

    def abort(self) -> None:
        """Close all jobs and all handles; answers that are still outstanding belong to nobody."""
        self._source = None
        jobs, self._jobs = self._jobs, {}
        for request in self._pending.values():
            request.job = None
        self._opens.clear()
        self._retries.clear()
        self._ready.clear()
        for handle in list(self._handles.values()):
            self._send_close(handle)
        for job in jobs:
            # A job that fails while it is closed must not hide what ended the run.
            with contextlib.suppress(Exception):
                job.generator.close()

    def answer(self, packet: wire.Packet) -> None:
        """Take one reply.

        Raises:
            ProtocolError: it answers nothing that was asked, or not in the way it may.
            BaseException: whatever a job raises (then it is `failure`, too).
        """
        request = self._pending.pop(wire.request_id(packet), None)
        if request is None:
            raise ProtocolError("the server answered a request that is not open")
        self._expected -= request.expected
        if packet.kind == Kind.STATUS:
            self._on_status(request, *wire.decode_status(packet))
        elif packet.kind != REPLY_OF.get(request.kind):
            raise ProtocolError(f"the server answered {request.kind.name} with packet type {packet.kind}")
        elif request.kind == Kind.READ:
            self._on_data(request, wire.decode_data(packet))
        elif request.kind in (Kind.OPEN, Kind.OPENDIR):
            self._on_handle(request, wire.decode_handle(packet))
        elif request.kind == Kind.READDIR:
            self._deliver(request, wire.decode_names(packet))
        elif request.kind == Kind.EXTENDED:
            self._adopt(wire.decode_limits(packet))
        else:
            self._deliver(request, wire.decode_attrs(packet))

    def _admit(self) -> None:
        while self._source is not None and len(self._jobs) < self._window.limit:
            try:
                generator = next(self._source, None)
            except BaseException as error:
                self.failure = error
                raise
            if generator is None:
                self._source = None
                return
            self._jobs[job := RunningJob(generator)] = None
            self._advance(job)

    def _advance(self, job: RunningJob) -> None:
        """Send a job its answers and take its next batch, until it has to wait or has ended."""
        while True:
            try:
                batch: Sequence[Operation] = (
                    next(job.generator) if job.answers is None else job.generator.send(job.answers)
                )
            except StopIteration:
                self._finish(job)
                return
            except BaseException as error:
                self.failure = error
                raise
            job.answers = [None] * len(batch)
            # One more than there are, so that answers given at once do not resume the job here.
            job.missing = len(batch) + 1
            for index, operation in enumerate(batch):
                self._submit(job, index, operation)
            job.missing -= 1
            if job.missing:
                return

    def _finish(self, job: RunningJob) -> None:
        del self._jobs[job]
        for handle in list(job.handles.values()):
            self._send_close(handle)
        self._window.grow()

    def _give(self, job: RunningJob, index: int, answer: Answer) -> None:
        if job.answers is not None:
            job.answers[index] = answer
        job.missing -= 1
        if not job.missing:
            self._advance(job)

    # Operations become requests.

    def _submit(self, job: RunningJob, index: int, operation: Operation) -> None:
        if isinstance(operation, Open | OpenDir | Stat):
            self._submit_path(job, index, operation)
            return
        handle = self._handles.get(operation.handle.value)
        if handle is None or not handle.serves(job, operation.handle):
            refusal = wire.request_error(StatusCode.FAILURE, "the handle is not open", "")
            self._give(job, index, None if isinstance(operation, Close) else refusal)
            return
        if isinstance(operation, Close):
            handle.close_wanted = True
            if not handle.busy:
                self._send_close(handle)
            self._give(job, index, None)
            return
        if isinstance(operation, Read):
            self._submit_read(job, index, operation, handle)
            return
        handle.busy += 1
        fstat = isinstance(operation, Fstat)
        kind, cost = (Kind.FSTAT, _SMALL_REPLY) if fstat else (Kind.READDIR, _NAMES_REPLY)
        self._ready.append(Request(kind, job, index, handle.path, handle.value, handle=handle, expected=cost))

    def _submit_path(self, job: RunningJob, index: int, operation: Open | OpenDir | Stat) -> None:
        try:
            raw = wire.encode_path(operation.path)
        except RequestError as error:
            self._give(job, index, error)
            return
        kind = KIND_OF[type(operation)]
        queue = self._ready if kind == Kind.STAT else self._opens
        request = Request(kind, job, index, operation.path, raw, expected=_SMALL_REPLY)
        request.follow(operation)
        queue.append(request)

    def _submit_read(self, job: RunningJob, index: int, read: Read, handle: OpenHandle) -> None:
        if read.length <= 0 or read.offset < 0:
            self._give(job, index, b"")
            return
        handle.busy += 1
        self._ready += read_requests(job, index, read, handle, self._max_read)

    def _encode(self, request: Request) -> bytes:
        number = self._options.first_id + self._count % _IDS
        self._count += 1
        self._expected += request.expected
        if not request.due:
            request.due = self._now + self._options.timeout + self._expected / _SLOWEST_LINE
        self._pending[number] = request
        return request.encode(number)

    def _has_room(self, request: Request) -> bool:
        if not self._pending:
            return True
        fits = self._expected + request.expected <= _BYTES_IN_FLIGHT
        return fits and len(self._pending) < self._options.window

    def _next_open(self) -> Request | None:
        # With nothing on the way no handle will be given back: what the server says then is its last word.
        forced = not self._pending
        if self._retries and (forced or self._window.room(self._retries[0][2].bound)):
            request = heapq.heappop(self._retries)[2]
        elif self._opens and (forced or (self._window.room(0) and self._has_room(self._opens[0]))):
            request = self._opens.popleft()
        else:
            return None
        request.final = forced and not self._window.room(request.bound)
        self._window.opening += 1
        return request

    def _send_close(self, handle: OpenHandle) -> None:
        del self._handles[handle.value]
        if handle.job is not None:
            del handle.job.handles[handle.value]
        self._window.held -= 1
        self._close_value(handle.value)

    def _close_value(self, value: bytes) -> None:
        self._window.closing += 1
        self._closes.append(Request(Kind.CLOSE, None, raw=value, expected=_SMALL_REPLY))

    # Replies become answers.

    def _deliver(self, request: Request, answer: Answer) -> None:
        handle = request.handle
        if handle is not None:
            handle.busy -= 1
            if handle.close_wanted and not handle.busy and self._handles.get(handle.value) is handle:
                self._send_close(handle)
        if request.job is not None:
            self._give(request.job, request.index, answer)

    def _on_status(self, request: Request, code: int, message: bytes) -> None:
        if request.kind == Kind.CLOSE:
            self._window.closing -= 1
        elif request.kind == Kind.READ and code == StatusCode.EOF:
            self._piece_done(request, whole=False)
        elif request.kind == Kind.READDIR and code == StatusCode.EOF:
            self._deliver(request, ())
        elif code == StatusCode.OK:
            raise ProtocolError(f"the server answered {request.kind.name} with OK and nothing else")
        elif request.kind in (Kind.OPEN, Kind.OPENDIR):
            self._on_refusal(request, code, message)
        elif request.gather is not None:
            request.gather.failed = wire.request_error(code, message, request.path)
            self._piece_done(request, whole=False)
        elif request.kind != Kind.EXTENDED:
            self._deliver(request, wire.request_error(code, message, request.path))

    def _on_refusal(self, request: Request, code: int, message: bytes) -> None:
        self._window.opening -= 1
        if request.job is None:
            return
        if code == StatusCode.FAILURE and not request.final and not request.once:
            request.bound = self._window.refused(request.bound)
            if request.bound:
                request.due = 0.0
                heapq.heappush(self._retries, (-request.bound, next(self._tickets), request))
                return
        self._deliver(request, wire.request_error(code, message, request.path))

    def _on_handle(self, request: Request, value: bytes) -> None:
        self._window.opening -= 1
        if value in self._handles:
            raise ProtocolError("the server gave out the same handle twice")
        if request.job is None:
            self._close_value(value)
            return
        owner = None if request.keep else request.job
        public = Handle(value, next(self._tickets) if request.keep else 0)
        self._handles[value] = handle = OpenHandle(public, request.path, owner)
        if owner is not None:
            owner.handles[value] = handle
        self._window.accepted()
        self._deliver(request, public)

    def _on_data(self, request: Request, data: bytes) -> None:
        got = len(data)
        if got > request.length:
            raise ProtocolError(f"the server answered a READ of {request.length} bytes with {got}")
        gather = request.gather
        last = gather is None or request.piece == len(gather.chunks) - 1
        if gather is not None and got and gather.chunks[request.piece]:
            self._short_reads = True
        # Whoever gave less than there was once is asked whether a missing byte is the end.
        ends = not got or (last and got == request.length - 1 and not self._short_reads)
        if gather is None:
            if got == request.length or ends or request.once:
                self._deliver(request, data)
                return
            gather = request.gather = Gather(1)
        gather.chunks[request.piece].append(data)
        if got == request.length or ends:
            self._piece_done(request, whole=got == request.length)
        elif request.job is not None:
            request.set_range(request.offset + got, request.length - got, request.piece)
            self._ready.appendleft(request)

    def _piece_done(self, request: Request, *, whole: bool) -> None:
        gather = request.gather
        if gather is None:
            self._deliver(request, b"")
            return
        gather.whole[request.piece] = whole
        gather.left -= 1
        if not gather.left:
            self._deliver(request, gather.join() if gather.failed is None else gather.failed)

    def _adopt(self, limits: wire.ServerLimits) -> None:
        longest = limits.read_length or PLAIN_READ
        if limits.packet_length:
            longest = min(longest, limits.packet_length - _PACKET_OVERHEAD)
        self._max_read = max(_SMALLEST_READ, min(longest, MAX_READ))
        self._window.allow(limits.open_handles)
