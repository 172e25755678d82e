"""``runicorn sync``."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runicorn.cli.units import age_text, duration_text, size_text
from runicorn.errors import RunicornError, UsageError
from runicorn.manifest.rules import escape

if TYPE_CHECKING:
    from runicorn.remote_storage.crew import Hands
    from runicorn.remote_storage.diff import SyncPlan
    from runicorn.remote_storage.options import SyncOptions
    from runicorn.remote_storage.report import Event, SyncReport
    from runicorn.remote_storage.source import Source
    from runicorn.remote_storage.transport import SshConnection, Transport

SSH_VARIABLE = "RUNICORN_SSH"
FINISHED_WITH_FAILURES = 3
OLD_PUBLICATION = 24 * 3600.0
"""Seconds after which the age of what the server published is pointed out."""

MAX_NAMED_FAILURES = 20
_OBJECTS_PER_COLLECTION = 50_000
"""A listing is many objects without a cycle; the default looks at all of them again and again."""

_HELP = """Bring MIRROR to the state of SOURCE; only what changed is fetched.

SOURCE is [user@]host:path, ssh://[user@]host[:port]/path, or a local path. Remote ones are reached with
your own ssh: its configuration, jump hosts, keys, agent and known hosts hold. MIRROR is a local folder; by
default one in your data folder, named after the source.

When the server publishes (runicorn generate-manifest), what changed is read from its journal, bytes and
all; when that does not lead on from here, its manifest tells what to fetch; when there is none, the folders
on the server are walked, which is slower. The next sync is back on the journal.

\b
Examples:
  runicorn sync gpu1:/data/experiments ./experiments
  runicorn sync ssh://me@gpu1:2222/data/experiments ./experiments --project vision --no-media
  runicorn sync gpu1:/data/experiments ./experiments --dry-run
  runicorn sync gpu1:/data/experiments ./experiments --ssh "ssh -J jump.example.org"

\b
Exit codes:
  0    done, or nothing to do
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


@dataclass(frozen=True)
class _Ssh:
    """How the server is reached."""

    port: int | None
    identity: str | None
    command: str


def _default_mirror(source: Source) -> Path:
    from platformdirs import user_data_path

    return user_data_path("runicorn", appauthor=False) / "mirrors" / source.folder_name()


def _connection(source: Source, ssh: _Ssh, verbose: bool) -> SshConnection | None:
    """The user's ssh, or None for a local source."""
    if source.is_local:
        if ssh.port is not None or ssh.identity is not None:
            raise UsageError("--port and --identity mean nothing for a local source")
        return None
    from runicorn.remote_storage.transport import SshConnection, SshTarget

    if source.port is not None and ssh.port is not None and source.port != ssh.port:
        raise UsageError("the source and --port name two different ports")
    try:
        command = tuple(shlex.split(ssh.command))
    except ValueError as error:
        raise UsageError(f"cannot read the ssh command: {error}") from error
    if source.host is None or not command:
        raise UsageError("the ssh command is empty")
    target = SshTarget(source.host, source.user, source.port or ssh.port, ssh.identity, command)
    return SshConnection(target, echo_stderr=verbose)


@contextlib.contextmanager
def _transport(connection: SshConnection | None) -> Iterator[Transport]:
    from runicorn.remote_storage.transport import LazyTransport, LocalTransport

    transport = LocalTransport() if connection is None else LazyTransport(connection.engine)
    try:
        yield transport
    finally:
        transport.close()


def _run_sync(source: Source, mirror: Path, options: SyncOptions, ssh: _Ssh, output: _Output) -> int:
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    connection = _connection(source, ssh, output.verbose)
    hands: Hands | None = None
    with contextlib.ExitStack() as stack:
        if connection is not None:
            stack.callback(connection.close)
            connection.start()  # it logs in while the rest is imported, and while helpers start
            hands = _hands(mirror, options)
        if hands is not None:
            stack.callback(hands.close)
        _log_to_stderr(output.verbose, output.quiet)
        from runicorn.cli.progress import observed
        from runicorn.remote_storage.journal_reader import JournalReader
        from runicorn.remote_storage.manifest_sync import wait_jitter
        from runicorn.remote_storage.sync import synchronize
        from runicorn.remote_storage.transport import Traffic

        _refuse_overlap(source, mirror)
        with (
            observed(output.verbose, output.quiet) as watchers,
            _transport(connection) as transport,
        ):
            wait_jitter(output.jitter)

            def tell(event: Event) -> None:
                for watcher in watchers:
                    watcher(event)

            # What it leaves open ends with the connection.
            journal = JournalReader(transport, source.path.rstrip("/"))
            result = synchronize(transport, source.path, mirror, options, tell, journal=journal, hands=hands)
            result.report.count_traffic(Traffic(), transport.traffic)
    output.show(result.report, result.plan, mirror)
    return FINISHED_WITH_FAILURES if _is_incomplete(result.report, options) else 0


def _hands(mirror: Path, options: SyncOptions) -> Hands | None:
    """Processes that help with a first sync, when this looks like one."""
    from runicorn.remote_storage.options import AUTO, JOURNAL

    if options.dry_run or options.method not in (AUTO, JOURNAL) or mirror.exists():
        return None
    from runicorn.remote_storage.crew import Hands, most_hands

    return Hands(most_hands())


def _is_incomplete(report: SyncReport, options: SyncOptions) -> bool:
    return bool(report.failed_count or (options.delete and report.gone_count))


