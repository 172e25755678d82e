"""``runicorn sync`` without a source: all remotes, side by side."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from runicorn.cli import reach
from runicorn.cli.progress import observed_together
from runicorn.cli.side_by_side import Work, run_side_by_side
from runicorn.cli.sync_output import FINISHED_WITH_FAILURES, is_incomplete
from runicorn.cli.sync_watch import Voice
from runicorn.remote_storage.manifest_sync import wait_jitter
from runicorn.remote_storage.report import Observer, SyncFinished
from runicorn.remote_storage.sync import synchronize
from runicorn.remote_storage.transport import LazyTransport, Traffic

if TYPE_CHECKING:
    from runicorn.cli.sync_output import Output
    from runicorn.remote_storage.options import SyncOptions


def sync_all(
    targets: Sequence[reach.Target], settings: Sequence[SyncOptions], ssh: reach.Ssh, output: Output
) -> int:
    """Sync all targets, each in a thread of its own; returns the worst exit code.

    Args:
        targets: what is synced.
        settings: how each is synced.
        ssh: how servers are reached.
        output: what is told.

    Raises:
        UsageError: the options do not fit a target.
    """
    for target in targets:
        reach.check(target, ssh)
    voice = Voice(output)
    names = [target.name for target in targets]
    with observed_together(names, output.verbose, output.quiet or output.as_json) as watchers:
        works = [
            _work(target, each, reach.Connector(target.source, ssh, echo=output.verbose), voice, watcher)
            for target, each, watcher in zip(targets, settings, watchers, strict=True)
        ]
        return run_side_by_side(works, voice.lingers, signals_end_well=False)


def _work(
    target: reach.Target,
    settings: SyncOptions,
    connect: reach.Connector,
    voice: Voice,
    watcher: Observer,
) -> Work:
    say = voice.of(target)

    def run(stop: threading.Event) -> int:
        connect.heed(stop)
        wait_jitter(voice.output.jitter, stop)
        with closing(LazyTransport(connect)) as transport:
            result = synchronize(transport, target.source.path, target.mirror, settings, watcher, stop)
            report = result.report
            report.count_traffic(Traffic(), transport.traffic)
        say(SyncFinished(report))
        return FINISHED_WITH_FAILURES if is_incomplete(report, settings) else 0

    return Work(run, connect.abort, say.ended, name=target.name)
