"""``runicorn sync``."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from runicorn.cli import reach
from runicorn.cli.sync_output import FINISHED_WITH_FAILURES, Output, is_incomplete
from runicorn.errors import RunicornError, UsageError

if TYPE_CHECKING:
    from runicorn.cli.reach import Ssh, Target
    from runicorn.remote_storage.options import SyncOptions
    from runicorn.remote_storage.report import Event
    from runicorn.remote_storage.source import Source
    from runicorn.remote_storage.workers import Workers

_OBJECTS_PER_COLLECTION = 50_000
"""A listing is many objects without a cycle; the default looks at all of them again and again."""

_HELP = """Bring MIRROR to the state of SOURCE; only what changed is fetched.

SOURCE is [user@]host:path, ssh://[user@]host[:port]/path, a local path, or the name of a remote (runicorn
remote add). Remote ones are reached with your own ssh: its configuration, jump hosts, keys, agent and known
hosts hold. MIRROR is a local folder; by default one in your data folder, named after the source. Without
SOURCE all remotes are synced, side by side; the exit code is the worst of theirs.

When the server publishes (runicorn generate-manifest), what changed is read from its journal, bytes and
all; when that does not lead on from here, its manifest tells what to fetch; when there is none, the folders
on the server are walked, which is slower. The next sync is back on the journal.

With --watch the connection stays open and brings changes as they are published, until Ctrl-C or SIGTERM
ends it. A lost connection is made anew, for ever; only what cannot pass by itself ends a watch.

\b
Examples:
  runicorn sync gpu1:/data/experiments ./experiments
  runicorn sync ssh://me@gpu1:2222/data/experiments ./experiments --project vision --no-media
  runicorn sync gpu1:/data/experiments ./experiments --dry-run
  runicorn sync gpu1:/data/experiments ./experiments --watch
  runicorn sync gpu1:/data/experiments ./experiments --ssh "ssh -J jump.example.org"

\b
Exit codes:
  0    done, or nothing to do; a watch that was ended
  1    failed
  2    wrong usage
  3    finished, but some files failed or were kept though they should go
  4    no connection, no login, or the connection was lost
  5    the server's host key is unknown or has changed
  6    there is no such root on the server
  7    refused: unsafe or damaged data from the server
  8    another sync works on the mirror
  9    the disk is full
  130  interrupted
