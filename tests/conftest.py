"""The sum of what the tests of faults have tried, printed at the end of every run."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any

import pytest

from tests.faults.tally import SOAK_END, missing, tally

_ALL: Counter[str] = Counter()

# In the background of a script SIGINT is ignored; each program that tests start and interrupt would inherit
# that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what this process has tried."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["tally"] = dict(tally)
        return
    _ALL.update(tally)
    if SOAK_END and missing(_ALL) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of pytest-xdist has tried; one that died has nothing to say."""
    _ALL.update(getattr(node, "workeroutput", {}).get("tally", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the sum."""
    if _ALL:
        terminalreporter.section("tried, with no violation unless a test failed")
        for what, number in sorted(_ALL.items()):
            terminalreporter.write_line(f"{number:>9,} {what}")
    if SOAK_END:
        for what in missing(_ALL):
            terminalreporter.write_line(f"too few: {what}", red=True)