def _refuse_overlap(source: Source, mirror: Path) -> None:
    if not source.is_local:
        return
    root, target = Path(source.path).resolve(), mirror.resolve()
    if root == target or root in target.parents or target in root.parents:
        raise UsageError("the mirror and its source lie inside each other")


@dataclass(frozen=True)
class _Output:
    """How the command tells what it did."""

    as_json: bool
    verbose: bool
    quiet: bool
    jitter: float

    def show(self, report: SyncReport, plan: SyncPlan | None, mirror: Path) -> None:
        """The result, on stdout; failures on stderr."""
        if self.as_json:
            click.echo(json.dumps(_as_json(report, plan, mirror)))
        else:
            if report.dry_run and plan is not None and not self.quiet:
                _show_plan(plan)
            if not self.quiet:
                click.echo(_summary(report, mirror))
        for line in _warnings(report, self.quiet):
            click.echo(f"runicorn: {line}", err=True)


def _as_json(report: SyncReport, plan: SyncPlan | None, mirror: Path) -> dict[str, Any]:
    document = {"format_version": "1.0", "mirror": str(mirror)} | report.as_dict()
    if report.dry_run:
        document["plan"] = _plan_as_json(plan)
    return document


def _plan_as_json(plan: SyncPlan | None) -> dict[str, Any]:
    from runicorn.remote_storage.diff import Append

    if plan is None:
        return {"transfers": [], "remove": [], "total_bytes": 0}
    transfers = [
        {
            "path": each.entry.path,
            "action": "append" if isinstance(each, Append) else "fetch",
            "bytes": each.bytes_expected,
        }
        for each in plan.transfers
    ]
    return {
        "transfers": transfers,
        "remove": [gone.path for gone in plan.gone],
        "total_bytes": plan.total_bytes,
    }


def _show_plan(plan: SyncPlan) -> None:
    for each in _plan_as_json(plan)["transfers"]:
        click.echo(f"{each['action']:<7}{size_text(each['bytes']):>12}  {escape(each['path'])}")
    for gone in plan.gone:
        click.echo(f"gone   {size_text(gone.known.local.size):>12}  {escape(gone.path)}")


def _summary(report: SyncReport, mirror: Path) -> str:
    took = f"in {duration_text(report.duration)}, {report.requests} requests, "
    took += f"{size_text(report.bytes_received)} received"
    known = "" if report.manifest_revision is None else f" revision {report.manifest_revision},"
    if report.skipped:
        return f"No changes ({report.method},{known} {took})"
    if report.dry_run:
        return f"Nothing was written: dry run of {report.total_files} files ({report.method},{known} {took})"
    parts = [f"{report.full_count} fetched", f"{report.incremental_count} appended"]
    if report.failed_count:
        parts.append(f"{report.failed_count} FAILED")
    size, place = size_text(report.bytes_downloaded), escape(str(mirror))
    done = f"{', '.join(parts)} of {report.total_files} files"
    if report.removed_count:
        done += f", {report.removed_count} removed"
    return f"{done}, {size} ({report.method},{known} {took}) -> {place}"


def _warnings(report: SyncReport, quiet: bool) -> Iterator[str]:
    for failure in report.failed[:MAX_NAMED_FAILURES]:
        yield f"{escape(failure.path)}: {failure.error}"
    more = len(report.failed) - MAX_NAMED_FAILURES
    if more > 0:
        yield f"... and {more} more files failed; the next sync tries them again"
    if quiet:
        return
    if not report.skipped and not report.total_experiments:
        yield "there is no run below the source: is it the root that holds the projects?"
    elif not report.skipped and not report.total_files:
        yield "no file is selected: look at --project, --include and --exclude"
    if report.vanished_count:
        yield f"{report.vanished_count} listed files are not on the server any more"
    if report.gone_count:
        yield f"{report.gone_count} files that the server does not list are kept: {report.kept_reason}"
    if report.problem_count:
        yield f"the server could not list everything: {report.problem_count} problems"
    age = 0.0 if report.generated_at is None else time.time() - report.generated_at
    if age > OLD_PUBLICATION:
        yield f"the server last looked {age_text(age)} ago, if both clocks agree"


def _log_to_stderr(verbose: bool, quiet: bool) -> None:
    import logging

    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(stream=sys.stderr, format="runicorn: %(message)s")
    logging.getLogger("runicorn").setLevel(level)


@click.command("sync", help=_HELP, short_help="Bring a local mirror to the state of a root.")
@click.argument("source")
@click.argument("mirror", required=False, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), help="TCP port of the server.")
@click.option("--identity", type=click.Path(), help="Private key to log in with.")
@click.option(
    "--ssh",
    "ssh_command",
    default="ssh",
    envvar=SSH_VARIABLE,
    show_envvar=True,
    metavar="COMMAND",
    help="ssh program and its options, as of rsync -e.",
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
def command(source: str, mirror: Path | None, **options: Any) -> int:
    """Run the command; returns the exit code."""
    from runicorn.remote_storage.source import parse_source

    output = _Output(options["as_json"], options["verbose"], options["quiet"], options["jitter"])
    ssh = _Ssh(options["port"], options["identity"], options["ssh_command"])
    try:
        parsed = parse_source(source)
        if parsed.is_local:
            parsed = replace(parsed, path=os.path.abspath(parsed.path))
        elif parsed.port is None:
            parsed = replace(parsed, port=ssh.port)
        settings = _sync_options(options, parsed)
        return _run_sync(parsed, mirror or _default_mirror(parsed), settings, ssh, output)
    except RunicornError as error:
        if output.as_json:
            click.echo(
                json.dumps({"format_version": "1.0", "error": str(error), "exit_code": error.exit_code})
            )
        raise


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
