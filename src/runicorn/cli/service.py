"""``runicorn service``: lets a server publish by itself."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from runicorn.cli.service_files import install_units, make_artefact_folder, remove_units, unit_folder
from runicorn.cli.service_units import (
    Plan,
    cron_line,
    leaving_lines,
    plan_lines,
    recommended_interval,
    require_plain,
    units,
    windows_task,
)
from runicorn.errors import NoManifestError, NoSuchRootError, UsageError
from runicorn.manifest.rules import escape, visible
from runicorn.manifest.status import root_status

_PATH = click.Path(path_type=Path)
_SPAN = re.compile(r"([1-9][0-9]{0,5})\s*(s|sec|m|min|h)?").fullmatch
_LENGTHS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, None: 1}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}").fullmatch
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,63}\$?", re.IGNORECASE).fullmatch
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _seconds(every: str) -> int:
    found = _SPAN(every)
    seconds = int(found[1]) * _LENGTHS[found[2]] if found else 0
    if not 10 <= seconds <= 86400:
        raise UsageError(f"'{escape(every)}' is no time from 10s to 24h, such as 5min")
    return seconds


def _program() -> tuple[str, ...]:
    called = os.path.abspath(sys.argv[0])
    if os.path.basename(called) == "runicorn" and os.access(called, os.X_OK):
        return (called,)
    return (os.path.abspath(sys.executable), "-m", "runicorn")


def _owner(root: Path) -> str:
    """The name of the user that a root belongs to."""
    try:
        import pwd

        return pwd.getpwuid(root.stat().st_uid).pw_name
    except (ImportError, KeyError, OSError):
        return ""


def _interval(root: Path) -> int:
    try:
        return recommended_interval(root_status(root).runs)
    except (NoManifestError, NoSuchRootError):
        return recommended_interval(0)


def _plan(options: dict[str, Any]) -> Plan:
    root = Path(os.path.abspath(options["root"]))
    if options.get("watch") and options.get("every"):
        raise click.UsageError("--watch and --every exclude each other")
    if options["system"] and options["user"]:
        raise click.UsageError("--system and --user exclude each other")
    if not _NAME(options["name"]):
        raise UsageError("a name of units has letters, digits, '.', '_' and '-' only")
    system = not options["user"]
    user = options.get("run_as") or (_owner(root) if system else "")
    if user and not _USER(user):
        raise UsageError(f"'{escape(user)}' is no name of a user")
    if options.get("watch"):
        every = None
    else:
        every = _seconds(options["every"]) if options.get("every") else _interval(root)
    require_plain(str(root))
    return Plan(str(root), _program(), options["name"], every, system, user)


def _folder(options: dict[str, Any]) -> Path:
    return options["unit_dir"] or unit_folder(system=not options["user"])


def _where(command: _Command) -> _Command:
    for option in (
        click.option("--unit-dir", type=_PATH, help="Where units lie. Default: the manager's own folder."),
        click.option("--name", default="runicorn-manifest", show_default=True, help="Name of the units."),
        click.option("--user", is_flag=True, help="For the manager of your own user."),
        click.option("--system", is_flag=True, help="For the system's manager (default)."),
        click.option("--root", type=_PATH, required=True, help="Folder that holds the runs."),
    ):
        command = option(command)
    return command


def _when(command: _Command) -> _Command:
    for option in (
        click.option("--run-as", metavar="USER", help="With --system. Default: the owner of the root."),
        click.option(
            "--every",
            metavar="TIME",
            help="A timer: 90s, 5min, 1h. Default, by the number of runs: below 100 every 5min, up to 500"
            " every 10min, else every 15min.",
        ),
        click.option("--watch", is_flag=True, help="One service that publishes on and on, no timer."),
    ):
        command = option(command)
    return command


@click.group("service")
def command() -> None:
    """Let a server publish by itself: as a timer, or as one service that watches.

    \b
    Examples:
      runicorn service show --root /data/experiments --watch
      sudo runicorn service install --root /data/experiments --every 5min
      sudo runicorn service remove --root /data/experiments

    \b
    Exit codes:
      0    done
      1    failed: a unit cannot be written or is not ours
      2    wrong usage
      6    there is no such root
    """


@command.command("install", short_help="Write the units.")
@_where
@_when
def install(**options: Any) -> int:
    """Write the units, hardened; the commands that start them are printed, not run.

    A unit that this program did not write is never touched.
    """
    plan = _plan(options)
    root = Path(plan.root)
    if not root.is_dir():
        raise NoSuchRootError(f"there is no folder '{escape(plan.root)}'", hint="check the path")
    made = units(plan)
    before = install_units(_folder(options), plan.name, plan.root, made)
    for file in made:
        click.echo(f"written: {escape(str(_folder(options) / file))}")
    make_artefact_folder(root, plan.user)
    click.echo("now run:")
    for line in plan_lines([*made], before, plan):
        click.echo(f"  {line}")
    return 0


@command.command("show", short_help="Print what install would write.")
@_where
@_when
@click.option(
    "--format",
    "how",
    type=click.Choice(["systemd", "cron", "windows"]),
    default="systemd",
    show_default=True,
    help="Units, a line of a crontab, or a task of Windows that runs the generator in WSL.",
)
def show(how: str, **options: Any) -> int:
    """Print what `install` would write, or the same for another scheduler; nothing is written."""
    plan = _plan(options)
    if how == "cron":
        click.echo(visible(cron_line(plan)))
    elif how == "windows":
        click.echo(windows_task(plan), nl=False)
    else:
        texts = [f"# {escape(str(_folder(options) / name))}\n{text}" for name, text in units(plan).items()]
        click.echo("\n".join(texts), nl=False)
    return 0


@command.command("remove", short_help="Remove the units.")
@_where
def remove(**options: Any) -> int:
    """Remove the units that `install` wrote for this root, and no others."""
    plan = _plan(options | {"every": "5min"})
    removed = remove_units(_folder(options), plan.name, plan.root)
    systemctl = "systemctl" if plan.system else "systemctl --user"
    for path in removed:
        click.echo(f"removed: {escape(str(path))}")
    click.echo("now run:")
    for line in leaving_lines([path.name for path in removed], system=plan.system):
        click.echo(f"  {line}")
    click.echo(f"  {systemctl} daemon-reload")
    return 0
