"""How a process of the command line ends."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from runicorn.cli import main

_PROGRAM = """
import atexit, gc, sys
from runicorn.cli import main
atexit.register(lambda: print(gc.get_freeze_count() > 0))
sys.argv = ["runicorn", {argument!r}]
sys.exit(main())
"""


@pytest.mark.parametrize(("argument", "code"), [("--version", 0), ("no-command", 2)])
def test_the_interpreter_is_left_nothing_to_look_through(argument: str, code: int) -> None:
    program = _PROGRAM.format(argument=argument)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout.split()[-1]) == (code, "True")


def test_a_caller_with_arguments_of_its_own_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    before = gc.get_freeze_count()
    assert main(["--version"]) == 0
    assert capsys.readouterr().out
    assert gc.get_freeze_count() == before
