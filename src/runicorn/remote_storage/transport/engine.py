"""A pipelined, read-only SFTP client over any byte channel."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NoReturn

from runicorn.errors import ConnectError, ProtocolError, StallError, TransportError
from runicorn.remote_storage.transport import wire
from runicorn.remote_storage.transport.base import Job, Traffic, Transport
from runicorn.remote_storage.transport.channel import ByteChannel
from runicorn.remote_storage.transport.records import SessionOptions
from runicorn.remote_storage.transport.session import Session
from runicorn.remote_storage.transport.shown import printable

_SMALLEST_RECEIVE: Final = 64 * 1024
_LARGEST_RECEIVE: Final = 1024 * 1024
_QUOTED: Final = 512
_QUOTE_SECONDS: Final = 0.5
_BORROWED_FIRST_ID: Final = 1 << 31
_TEXT_HINT: Final = (
    "`ssh HOST true` must print nothing; let shell start-up files print only in interactive shells"
)


class SftpEngine:
    """A `Transport` over SFTP version 3.

    It owns the channel, and belongs to one thread at a time; `close` and `open_more` may be called by
    another one. The clock of its deadlines runs only while it waits for the server: neither slow jobs
    nor a pause between runs make it stall.
    """

    def __init__(
        self,
        channel: ByteChannel,
        *,
        timeout: float = 60.0,
        window: int = 512,
        login_timeout: float | None = None,
        initialised: bool = False,
    ) -> None:
        """Greet the server.

        Args:
            channel: the stream; it is closed when the greeting fails.
            timeout: seconds in which the server must send something, and answer each request
                (plus the time its bytes need on a line of 1 KiB/s).
            window: the most requests in flight, open handles and jobs under way.
            login_timeout: seconds the greeting may take, logging in included; None = ``timeout``.
            initialised: another client has greeted the server on this channel already; that client
                rests while a run is on, and finds no answers but its own afterwards.

        Raises:
            ConnectError: the stream ended.
            ProtocolError: the peer does not speak SFTP version 3.
            StallError: no greeting in time.
        """
        first = _BORROWED_FIRST_ID if initialised else 1
        self._channel = channel
        self._timeout = timeout
        self._session = Session(SessionOptions(timeout, window, first, settle=initialised))
        self._splitter = wire.PacketSplitter()
        self._packets: deque[wire.Packet] = deque()
        self._out = b""
        self._deaf = False
        self._waited = 0.0
        self._received = 0
        self._sent = 0
        self._greetings = 0 if initialised else 1
        self._borrowed = initialised
        self._running = False
        self._closed = False
        self._further = _Further()
        if not initialised:
            try:
                self._greet(timeout if login_timeout is None else login_timeout)
            except BaseException:
                self.close()
                raise

    @property
    def traffic(self) -> Traffic:
        """See `Transport.traffic`."""
        own = Traffic(self._greetings + self._session.requests, self._received, self._sent)
        return _total([own, self._further.traffic])

    def run(self, jobs: Iterable[Job]) -> None:
        """See `Transport.run`.

        Raises:
            ConnectError: the stream ended, now or before.
            ProtocolError: the server broke the protocol.
            StallError: it did not answer in time.
        """
        if self._closed:
            raise ConnectError("the connection is closed")
        if self._running:
            raise RuntimeError("a job must not call run() of its own transport")
        self._running = True
        try:
            self._session.begin(jobs)
            while self._turn():
                pass
        except BaseException as error:
            broken = isinstance(error, TransportError) and error is not self._session.failure
            self._session.abort()
            # A user who stops waits for no server; the connection is not used again then.
            if broken or not isinstance(error, Exception):
                self._end()
            else:
                self._drain()
            raise
        finally:
            self._running = False

    @property
    def ended(self) -> bool:
        """Whether the connection is closed, and does nothing any more."""
        return self._closed and not self._running

    def offer_more(self, connect: Callable[[int], Sequence[SftpEngine]]) -> None:
        """Say how `open_more` gets its connections: ``connect`` gives up to so many, and never raises."""
        self._further.connect = connect

    def open_more(self, count: int) -> list[Transport]:
        """See `Transport.open_more`."""
        return [] if self._closed or count <= 0 else self._further.open(count)

    def close(self) -> None:
        """See `Transport.close`."""
        # Nobody else closes what was kept open on a channel that outlives the engine.
        if self._borrowed and not self._closed and not self._running and self._session.holds_handles:
            self._session.abort()
            self._drain()
        self._end()

    def _end(self) -> None:
        self._closed = True
        self._further.close()
        self._channel.close()

    def _turn(self) -> bool:
        """Send what may be sent, then take what comes; whether the run goes on."""
        self._send()
        if self._session.finished and not self._out:
            return False
        self._receive()
        return True

    def _send(self) -> None:
        requests = self._session.fill(self._waited)
        if requests:
            self._out += b"".join(requests)
        self._flush()

    def _flush(self) -> None:
        if not self._out:
            return
        view = memoryview(self._out)
        done = 0
        while done < len(view) and not self._deaf:
            try:
                taken = self._channel.send(view[done:])
            except OSError:
                # Why it takes no more stands in what it has sent: that is read next.
                self._deaf = True
                break
            if not taken:
                break
            done += taken
        self._sent += done
        self._out = b"" if self._deaf else self._out[done:]

    def _receive(self) -> None:
        if not self._packets:
            data = self._wait_in_time()
            if data is None:
                return
            if not data:
                self._ended()
            self._packets.extend(self._splitter.feed(data))
        while self._packets:
            self._session.answer(self._packets.popleft())

    def _wait_in_time(self) -> bytes | None:
        due = self._session.due
        left = self._timeout if due is None else due - self._waited
        if left >= self._timeout:
            return self._wait(self._timeout)
        overdue = f"the server does not get on with answering {self._session.outstanding} requests"
        if left <= 0:
            raise StallError(overdue)
        try:
            return self._wait(left)
        except StallError as error:
            raise StallError(overdue) from error

    def _wait(self, timeout: float) -> bytes | None:
        size = min(_LARGEST_RECEIVE, max(_SMALLEST_RECEIVE, self._session.expected))
        begun = time.monotonic()
        try:
            data = self._channel.recv(size, timeout, want_room=bool(self._out))
        finally:
            self._waited += time.monotonic() - begun
        self._received += len(data) if data else 0
        return data

    def _drain(self) -> None:
        """After a job's error: consume what is still to come, so that the next run starts clean."""
        until = self._waited + self._timeout
        try:
            while self._session.outstanding or self._out:
                if self._waited > until:
                    self._end()
                    return
                self._send()
                self._receive()
        except TransportError:
            # The error that ended the run is the one to tell; the next run says "closed".
            self._end()
        except BaseException:
            self._end()
            raise

    def _ended(self) -> NoReturn:
        said = self._channel.diagnosis()
        raise ConnectError(f"the connection ended: {said}" if said else "the connection ended")

    # The greeting.

    def _greet(self, timeout: float) -> None:
        self._out = wire.encode_init()
        seen = b""
        packets: list[wire.Packet] = []
        try:
            while not packets:
                self._flush()
                if self._waited >= timeout:
                    raise StallError(f"no answer to the greeting in {timeout:.1f} s")
                data = self._wait(timeout - self._waited)
                if data is None:
                    continue
                if not data:
                    self._ended()
                seen = (seen + data)[:_QUOTED]
                if seen[0]:
                    raise ProtocolError("the server does not speak SFTP")
                packets = self._splitter.feed(data)
            version, extensions = wire.decode_version(packets[0])
        except TransportError as error:
            self._blame_text(seen, error)
            raise
        if version != wire.VERSION or len(packets) > 1:
            raise ProtocolError(f"the server answered version {version} to version {wire.VERSION}")
        if wire.LIMITS_EXTENSION in extensions:
            self._out = self._session.ask_limits()

    def _blame_text(self, seen: bytes, error: TransportError) -> None:
        """Raise an error that quotes the text that came in place of a packet, if text it was."""
        # A packet begins with a length below 16 MiB, so with a NUL.
        if not seen or seen[0] == 0:
            return
        try:
            while len(seen) < _QUOTED and b"\n" not in seen and b"\0" not in seen:
                more = self._wait(_QUOTE_SECONDS)
                if not more:
                    break
                seen += more
        except TransportError:
            pass
        text = printable(seen.split(b"\0")[0].strip())
        raise ProtocolError(
            f"the server printed text where SFTP was expected: {text!r}", hint=_TEXT_HINT
        ) from error


class _Further:
    """The connections that were opened beside one engine."""

    def __init__(self) -> None:
        self.connect: Callable[[int], Sequence[SftpEngine]] = lambda _: ()
        self._engines: list[SftpEngine] = []
        self._ended = Traffic()
        self._closed = False
        self._lock = threading.Lock()

    @property
    def traffic(self) -> Traffic:
        with self._lock:
            return _total([self._ended, *(engine.traffic for engine in self._engines)])

    def open(self, count: int) -> list[Transport]:
        opened = self.connect(count)
        with self._lock:
            if not self._closed:
                self._forget_ended()
                self._engines += opened
                return list(opened)
        for engine in opened:
            engine.close()
        return []

    def close(self) -> None:
        with self._lock:
            self._closed = True
            engines = list(self._engines)
        for engine in engines:
            engine.close()

    def _forget_ended(self) -> None:
        self._ended = _total([self._ended, *(engine.traffic for engine in self._engines if engine.ended)])
        self._engines = [engine for engine in self._engines if not engine.ended]


def _total(all_traffic: Iterable[Traffic]) -> Traffic:
    every = list(all_traffic)
    return Traffic(
        sum(one.requests for one in every), sum(one.received for one in every), sum(one.sent for one in every)
    )
