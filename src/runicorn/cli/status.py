"""``runicorn status``."""

from __future__ import annotations

import click

_HELP = """Tell how fresh a mirror is, what it holds, and what failed last.

MIRROR is the folder of a mirror or the name of a remote; without it all remotes are shown. Nothing is asked
of a server and nothing is written; a sync may be at work meanwhile. Ages are found without comparing this
machine's clock with the server's.

\b
Exit codes:
  0    done
  1    there is no such mirror, or it cannot be read
  2    wrong usage
"""


@click.command("status", help=_HELP, short_help="Tell how fresh a mirror is.")
@click.argument("mirror", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, see docs/sync-json.md.")
def command(mirror: str | None, as_json: bool) -> int:
    """Run the command; returns the exit code."""
    from runicorn.cli.mirror_status import mirror_status

    return mirror_status(mirror, as_json=as_json)
