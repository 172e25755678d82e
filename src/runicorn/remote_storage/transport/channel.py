"""A stream of bytes to a server and back: what an engine needs, and the one over file descriptors."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Protocol

from runicorn.errors import StallError

_LOOK_SECONDS = 0.5
"""A signal that another thread receives, or that comes in the moment in which a wait begins, does not end the
wait: its handler runs when the wait is over."""


class ByteChannel(Protocol):
    """A stream of bytes in both directions.

    An engine never waits in `send`: a server that waits for its replies to be read takes nothing,
    and both would wait for ever. It waits in `recv` alone, for bytes to read *or* room to send.
    """

    def send(self, data: memoryview) -> int:
        """Hand over as many bytes as there is room for, without waiting; how many, maybe 0.

        Raises:
            OSError: the other side takes no more; what it has said can still be read.
            TransportError: the connection failed.
        """

    def recv(self, max_bytes: int, timeout: float, *, want_room: bool = False) -> bytes | None:
        """Wait up to ``timeout`` seconds for bytes; b"" is the end of the stream.

        With ``want_room`` it also returns, with None, when `send` would take something.

        Raises:
            StallError: nothing came in time.
            TransportError: the connection failed.
        """

    def close(self) -> None:
        """Let go of the connection. May be called more than once.

        Another thread that waits in `recv` is given the end of the stream.
        """

    def diagnosis(self) -> str:
        """What is known of why the stream ended, for people to read; may be empty."""


def stalled(timeout: float) -> StallError:
    """The error for a wait of ``timeout`` seconds in which nothing came."""
    return StallError(f"the server sent nothing for {timeout:.1f} s")


class FdChannel:
    """A `ByteChannel` over two file descriptors (pipes, or one socket twice).

    It owns the descriptors, makes them non-blocking and closes them. Only `close` may be called by a
    second thread.

    Raises:
        OSError: there are too many open files; the descriptors are closed.
    """

    def __init__(self, read_fd: int, write_fd: int, *, diagnose: Callable[[], str] | None = None) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._diagnose = diagnose
        self._closing = threading.Lock()
        for fd in {read_fd, write_fd}:
            os.set_blocking(fd, False)
        # A descriptor that is closed while a thread waits for it may be another file's the next moment.
        self._in_use = threading.RLock()
        try:
            self._woken_fd, self._wake_fd = os.pipe()
        except OSError:
            for fd in {read_fd, write_fd}:
                os.close(fd)
            raise
        self._readable = select.poll()
        self._readable.register(read_fd, select.POLLIN)
        self._either = select.poll()
        for poller in (self._readable, self._either):
            poller.register(self._woken_fd, select.POLLIN)
        both = select.POLLIN | select.POLLOUT
        self._either.register(write_fd, both if read_fd == write_fd else select.POLLOUT)
        if read_fd != write_fd:
            self._either.register(read_fd, select.POLLIN)

    def send(self, data: memoryview) -> int:
        """See `ByteChannel.send`."""
        with self._in_use:
            if self._closing.locked():
                raise BrokenPipeError("the channel is closed")
            try:
                return os.write(self._write_fd, data)
            except BlockingIOError:
                return 0

    def recv(self, max_bytes: int, timeout: float, *, want_room: bool = False) -> bytes | None:
        """See `ByteChannel.recv`."""
        with self._in_use:
            return self._recv(max_bytes, timeout, self._either if want_room else self._readable)

    def _recv(self, max_bytes: int, timeout: float, poller: select.poll) -> bytes | None:
        deadline = time.monotonic() + timeout
        while True:
            if self._closing.locked():
                return b""
            left = deadline - time.monotonic()
            ready = poller.poll(max(0.0, min(left, _LOOK_SECONDS)) * 1000)
            if self._closing.locked():
                return b""
            if any(fd == self._read_fd and event & ~select.POLLOUT for fd, event in ready):
                try:
                    return os.read(self._read_fd, max_bytes)
                except BlockingIOError:
                    continue
                except OSError:
                    return b""
            if ready:
                return None
            if left <= 0:
                raise stalled(timeout)

    def close(self) -> None:
        """See `ByteChannel.close`."""
        if not self._closing.acquire(blocking=False):
            return
        os.write(self._wake_fd, b"!")
        with self._in_use:
            for fd in {self._read_fd, self._write_fd, self._woken_fd, self._wake_fd}:
                os.close(fd)

    def diagnosis(self) -> str:
        """See `ByteChannel.diagnosis`."""
        return self._diagnose() if self._diagnose else ""
