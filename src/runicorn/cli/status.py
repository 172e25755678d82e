"""``runicorn status``: of a mirror here, or of a root on the server."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)
_HELP = """Tell how fresh a mirror is, or what is published of a root.

MIRROR is the folder of a mirror or the name of a remote; without it all remotes are shown: how fresh each is,
what it holds, and what failed last. Nothing is asked of a server and nothing is written; a sync may be at
work meanwhile. Ages are found without comparing this machine's clock with the server's.

On the server, with --root: what is published of a root and how old it is, read from what the generator has
left, without a scan.

\b
Examples:
  runicorn status
  runicorn status ./experiments --json
  runicorn status --root /data/experiments
  runicorn status --root /data/experiments --max-age 600
  runicorn status --root /data/experiments --prometheus /var/lib/node_exporter/runicorn.prom

\b
Exit codes:
  0    done
  1    there is no such mirror, or nothing is published; or it cannot be read, or the file not be written
  2    wrong usage
  6    there is no such root
  10   the publication is older than --max-age allows
"""


@click.command("status", help=_HELP)
@click.argument("mirror", required=False)
@click.option("--root", type=_PATH, help="Folder that holds the runs, on this machine.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object, see docs/sync-json.md and docs/howto/monitoring.md.",
)
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
def command(
    mirror: str | None, root: Path | None, as_json: bool, prometheus: Path | None, max_age: float | None
) -> int:
    """Run the command; returns the exit code."""
    if root is not None:
        if mirror is not None:
            raise click.UsageError("name a mirror, or a root with --root, not both")
        from runicorn.cli.root_status import RootStatusOptions, run_root_status

        return run_root_status(RootStatusOptions(root, as_json, prometheus, max_age))
    if prometheus is not None or max_age is not None:
        raise click.UsageError("--prometheus and --max-age need a root: name it with --root")
    from runicorn.cli.mirror_status import mirror_status

    return mirror_status(mirror, as_json=as_json)
