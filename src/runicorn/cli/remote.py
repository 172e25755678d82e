"""``runicorn remote``: sources and their mirrors by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from runicorn.cli import reach
from runicorn.manifest.rules import escape

_HELP = """Give sources names.

`runicorn sync NAME` then does as `runicorn sync SOURCE MIRROR` would, and `runicorn sync` syncs all of them.
They lie in a TOML file in your configuration folder, see docs/howto/many-servers.md.
"""

_CODES = """
\b
Exit codes:
  0    done
  1    failed
  2    wrong usage, or the file of the remotes cannot be used
"""


@click.group("remote", help=_HELP)
def command() -> None:
    """The group."""


@command.command(
    "add", help="Call SOURCE by NAME. MIRROR is by default a folder in your data folder.\n" + _CODES
)
@click.argument("name")
@click.argument("source")
@click.argument("mirror", required=False, type=click.Path(path_type=Path))
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
def add(name: str, source: str, mirror: Path | None, quiet: bool) -> int:
    """Add a remote; returns the exit code."""
    from runicorn.remote_storage.remotes import Remote, require_name
    from runicorn.remote_storage.source import parse_source

    require_name(name)
    parsed = parse_source(source)
    if parsed.is_local:
        source = os.path.abspath(parsed.path)
    place = None if mirror is None else Path(os.path.abspath(os.path.expanduser(mirror)))
    reach.refuse_overlap(parse_source(source), place or reach.default_mirror(parse_source(source)))
    reach.remotes().add(Remote(name, source, place))
    if not quiet:
        shown = reach.target(name, None).mirror
        click.echo(f"{name} is {escape(source)}, mirrored to {escape(str(shown))}")
    return 0


@command.command("list", help="Name all remotes: name, source, mirror.\n" + _CODES)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, see docs/sync-json.md.")
def list_all(as_json: bool) -> int:
    """List all remotes; returns the exit code."""
    rows: list[dict[str, Any]] = [
        {
            "name": each.name,
            "source": each.source,
            "mirror": str(reach.target(each.name, None).mirror),
            "is_default_mirror": each.mirror is None,
        }
        for each in reach.remotes().all()
    ]
    if as_json:
        click.echo(json.dumps({"format_version": "1.0", "remotes": rows}))
        return 0
    widths = [max((len(escape(row[key])) for row in rows), default=0) for key in ("name", "source")]
    for row in rows:
        name, source, mirror = (escape(row[key]) for key in ("name", "source", "mirror"))
        click.echo(f"{name:<{widths[0]}}  {source:<{widths[1]}}  {mirror}")
    return 0


@command.command("remove", help="Forget NAME; its mirror stays where it is.\n" + _CODES)
@click.argument("name")
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
def remove(name: str, quiet: bool) -> int:
    """Remove a remote; returns the exit code."""
    mirror = reach.target(name, None).mirror
    reach.remotes().remove(name)
    if not quiet:
        click.echo(f"{name} is forgotten; its mirror stays: {escape(str(mirror))}")
    return 0
