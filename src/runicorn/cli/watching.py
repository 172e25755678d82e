"""``runicorn generate-manifest --watch``: publishes until a signal comes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import FrameType

import click

from runicorn.cli.generate_manifest import WatchOptions, problem_lines
from runicorn.cli.units import size_text
from runicorn.manifest.model import Header, Problem
from runicorn.manifest.rules import escape, visible
from runicorn.manifest.watch import Watch, WatchObserver

INTERRUPTED = 130


class _Teller(WatchObserver):
    """One line on stdout when it has begun; trouble, and what cannot be listed, on stderr when it is new."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._begun = False
        self._problems: tuple[Problem, ...] = ()

    def said(self, text: str) -> None:
        click.echo(f"runicorn: {visible(text)}", err=True)

    def published(self, header: Header) -> None:
        if not self._begun:
            size = size_text(header.total_bytes)
            counts = f"{header.total_experiments} runs, {header.total_files} files, {size}"
            click.echo(f"watching {self._root}: revision {header.identity.revision}, {counts}")
        self._begun = True
        if header.problems != self._problems:
            self._problems = header.problems
            for line in problem_lines(header) or ["all files can be listed again"]:
                click.echo(f"runicorn: {line}", err=True)


@contextmanager
def _stopping(watch: Watch, stopped_by: list[int]) -> Iterator[None]:
    """Signals end the watch in order; a second one ends the program at once, as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}

    def stop(signum: int, frame: FrameType | None) -> None:
        del frame
        stopped_by.append(signum)
        for each, handler in before.items():
            signal.signal(each, handler)
        watch.stop()

    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def run_watch(options: WatchOptions) -> int:
    """Publish until SIGTERM or SIGINT; returns the exit code.

    Raises:
        RunicornError: the first generation failed, see `Watch.run`.
    """
    stopped_by: list[int] = []
    teller = _Teller(escape(str(options.root)))
    watch = Watch(
        options.root,
        interval=options.interval,
        lock_timeout=options.lock_timeout,
        journal=options.journal,
        observer=teller,
    )
    with closing(watch), _stopping(watch, stopped_by):
        watch.run()
    return INTERRUPTED if signal.SIGINT in stopped_by else 0
