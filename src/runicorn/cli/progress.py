"""Progress of a sync on a terminal: exact totals, bytes, rate, time left that does not jump."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runicorn.cli.units import duration_text, size_text
from runicorn.manifest.rules import escape
from runicorn.remote_storage.report import (
    BytesReceived,
    Event,
    FileDone,
    FileFailed,
    ListingRead,
    Observer,
    SyncFinished,
    TransferStarted,
    ignore,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

FILE_EVENTS = (ListingRead, TransferStarted, BytesReceived, FileDone, FileFailed)
"""What happens during a sync, as against what happens to a watch."""

_STEP = 0.1
_SMOOTHING = 0.1
_FILE_COST = 16 * 1024
"""Bytes that a file costs beside its content, so that many small files count as work."""


class TimeLeft:
    """Time left from work done, smoothed so that it does not jump.

    Args:
        total: work in all, in any unit.
        now: seconds of a steady clock at the start.
    """

    def __init__(self, total: float, now: float) -> None:
        self._total = total
        self._started = self._last = now
        self._shown: float | None = None

    def update(self, done: float, now: float) -> float | None:
        """Seconds left, or None while nothing is known.

        Args:
            done: work done so far.
            now: seconds of the same clock.
        """
        if done <= 0 or now <= self._started:
            return None
        estimate = max(0.0, self._total - done) * (now - self._started) / done
        if self._shown is None:
            self._shown = estimate
        else:
            self._shown = max(0.0, self._shown - (now - self._last))
            self._shown += _SMOOTHING * (estimate - self._shown)
        self._last = now
        return self._shown


class TerminalProgress:
    """An observer that draws on a terminal; imports rich when there is something to draw."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._files = self._total_files = 0
        self._bytes = self._total_bytes = 0
        self._left: TimeLeft | None = None
        self._started = self._drawn = 0.0

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, TransferStarted) and (event.files or event.total_bytes):
            self._start(event)
        elif isinstance(event, BytesReceived):
            self._bytes += event.count
            self._draw()
        elif isinstance(event, FileDone):
            self._files += 1
            self._draw(last=self._files == self._total_files)
        elif isinstance(event, SyncFinished):
            self.stop()

    def _start(self, event: TransferStarted) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        # A walk fetches status files before it knows how much there is in all; what the journal only lists
        # is fetched when it has been read.
        self.stop()
        self._files = self._bytes = 0
        self._total_files, self._total_bytes = event.files, event.total_bytes
        self._started = time.monotonic()
        self._left = TimeLeft(self._work(event.files, event.total_bytes), self._started)
        self._progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            redirect_stdout=_shares_terminal(),
        )
        self._task = self._progress.add_task("", total=self._work(event.files, event.total_bytes))
        self._progress.start()

    @staticmethod
    def _work(files: int, count: int) -> int:
        return files * _FILE_COST + count

    def _draw(self, last: bool = False) -> None:
        now = time.monotonic()
        if self._progress is None or self._task is None or (now - self._drawn < _STEP and not last):
            return
        self._drawn = now
        done = self._work(self._files, self._bytes)
        left = self._left.update(done, now) if self._left else None
        rate = self._bytes / max(0.001, now - self._started)
        count = f"{self._files}/{self._total_files}" if self._total_files else str(self._files)
        text = f"{count} files  "
        # What is read twice, as proof or after a failure, is more than was planned.
        received = min(self._bytes, self._total_bytes)
        text += f"{size_text(received)}/{size_text(self._total_bytes)}  {size_text(rate)}/s"
        if left is not None:
            text += f"  {duration_text(left)} left"
        self._progress.update(self._task, completed=done, description=text)

    def stop(self) -> None:
        """Take the drawing off the terminal."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class VerboseLines:
    """An observer that writes a line for each file.

    Args:
        name: of the remote, where several are synced.

    Attributes:
        is_lasting: whether a watch has use for it after the first sync.
    """

    is_lasting = True

    def __init__(self, name: str = "") -> None:
        self._prefix = f"{name}: " if name else ""

    def __call__(self, event: Event) -> None:
        """Write the line of an event, if it has one."""
        if isinstance(event, FileDone):
            self._print(escape(event.path))
        elif isinstance(event, FileFailed):
            what = "failed" if event.final else "failed, is tried again"
            self._print(f"{escape(event.path)}: {what}: {event.error}")
        elif isinstance(event, ListingRead):
            self._print(f"method: {event.method}")

    def _print(self, line: str) -> None:
        # In one piece: other threads write lines, too.
        print(f"{self._prefix}{line}\n", end="", file=sys.stderr)


@contextmanager
def observed(verbose: bool, quiet: bool, name: str = "") -> Iterator[list[Observer]]:
    """The observers that fit the terminal and the user's wish; ``name`` tells several remotes apart."""
    if verbose:
        yield [VerboseLines(name)]
        return
    if quiet or not sys.stderr.isatty():
        yield []
        return
    from rich.console import Console

    progress = TerminalProgress(Console(file=sys.stderr))
    try:
        yield [progress]
    finally:
        progress.stop()


@contextmanager
def observed_together(names: Sequence[str], verbose: bool, quiet: bool) -> Iterator[list[Observer]]:
    """The observers of several syncs side by side, one for each name; on a terminal one line each."""
    if verbose:
        yield [VerboseLines(name) for name in names]
        return
    if quiet or not sys.stderr.isatty():
        yield [ignore for _ in names]
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.fields[remote]}"), BarColumn(), TextColumn("{task.description}"))
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, redirect_stdout=_shares_terminal()) as progress:
        tasks = [progress.add_task("connecting", total=None, remote=escape(name)) for name in names]
        yield [SharedProgress(progress, task) for task in tasks]


def _shares_terminal() -> bool:
    # Results go past the drawing when they are seen there; what is a file or a pipe gets them as ever.
    return sys.stdout is not None and sys.stdout.isatty()


class SharedProgress:
    """An observer that draws one line of several on a terminal.

    Args:
        progress: draws; may be used in any thread.
        task: the line.
    """

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._files = self._bytes = self._total = 0
        self._drawn = 0.0

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, TransferStarted):
            # What the journal only lists is announced when it has been read.
            self._total += event.total_bytes
        elif isinstance(event, BytesReceived):
            self._bytes += event.count
        elif isinstance(event, FileDone):
            self._files += 1
        now = time.monotonic()
        if now - self._drawn < _STEP:
            return
        self._drawn = now
        received = min(self._bytes, self._total)
        text = f"{self._files} files  {size_text(received)}/{size_text(self._total)}"
        self._progress.update(self._task, completed=received, total=max(1, self._total), description=text)
