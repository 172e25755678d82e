"""`python -m benchmarks`: measure, print the tables, keep the raw numbers."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.bars import bars
from benchmarks.contenders import Contender, Handshake, Rclone, Rsync, Runicorn, Source, installed_program
from benchmarks.facts import Facts, machine, versions
from benchmarks.generating import Generation, generate, generate_command
from benchmarks.requests import Counted, count
from benchmarks.scenes import Sample, Stage, play
from testbed.proxy import DelayProxy
from testbed.sshd import Sshd
from testbed.trees import make_tree


@dataclass(frozen=True)
class Options:
    """What to measure: `rtt_ms` in milliseconds, `rate` in bytes per second each way or none."""

    quick: bool
    large: bool
    runs: int
    rtt_ms: float
    rate: float | None
    methods: list[str]
    program: str
    scratch: Path | None

    @property
    def repetitions(self) -> int:
        """How often the scenes are played."""
        return 2 if self.quick else 3

    @property
    def rclone_repetitions(self) -> int:
        """How often rclone plays too: its first sync takes most of the time of a run."""
        return 1 if self.quick else self.repetitions

    @property
    def generate_repetitions(self) -> int:
        """How often an unchanged tree is generated."""
        return 3 if self.quick else 5


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options of the command line; ends the process on a wrong one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="2 repetitions instead of 3, and rclone only once")
    add("--large", action="store_true", help="generate 100,000 runs of 6 files as well")
    add("--runs", type=int, default=100, help="runs to sync, of 15 files each")
    add("--rtt-ms", type=float, default=50.0, metavar="MS", help="round-trip time")
    add("--rate", type=float, default=None, metavar="BYTES/S", help="rate of the line each way")
    add("--methods", default="manifest,walk", help="methods of runicorn sync")
    add("--program", default=installed_program(), help="the runicorn command to measure")
    add("--scratch", type=Path, default=None, help="folder for trees and mirrors")
    values = vars(parser.parse_args(arguments))
    return Options(**{**values, "methods": values["methods"].split(",")})


def time_syncs(options: Options, root: Path, runs: Sequence[Path], ours: Sequence[Runicorn]) -> list[Sample]:
    """Play all repetitions behind the slow line."""
    samples = []
    generate_it = generate_command(options.program, root)
    with Sshd() as server, DelayProxy(server.port, rtt=options.rtt_ms / 1000, rate=options.rate) as proxy:
        source = Source(root, server.access, proxy.port)
        stage = Stage(source, runs, proxy, root.parent / "mirrors", generate_it)
        for repetition in range(options.repetitions):
            contenders: list[Contender] = [Handshake(), Rsync(), *ours]
            if repetition < options.rclone_repetitions:
                contenders.append(Rclone())
            for sample in play(stage, contenders, repetition):
                samples.append(sample)
                outcome = "FAILED" if sample.cost.trouble else f"{sample.cost.seconds:.2f} s"
                _progress(f"{repetition + 1}: {sample.scene}, {sample.contender}: {outcome}")
    return samples


def time_generations(options: Options, scratch: Path) -> list[Generation]:
    """Measure generate-manifest at 1,000 runs, and at 100,000 if asked to."""
    times = options.generate_repetitions
    found = [generate(scratch, options.program, runs=1_000, files=15, repetitions=times)]
    if options.large:
        _progress("100,000 runs of 6 files")
        found.append(generate(scratch, options.program, runs=100_000, files=6, repetitions=2))
    return found


def introduce(options: Options, root: Path, facts: Facts, found: dict[str, str]) -> None:
    """Print what is measured, where and how often."""
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    rate = f"{options.rate / 1e6:g} MB/s each way" if options.rate else "no rate limit"
    tree = f"{options.runs:,} runs, {len(sizes):,} files, {sum(sizes) / 1e6:.1f} MB"
    print(f"{tree}; round trip {options.rtt_ms:g} ms, {rate}")
    memory = float(facts["memory_bytes"]) / 2**30
    load = f"load {facts['load_average']:.2f}"
    print(f"{facts['processor']}, {facts['cores']} cores, {memory:.0f} GiB, {load}")
    print("; ".join([f"Python {facts['python']}", *found.values()]))
    rclone = f"; quick: rclone only {options.rclone_repetitions} time" if options.quick else ""
    print(f"{options.repetitions} repetitions, contenders in turns{rclone}")


def main() -> int:
    """Run everything; 0 if each contender did its work, 1 if one failed.

    A mark that is not held is no failure.
    """
    options = parse()
    begin = time.monotonic()
    facts, found = machine(), versions(options.program)
    ours = [Runicorn(method, options.program) for method in options.methods]
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.scratch) as folder:
        root = Path(folder, "root")
        runs = make_tree(root, options.runs)
        introduce(options, root, facts, found)
        samples = time_syncs(options, root, runs, ours)
        counted = count(root, runs, ours, generate_command(options.program, root), options.repetitions)
        generations = time_generations(options, Path(folder))
    marks = bars(samples, counted, generations, options.runs)
    tables = [
        *report.sync_table(samples),
        *report.request_table(counted),
        *report.generation_table(generations),
        *report.bar_table(marks),
    ]
    print("\n".join(tables))
    content = {
        "options": {**dataclasses.asdict(options), "scratch": str(options.scratch)},
        "machine": facts,
        "versions": found,
        "samples": samples,
        "requests": counted,
        "generations": generations,
        "marks": [{**dataclasses.asdict(mark), "verdict": mark.verdict} for mark in marks],
    }
    print(f"\nraw numbers: {report.save(content)}; took {time.monotonic() - begin:.0f} s")
    return 1 if failures(samples, counted, generations) else 0


def failures(samples: Sequence[Sample], counted: Sequence[Counted], generations: Sequence[Generation]) -> int:
    """How many of the measured commands failed or left a wrong mirror."""
    costs = [sample.cost for sample in samples]
    costs += [cost for each in generations for cost in (each.first, *each.unchanged)]
    return sum(bool(cost.trouble) for cost in costs) + sum(bool(each.trouble) for each in counted)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
