"""``runicorn explain``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from runicorn.cli import reach
from runicorn.cli.units import time_text
from runicorn.manifest.rules import escape

_HELP = """Tell why a file is, or is not, in MIRROR, and in which version.

MIRROR is the folder of a mirror or the name of a remote, PATH a file in it: relative to the mirror, or
absolute. It is answered by what the last sync recorded; nothing is asked of a server.

\b
Exit codes:
  0    explained, whatever the answer is
  1    there is no such mirror, or it cannot be read
  2    wrong usage
"""


@click.command("explain", help=_HELP)
@click.argument("mirror")
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, see docs/sync-json.md.")
def command(mirror: str, path: str, as_json: bool) -> int:
    """Run the command; returns the exit code."""
    from runicorn.remote_storage.explain import explain
    from runicorn.remote_storage.mirror_view import MirrorView

    _, folder = reach.mirror_of(mirror)
    with MirrorView(folder) as view:
        found = explain(view, _within(folder, path))
    if as_json:
        document = {"path": found.path, "verdict": found.verdict, "reason": found.reason}
        click.echo(json.dumps({"format_version": "1.0", "mirror": str(folder)} | document | found.details))
        return 0
    click.echo(f"{escape(found.path)}: {found.verdict.replace('_', ' ')}")
    click.echo(f"  {found.reason}")
    for name, value in found.details.items():
        if value is not None:
            shown = time_text(value) if name == "listed_mtime" else str(value)
            click.echo(f"  {name:<14} {escape(shown)}")
    return 0


def _within(folder: Path, path: str) -> str:
    if not os.path.isabs(path):
        return os.path.normpath(path) if path else path
    return os.path.relpath(os.path.normpath(path), os.path.abspath(folder))
