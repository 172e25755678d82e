"""``runicorn generate-manifest``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from runicorn.cli.units import size_text
from runicorn.manifest.generator import ManifestGenerator
from runicorn.manifest.model import Header, ManifestType
from runicorn.manifest.publish import gz_path
from runicorn.manifest.rules import escape

MAX_NAMED_PROBLEMS = 20
_RULE = "=" * 60
_PATH = click.Path(path_type=Path)
_HELP = """Publish what a root of runs holds, so that clients can sync it.

The manifest is written as JSON and, beside it, compressed (.gz). Files that have not changed since the last
time are not read again. In the folder journal beside them, a journal tells clients that come often what has
changed, together with the bytes.

With --watch it goes on publishing until it is stopped (SIGTERM or Ctrl-C): at once where the system tells of
changes (inotify; needs the extra 'watch'), and by scanning every interval anyway.

\b
Examples:
  runicorn generate-manifest
  runicorn generate-manifest --root /data/experiments
  runicorn generate-manifest --active --active-window 900
  runicorn generate-manifest --output /tmp/manifest.json
  runicorn generate-manifest --no-journal
  runicorn generate-manifest --root /data/experiments --watch

\b
Exit codes:
  0    done; with --watch: stopped by SIGTERM
  1    failed: root or output cannot be used, or another generator is busy
  2    wrong usage
  3    done, but some files could not be listed (named on stderr and in the manifest), or no journal could be
       kept (told on stderr)
  130  interrupted
"""


def result_block(header: Header, path: Path) -> str:
    """What the command prints when it is done."""
    rows = (
        ("Type", header.manifest_type.value),
        ("Output", escape(str(path))),
        ("Compressed", escape(str(gz_path(path)))),
        ("Revision", header.identity.revision),
        ("Snapshot ID", header.identity.snapshot_id),
        ("Experiments", header.total_experiments),
        ("Files", header.total_files),
        ("Total Size", size_text(header.total_bytes)),
    )
    lines = [f"{name + ':':<15}{value}" for name, value in rows]
    return "\n".join((_RULE, "Manifest Generation Complete", _RULE, *lines, _RULE))


def problem_lines(header: Header) -> list[str]:
    """The first problems, one line each; texts are escaped already."""
    lines = [f"{each.path}: {each.kind}: {each.message}" for each in header.problems[:MAX_NAMED_PROBLEMS]]
    more = header.problem_count - len(lines)
    if more:
        lines.append(f"... and {more} more: see the manifest")
    return lines


def _verbose_logging() -> None:
    import logging

    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


class WatchOptions(NamedTuple):
    """What `runicorn.cli.watching` needs; see `runicorn.manifest.watch.Watch`."""

    root: Path
    interval: float | None
    lock_timeout: float
    journal: bool


class GenerateOptions(NamedTuple):
    """The command line of `command`, see its help."""

    root: Path
    output: Path | None
    active: bool
    full: bool
    active_window: int
    no_incremental: bool
    lock_timeout: float
    no_journal: bool
    compact: bool
    verbose: bool
    watch: bool
    interval: float | None


def run(options: GenerateOptions) -> int:
    """Generate, print the result, name the problems on stderr; returns the exit code.

    Raises:
        RunicornError: it failed, see `ManifestGenerator.generate`.
        click.UsageError: options that exclude each other.
    """
    if options.active and options.full:
        raise click.UsageError("--active and --full exclude each other")
    if options.no_journal and options.compact:
        raise click.UsageError("--no-journal and --compact exclude each other")
    if options.verbose:
        _verbose_logging()
    if options.watch:
        from runicorn.cli.watching import run_watch

        return run_watch(_watch_of(options))
    if options.interval is not None:
        raise click.UsageError("--interval goes with --watch")
    generator = ManifestGenerator(
        options.root,
        active_window_seconds=options.active_window,
        incremental=not options.no_incremental,
        lock_timeout=options.lock_timeout,
        journal=not options.no_journal,
        compact=options.compact,
    )
    kind = ManifestType.ACTIVE if options.active else ManifestType.FULL
    header, path = generator.publish(kind, options.output)
    click.echo(result_block(header, path))
    for line in problem_lines(header):
        click.echo(f"runicorn: {line}", err=True)
    if generator.journal_trouble:
        click.echo(f"runicorn: {generator.journal_trouble}", err=True)
    return 3 if header.problem_count or generator.journal_trouble else 0


def _watch_of(options: GenerateOptions) -> WatchOptions:
    refused = {
        "--active": options.active,
        "--output": options.output is not None,
        "--no-incremental": options.no_incremental,
        "--compact": options.compact,
    }
    for name, is_set in refused.items():
        if is_set:
            raise click.UsageError(f"--watch and {name} exclude each other")
    return WatchOptions(options.root, options.interval, options.lock_timeout, journal=not options.no_journal)


@click.command("generate-manifest", help=_HELP)
@click.option("--root", type=_PATH, default=".", show_default=True, help="Folder that holds the runs.")
@click.option("--output", type=_PATH, help="Default: <root>/.runicorn/<type>_manifest.json.")
@click.option("--active", is_flag=True, help="List only the runs that changed lately.")
@click.option("--full", is_flag=True, help="List all runs (default).")
@click.option(
    "--active-window",
    type=int,
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="With --active: list runs of which a file changed within this time.",
)
@click.option("--no-incremental", is_flag=True, help="Read all files again.")
@click.option(
    "--lock-timeout",
    type=float,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another generator on the same root.",
)
@click.option("--no-journal", is_flag=True, help="Keep no journal; remove the one that is there.")
@click.option("--compact", is_flag=True, help="Begin the journal anew, as short as it can be.")
@click.option("--watch", is_flag=True, help="Go on publishing until stopped.")
@click.option(
    "--interval",
    type=float,
    metavar="SECONDS",
    help="With --watch: time between two scans of the whole root; longer when a scan takes long. Default: 60,"
    " or 30 where the system does not tell of changes.",
)
@click.option(
    "--verbose", is_flag=True, help="Debug logging on stderr: what was read, what the journal takes."
)
def command(**options: Any) -> int:
    """Parse the command line."""
    return run(GenerateOptions(**options))
