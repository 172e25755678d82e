"""The channel over file descriptors."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from runicorn.remote_storage.transport import FdChannel

TIMEOUT = 60.0


class NoticedError(Exception):
    """A signal was handled."""


class Announced:
    """A poller that tells when somebody begins to wait."""

    def __init__(self, poller: select.poll) -> None:
        self._poller = poller
        self.waits = threading.Event()

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        self.waits.set()
        return self._poller.poll(milliseconds)


@contextlib.contextmanager
def pair() -> Iterator[tuple[FdChannel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs, contextlib.closing(FdChannel(ours.fileno(), ours.detach())) as channel:
        yield channel, theirs


def test_closed_channel_takes_nothing_and_gives_the_end() -> None:
    with pair() as (channel, _):
        channel.close()
        channel.close()
        with pytest.raises(BrokenPipeError, match=r"^the channel is closed$"):
            channel.send(memoryview(b"x"))
        assert channel.recv(10, TIMEOUT) == b""
        assert channel.diagnosis() == ""


@pytest.mark.parametrize(("error", "got"), [(BlockingIOError(), b"x"), (ConnectionResetError(), b"")])
def test_bytes_that_are_not_there_after_all_are_waited_for_and_an_error_is_the_end(
    monkeypatch: pytest.MonkeyPatch, error: OSError, got: bytes
) -> None:
    errors = [error]

    def read(fd: int, size: int) -> bytes:
        if errors:
            raise errors.pop()
        return real(fd, size)

    real = os.read
    with pair() as (channel, theirs):
        theirs.sendall(b"x")
        monkeypatch.setattr("runicorn.remote_storage.transport.channel.os.read", read)
        assert channel.recv(10, TIMEOUT) == got
        monkeypatch.undo()


def test_signal_that_another_thread_receives_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()

    def notice(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise NoticedError

    before = signal.signal(signal.SIGUSR1, notice)
    with theirs, contextlib.closing(FdChannel(ours.fileno(), ours.detach())) as channel:
        poller = Announced(channel._readable)
        monkeypatch.setattr(channel, "_readable", poller)

        def receive() -> None:
            assert poller.waits.wait(TIMEOUT)
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            if not ended.wait(TIMEOUT / 2):
                late.append(True)
                theirs.sendall(b"nobody has noticed")

        ended, late = threading.Event(), list[bool]()
        thread = threading.Thread(target=receive)
        try:
            thread.start()
            with pytest.raises(NoticedError):
                channel.recv(100, TIMEOUT)
            assert not late
        finally:
            ended.set()
            thread.join(TIMEOUT)
            signal.signal(signal.SIGUSR1, before)
