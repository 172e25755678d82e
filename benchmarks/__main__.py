"""`python -m benchmarks`: measure, print the tables, keep the raw numbers."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.bars import bars
from benchmarks.contenders import (
    METHODS,
    Contender,
    Handshake,
    Rclone,
    Rsync,
    Runicorn,
    Source,
    installed_program,
    known_methods,
)
from benchmarks.facts import Facts, machine, versions
from benchmarks.generating import Generation, generate, generate_command
from benchmarks.large import (
    FEW_RUNS,
    LARGE_FILES,
    LARGE_RUNS,
    MANY_FILES,
    MANY_RUNS,
    RATED,
    Tree,
    many_mirror,
    time_large,
    time_many,
)
from benchmarks.live import LIVE_FILES, LIVE_RUNS, Live, watch_live
from benchmarks.requests import Counted, count
from benchmarks.scenes import Sample, Stage, play
from testbed.proxy import DelayProxy
from testbed.sshd import Sshd
from testbed.trees import Mix, make_tree


@dataclass(frozen=True)
class Options:
    """What to measure: `rtt_ms` in milliseconds, `rate` in bytes per second each way or none."""

    quick: bool
    large: bool
    runs: int
    mix: Mix
    rtt_ms: float
    rate: float | None
    methods: list[str]
    program: str
    scratch: Path | None

    @property
    def repetitions(self) -> int:
        """How often the scenes are played."""
        return 1 if self.quick else 3

    @property
    def rclone_repetitions(self) -> int:
        """How often rclone plays too: its first sync takes most of the time of a run."""
        return 0 if self.quick else 1

    @property
    def large_rates(self) -> list[float | None]:
        """The lines behind which the large tree is fetched, in bytes per second."""
        return [] if self.quick else [RATED, None]

    @property
    def many_runs(self) -> int:
        """Runs of the tree with many."""
        return MANY_RUNS // 10 if self.quick else MANY_RUNS

    @property
    def many_repetitions(self) -> int:
        """How often the trees of many and of few runs are synced with nothing changed."""
        return 3 if self.quick else 5

    @property
    def live_seconds(self) -> tuple[float, float]:
        """How long lines are written, and nothing happens, while both sides watch."""
        return (10.0, 30.0) if self.quick else (30.0, 60.0)

    @property
    def generate_repetitions(self) -> int:
        """How often an unchanged tree is generated."""
        return 3 if self.quick else 5

    @property
    def rtt(self) -> float:
        """The round-trip time in seconds."""
        return self.rtt_ms / 1000


@dataclass(frozen=True)
class Found:
    """What was measured."""

    samples: list[Sample]
    counted: list[Counted]
    generations: list[Generation]
    live: Live


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options of the command line; ends the process on a wrong one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="once, without rclone and the largest trees: below 4 minutes")
    add("--large", action="store_true", help="generate 100,000 runs of 6 files as well")
    add("--runs", type=int, default=100, help="runs to sync, of 15 files each")
    add("--mix", choices=["images", "logs"], default="logs", help="what the runs of 15 files mostly hold")
    add("--rtt-ms", type=float, default=50.0, metavar="MS", help="round-trip time")
    add(
        "--rate",
        type=float,
        default=None,
        metavar="BYTES/S",
        help="rate of the line each way, beside large trees",
    )
    add(
        "--methods",
        default=",".join(METHODS),
        help="methods of runicorn sync; the first plays in every scene",
    )
    add("--program", default=installed_program(), help="the runicorn command to measure")
    add("--scratch", type=Path, default=None, help="folder for trees and mirrors")
    values = vars(parser.parse_args(arguments))
    options = Options(**{**values, "methods": values["methods"].split(",")})
    known = known_methods(options.program)
    unknown = [method for method in options.methods if method not in known]
    if unknown:
        there = f"it has {', '.join(known)}" if known else "its sync tells none"
        parser.exit(2, f"{parser.prog}: {options.program} has no method {', '.join(unknown)}; {there}\n")
    return options


def time_syncs(options: Options, tree: Tree, ours: Sequence[Runicorn]) -> Iterator[Sample]:
    """Play the scenes of every contender behind the slow line, as often as they are repeated."""
    generate_it = generate_command(options.program, tree.root)
    with Sshd() as server, DelayProxy(server.port, rtt=options.rtt, rate=options.rate) as proxy:
        source = Source(tree.root, server.access, proxy.port)
        stage = Stage(source, tree.runs, proxy, tree.root.with_name("mirrors"), generate_it)
        for repetition in range(options.repetitions):
            contenders: list[Contender] = [Handshake(), Rsync(), *ours]
            if repetition < options.rclone_repetitions:
                contenders.append(Rclone())
            yield from play(stage, contenders, repetition)


def measure(options: Options, scratch: Path, tree: Tree) -> Found:
    """Everything, one after the other. Nothing is removed meanwhile: removing slows down what comes next."""
    ours = [Runicorn(method, options.program) for method in options.methods]
    samples = _told(time_syncs(options, tree, ours))
    large = _plant(scratch, "large", LARGE_RUNS, LARGE_FILES, options.mix)
    times = options.generate_repetitions
    generations = [
        generate(large.root, options.program, runs=LARGE_RUNS, files=LARGE_FILES, repetitions=times)
    ]
    samples += _told(time_large(large, ours[0], options.large_rates, options.repetitions, options.rtt))
    sizes = (options.many_runs, FEW_RUNS)
    many = [_plant(scratch, f"many-{size}", size, MANY_FILES) for size in sizes]
    samples += _told(time_many(many, ours[0], options.many_repetitions, options.rtt))
    _progress("counting requests")
    counted = list(count(tree, ours, options.repetitions, options.rtt))
    if not options.quick:
        mirror = many_mirror(many[0], ours[0])
        counted += count(many[0], ours[:1], options.repetitions, options.rtt, mirror=mirror)
    if options.large:
        huge = _plant(scratch, "huge", 100_000, 6)
        generations.append(generate(huge.root, options.program, runs=100_000, files=6, repetitions=2))
    return Found(samples, counted, generations, time_live(options, scratch))


def time_live(options: Options, scratch: Path) -> Live:
    """Both sides watching."""
    tree = _plant(scratch, "live", LIVE_RUNS, LIVE_FILES)
    _progress("live: both sides watch")
    return watch_live(tree, options.program, options.rtt, *options.live_seconds)


def _plant(scratch: Path, name: str, runs: int, files: int, mix: Mix = "images") -> Tree:
    _progress(f"{runs:,} runs of {files} files")
    root = scratch / name
    return Tree(root, make_tree(root, runs, files=files, mix=mix))


def _told(samples: Iterable[Sample]) -> list[Sample]:
    kept = []
    for sample in samples:
        kept.append(sample)
        outcome = "FAILED" if sample.cost.trouble else f"{sample.cost.seconds:.2f} s"
        _progress(f"{sample.repetition + 1}: {sample.scene}, {sample.contender}: {outcome}")
    return kept


def introduce(options: Options, root: Path, facts: Facts, found: dict[str, str]) -> None:
    """Print what is measured, where and how often."""
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    rate = f"{options.rate / 1e6:g} MB/s each way" if options.rate else "no rate limit"
    tree = f"{options.runs:,} runs, mostly {options.mix}, {len(sizes):,} files, {sum(sizes) / 1e6:.1f} MB"
    print(f"{tree}; round trip {options.rtt_ms:g} ms, {rate}")
    memory = float(facts["memory_bytes"]) / 2**30
    load = f"load {facts['load_average']:.2f}"
    print(f"{facts['processor']}, {facts['cores']} cores, {memory:.0f} GiB, {load}")
    print("; ".join([f"Python {facts['python']}", *found.values()]))
    print(f"{options.repetitions} repetitions, {options.rclone_repetitions} of rclone, contenders in turns")
    others = (
        f"{LARGE_RUNS:,} runs of {LARGE_FILES} files, {options.many_runs:,} and {FEW_RUNS} of {MANY_FILES}"
    )
    print(f"other trees: {others}")


def main() -> int:
    """Run everything; 0 if each contender did its work, 1 if one failed.

    A mark that is not held is no failure.
    """
    options = parse()
    begin = time.monotonic()
    facts, found = machine(), versions(options.program)
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.scratch) as folder:
        tree = _plant(Path(folder), "root", options.runs, LARGE_FILES, options.mix)
        introduce(options, tree.root, facts, found)
        seen = measure(options, Path(folder), tree)
        marks = bars(seen.samples, seen.counted, seen.generations, seen.live, options.runs)
        tables = [
            *report.sync_table(seen.samples),
            *report.request_table(seen.counted),
            *report.generation_table(seen.generations),
            *report.live_table(seen.live),
            *report.bar_table(marks),
        ]
        print("\n".join(tables))
        content = {
            "options": {**dataclasses.asdict(options), "scratch": str(options.scratch)},
            "machine": facts,
            "versions": found,
            "samples": seen.samples,
            "requests": seen.counted,
            "generations": seen.generations,
            "live": seen.live,
            "marks": [{**dataclasses.asdict(mark), "verdict": mark.verdict} for mark in marks],
        }
        print(f"\nraw numbers: {report.save(content)}; took {time.monotonic() - begin:.0f} s", flush=True)
        _progress("removing trees and mirrors")
    return 1 if failures(seen) else 0


def failures(seen: Found) -> int:
    """How many of the measured commands failed or left a wrong mirror."""
    costs = [sample.cost for sample in seen.samples]
    costs += [cost for each in seen.generations for cost in (each.first, *each.unchanged)]
    troubles = [seen.live.trouble, *(each.trouble for each in seen.counted)]
    return sum(bool(cost.trouble) for cost in costs) + sum(bool(trouble) for trouble in troubles)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
