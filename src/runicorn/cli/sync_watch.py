"""``runicorn sync --watch``: one thread for each root that is watched, and what they say."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from runicorn.cli import reach
from runicorn.cli.progress import FILE_EVENTS, observed
from runicorn.cli.side_by_side import Work, run_side_by_side
from runicorn.cli.sync_output import FORMAT_VERSION, failures, notes, summary, sync_as_json
from runicorn.cli.units import age_text, duration_text
from runicorn.errors import RunicornError
from runicorn.manifest.rules import visible
from runicorn.remote_storage.live import LiveSession
from runicorn.remote_storage.report import (
    Connected,
    ConnectionLost,
    Event,
    PublicationFresh,
    PublicationStale,
    SyncFailed,
    SyncFinished,
)
from runicorn.remote_storage.watch import Watcher, WatchOptions

if TYPE_CHECKING:
    from runicorn.cli.sync_output import Output
    from runicorn.remote_storage.options import SyncOptions
    from runicorn.remote_storage.report import Observer, SyncReport

EVENT_NAMES: dict[type, str] = {
    Connected: "connected",
    ConnectionLost: "connection_lost",
    SyncFailed: "sync_failed",
    PublicationStale: "publication_stale",
    PublicationFresh: "publication_fresh",
}


def watch(
    targets: Sequence[reach.Target],
    settings: Sequence[SyncOptions],
    ssh: reach.Ssh,
    output: Output,
    options: WatchOptions,
) -> int:
    """Watch roots until a signal ends it; returns the exit code.

    Args:
        targets: what is watched.
        settings: how each is synced.
        ssh: how servers are reached.
        output: what is told.
        options: how often it is looked at.

    Raises:
        RunicornError: an option means nothing, or the only root cannot be watched.
    """
    options.check()
    for target in targets:
        reach.check(target, ssh)
    voice = Voice(output, is_watch=True)
    failures: list[RunicornError] = []
    quiet = output.quiet or len(targets) > 1
    with contextlib.ExitStack() as stack:
        works = []
        for target, each in zip(targets, settings, strict=True):
            watchers = stack.enter_context(observed(output.verbose, quiet, target.name))
            works.append(_work(target, each, ssh, options, _teller(voice.of(target), watchers)))
        for work, target in zip(works, targets, strict=True):
            work.failed = failures.append if len(targets) == 1 else voice.of(target).ended
        code = run_side_by_side(works, voice.lingers, signals_end_well=True)
    if failures:
        raise failures[0]
    return code


def _work(
    target: reach.Target, settings: SyncOptions, ssh: reach.Ssh, options: WatchOptions, tell: Observer
) -> Work:
    connect = reach.Connector(target.source, ssh, is_watch=True)

    def run(stop: threading.Event) -> int:
        connect.heed(stop)
        session = LiveSession(connect, target.source.path, target.mirror, settings, tell, stop)
        Watcher(session, options, tell).run(stop)
        return 0

    return Work(run, connect.abort, _ignore, name=target.name)


def _ignore(_error: RunicornError) -> None:
    return


def _teller(say: Callable[[Event], None], watchers: Sequence[Observer]) -> Observer:
    """Passes events on; the files of the first sync alone are drawn or named, of the others only named."""
    is_first = True

    def tell(event: Event) -> None:
        nonlocal is_first
        if isinstance(event, SyncFinished):
            for watcher in watchers:
                watcher(event)
            is_first = False
        if isinstance(event, FILE_EVENTS):
            for watcher in watchers:
                if is_first or getattr(watcher, "is_lasting", False):
                    watcher(event)
            return
        say(event)

    return tell


class Voice:
    """Says what happens, in whole lines, whichever thread it happens in.

    Args:
        output: what is told, and how.
        is_watch: whether it goes on for long; a watch tells by the server's clock alone whether what is
            published is old.
    """

    def __init__(self, output: Output, *, is_watch: bool = False) -> None:
        self.output = output
        self.is_watch = is_watch
        self._turn = threading.Lock()

    def of(self, target: reach.Target) -> TargetVoice:
        """The voice of one of the roots."""
        return TargetVoice(self, target)

    def result(self, line: str) -> None:
        """A line on stdout, at once."""
        with self._turn:
            click.echo(line)
            sys.stdout.flush()

    def lingers(self) -> None:
        """Say that what was told to end takes its time."""
        if not self.output.quiet:
            self.notice("ending what is under way; a further signal ends it at once")

    def notice(self, line: str) -> None:
        """A line on stderr."""
        with self._turn:
            click.echo(f"runicorn: {line}", err=True)


class TargetVoice:
    """An observer that says what happens to one root.

    Args:
        voice: says it.
        target: the root.
    """

    def __init__(self, voice: Voice, target: reach.Target) -> None:
        self._voice = voice
        self._target = target
        self._prefix = f"{target.name}: " if target.name else ""
        self._noted: list[str] = []

    def __call__(self, event: Event) -> None:
        """Say what an event means, if it is worth a line."""
        output = self._voice.output
        if isinstance(event, SyncFinished):
            self._finished(event)
        elif output.as_json:
            if type(event) in EVENT_NAMES:
                self._object(EVENT_NAMES[type(event)], **asdict(event))
        elif not output.quiet or isinstance(event, ConnectionLost | SyncFailed | PublicationStale):
            line = _line(event)
            if line:
                self._voice.notice(self._prefix + line)

    def ended(self, error: RunicornError) -> None:
        """Say that this root is not watched or synced any more."""
        if self._voice.output.as_json:
            self._object("ended", error=str(error), exit_code=error.exit_code)
        self._voice.notice(self._prefix + visible(str(error)))
        if error.hint:
            self._voice.notice(f"{self._prefix}hint: {visible(error.hint)}")

    def _finished(self, event: SyncFinished) -> None:
        report, output = event.report, self._voice.output
        if output.as_json:
            self._object("sync", **sync_as_json(report, None, self._target.mirror))
        elif not output.quiet:
            now = time.strftime("%H:%M:%S")
            self._voice.result(f"{now} {self._prefix}{summary(report, self._target.mirror)}")
        for line in (*failures(report), *(() if output.quiet else self._new_notes(report))):
            self._voice.notice(self._prefix + line)

    def _new_notes(self, report: SyncReport) -> list[str]:
        """What was not said after the sync before, too: a watch may go on for days."""
        found = list(notes(report, by_both_clocks=not self._voice.is_watch))
        new = [line for line in found if line not in self._noted]
        if not report.skipped:
            self._noted = found
        return new

    def _object(self, name: str, **fields: Any) -> None:
        document = {
            "format_version": FORMAT_VERSION,
            "event": name,
            "remote": self._target.name or None,
            "at": time.time(),
            "mirror": str(self._target.mirror),
        }
        self._voice.result(json.dumps(document | fields))


def _line(event: Event) -> str:
    if isinstance(event, Connected):
        return "" if event.away is None else f"connected again after {duration_text(event.away)}"
    if isinstance(event, ConnectionLost):
        return f"no connection: {event.error}; {_again(event.retry_in)}"
    if isinstance(event, SyncFailed):
        return f"{event.error}; {_again(event.retry_in)}"
    if isinstance(event, PublicationStale):
        used = (
            "" if event.usual is None else f", and used to look every {duration_text(event.usual)} or sooner"
        )
        return (
            f"the server has published nothing for {age_text(event.unchanged)}{used}: does its generator run?"
        )
    return "the server publishes again" if isinstance(event, PublicationFresh) else ""


def _again(seconds: float) -> str:
    return f"trying again in {duration_text(seconds)}" if seconds >= 0.05 else "trying again at once"
