"""The timed scenes that need trees of their own: many bytes to fetch first, and many runs with no change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Contender, Handshake, Rsync, Runicorn, Source
from benchmarks.generating import generate_command
from benchmarks.scenes import FIRST, UNCHANGED, Sample, Stage, in_turn, publish, sync_once
from testbed.proxy import DelayProxy
from testbed.sshd import Sshd

LARGE_FILES, MANY_FILES = 15, 9
LARGE_RUNS = 1_000
FEW_RUNS, MANY_RUNS = 100, 10_000
RATED = 100e6 / 8
"""100 Mbit/s, in bytes per second."""


@dataclass(frozen=True)
class Tree:
    """A root on the server, with its runs."""

    root: Path
    runs: Sequence[Path]


def large_scene(rate: float | None) -> str:
    """What the tables call the first sync of the large tree; `rate` in bytes per second."""
    return f"{FIRST}, {LARGE_RUNS:,} runs, " + (f"{rate * 8 / 1e6:g} Mbit/s" if rate else "no rate limit")


def many_scene(scene: str, runs: int) -> str:
    """What the tables call a scene with so many runs of MANY_FILES files."""
    return f"{scene}, {runs:,} runs"


def time_large(
    tree: Tree, ours: Runicorn, rates: Sequence[float | None], repetitions: int, rtt: float
) -> Iterator[Sample]:
    """First syncs of the large tree by rsync and `ours`, each into a new mirror; `rtt` in seconds."""
    generate = generate_command(ours.program, tree.root)
    publish(generate)
    contenders: list[Contender] = [Rsync(), ours]
    with Sshd() as server:
        for number, rate in enumerate(rates):
            with DelayProxy(server.port, rtt=rtt, rate=rate) as proxy:
                mirrors = tree.root.with_name(f"{tree.root.name}-mirrors-{number}")
                source = Source(tree.root, server.access, proxy.port)
                stage = Stage(source, tree.runs, proxy, mirrors, generate)
                for repetition in range(repetitions):
                    for contender in in_turn(contenders, repetition):
                        yield sync_once(stage, contender, large_scene(rate), repetition)


def time_many(trees: Sequence[Tree], ours: Runicorn, repetitions: int, rtt: float) -> Iterator[Sample]:
    """Syncs with nothing changed, of trees of very different numbers of runs; `rtt` in seconds.

    The trees take turns as well, for the ratio of their times. The first syncs are told too; the mirrors are
    compared with their sources after them.
    """
    contenders: list[Contender] = [Handshake(), Rsync(), ours]
    with Sshd() as server, DelayProxy(server.port, rtt=rtt) as proxy:
        stages = []
        for tree in trees:
            generate = generate_command(ours.program, tree.root)
            publish(generate)
            source = Source(tree.root, server.access, proxy.port)
            stages.append(Stage(source, tree.runs, proxy, _mirrors(tree), generate))
            for contender in contenders[1:]:
                yield sync_once(stages[-1], contender, many_scene(FIRST, len(tree.runs)), 0)
        for repetition in range(repetitions):
            for contender in in_turn(contenders, repetition):
                for stage in in_order(stages, repetition):
                    scene = many_scene(UNCHANGED, len(stage.runs))
                    yield sync_once(stage, contender, scene, repetition, mirror=stage.mirror(contender, 0))


def in_order(stages: Sequence[Stage], repetition: int) -> list[Stage]:
    """The stages, and the other way round in every second repetition."""
    return list(stages)[:: -1 if repetition % 2 else 1]


def many_mirror(tree: Tree, contender: Contender) -> Path:
    """Where `time_many` leaves a contender's mirror, for others to go on with."""
    return _mirrors(tree) / "0" / contender.name.replace(" ", "_")


def _mirrors(tree: Tree) -> Path:
    return tree.root.with_name(f"{tree.root.name}-mirrors")
