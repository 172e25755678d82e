"""The timed part: the same three scenes for every contender, in turns."""

from __future__ import annotations

import filecmp
import os
import sys
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


def play(stage: Stage, contenders: Sequence[Contender], repetition: int) -> Iterator[Sample]:
    """One repetition: every scene by every contender, each into a mirror of its own that begins empty.

    The order of the contenders turns with the repetition, so that a disturbance does not always hit the same
    one.
    """
    turn = repetition % len(contenders)
    ordered = [*contenders[turn:], *contenders[:turn]]
    for scene in SCENES:
        if scene == CHANGED:
            change_runs(stage.runs, repetition)
        publish(stage.generate)
        for contender in ordered:
            yield _sync(stage, contender, scene, repetition)


def change_runs(runs: Sequence[Path], repetition: int) -> int:
    """Let five runs go on (status, events, logs), others in each repetition; returns the bytes appended."""
    chosen = (runs[(repetition * CHANGED_RUNS + number) * 7 % len(runs)] for number in range(CHANGED_RUNS))
    return sum(append_run(run, CHANGED_LINES, summary=False) for run in chosen)


def publish(generate: Sequence[str]) -> None:
    """Bring the server's manifest up to date, untimed.

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


def _sync(stage: Stage, contender: Contender, scene: str, repetition: int) -> Sample:
    # No mirror is removed before the end: file systems are slow to reuse what was just removed, and not
    # equally slow to everybody.
    mirror = stage.mirrors / str(repetition) / contender.name.replace(" ", "_")
    mirror.mkdir(parents=True, exist_ok=True)
    before = wait_until_idle(stage.proxy)
    cost = run(contender.command(stage.source, mirror))
    after = wait_until_idle(stage.proxy)
    if not cost.trouble and not isinstance(contender, Handshake):
        wrong = difference(stage.source.root, mirror)
        cost = Cost(cost.seconds, cost.cpu_seconds, cost.peak_bytes, wrong)
    return Sample(contender.name, scene, repetition, cost, after.up - before.up, after.down - before.down)


def _files(root: Path) -> set[str]:
    found = set()
    for folder, folders, names in os.walk(root):
        if Path(folder) == root and OWN_FOLDER in folders:
            folders.remove(OWN_FOLDER)
        found |= {os.path.relpath(f"{folder}/{name}", root) for name in names}
    return found
