"""docs/cli.md is what the help texts and the error classes say."""

from __future__ import annotations

import subprocess
import sys

from runicorn import errors
from tests.docs.pages import COMMAND_SECONDS, PROJECT_ROOT, blocks, error_classes, table


def test_command_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, PROJECT_ROOT / "scripts/cli_reference.py", "--check"],
        check=False,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == 0, done.stderr


def test_exit_codes_are_those_of_the_error_classes() -> None:
    shown = {int(code): meaning for code, meaning in table("docs/cli.md", "Exit codes")}
    used = {each.exit_code for each in error_classes()}
    assert set(shown) == used | {0}
    assert all(shown.values())
    listed = {name.strip("`"): int(code) for name, code, *_ in table("docs/cli.md", "The errors behind them")}
    assert listed == {each.__name__: each.exit_code for each in error_classes()}


def test_help_of_sync_lists_every_exit_code() -> None:
    text = next(
        block.text for block in blocks("docs/cli.md") if block.text.startswith("Usage: runicorn sync")
    )
    listed = text.split("Exit codes:\n")[1].split("\n\n")[0]
    codes = {int(line.split()[0]) for line in listed.splitlines()}
    assert codes == {0} | {each.exit_code for each in error_classes()} - {errors.StaleError.exit_code}
