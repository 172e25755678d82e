"""Where a first sync and a first generation spend processor time, by a sampling profiler (py-spy)."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import runicorn
from benchmarks.contenders import JOURNAL, Source, own_contender, own_name
from benchmarks.lab import Lab, difference
from benchmarks.plan import Profiles
from benchmarks.process import run
from benchmarks.results import Profiled
from testbed.sshd import Sshd

RATE = 200
"""Samples per second, of each thread that is on a processor."""
GENERATION, FIRST_SYNC = "first generation", "first sync by journal"
IMPORTS, ELSEWHERE, NO_FRAME = "import of modules", "elsewhere", "no Python frame"
_PACKAGE = f"{Path(runicorn.__file__).parent}/"


def profile(lab: Lab, act: Profiles) -> Iterator[Profiled]:
    """Profile both, with all processes that they start but ssh, which is not Python."""
    planted, folder = lab.plant(act.tree), lab.folder("profiles")
    os.sync()
    yield _profiled(GENERATION, lab.generate_command(planted.root), folder / "generation")
    mirror = folder / "mirror"
    with Sshd() as server:
        contender = own_contender(own_name(JOURNAL), lab.program)
        command = contender.command(Source(planted.root, server.access, server.port), mirror)
        os.sync()
        found = _profiled(FIRST_SYNC, command, folder / "sync")
    wrong = found.trouble or difference(planted.root, mirror)
    yield Profiled(found.what, found.samples, found.by_function, wrong)


def _profiled(what: str, command: Sequence[str], output: Path) -> Profiled:
    program = str(Path(sys.executable).with_name("py-spy"))
    # A thread that was stopped for a sample and waits for its turn to sleep on would count as busy.
    options = ["--subprocesses", "--nonblocking", "--full-filenames", "--format=raw"]
    options += [f"--rate={RATE}", f"--output={output}"]
    cost = run([program, "record", *options, "--", *command])
    if not output.exists():
        return Profiled(what, 0, {}, cost.trouble or "the profiler wrote nothing")
    counted = by_function(output.read_text(encoding="utf-8", errors="replace").splitlines(), _PACKAGE)
    return Profiled(what, counted.total(), dict(counted.most_common()), cost.trouble)


def by_function(stacks: Iterable[str], package: str) -> Counter[str]:
    """Samples by the innermost function of the package in a stack, as `module:function`; imports apart.

    A line is `process;frame (file:line);frame (file:line) samples`, outermost first. `package` ends with a
    slash.
    """
    counted: Counter[str] = Counter()
    for line in stacks:
        stack, _, number = line.rpartition(" ")
        counted[_owner(stack.split(";"), package)] += int(number)
    return counted


def _owner(frames: Sequence[str], package: str) -> str:
    if len(frames) == 1:
        return NO_FRAME
    if any(frame.startswith("_find_and_load ") for frame in frames):
        return IMPORTS
    for frame in reversed(frames):
        function, _, place = frame.partition(f" ({package}")
        if place:
            module = place.rpartition(":")[0].removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            return f"{module}:{function}"
    return ELSEWHERE
