"""``runicorn status``."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)
_HELP = """Show what is published of a root, and how old it is.

On the server, with --root: read from what the generator has left, without a scan.

\b
Examples:
  runicorn status --root /data/experiments
  runicorn status --root /data/experiments --json
  runicorn status --root /data/experiments --max-age 600
  runicorn status --root /data/experiments --prometheus /var/lib/node_exporter/runicorn.prom

\b
Exit codes:
  0    done
  1    failed: nothing is published, or it cannot be read, or the file cannot be written
  2    wrong usage
  6    there is no such root
  10   the publication is older than --max-age allows
"""


@click.command("status", help=_HELP, short_help="Show what is published of a root, and how old it is.")
@click.option("--root", type=_PATH, help="Folder that holds the runs, on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option(
    "--prometheus",
    type=_PATH,
    metavar="FILE",
    help="With --root: also write a file (.prom) for the textfile collector of the node exporter.",
)
@click.option(
    "--max-age",
    type=float,
    metavar="SECONDS",
    help="With --root: end with exit code 10 when the server last looked longer ago.",
)
def command(root: Path | None, as_json: bool, prometheus: Path | None, max_age: float | None) -> int:
    """Parse the command line."""
    if root is None:
        raise click.UsageError("name a root with --root")
    from runicorn.cli.root_status import RootStatusOptions, run_root_status

    return run_root_status(RootStatusOptions(root, as_json, prometheus, max_age))
