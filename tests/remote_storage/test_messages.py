"""Messages between two processes."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator

import pytest

from runicorn.remote_storage.messages import Messages

PATIENCE = 20.0


@pytest.fixture
def ends() -> Iterator[tuple[Messages, Messages]]:
    one, other = map(Messages, socket.socketpair())
    yield one, other
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("head", "body"),
    [(b"", b""), (b"h", b""), (b"", b"b"), (b"head", b"body"), (b"h" * 7, os.urandom(5 * 1024**2))],
)
def test_come_as_they_went_one_after_the_other(
    ends: tuple[Messages, Messages], head: bytes, body: bytes
) -> None:
    one, other = ends

    def send() -> None:
        for _ in range(2):
            one.send(body, head)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert [other.receive(), other.receive()] == [(head, body)] * 2
    finally:
        thread.join(PATIENCE)
    assert not other.is_ready(0)


def test_one_that_waits_is_told(ends: tuple[Messages, Messages]) -> None:
    one, other = ends
    assert not other.is_ready(0)
    one.send(b"x")
    assert other.is_ready(PATIENCE)


@pytest.mark.parametrize("sent", [b"", b"\1", struct.pack("=II", 0, 9), struct.pack("=II", 0, 9) + b"half"])
def test_an_end_is_an_end_wherever_it_comes(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    messages = Messages(ours)
    with theirs:
        theirs.sendall(sent)
    assert messages.is_ready(PATIENCE)
    with pytest.raises(EOFError):
        messages.receive()
    messages.close()
    messages.close()


def test_nobody_takes_them(ends: tuple[Messages, Messages]) -> None:
    one, other = ends
    other.close()
    with pytest.raises(OSError, match="Broken pipe"):
        one.send(b"x")


@pytest.fixture
def limited() -> Iterator[tuple[Messages, socket.socket]]:
    """Messages of which the socket waits for a short time only, and the other end."""
    ours, theirs = socket.socketpair()
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 0, 50_000))
    messages = Messages(ours)
    yield messages, theirs
    messages.close()
    theirs.close()


def test_one_that_stops_coming_is_waited_for_as_long_as_the_socket_waits(
    limited: tuple[Messages, socket.socket],
) -> None:
    messages, theirs = limited
    theirs.sendall(struct.pack("=II", 0, 9) + b"half")
    with pytest.raises(BlockingIOError):
        messages.receive()


def test_one_that_nobody_takes_is_offered_as_long_as_the_socket_waits(
    limited: tuple[Messages, socket.socket],
) -> None:
    with pytest.raises(BlockingIOError):
        limited[0].send(b"x" * 64 * 1024**2)


def unread(connection: socket.socket) -> int:
    """Bytes that wait to be received."""
    count = array.array("i", [0])
    fcntl.ioctl(connection, termios.FIONREAD, count)
    return count[0]


def test_a_signal_in_the_midst_of_one_loses_nothing() -> None:
    ours, theirs = socket.socketpair()
    messages, body = Messages(ours), os.urandom(1024**2)
    raw = struct.pack("=II", 0, len(body)) + body
    main = threading.main_thread().ident
    assert main is not None
    handled = threading.Event()

    def send() -> None:
        theirs.sendall(raw[:1000])
        until = time.monotonic() + PATIENCE
        while unread(ours) and time.monotonic() < until:
            pass  # until it has taken these, and waits for more
        signal.pthread_kill(main, signal.SIGUSR1)
        assert handled.wait(PATIENCE)
        theirs.sendall(raw[1000:])

    before = signal.signal(signal.SIGUSR1, lambda *_: handled.set())
    thread = threading.Thread(target=send)
    try:
        thread.start()
        assert messages.receive() == (b"", body)
    finally:
        thread.join(PATIENCE)
        signal.signal(signal.SIGUSR1, before)
        messages.close()
        theirs.close()


def test_a_signal_while_one_is_sent_loses_nothing() -> None:
    ours, theirs = socket.socketpair()
    messages, other, body = Messages(ours), Messages(theirs), os.urandom(8 * 1024**2)
    main = threading.main_thread().ident
    assert main is not None
    handled = threading.Event()
    came: list[tuple[bytes, bytes]] = []

    def receive() -> None:
        assert other.is_ready(PATIENCE)  # more is on its way than the socket holds
        signal.pthread_kill(main, signal.SIGUSR1)
        assert handled.wait(PATIENCE)
        came.append(other.receive())

    before = signal.signal(signal.SIGUSR1, lambda *_: handled.set())
    thread = threading.Thread(target=receive)
    try:
        thread.start()
        messages.send(body, b"head")
    finally:
        thread.join(PATIENCE)
        signal.signal(signal.SIGUSR1, before)
        messages.close()
        other.close()
    assert came == [(b"head", body)]
