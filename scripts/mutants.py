"""Changes the pure modules, one small thing at a time, and counts what their tests notice.

Without arguments all modules of [tool.runicorn.mutants], anew; else the named ones. When there is a result of
every module, the table in docs/reliability.md is written. Fails below `WANTED` per cent.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import tomli

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build/mutants"
PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- made by `make mutants` -->\n", "<!-- end of what `make mutants` made -->\n"
WANTED = 85.0
LINKED = ("src", "tests", "testbed")
PYTEST = ["-p", "no:xdist", "-p", "no:cov", "-p", "no:cacheprovider", "--tb=no", "--hypothesis-profile=ci"]
"""The profile makes random tests the same each time, without a limit for one example."""

SURVIVED, NO_TESTS = 0, (5, 33)
KILLED = (1, 3)
SLOW = (-24, 24, 36, 152, 255)
"""How a test process of mutmut ends; the last ones are those that were stopped because they took too long."""


class Result(NamedTuple):
    """What became of the mutants of one module."""

    module: str
    killed: int
    slow: int
    survived: int

    @property
    def mutants(self) -> int:
        """All of them."""
        return self.killed + self.slow + self.survived

    @property
    def row(self) -> str:
        """A line of the table."""
        share = 100.0 * (self.killed + self.slow) / max(1, self.mutants)
        numbers = (self.mutants, self.killed, self.slow, self.survived)
        return f"| {self.module} | " + " | ".join(map(str, numbers)) + f" | {share:.1f} |"


def _prepare(module: str, tests: list[str]) -> Path:
    place = WORK / module.replace("/", ".")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name in LINKED:
        (place / name).symlink_to(ROOT / name)
    lists = {
        "source_paths": ["src"],
        "only_mutate": [f"src/runicorn/{module}.py"],
        "also_copy": ["testbed"],
        "pytest_add_cli_args": PYTEST,
        "pytest_add_cli_args_test_selection": tests,
    }
    settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in lists.items())
    settings = f"{settings}use_git_change_detection = false\ntimeout_multiplier = 8.0\n"
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (place / "pyproject.toml").write_text(f"{text}\n[tool.mutmut]\n{settings}", "utf-8")
    return place


def _run(module: str, tests: list[str], processes: int) -> None:
    place = _prepare(module, tests)
    command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", str(processes)]
    with (place / "log").open("wb") as log:
        if subprocess.run(command, cwd=place, stdout=log, stderr=log, check=False).returncode:
            raise SystemExit(f"mutants: mutmut failed, see {place / 'log'}")


def _result(module: str) -> Result | None:
    meta = WORK / module.replace("/", ".") / f"mutants/src/runicorn/{module}.py.meta"
    if not meta.exists():
        return None
    ends = Counter(json.loads(meta.read_text("utf-8"))["exit_code_by_key"].values())
    if None in ends:
        return None  # it was interrupted, or is under way
    known = {SURVIVED, *NO_TESTS, *KILLED, *SLOW}
    if unknown := sorted(map(str, set(ends) - known)):
        raise SystemExit(f"mutants: {module} has mutants without a verdict ({', '.join(unknown)})")
    killed, slow = (sum(ends[each] for each in kinds) for kinds in (KILLED, SLOW))
    return Result(module, killed, slow, ends[SURVIVED] + sum(ends[each] for each in NO_TESTS))


def _table(results: Iterable[Result]) -> tuple[str, float]:
    rows = [each for each in results if each.mutants]
    killed, slow = sum(each.killed for each in rows), sum(each.slow for each in rows)
    total = Result("all", killed, slow, sum(each.survived for each in rows))
    lines = [
        "| module of `runicorn` | mutants | killed | stopped, too slow | survived | per cent noticed |",
        "|---|---|---|---|---|---|",
        *(each.row for each in (*rows, total)),
    ]
    share = 100.0 * (total.killed + total.slow) / max(1, total.mutants)
    return "\n".join(lines) + "\n", share


def _write(table: str) -> None:
    text = PAGE.read_text("utf-8")
    before, found, rest = text.partition(BEGIN)
    if not found or END not in rest:
        raise SystemExit(f"mutants: {PAGE} has no place for the table")
    PAGE.write_text(before + BEGIN + table + END + rest.partition(END)[2], "utf-8")


def main() -> int:
    """Run, count, write."""
    table = tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["runicorn"]["mutants"]
    parser = argparse.ArgumentParser(description="mutation testing of the pure modules")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as journal/head; default: all")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    for module in given.modules or table:
        if module not in table:
            parser.error(f"no module of [tool.runicorn.mutants]: {module}")
        begun = time.monotonic()
        _run(module, table[module], given.processes)
        result = _result(module)
        shown = result.row if result is not None else f"| {module}: nothing to change"
        print(f"{shown} {time.monotonic() - begun:.0f} s", flush=True)
    results = [_result(module) for module in table]
    if None in results:
        return 0
    shown, share = _table(each for each in results if each is not None)
    print(shown, end="")
    _write(shown)
    return 0 if share >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
