"""Reading one file of the server in order, ahead of its consumer.

A thread runs the transport, so that bytes keep coming while the consumer works with those that are
there. One SFTP channel carries no more than its window (2 MiB with OpenSSH) per round trip; a long
read over a long line therefore goes over several channels, each of which takes the next range.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, NamedTuple

from runicorn.errors import CancelledError, RequestError, TransportError
from runicorn.remote_storage.transport.base import (
    MAX_READ,
    Answer,
    Close,
    Fstat,
    Handle,
    Job,
    Open,
    Read,
    Transport,
)

BUFFER: Final = 16 * 1024 * 1024
"""Bytes that may be asked for and not be consumed yet, over all channels."""
BULK_FROM: Final = 16 * 1024 * 1024
"""Bytes that must be left to read for further channels to pay; they take about four round trips."""
LONG_LINE: Final = 0.01
"""Seconds of a round trip above which one channel's window is too small."""
FURTHER_CHANNELS: Final = 3
_READS_AT_ONCE: Final = 12
_LOOK_SECONDS: Final = 0.05
_LEAVE_SECONDS: Final = 30.0
_CANCELLED_SECONDS: Final = 2.0
_CLOSED_SECONDS: Final = 5.0


class _Ranges:
    """The ranges of one file: which are to be asked for, on their way, or wait for the consumer."""

    def __init__(self, start: int, end: int, buffer: int) -> None:
        self.changed = threading.Condition()
        self.end = end
        """Where the file ends, as far as is known, or where reading is to end."""
        self.stopped = False
        self.error: BaseException | None = None
        self._buffer = buffer
        self._next = start
        self._consumed = start
        self._on_the_way: set[int] = set()
        self._given_back: list[int] = []
        self._is_left = False
        self._chunks: dict[int, bytes] = {}

    @property
    def left(self) -> int:
        """Bytes that nobody has asked for yet."""
        return max(0, self.end - self._next)

    def _length(self, offset: int) -> int:
        return min(MAX_READ, self.end - offset)

    def take(self) -> tuple[int, int] | None:
        """The offset and length to read next; None when there is none, or no room for it."""
        with self.changed:
            if self.stopped:
                return None
            if self._given_back:
                offset = self._given_back.pop()
            else:
                offset = self._next
                length = self._length(offset)
                if length <= 0 or offset + length - self._consumed > self._buffer:
                    return None
                self._next += length
            self._on_the_way.add(offset)
            return offset, self._length(offset)

    def put(self, offset: int, length: int, data: bytes) -> None:
        """Take the bytes of a range; fewer than its length tell where the file ends."""
        with self.changed:
            self._on_the_way.discard(offset)
            if data and offset < self.end and not self._is_left:
                self._chunks[offset] = data[: self.end - offset]
            if len(data) < length and offset + len(data) < self.end:
                self.end = offset + len(data)
                self._given_back = [one for one in self._given_back if one < self.end]
            self.changed.notify_all()

    def give_back(self, offset: int) -> None:
        """Let another channel read a range."""
        with self.changed:
            self._on_the_way.discard(offset)
            if offset < self.end:
                self._given_back.append(offset)
            self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let the consumer have an error, once it has all that came before."""
        with self.changed:
            self.error = self.error or error
            self.stopped = True
            self.changed.notify_all()

    def stop(self) -> None:
        """Let nothing more be asked for, and forget what waits."""
        with self.changed:
            self.stopped = self._is_left = True
            self.error = None
            self._chunks.clear()
            self.changed.notify_all()

    def wait_for_work(self) -> bool:
        """Wait until there is room for a good many ranges; False when there will be no more."""

        def ready() -> bool:
            # Half the buffer, so that reading does not start again for each range that is consumed.
            room = self._buffer - (self._next - self._consumed)
            return bool(self._given_back or (self.left and room >= min(self.left, self._buffer // 2)))

        with self.changed:
            self.changed.wait_for(lambda: self.stopped or ready() or not (self.left or self._on_the_way))
            return not self.stopped and ready()

    def next_chunk(self, cancel: threading.Event) -> bytes | None:
        """The next bytes in order; None at the end. Raises what `Stream` says."""
        with self.changed:
            while True:
                if cancel.is_set():
                    raise CancelledError("stopped while a file was read")
                if self._consumed >= self.end:
                    return None
                chunk = self._chunks.pop(self._consumed, None)
                if chunk is not None:
                    self._consumed += len(chunk)
                    self.changed.notify_all()
                    return chunk
                if self.error is not None:
                    raise self.error
                if self.stopped:
                    return None
                self.changed.wait(_LOOK_SECONDS)


class _Channel:
    """Reads ranges of the file over one transport, in a thread of its own."""

    def __init__(
        self, transport: Transport, ranges: _Ranges, path: str, handle: Handle | None = None
    ) -> None:
        self._transport = transport
        self._ranges = ranges
        self._path = path
        self._handle = handle
        self._own: Handle | None = None
        self._refusal: RequestError | None = None

    def read(self, tell_round_trip: Callable[[float], None] | None = None) -> None:
        """Read while there is something to read.

        Args:
            tell_round_trip: is told once how many seconds the server took for a small request.

        Raises:
            TransportError: the connection failed, or the server refused something.
        """
        if not self._ranges.wait_for_work():
            return
        try:
            if self._handle is None:
                self._run([self._open(tell_round_trip)])
                tell_round_trip = None
            while self._ranges.wait_for_work():
                first = [self._measure(tell_round_trip)] if tell_round_trip is not None else []
                self._run([*first, *(self._read() for _ in range(_READS_AT_ONCE))])
                tell_round_trip = None
        finally:
            if self._own is not None:
                # On a connection that has failed it is not open any more.
                with contextlib.suppress(TransportError):
                    self._transport.run([_close(self._own)])

    def _run(self, jobs: list[Job]) -> None:
        self._transport.run(jobs)
        # A job that raises would close the kept handles of others, too.
        if self._refusal is not None:
            raise self._refusal

    def _open(self, tell: Callable[[float], None] | None) -> Job:
        begun = time.monotonic()
        (answer,) = yield [Open(self._path, keep=True)]
        if isinstance(answer, RequestError):
            self._refusal = answer
        elif isinstance(answer, Handle):
            self._handle = self._own = answer
            if tell is not None:
                tell(time.monotonic() - begun)

    def _measure(self, tell: Callable[[float], None]) -> Job:
        if self._handle is not None:
            begun = time.monotonic()
            yield [Fstat(self._handle)]
            tell(time.monotonic() - begun)

    def _read(self) -> Job:
        while self._handle is not None and self._refusal is None:
            taken = self._ranges.take()
            if taken is None:
                return
            offset, length = taken
            data: Answer = None
            try:
                (data,) = yield [Read(self._handle, offset, length)]
            finally:
                if not isinstance(data, bytes):
                    self._ranges.give_back(offset)
            if isinstance(data, RequestError):
                self._refusal = data
            elif isinstance(data, bytes):
                self._ranges.put(offset, length, data)


class Opening(NamedTuple):
    """How a file is opened that a stream shall not close.

    Attributes:
        handle: gives it, opened with ``keep``, to the thread that reads; what it raises, iterating raises.
        round_trip: seconds that the server takes for a small request; measured when that is not known.
    """

    handle: Callable[[], Handle]
    round_trip: float | None = None


class Stream:
    """The bytes of one file, in order, as they come. A context manager and an iterator.

    ::

        with Stream(transport, path, 0, size, cancel=cancel) as chunks:
            for chunk in chunks:
                ...

    Chunks have at most `MAX_READ` bytes; at most `BUFFER` bytes are asked for and not consumed. A
    file that ends before ``end`` ends the iteration: whoever needs all bytes counts them. Between
    entering and leaving, the transport belongs to the stream; afterwards it can be used again.

    Where at least `BULK_FROM` bytes are left and a round trip takes longer than `LONG_LINE`, up to
    `FURTHER_CHANNELS` connections of `Transport.open_more` help, at once when that is known before. Each
    opens ``path`` itself: a path that leads to another file meanwhile gives bytes of both, which only a
    digest can tell.

    Iterating raises:
        CancelledError: ``cancel`` is set.
        RequestError: the server refused to open or to read the file.
        TransportError: the connection failed.
    """

    def __init__(
        self,
        transport: Transport,
        path: str,
        start: int,
        end: int,
        *,
        cancel: threading.Event,
        opening: Opening | None = None,
    ) -> None:
        """Nothing is asked for before the context is entered.

        Args:
            transport: a connection that does nothing else meanwhile.
            path: where the file is on the server.
            start: offset of the first byte.
            end: offset behind the last byte.
            cancel: when it is set, the iteration ends with CancelledError.
            opening: how the caller has the file opened; the path is not opened beside that.
        """
        self._transport = transport
        self._path = path
        self._cancel = cancel
        self._ranges = _Ranges(start, end, BUFFER)
        self._opening = opening
        self._round_trip = opening.round_trip if opening is not None else None
        self._first = threading.Thread(target=self._read_first, name="runicorn-read", daemon=True)
        self._opener: threading.Thread | None = None
        self._further: list[tuple[Transport, threading.Thread]] = []

    def __enter__(self) -> Stream:
        if self._ranges.left:
            try:
                if self._round_trip is not None:
                    self._told_round_trip(self._round_trip)
                self._first.start()
            except BaseException:  # nobody else ends what has been started
                self._ranges.stop()
                self._transport.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ranges.stop()
        if not self._first.ident:
            return
        # A user who stops waits for no server; the connection is not used again then.
        # A generator around it that is closed, as on damage, leaves a connection that is used further.
        is_hurry = error is not None and not isinstance(error, Exception | GeneratorExit)
        patience = 0.0 if is_hurry else _LEAVE_SECONDS
        try:
            self._leave(min(patience, _CANCELLED_SECONDS) if self._cancel.is_set() else patience)
        except BaseException:
            self._transport.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._ranges.next_chunk(self._cancel)
        if chunk is None:
            raise StopIteration
        return chunk

    def _leave(self, patience: float) -> None:
        for transport, _ in list(self._further):
            transport.close()
        until = time.monotonic() + patience
        self._first.join(patience)
        if self._first.is_alive():
            self._transport.close()
            self._first.join(_CLOSED_SECONDS)
        # It sees by itself that it comes too late, and closes what it has opened.
        if self._opener is not None:
            self._opener.join(max(0.0, until - time.monotonic()))
        for _, thread in list(self._further):
            thread.join(_CLOSED_SECONDS)

    def _read_first(self) -> None:
        measures = self._round_trip is None and self._ranges.left >= BULK_FROM
        try:
            handle = self._opening.handle() if self._opening is not None else None
            _Channel(self._transport, self._ranges, self._path, handle).read(
                self._told_round_trip if measures else None
            )
        except BaseException as error:  # noqa: BLE001 - it is raised where the bytes are waited for
            self._ranges.fail(error)

    def _told_round_trip(self, seconds: float) -> None:
        if seconds > LONG_LINE and self._ranges.left >= BULK_FROM:
            self._opener = threading.Thread(target=self._open_more, name="runicorn-open-more", daemon=True)
            self._opener.start()

    def _open_more(self) -> None:
        with contextlib.suppress(TransportError):
            for transport in self._transport.open_more(FURTHER_CHANNELS):
                name = f"runicorn-read-{len(self._further) + 1}"
                thread = threading.Thread(
                    target=self._read_further, args=(transport,), name=name, daemon=True
                )
                self._further.append((transport, thread))
                thread.start()

    def _read_further(self, transport: Transport) -> None:
        # What it does not read, the first one does.
        with contextlib.closing(transport), contextlib.suppress(TransportError):
            _Channel(transport, self._ranges, self._path).read()


def _close(handle: Handle) -> Job:
    yield [Close(handle)]