"""


def _run_sync(where: Target, options: SyncOptions, ssh: Ssh, output: Output) -> int:
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    source, mirror = where.source, where.mirror
    connection = reach.connection(source, ssh, echo=output.verbose)
    workers: Workers | None = None
    with contextlib.ExitStack() as stack:
        if connection is not None:
            stack.callback(connection.close)
            connection.start()  # it logs in while the rest is imported, and while helpers start
            workers = _workers(mirror, options)
        if workers is not None:
            stack.callback(workers.close)
        _log_to_stderr(output.verbose, output.quiet)
        from runicorn.cli.progress import observed
        from runicorn.remote_storage.journal_reader import JournalReader
        from runicorn.remote_storage.manifest_sync import wait_jitter
        from runicorn.remote_storage.sync import synchronize
        from runicorn.remote_storage.transport import Traffic

        reach.refuse_overlap(source, mirror)
        with (
            observed(output.verbose, output.quiet) as watchers,
            reach.transport(connection) as transport,
        ):
            wait_jitter(output.jitter)

            def tell(event: Event) -> None:
                for watcher in watchers:
                    watcher(event)

            # What it leaves open ends with the connection.
            journal = JournalReader(transport, source.path.rstrip("/"))
            result = synchronize(
                transport, source.path, mirror, options, tell, journal=journal, workers=workers
            )
            result.report.count_traffic(Traffic(), transport.traffic)
    output.show(result.report, result.plan, mirror)
    return FINISHED_WITH_FAILURES if is_incomplete(result.report, options) else 0


def _workers(mirror: Path, options: SyncOptions) -> Workers | None:
    """Processes that help with a first sync, when this looks like one."""
    from runicorn.remote_storage.options import AUTO, JOURNAL

    if options.dry_run or options.method not in (AUTO, JOURNAL) or not _is_new(mirror):
        return None
    from runicorn.remote_storage.workers import Workers, most_workers

    return Workers(most_workers())


def _is_new(mirror: Path) -> bool:
    """Whether a mirror is not there yet, or is an empty folder."""
    try:
        with os.scandir(mirror) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False  # why it is of no use is told when it is opened


def _log_to_stderr(verbose: bool, quiet: bool, *, by_name: bool = False) -> None:
    import logging

    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    # Each remote has a thread that is called after it.
    logging.basicConfig(
        stream=sys.stderr, format=f"runicorn: {'%(threadName)s: ' if by_name else ''}%(message)s"
    )
    logging.getLogger("runicorn").setLevel(level)


@click.command("sync", help=_HELP)
@click.argument("source", required=False)
@click.argument("mirror", required=False, type=click.Path(path_type=Path))
@reach.ssh_options
@click.option("--watch", is_flag=True, help="Stay connected and bring changes as they are published.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: time between two looks; longer after a minute without a change.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
@click.option(
    "--delete", is_flag=True, help="Remove what the server removed, on a complete and newer listing only."
)
@click.option(
    "--force-delete", is_flag=True, help="With --delete: leave to remove more than half of the mirror."
)
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Only what matches, as in .gitignore. Repeatable."
)
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Not what matches, as in .gitignore. Repeatable."
)
@click.option("--project", multiple=True, metavar="NAME", help="Only this project. Repeatable.")
@click.option("--no-media", is_flag=True, help="Not what lies below media.")
@click.option(
    "--method",
    type=click.Choice(["auto", "journal", "manifest", "walk"]),
    default="auto",
    show_default=True,
    help="How to learn what the server holds; auto: the first of these that works.",
)
@click.option(
    "--jitter",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Wait before the sync, for a random time of up to this long.",
)
@click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another sync of the same mirror.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, see docs/sync-json.md.")
@click.option("-v", "--verbose", is_flag=True, help="A line for each file, on stderr.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
def command(source: str | None, mirror: Path | None, **options: Any) -> int:
    """Run the command; returns the exit code."""
    output = Output(options["as_json"], options["verbose"], options["quiet"], options["jitter"])
    ssh = reach.Ssh(options["port"], options["identity"], options["ssh_command"])
    try:
        targets = _targets(source, mirror, ssh)
        settings = [_sync_options(options, each.source) for each in targets]
        if options["watch"]:
            return _watch(targets, settings, ssh, output, options["interval"])
        if click.get_current_context().get_parameter_source("interval") is not ParameterSource.DEFAULT:
            raise UsageError("--interval goes with --watch")
        if source is None:
            if options["dry_run"]:
                raise UsageError("--dry-run needs a SOURCE")
            from runicorn.cli.sync_all import sync_all

            _log_to_stderr(output.verbose, output.quiet, by_name=True)
            return sync_all(targets, settings, ssh, output)
        return _run_sync(targets[0], settings[0], ssh, output)
    except RunicornError as error:
        if output.as_json:
            click.echo(
                json.dumps({"format_version": "1.0", "error": str(error), "exit_code": error.exit_code})
            )
        raise


def _targets(source: str | None, mirror: Path | None, ssh: Ssh) -> list[Target]:
    return reach.all_targets(ssh.port) if source is None else [reach.target(source, mirror, ssh.port)]


def _watch(
    targets: list[Target], settings: list[SyncOptions], ssh: Ssh, output: Output, interval: float
) -> int:
    if any(each.dry_run for each in settings):
        raise UsageError("--watch and --dry-run do not go together")
    from runicorn.cli.sync_watch import watch
    from runicorn.remote_storage.watch import WatchOptions

    _log_to_stderr(output.verbose, output.quiet, by_name=bool(targets[0].name))
    return watch(targets, settings, ssh, output, WatchOptions(interval))


def _sync_options(options: dict[str, Any], source: Source) -> SyncOptions:
    from runicorn.remote_storage.options import SyncOptions
    from runicorn.remote_storage.selection import Selection

    return SyncOptions(
        method=options["method"],
        selection=Selection(
            projects=options["project"],
            include=options["include"],
            exclude=options["exclude"],
            media=not options["no_media"],
        ),
        delete=options["delete"],
        force_delete=options["force_delete"],
        source=source.identity,
        dry_run=options["dry_run"],
        lock_timeout=options["lock_timeout"],
    )
