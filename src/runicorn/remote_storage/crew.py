"""Processes that stage frames beside this one (`runicorn.remote_storage.stager`).

They make a large first sync faster, and are needed for nothing: what one of them could not do, for whatever
reason, is done again here, where the reason shows.
"""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from runicorn.errors import RunicornError
from runicorn.journal.frames import Kind, Place, StoredFrame
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.stager import StagedSection, Stager

WORTH_BYTES = 8 * 1024**2
"""Bytes of the journal from which on processes are worth their start."""

_MOST = 3
_AHEAD = 3
"""Frames that each has been given beyond those that it has answered."""

_ANSWER_SECONDS = 120.0
_LEAVE_SECONDS = 2.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def most_hands() -> int:
    """How many processes are worth it on this machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if usable < 2 or not sys.executable else min(_MOST, usable)


class Hand:
    """One process; it is started before it is known what there will be to do.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        except BaseException:
            self._socket.close()
            raise
        self._connection: Connection[Any, Any] | None = None

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def begin(self, staging_fd: int, stem: str, selection: Selection, epoch: int) -> None:
        """Tell it what `Stager` has to know."""
        with contextlib.suppress(OSError):  # it is gone: `answer` tells
            socket.send_fds(self._socket, [b"."], [staging_fd])
        self._connection = Connection(self._socket.detach())
        self.send((stem, selection, epoch))

    def send(self, message: tuple[Any, ...]) -> None:
        """Give it something to do; when it is gone, `answer` tells."""
        if self._connection is None:
            return
        try:
            self._connection.send(message)
        except OSError:
            self._forget()

    def is_ready(self) -> bool:
        """Whether `answer` has to wait for nothing."""
        if self._connection is None:
            return True
        try:
            return self._connection.poll(0)
        except OSError:
            self._forget()
            return True

    def answer(self) -> list[StagedSection] | None:
        """What it made of the oldest frame; None when it could not."""
        if self._connection is None:
            return None
        try:
            if self._connection.poll(_ANSWER_SECONDS):
                sections: list[StagedSection] | None = self._connection.recv()
                return sections
        except (OSError, EOFError):
            pass  # it is gone: the caller does its work
        self._forget()
        return None

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._process.kill()

    def end(self) -> None:
        """End the process. May be called again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._socket.close()
        try:
            self._process.wait(_LEAVE_SECONDS)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise


class Hands:
    """Processes that wait for something to do, so that their start costs no time.

    Args:
        count: how many; fewer when they cannot be started.
    """

    def __init__(self, count: int) -> None:
        self.all: list[Hand] = []
        with contextlib.suppress(OSError):  # everything is done in this process then
            for _ in range(count):
                self.all.append(Hand())

    def close(self) -> None:
        """End them."""
        for hand in self.all:
            hand.end()


class Crew:
    """Stages frames, in order, with the help of other processes.

    Args:
        staging_fd: open folder for staged files.
        selection: what is synced.
        epoch: epoch of the mirror that files are recorded in.
        hands: the processes; without any, this one does all. They are ended with the crew.
    """

    def __init__(self, staging_fd: int, selection: Selection, epoch: int, hands: Hands) -> None:
        self._staging_fd, self._stem = staging_fd, secrets.token_hex(8)
        self._own = Stager(staging_fd, f"{self._stem}-own", selection, epoch)
        self._hands = hands.all
        self._pool = hands
        self._given: deque[tuple[StoredFrame, Hand]] = deque()
        self._next = 0
        self._has_lost = False
        for number, hand in enumerate(self._hands):
            hand.begin(staging_fd, f"{self._stem}-{number}", selection, epoch)

    def put(self, frame: StoredFrame) -> Iterator[tuple[Place, list[StagedSection]]]:
        """Take a frame, and give what is ready, each with the place behind its frame, in order.

        What is given is the caller's.

        Raises:
            RunicornError: as of `Stager.stage`, of a frame that was put before or of this one.
        """
        if not self._hands:
            yield frame.end, self._own.stage(frame)
            return
        hand = self._hands[self._next % len(self._hands)]
        self._next += 1
        hand.send((int(frame.kind), frame.codec, frame.stored, frame.size, frame.end))
        self._given.append((frame, hand))
        while self._given and (len(self._given) > _AHEAD * len(self._hands) or self._given[0][1].is_ready()):
            yield self._oldest()

    def rest(self) -> Iterator[tuple[Place, list[StagedSection]]]:
        """Wait for all that was put.

        Raises:
            RunicornError: as of `put`.
        """
        while self._given:
            yield self._oldest()

    def _oldest(self) -> tuple[Place, list[StagedSection]]:
        frame, hand = self._given[0]
        sections = hand.answer()
        if sections is None:
            self._has_lost = True
            sections = self._own.stage(frame)
        self._given.popleft()
        return frame.end, sections

    def close(self, *, sweep: bool) -> None:
        """End all processes.

        Args:
            sweep: whether something may be left that is not wanted any more; what is has taken its name
                before.
        """
        self._pool.close()
        if not sweep and not self._has_lost and not self._given:
            return
        self._given.clear()
        with os.scandir(self._staging_fd) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(self._stem)]
        for name in names:
            os.unlink(name, dir_fd=self._staging_fd)


def _work(connection: Connection[Any, Any], stager: Stager) -> None:
    """Stage frames as they come, until there are no more."""
    frames: SimpleQueue[StoredFrame | None] = SimpleQueue()

    def receive() -> None:
        # A thread takes them, so that whoever sends never waits for one who waits to send an answer.
        with contextlib.suppress(OSError, EOFError):
            while True:
                kind, *rest = connection.recv()
                frames.put(StoredFrame(Kind(kind), *rest))
        frames.put(None)

    threading.Thread(target=receive, name="runicorn-receive", daemon=True).start()
    while (frame := frames.get()) is not None:
        try:
            answer = stager.stage(frame)
        except (RunicornError, OSError):
            answer = None
        connection.send(answer)


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def main(descriptor: int) -> None:
    """What such a process does.

    Args:
        descriptor: of its end of the connection.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the process that it helps
    parent = os.getppid()
    _die_with_parent()
    gc.disable()  # what it makes has no cycles
    with socket.socket(fileno=descriptor) as ours:
        fds = socket.recv_fds(ours, 1, 1)[1]
        if not fds or os.getppid() != parent:
            return
        with Connection(ours.detach()) as connection, contextlib.suppress(OSError, EOFError):
            stem, selection, epoch = connection.recv()
            _work(connection, Stager(fds[0], stem, selection, epoch))


if __name__ == "__main__":
    main(int(sys.argv[1]))
