"""Several pieces of work in threads of one process, ended in order by a signal."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

from runicorn.errors import RunicornError

PATIENCE = 3.0
"""Seconds that work may take to end by itself once it was told to; then its connection is cut."""

_LAST_PATIENCE = 10.0
_WAKE = 0.5
"""Seconds: a signal that another thread receives, or that comes in the moment in which a wait begins, does
not end that wait."""
_SAME_WISH = 0.5


@dataclass
class Work:
    """One piece of work.

    Attributes:
        run: does it, and returns an exit code; told to stop by the event.
        abort: ends what it waits for; called in another thread.
        failed: is told of the error it ended with, in its thread.
        name: of its thread, which lines of the log tell.
        code: the exit code, or None while it is under way.
        error: what it raised that is no error of this program.
    """

    run: Callable[[threading.Event], int]
    abort: Callable[[], None]
    failed: Callable[[RunicornError], None]
    name: str = ""
    code: int | None = None
    error: BaseException | None = None
    thread: threading.Thread | None = field(default=None, repr=False)

    def start(self, stop: threading.Event, ended: queue.SimpleQueue[None]) -> None:
        """Begin, in a thread of its own; ``ended`` gets an item when it has ended."""
        self.thread = threading.Thread(
            target=self._do, args=(stop, ended), name=self.name or None, daemon=True
        )
        self.thread.start()

    def _do(self, stop: threading.Event, ended: queue.SimpleQueue[None]) -> None:
        try:
            self.code = self._guarded(stop)
        except BaseException as error:  # noqa: BLE001 - it is raised again, by the main thread
            self.error, self.code = error, 1
        finally:
            ended.put(None)

    def _guarded(self, stop: threading.Event) -> int:
        try:
            return self.run(stop)
        except RunicornError as error:
            if stop.is_set():
                return 0
            self.failed(error)
            return error.exit_code


def run_side_by_side(works: Sequence[Work], lingers: Callable[[], None], *, signals_end_well: bool) -> int:
    """Do all of them to their end; returns the worst exit code.

    Args:
        works: what is done.
        lingers: called when some, told to end, take their time; from here on a further signal insists.
        signals_end_well: whether SIGINT and SIGTERM are the usual way to end it, and no interrupt.

    Raises:
        KeyboardInterrupt: it was interrupted.
        BaseException: what a piece of work raised that is no error of this program.
    """
    stop, wake = threading.Event(), queue.SimpleQueue[None]()
    with _signals(wake) if signals_end_well else contextlib.nullcontext(lambda: False) as is_asked:
        try:
            for work in works:
                work.start(stop, wake)
            while not is_asked() and any(work.code is None for work in works):
                with contextlib.suppress(queue.Empty):
                    wake.get(timeout=_WAKE)
                if any(work.error is not None for work in works):
                    break
        finally:
            stop.set()
            _end(works, lingers)
    for work in works:
        if work.error is not None:
            raise work.error
    return worst([work.code or 0 for work in works])


def _end(works: Sequence[Work], lingers: Callable[[], None]) -> None:
    deadline = time.monotonic() + PATIENCE
    try:
        _join(works, time.monotonic() + _SAME_WISH)
        if any(work.code is None for work in works):
            lingers()
            _join(works, deadline)
    finally:  # also when somebody insists: an ssh that waits for an answer would stay
        for work in works:
            # After an interrupted join a thread may claim that it has ended (Python below 3.13).
            if work.thread is not None and work.code is None:
                work.abort()
    _join(works, deadline + _LAST_PATIENCE)


def _join(works: Sequence[Work], deadline: float) -> None:
    for work in works:
        if work.thread is not None:
            work.thread.join(max(0.0, deadline - time.monotonic()))


@contextlib.contextmanager
def _signals(wake: queue.SimpleQueue[None]) -> Iterator[Callable[[], bool]]:
    """Gives whether a signal has asked to end; a later one insists. One that comes at once is the same wish:
    `timeout` and shells signal a process and then its group.

    A signal may come within the handler, or while the main thread holds the lock of an event: setting that
    event would wait for ever. A `SimpleQueue` is made for it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    asked_at = 0.0

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        del signum, frame
        if asked_at and time.monotonic() - asked_at > _SAME_WISH:
            raise KeyboardInterrupt
        asked_at = asked_at or time.monotonic()
        wake.put(None)

    before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked_at > 0
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def worst(codes: Sequence[int]) -> int:
    """The worst of some exit codes: failures are worse than 3 (something is left undone), and that than 0."""
    return max(codes, key=lambda code: (code != 0, code not in (0, 3), code), default=0)
