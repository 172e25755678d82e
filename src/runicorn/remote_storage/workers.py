"""Processes that stage frames beside this one (`runicorn.remote_storage.stager`).

They make a large first sync faster, and are needed for nothing: what one of them could not do, for whatever
reason, is done again here, where the reason shows.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from runicorn._version import __version__
from runicorn.errors import RunicornError
from runicorn.journal.codecs import best_codec
from runicorn.journal.frames import Kind, Place, StoredFrame
from runicorn.remote_storage.messages import Messages
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.stager import StagedSection, Stager, packed, unpacked
from runicorn.remote_storage.staging import discard_folder

WORTH_BYTES = 8 * 1024**2
"""Bytes of the journal from which on processes are worth their start."""

_MOST = 3
_AHEAD = 64
_AHEAD_BYTES = 16 * 1024**2
"""Frames that each has been given beyond those that it has answered, and bytes of all of them: work for the
time in which this process gives a batch its names."""

_ANSWER_SECONDS = 60.0
_SEND_SECONDS = 10
_LOOK_SECONDS = 0.2
_END_SECONDS = 10.0
_NICER = 5
"""Whoever gives them work comes before them; much more, and they would get nowhere on a machine that is busy
with something else, while that one waits for them."""

_NICEST = 19

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
_FRAME = struct.Struct("=BI")
"""Codec of a frame, and bytes of its payload."""
_NOWHERE = Place("", 0, b"")
_KEEPS_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 * 1024**2), "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2)}
"""What glibc is told, unless the user has told it: else each frame takes memory from the system anew, which
costs more than what is done with it."""
_PROGRAM = "import sys; sys.path[:] = {path!r}; from {module} import main; main({descriptor}, {version!r})"
"""Modules come from where this process has them: `python -m` would look in the working folder first."""

log = logging.getLogger(__name__)


def most_workers() -> int:
    """How many processes are worth it on this machine; none where this one is no plain interpreter."""
    if getattr(sys, "frozen", False) or not os.path.basename(sys.executable).startswith("python"):
        return 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if usable < 2 else min(_MOST, usable)


class Worker:
    """One process; it is started before it is known what there will be to do. On Linux it ends with the
    thread that starts it.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                for end in (ours, theirs):
                    end.setblocking(True)  # whatever default the program has
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0))
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _SEND_SECONDS, 0))
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _program(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_KEEPS_MEMORY | os.environ,
                )
        except BaseException:
            ours.close()
            raise
        with contextlib.suppress(OSError):  # at once: its start must not delay the login, which is under way
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _niceness())
        self._socket = ours
        self._messages: Messages | None = None

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def begin(self, staging_fd: int, name: str, selection: Selection, epoch: int) -> None:
        """Tell it what `Stager` has to know."""
        with contextlib.suppress(OSError):  # it is gone: `answer` tells
            socket.send_fds(self._socket, [b"."], [staging_fd])
        self._messages = Messages(self._socket)
        self._send(pickle.dumps((name, selection, epoch)))

    def give(self, frame: StoredFrame) -> None:
        """Give it a files frame to stage; when it is gone, or takes nothing, `answer` tells."""
        self._send(frame.stored, _FRAME.pack(frame.codec, frame.size))

    def _send(self, body: bytes, head: bytes = b"") -> None:
        if self._messages is None:
            return
        try:
            self._messages.send(body, head)
        except OSError:
            self.stop()

    def is_ready(self) -> bool:
        """Whether `answer` has to wait for nothing."""
        return self._messages is None or self._messages.is_ready(0)

    def answer(self, check: Callable[[], None]) -> list[StagedSection] | None:
        """What it has staged of the oldest frame that it has been given and not answered yet; None when it
        could not, or is gone, or does not answer.

        Args:
            check: is called while nothing comes; what it raises is raised.
        """
        end = time.monotonic() + _ANSWER_SECONDS
        try:
            while self._messages is not None and time.monotonic() < end:
                if self._messages.is_ready(_LOOK_SECONDS):
                    return unpacked(self._messages.receive()[1])
                check()
        except (OSError, EOFError, ValueError, TypeError):
            pass  # it is gone, or says what makes no sense: the caller does its work
        self.stop()
        return None

    def stop(self) -> None:
        """Let the process end, whatever it does; nothing more is heard of it. `end` waits for it."""
        if self._messages is not None:
            self._messages.close()
            self._messages = None
        self._process.kill()

    def end(self) -> None:
        """End the process, whatever it does. May be called again."""
        self.stop()
        self._socket.close()
        # One that hangs in the system, for a disk that does not answer, ends when it comes out of there.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)


def _end(workers: list[Worker]) -> None:
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.end()


def _niceness() -> int:
    return min(_NICEST, os.getpriority(os.PRIO_PROCESS, 0) + _NICER)


def _program(descriptor: int) -> str:
    return _PROGRAM.format(path=sys.path, module=__name__, descriptor=descriptor, version=__version__)


