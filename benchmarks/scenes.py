"""The timed part: what is done by every contender, in turns."""

from __future__ import annotations

import os
import shutil
import statistics
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import (
    FLOOR,
    LFTP,
    RCLONE,
    RSYNC,
    TAR,
    Contender,
    Floor,
    Lftp,
    Rclone,
    Rsync,
    Source,
    Tar,
    archive,
)
from benchmarks.contenders import own_contender as own
from benchmarks.lab import LOGS, OWN_FOLDER, Lab, Planted, archive_files, compress_files, difference
from benchmarks.plan import Line, Syncs
from benchmarks.process import Cost, run
from benchmarks.results import Found, LeftOut, Results, Sample
from benchmarks.server import MeteredSshd
from testbed.proxy import DelayProxy, wait_until_idle
from testbed.trees import append_run

FIRST, UNCHANGED, CHANGED = "first sync", "nothing changed", "5 runs changed"
SCENES = (FIRST, UNCHANGED, CHANGED)
CHANGED_RUNS, CHANGED_LINES = 5, 50
COMPARED_RUNS = 1_000
"""The mirror of a larger tree is compared after first syncs and after the last sync alone."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Appended:
    """What logs grew by: plain bytes, and the zlib size (level 6) of each log's own, summed."""

    plain: int
    compressed: int


@dataclass(frozen=True)
class Stage:
    """Where the scenes of one act play."""

    lab: Lab
    planted: Planted
    server: MeteredSshd
    proxy: DelayProxy
    mirrors: Path
    payload: Path

    @property
    def source(self) -> Source:
        """The tree behind the line."""
        return Source(self.planted.root, self.server.access, self.proxy.port)

    def mirror(self, contender: str, repetition: int) -> Path:
        """The mirror of a contender, for the first sync another one in each repetition."""
        return self.mirrors / str(repetition) / contender.replace(" ", "_").replace(",", "")


@contextmanager
def staged(lab: Lab, act: Syncs) -> Iterator[Stage]:
    """The server, the line and the tree of an act."""
    planted = lab.plant(act.tree)
    server = MeteredSshd()
    with server, DelayProxy(server.port, rtt=act.line.rtt, rate=act.line.rate) as proxy:
        mirrors = lab.folder("mirrors")
        yield Stage(lab, planted, server, proxy, mirrors, mirrors / "payload")


@dataclass
class Play:
    """One act: its scenes one after the other, and in each of them the contenders in turns.

    Repetitions go on from those that acts of the same tree and line have played before.
    """

    act: Syncs
    stage: Stage
    before: Results
    tell: Tell
    samples: list[Sample] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def __post_init__(self) -> None:
        same = next(self.before.of("Syncs", tree=self.act.tree, line=self.act.line), None)
        self._earlier = same or Found("Syncs", self.act.tree, self.act.line)

    def play(self) -> None:
        """Play all scenes."""
        times = self.act.times
        for scene, number in zip(SCENES, (times.first, times.unchanged, times.changed), strict=True):
            chosen = [name for name in self.act.contenders if number and not self._leaves_out(name, scene)]
            begin = 1 + max(
                (each.repetition for each in self._earlier.samples if each.scene == scene), default=-1
            )
            for repetition in range(begin, begin + number):
                self._prepare(scene, repetition, is_first=repetition == begin)
                for name in in_turn(chosen, repetition):
                    if not self._is_too_slow_to_repeat(name, scene):
                        mirror = self.stage.mirror(name, repetition - begin if scene == FIRST else 0)
                        self._sync(name, scene, repetition, mirror, is_last=repetition == begin + number - 1)

    def _prepare(self, scene: str, repetition: int, *, is_first: bool) -> None:
        stage = self.stage
        if scene == CHANGED:
            appended = change_runs(stage.planted.runs, repetition)
            stage.payload.write_bytes(os.urandom(appended.compressed))
        elif is_first and scene == FIRST and FLOOR in self.act.contenders:
            compress_files(stage.planted.root, stage.payload)
            if TAR in self.act.contenders:
                archive_files(stage.planted.root, archive(stage.payload))
        elif is_first:
            stage.payload.write_bytes(b"")
        if is_first or scene == CHANGED:
            stage.lab.publish(stage.planted)

    def _sync(self, name: str, scene: str, repetition: int, target: Path, *, is_last: bool) -> None:
        stage = self.stage
        target.mkdir(parents=True, exist_ok=True)
        # Nobody pays for writing back what the one before has left in memory.
        os.sync()
        before = stage.proxy.traffic()
        contender = contender_by_name(name, stage.lab.program, stage.payload)
        cost = run(contender.command(stage.source, target), limit=self.act.bound.limit)
        after = wait_until_idle(stage.proxy, quiet=0.05 + self.act.line.rtt)
        spent = stage.server.spent()
        if cost.too_long:
            self.left_out.append(LeftOut(name, scene, f"ended after {self.act.bound.limit:g} s"))
            self.tell(f"{repetition + 1}: {scene}, {name}: {cost.trouble}")
            return
        is_compared = scene == FIRST or is_last or self.act.tree.runs <= COMPARED_RUNS
        trouble = cost.trouble
        if not trouble and name != FLOOR and is_compared:
            trouble = difference(stage.planted.root, target)
        up, down = after.up - before.up, after.down - before.down
        self.samples.append(
            Sample(
                name,
                scene,
                repetition,
                *(cost.seconds, cost.cpu_seconds, cost.peak_bytes),
                *(spent.cpu_seconds, spent.peak_bytes),
                *(up, down),
                trouble,
            )
        )
        self._say(name, scene, repetition, cost, trouble)

    def _say(self, name: str, scene: str, repetition: int, cost: Cost, trouble: str) -> None:
        outcome = f"FAILED {trouble}" if trouble else f"{cost.seconds:.2f} s"
        self.tell(f"{repetition + 1}: {scene}, {name}: {outcome}")

    def _is_too_slow_to_repeat(self, name: str, scene: str) -> bool:
        samples, left_out = self.samples + self._earlier.samples, self.left_out + self._earlier.left_out
        ended = any((each.contender, each.scene) == (name, scene) for each in left_out)
        mine = (each.seconds for each in samples if (each.contender, each.scene) == (name, scene))
        return ended or sum(mine) > self.act.bound.repeat

    def _leaves_out(self, name: str, scene: str) -> bool:
        if self._is_too_slow_to_repeat(name, scene) or (name == TAR and scene != FIRST):
            return True
        reason = too_slow(self.before, self.act, name, scene) or self._needs_first(name, scene)
        if reason and all((each.contender, each.scene) != (name, scene) for each in self._earlier.samples):
            self.left_out.append(LeftOut(name, scene, reason))
            self.tell(f"left out: {scene}, {name}: {reason}")
        return bool(reason)

    def _needs_first(self, name: str, scene: str) -> str:
        """Why a later scene cannot be played; those that keep no state get a copy of the tree to begin with.

        Ours keep one, so their mirrors have to come from a first sync.
        """
        mirror = self.stage.mirror(name, 0)
        if scene == FIRST or name == FLOOR or self._has_synced(name):
            return ""
        if name not in (RSYNC, RCLONE, LFTP):
            return "it has no mirror without a first sync"
        if mirror.with_suffix(".copied").exists():
            return ""
        shutil.rmtree(mirror, ignore_errors=True)
        shutil.copytree(self.stage.planted.root, mirror, ignore=shutil.ignore_patterns(OWN_FOLDER))
        mirror.with_suffix(".copied").touch()
        return ""

    def _has_synced(self, name: str) -> bool:
        first = [each for each in self.samples if (each.contender, each.scene) == (name, FIRST)]
        return bool(first) and not first[0].trouble


