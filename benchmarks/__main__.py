"""`python -m benchmarks`: play the acts of a plan, keep what they find, print or draw it."""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.acts import play
from benchmarks.contenders import installed_program
from benchmarks.facts import load_average, machine, versions
from benchmarks.lab import Lab
from benchmarks.page import OF_THE_DOCS, RESULTS, for_terminal, render
from benchmarks.plan import MINUTES, PLANS, Act
from benchmarks.results import Results, load, save

COMMANDS = {"full": "make bench-full", "quick": "make bench", "trial": "make bench"}


@dataclass(frozen=True)
class Options:
    """What to play, and where to: without `output` a new file below `benchmarks/results/`."""

    plan: str
    resume: bool
    only: str
    minutes: float
    output: Path
    scratch: Path | None
    command: str


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options of the command line; ends the process on a wrong one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--plan", choices=PLANS, default="quick", help="full: all of docs/performance.md")
    add("--resume", action="store_true", help="keep the acts that the output holds, and play the others")
    add("--only", default="", metavar="TEXT", help="play only the acts whose name holds this")
    add("--minutes", type=float, metavar="N", help="begin nothing that would end later; full: 120")
    add("--output", type=Path, help="where the numbers go, act by act")
    add("--scratch", type=Path, help="folder for trees and mirrors, with 50 GB for the full plan")
    values = parser.parse_args(arguments)
    values.command = _command(values)
    if values.minutes is None:
        values.minutes = MINUTES[values.plan]
    if values.output is None:
        stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")
        values.output = OF_THE_DOCS if values.plan == "full" else RESULTS / f"{stamp}.json"
    return Options(**vars(values))


def _command(values: argparse.Namespace) -> str:
    """What does the same, without the places where numbers and trees go."""
    given = {
        "--plan=trial": values.plan == "trial",
        "--resume": values.resume,
        f"--only={values.only}": values.only,
        f"--minutes={values.minutes or 0:g}": values.minutes is not None,
    }
    options = " ".join(option for option, is_given in given.items() if is_given)
    return " ".join([COMMANDS[values.plan], *([f"BENCH={shlex.quote(options)}"] if options else [])])


def prepare(options: Options, program: str) -> Results:
    """Results to go on with; ends the process if those that are there are of something else."""
    fresh = Results(options.plan, machine(), versions(program))
    again: list[str] = []
    if options.resume and options.output.exists():
        before = load(options.output)
        why = before.fits(fresh)
        if why:
            sys.exit(f"{options.output.name} cannot be gone on with. {why}; without --resume it begins anew")
        fresh = before
        again = fresh.forget_failed()
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    session = {"begun": now, "command": options.command, "load": round(load_average(), 2)}
    fresh.sessions.append({**session, "failed_before": again} if again else session)
    return fresh


def main(arguments: Sequence[str] | None = None) -> int:
    """Play everything; 0 if each contender did its work, 1 if one failed or something was not measured.

    A budget that is not held is no failure, and neither is a repetition for which there was no time.
    """
    options = parse(arguments)
    program = installed_program()
    results = prepare(options, program)
    options.output.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.scratch) as folder:
        missing = play_all(options, Lab(Path(folder), program), results)
        if options.output == OF_THE_DOCS:
            render(results)
        else:
            print(for_terminal(results))
        print(f"raw numbers: {options.output}", flush=True)
        _tell("removing trees and mirrors; nothing is measured any more")
    troubles = [trouble for found in results.found.values() for trouble in found.troubles]
    for trouble in troubles:
        print(f"FAILED {trouble}", file=sys.stderr)
    unknown = [act.name for act in missing if not results.expected_seconds(act)]
    for name in unknown:
        print(f"not measured: {name}", file=sys.stderr)
    if missing or troubles:
        again = f"{len(missing) - len(unknown)} repetitions more"
        print(f"BENCH=--resume plays what has failed or is not measured, and {again}", file=sys.stderr)
    return 1 if troubles or unknown else 0


def play_all(options: Options, lab: Lab, results: Results) -> list[Act]:
    """Play the acts that the results do not hold, and keep each at once; returns those that are missing.

    One that would end too late, by what others of its kind, tree and line took, is not begun.
    """
    begin = time.monotonic()
    acts = [act for act in PLANS[options.plan]() if options.only in act.name]
    for number, act in enumerate(acts, 1):
        passed = time.monotonic() - begin
        is_too_late = passed + results.expected_seconds(act) > 60 * options.minutes
        if act.name in results.found or is_too_late:
            continue
        _tell(f"[{number}/{len(acts)}, {passed:.0f} s] {act.name}")
        try:
            found = play(lab, act, results, _tell)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            _tell(f"FAILED {act.name}: {type(error).__name__} {error}")
            continue
        results.add(act, found)
        save(results, options.output)
    return [act for act in acts if act.name not in results.found]


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # What ends this process ends the servers and lines that it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
