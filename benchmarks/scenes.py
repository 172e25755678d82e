"""The timed part: what is done by every contender, in turns."""

from __future__ import annotations

import filecmp
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Contender, Handshake, Source
from benchmarks.process import Cost, run
from testbed.proxy import DelayProxy, wait_until_idle
from testbed.trees import append_run

FIRST, UNCHANGED, CHANGED = "first sync", "nothing changed", "5 runs changed"
SCENES = (FIRST, UNCHANGED, CHANGED)
CHANGED_RUNS, CHANGED_LINES = 5, 50
LOGS = ("events.jsonl", "logs.txt")
OWN_FOLDER = ".runicorn"


@dataclass(frozen=True)
class Sample:
    """One timed sync. Bytes are those of the TCP connections, encrypted, each way."""

    contender: str
    scene: str
    repetition: int
    cost: Cost
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class Stage:
    """Where the scenes play: the tree with its runs, the line in front of its server, room for mirrors."""

    source: Source
    runs: Sequence[Path]
    proxy: DelayProxy
    mirrors: Path
    generate: Sequence[str]

    def mirror(self, contender: Contender, repetition: int) -> Path:
        """The mirror of a contender, another one in each repetition.

        None is removed before the end: file systems are slow to reuse what was just removed, and not equally
        slow to everybody.
        """
        return self.mirrors / str(repetition) / contender.name.replace(" ", "_")


@dataclass(frozen=True)
class Appended:
    """What logs grew by: plain bytes, and the zlib size (level 6) of each log's own, summed."""

    plain: int
    compressed: int


def play(stage: Stage, contenders: Sequence[Contender], repetition: int) -> Iterator[Sample]:
    """One repetition: every scene by every contender, each into a mirror of its own that begins empty."""
    for scene in SCENES:
        if scene == CHANGED:
            change_runs(stage.runs, repetition)
        publish(stage.generate)
        for contender in in_turn(contenders, repetition):
            yield sync_once(stage, contender, scene, repetition)


def in_turn(contenders: Sequence[Contender], repetition: int) -> list[Contender]:
    """The contenders in another order in each repetition, so that a disturbance hits not always the same."""
    turn = repetition % len(contenders)
    return [*contenders[turn:], *contenders[:turn]]


def change_runs(runs: Sequence[Path], repetition: int) -> Appended:
    """Let five runs go on (status, events, logs), others in each repetition."""
    plain = compressed = 0
    for number in range(CHANGED_RUNS):
        chosen = runs[(repetition * CHANGED_RUNS + number) * 7 % len(runs)]
        before = {name: (chosen / name).stat().st_size for name in LOGS}
        plain += append_run(chosen, CHANGED_LINES, summary=False)
        tails = ((chosen / name).read_bytes()[before[name] :] for name in LOGS)
        compressed += sum(len(zlib.compress(tail, 6)) for tail in tails)
    return Appended(plain, compressed)


def publish(generate: Sequence[str]) -> None:
    """Bring what the server publishes up to date, untimed.

    Prints why if that fails: the syncs then fail by themselves.
    """
    cost = run(generate)
    if cost.trouble:
        print(f"generate-manifest: {cost.trouble}", file=sys.stderr)


def difference(root: Path, mirror: Path) -> str:
    """How the run files of a mirror differ from their source; empty if they do not."""
    expected, found = _files(root), _files(mirror)
    if expected != found:
        missing, extra = sorted(expected - found), sorted(found - expected)
        return f"{len(missing)} files missing {missing[:1]}, {len(extra)} too many {extra[:1]}"
    _, different, unread = filecmp.cmpfiles(root, mirror, expected, shallow=False)
    return f"{len(different + unread)} files differ {(different + unread)[:1]}" if different or unread else ""


def sync_once(
    stage: Stage, contender: Contender, scene: str, repetition: int, *, mirror: Path | None = None
) -> Sample:
    """Time one sync into the contender's mirror of this repetition, and compare that with the source.

    A `mirror` that is given has been compared before: one of 90,000 files takes longer to compare than to
    sync.
    """
    target = mirror or stage.mirror(contender, repetition)
    target.mkdir(parents=True, exist_ok=True)
    # Nobody pays for writing back what the one before has left in memory.
    os.sync()
    before = wait_until_idle(stage.proxy)
    cost = run(contender.command(stage.source, target))
    after = wait_until_idle(stage.proxy)
    if not cost.trouble and mirror is None and not isinstance(contender, Handshake):
        wrong = difference(stage.source.root, target)
        cost = Cost(cost.seconds, cost.cpu_seconds, cost.peak_bytes, wrong)
    return Sample(contender.name, scene, repetition, cost, after.up - before.up, after.down - before.down)


def _files(root: Path) -> set[str]:
    found = set()
    for folder, folders, names in os.walk(root):
        if Path(folder) == root and OWN_FOLDER in folders:
            folders.remove(OWN_FOLDER)
        found |= {os.path.relpath(f"{folder}/{name}", root) for name in names}
    return found