def too_slow(before: Results, act: Syncs, name: str, scene: str) -> str:
    """Why a contender would need longer than the bound; empty if not, or if nothing tells.

    It does where it was left out at as many or fewer runs over a line that is as good or better. By its time
    at the next smaller tree it does when what it took there beside the floor grows with the number of runs.
    """
    easier = [found for found in before.of("Syncs") if _is_easier(found, act)]
    for found in easier:
        if any((each.contender, each.scene) == (name, scene) for each in found.left_out):
            assert found.line is not None
            return f"left out already at {found.tree.runs:,} runs, {found.line.name}"
    smaller = [found for found in easier if found.line == act.line]
    if not smaller:
        return ""
    found = max(smaller, key=lambda each: each.tree.runs)
    size = f"at {found.tree.runs:,} runs"
    seconds, floor = median_seconds(found, name, scene), median_seconds(found, FLOOR, scene)
    if seconds is None or floor is None:
        return ""
    expected = floor + (seconds - floor) * act.tree.runs / found.tree.runs
    if expected <= act.bound.limit:
        return ""
    return f"{seconds:.0f} s {size}, so it would take longer than {act.bound.limit:g} s"


def _is_easier(found: Found, act: Syncs) -> bool:
    """Whether an act had a tree and a line that are both no worse, and not the same."""
    tree, line = found.tree, found.line or Line(0)
    return (
        (tree.files, tree.mix) == (act.tree.files, act.tree.mix)
        and tree.runs <= act.tree.runs
        and line.rtt_ms <= act.line.rtt_ms
        and line.mbit in (None, act.line.mbit)
        and (tree, line) != (act.tree, act.line)
    )


def median_seconds(found: Found, name: str, scene: str) -> float | None:
    """The median time of a contender in a scene; none if it was not played or went wrong."""
    mine = [each for each in found.samples if (each.contender, each.scene) == (name, scene)]
    if not mine or any(each.trouble for each in mine):
        return None
    return statistics.median(each.seconds for each in mine)


def contender_by_name(name: str, program: str, payload: Path) -> Contender:
    """Who is called so; `payload` is the file of the floor."""
    if name == FLOOR:
        return Floor(payload)
    if name == TAR:
        return Tar(payload)
    others: dict[str, Contender] = {each.name: each for each in (Rsync(), Rclone(), Lftp())}
    return others.get(name) or own(name, program)


def in_turn(contenders: Sequence[str], repetition: int) -> list[str]:
    """The contenders in another order in each repetition, so that a disturbance hits not always the same."""
    turn = repetition % max(1, len(contenders))
    return [*contenders[turn:], *contenders[:turn]]


def change_runs(runs: Sequence[Path], repetition: int) -> Appended:
    """Let five runs go on (status, events, logs), others in each repetition."""
    plain = compressed = 0
    numbers = range(repetition * CHANGED_RUNS, (repetition + 1) * CHANGED_RUNS)
    for chosen in dict.fromkeys(runs[number * 7 % len(runs)] for number in numbers):
        before = {name: (chosen / name).stat().st_size for name in LOGS}
        plain += append_run(chosen, CHANGED_LINES, summary=False)
        tails = ((chosen / name).read_bytes()[before[name] :] for name in LOGS)
        compressed += sum(len(zlib.compress(tail, 6)) for tail in tails)
    return Appended(plain, compressed)