class Workers:
    """Processes that wait for something to do, so that their start costs no time. They help with one sync.

    Args:
        count: how many; fewer when they cannot be started.
    """

    def __init__(self, count: int) -> None:
        self._waiting: list[Worker] = []
        with contextlib.suppress(OSError):  # everything is done in this process then
            for _ in range(count):
                self._waiting.append(Worker())

    def take(self) -> list[Worker]:
        """Those that wait; whoever takes them ends them."""
        taken, self._waiting = self._waiting, []
        return taken

    @property
    def pids(self) -> list[int]:
        """Process numbers of those that wait."""
        return [worker.pid for worker in self._waiting]

    def close(self) -> None:
        """End those that nobody took."""
        _end(self.take())


class WorkerPool:
    """Stages frames, in order, with the help of other processes.

    Args:
        staging_fd: open folder for staged files.
        selection: what is synced.
        epoch: epoch of the mirror that files are recorded in.
        workers: the processes; without any, this one does all. They are taken, and ended with the pool.
        check: is called while it waits; what it raises is raised.
    """

    def __init__(
        self, staging_fd: int, selection: Selection, epoch: int, workers: Workers, check: Callable[[], None]
    ) -> None:
        self._stem = stem = secrets.token_hex(8)
        self._staging_fd, self._check = staging_fd, check
        self._own = Stager(staging_fd, f"{stem}-own", selection, epoch)
        self._workers = workers.take()
        self._given: deque[tuple[StoredFrame, Worker]] = deque()
        self._next = self._lost = self._given_bytes = 0
        for number, worker in enumerate(self._workers):
            worker.begin(staging_fd, f"{stem}-{number}", selection, epoch)

    def put(self, frame: StoredFrame) -> Iterator[tuple[Place, list[StagedSection]]]:
        """Take a frame, and give what is ready, each with the place behind its frame, in order.

        What is given is the caller's.

        Raises:
            RunicornError: as of `Stager.stage`, of a frame that was put before or of this one.
        """
        if not self._workers:
            yield frame.end, self._own.stage(frame)
            return
        worker = self._workers[self._next % len(self._workers)]
        self._next += 1
        worker.give(frame)
        self._given.append((frame, worker))
        self._given_bytes += len(frame.stored)
        while len(self._given) > _AHEAD * len(self._workers) or self._given_bytes > _AHEAD_BYTES:
            yield self._oldest()
        yield from self.ready()

    def ready(self) -> Iterator[tuple[Place, list[StagedSection]]]:
        """Give what has to be waited for no more.

        Raises:
            RunicornError: as of `put`.
        """
        while self._given and self._given[0][1].is_ready():
            yield self._oldest()

    def rest(self) -> Iterator[tuple[Place, list[StagedSection]]]:
        """Wait for all that was put.

        Raises:
            RunicornError: as of `put`.
        """
        while self._given:
            yield self._oldest()

    def _oldest(self) -> tuple[Place, list[StagedSection]]:
        frame, worker = self._given[0]
        sections = worker.answer(self._check)
        if sections is None:
            self._lost += 1
            sections = self._own.stage(frame)
        self._given.popleft()
        self._given_bytes -= len(frame.stored)
        return frame.end, sections

    def close(self) -> None:
        """End all processes, and remove what they staged that has not taken its name.

        Raises:
            OSError: it cannot be removed.
        """
        if self._lost:
            log.info("%d frames were staged here, because a process that helps did not do it", self._lost)
        _end(self._workers)
        self._own.close()
        with contextlib.ExitStack() as stack:  # one that cannot be removed does not keep the others
            for name in os.listdir(self._staging_fd):
                if name.startswith(self._stem):
                    stack.callback(discard_folder, self._staging_fd, name)


def _work(messages: Messages, stager: Stager) -> None:
    """Stage frames as they come, until there are no more."""
    frames: SimpleQueue[StoredFrame | None] = SimpleQueue()

    def receive() -> None:
        # A thread takes them, so that whoever sends never waits for one who waits to send an answer.
        try:
            with contextlib.suppress(OSError, EOFError):
                while True:
                    head, stored = messages.receive()
                    codec, size = _FRAME.unpack(head)
                    frames.put(StoredFrame(Kind.FILES, codec, stored, size, _NOWHERE))
        finally:
            frames.put(None)

    threading.Thread(target=receive, name="runicorn-receive", daemon=True).start()
    while (frame := frames.get()) is not None:
        try:
            answer = stager.stage(frame)
        except (RunicornError, OSError):
            answer = None
        messages.send(packed(answer))


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def main(descriptor: int, version: str) -> None:
    """What such a process does.

    Args:
        descriptor: of its end of the connection.
        version: of whoever started it, who is of no use to another one.
    """
    if version != __version__:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the process that it helps
    parent = os.getppid()
    _die_with_parent()
    gc.disable()  # what it makes has no cycles
    best_codec()  # finds the library while there is nothing else to do
    with socket.socket(fileno=descriptor) as ours:
        fds = socket.recv_fds(ours, 1, 1)[1]
        if not fds or os.getppid() != parent:
            return
        messages = Messages(ours)
        with contextlib.suppress(OSError, EOFError):
            name, selection, epoch = pickle.loads(messages.receive()[1])  # noqa: S301 - of the process that it helps
            _work(messages, Stager(fds[0], name, selection, epoch))
