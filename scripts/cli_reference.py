"""Writes docs/cli.md from the help texts and the error tree; `--check` only tells whether it is stale."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from runicorn import errors
from runicorn.cli import group

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
WIDTH = 100
MEANINGS = {
    0: "done, or nothing to do",
    1: "failed",
    2: "wrong usage",
    3: "finished with problems: files failed, were kept though they should go, or could not be listed",
    4: "no connection, no login, or the connection was lost",
    5: "the server's host key is unknown or has changed",
    6: "there is no such root on the server",
    7: "refused: unsafe or damaged data from the server",
    8: "another sync works on the mirror",
    9: "the disk is full",
    10: "what the server has published is older than allowed",
    130: "interrupted",
}
HEAD = """# Commands

Made from the help texts by `make docs`; do not edit. The result goes to stdout, everything else to stderr.

- [Exit codes](#exit-codes) · [The errors behind them](#the-errors-behind-them)
"""


def error_classes(
    base: type[errors.RunicornError] = errors.RunicornError,
) -> Iterator[type[errors.RunicornError]]:
    """All classes of the error tree, each after the one it derives from."""
    yield base
    for each in base.__subclasses__():
        yield from error_classes(each)


def page() -> str:
    """The whole page."""
    parts = [HEAD.rstrip() + "".join(f" · [{name}](#{_anchor(name)})" for name, _ in _commands())]
    parts += [_codes(), _errors()]
    parts += [f"## {name}\n\n```text\n{_help(name, command)}\n```" for name, command in _commands()]
    return "\n\n".join(parts) + "\n"


def _codes() -> str:
    used = {each.exit_code for each in error_classes()} - set(MEANINGS)
    if used:
        raise SystemExit(f"exit codes without a meaning in {Path(__file__).name}: {sorted(used)}")
    rows = [f"| {code} | {meaning} |" for code, meaning in MEANINGS.items()]
    return "\n".join(["## Exit codes", "", "| code | meaning |", "|---|---|", *rows])


def _errors() -> str:
    lines = [
        "## The errors behind them",
        "",
        "Classes of `runicorn.errors`. *Again*: whether the same action can succeed when it is done again.",
        "",
        "| class | code | again | when | hint |",
        "|---|---|---|---|---|",
    ]
    for each in error_classes():
        when = (each.__doc__ or "").strip().splitlines()[0]
        again = "yes" if each.retryable else "no"
        lines.append(f"| `{each.__name__}` | {each.exit_code} | {again} | {when} | {each.default_hint} |")
    return "\n".join(lines)


def _commands() -> list[tuple[str, click.Command]]:
    return list(_below("runicorn", group))


def _below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None:
                yield from _below(f"{name} {each}", found)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _help(name: str, command: click.Command) -> str:
    # Neither the terminal's width nor what the environment sets may show.
    context = click.Context(command, info_name=name, terminal_width=WIDTH, help_option_names=["-h", "--help"])
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def main() -> int:
    """Write the page, or check it; returns the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true", help="write nothing; fail when the page is stale")
    if not arguments.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print(f"{PAGE.name} is not up to date: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
