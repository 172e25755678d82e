"""Killed before and after each of its steps, a command leaves what the laws allow, and the next one goes on.

`make test` kills at each place once; `make soak` at every step of every scenario.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.nursery import KILLED, Ended
from tests.faults.process import run_files
from tests.faults.tally import SOAK_END, Tried, count, scale, turns
from tests.faults.world import World

LONGEST = scale(120, 1800)


def chosen(steps: list[str], covered: set[str]) -> Iterator[int]:
    """The steps to kill at: all of them in a soak, else one for each function that was not covered yet."""
    if SOAK_END:
        yield from (number for number in turns(len(steps), len(steps)))
        return
    for number, place in enumerate(steps):
        function = place.partition(" < ")[0]
        if function not in covered:
            covered.add(function)
            yield number + len(covered) % 2


@dataclass(frozen=True)
class Scenario:
    """A sync that is killed.

    Attributes:
        name: what it is called.
        options: of the sync.
        fresh: whether the mirror is made anew each time.
        sets: constants of the sync, see `Nursery.begin`.
        publishes: options of the generations before it: the last one is the one to sync.
        most: how many steps at most are tried; 0 for all.
    """

    name: str
    options: tuple[str, ...] = ()
    fresh: bool = False
    sets: Mapping[str, Any] = field(default_factory=dict)
    publishes: tuple[tuple[str, ...], ...] = ((),)
    most: int = 0

    @property
    def deletes(self) -> bool:
        return "--delete" in self.options


SMALL_FRAMES = {"runicorn.manifest.frame_writer:FRAME_DATA": 3000}
BASE = "runicorn.remote_storage.base_install"
FEW = "runicorn.remote_storage.durability:_FEW_FILES"
IN_STEPS = {f"{BASE}:BATCH_BYTES": 8000, f"{BASE}:BATCH_SECONDS": 0.0, f"{BASE}:FIRST_USE_SECONDS": 0.0}
PARTIAL = {
    "runicorn.remote_storage.transfer:RESUME_FROM": 20_000,
    "runicorn.remote_storage.landing:IN_MEMORY": 4_000,
}
DELETES = ("--delete", "--force-delete")
SCENARIOS = [
    Scenario("journal", DELETES),
    Scenario("insisting on the journal", ("--method", "journal")),
    Scenario("first", (), True, {FEW: 10**6}),
    Scenario("first in batches", (), True, {FEW: 0, **IN_STEPS}),
    Scenario("first by manifest", ("--method", "manifest"), True, {FEW: 0}),
    Scenario("first by walk", ("--method", "walk"), True),
    Scenario("manifest", ("--method", "manifest", *DELETES)),
    Scenario("walk", ("--method", "walk", *DELETES)),
    Scenario("partial", ("--method", "manifest"), sets=PARTIAL),
    Scenario("new epoch", publishes=(("--compact",), ())),
    Scenario("active", ("--method", "manifest"), publishes=((), ("--active",))),
    Scenario("workers", fresh=True, sets={"runicorn.remote_storage.journal_rung:WORTH_BYTES": 0}, most=40),
]
COVERED: set[str] = set()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with closing(World(tmp_path)) as world:
        yield world


class KilledClient:
    """One scenario."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self.world, self.scenario = world, scenario
        world.judge.may_replace = "journal" in scenario.options
        self.mirror = world.place / "mirror"
        self._made = 0

    def _sync(self, **order: Any) -> Ended:
        world, scenario = self.world, self.scenario
        mirror, options = self.mirror, scenario.options
        return world.nursery.run("sync", world.root, mirror, *options, sets=scenario.sets, **order)

    def prepare(self) -> None:
        """The root goes on, and there is something to sync."""
        for options in self.scenario.publishes:
            if "--active" not in options:
                self.world.change()
                self.world.publish(*options, sets=SMALL_FRAMES)
            else:
                self.world.generate(*options).expect(0)
                self.world.judge.published("active_manifest.json")
        if self.scenario.fresh:
            shutil.rmtree(self.mirror, ignore_errors=True)
            self._made += 1
            self.mirror = self.world.place / f"mirror-{self._made}"

    def whole(self, **order: Any) -> Ended:
        """One sync that is left alone."""
        done = self._sync(**order).expect(0)
        self.world.judge.decide_complete(self.mirror, deletes=self.scenario.deletes)
        return done

    def judge_verify(self) -> None:
        """All is well with a new mirror only when it holds all that the root does."""
        said = self.world.nursery.run("verify", self.mirror).expect(0, 1, 3)
        assert said.code or run_files(self.mirror) == run_files(self.world.root), said

    def killed(self, step: int) -> bool:
        """One sync that is killed at a step, and one that goes on; whether it was alive then."""
        self.prepare()
        done = self._sync(step=step).expect(0, KILLED)
        self.world.judge.killed(self.mirror, deletes=self.scenario.deletes)
        if self.scenario.fresh:
            self.judge_verify()
        self.whole()
        return done.code == KILLED


@pytest.mark.timeout(LONGEST)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name.replace(" ", "-"))
def test_a_client_killed_at_its_steps(world: World, scenario: Scenario) -> None:
    client = KilledClient(world, scenario)
    client.prepare()
    client.whole()
    client.prepare()
    steps = client.whole(steps=True).steps
    stride = max(1, len(steps) // scenario.most) if scenario.most and SOAK_END else 1
    for number in chosen(steps[::stride], COVERED):
        at = number * stride
        try:
            count(Tried.KILLED_SYNCS, client.killed(at))
        except BaseException:
            print(f"killed at step {at}, {steps[at]}, of {scenario.name}")
            raise


def spoil(world: World, mirror: Path) -> None:
    """Another program changes a state file and a log of the mirror."""
    for name in ("summary.json", "events.jsonl"):
        path = sorted(mirror.rglob(name))[0]
        path.write_bytes(b"x" * path.stat().st_size)
        world.judge.oracle.somebody_did(mirror, path.relative_to(mirror).as_posix())


@pytest.mark.timeout(LONGEST)
def test_a_repair_killed_at_its_steps(world: World) -> None:
    mirror, judge, nursery = world.place / "mirror", world.judge, world.nursery
    world.publish()
    nursery.run("sync", world.root, mirror).expect(0)
    repair = ("verify", mirror, "--repair")
    spoil(world, mirror)
    steps = nursery.run(*repair, steps=True).expect(0).steps
    forgets = [number for number, place in enumerate(steps) if "COMMIT" in place and "repair." in place]
    for number in turns(len(forgets), len(steps)):
        step = number if SOAK_END else forgets[number]
        spoil(world, mirror)
        done = nursery.run(*repair, step=step).expect(0, KILLED)
        try:
            judge.killed(mirror)
            nursery.run(*repair).expect(0)
            nursery.run("sync", world.root, mirror).expect(0)
            judge.decide_complete(mirror)
        except BaseException:
            print(f"killed at step {step}, {steps[step]}")
            raise
        count(Tried.KILLED_SYNCS, done.code == KILLED)


# -- generators ------------------------------------------------------------------------------

KEPT = "runicorn.manifest.journal_store:KEPT_BYTES"
GENERATORS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "changes": ((), SMALL_FRAMES),
    "first": ((), SMALL_FRAMES),
    "compact": (("--compact",), {KEPT: 0}),
    "active": (("--active",), {}),
    "no-journal": (("--no-journal",), {}),
    "all-anew": (("--no-incremental",), {}),
}
PUBLISHED: set[str] = set()


AT_ONCE = {"runicorn.remote_storage.transfer:BACKOFF": [0.0, 0.0]}


def follow(world: World, name: str, *, is_stale: bool = False) -> None:
    """A client follows by the best rung that is there, whatever happened to the generator.

    Args:
        world: where.
        name: of the mirror.
        is_stale: whether the manifest may be older than the files: then some of them fail, and are named.
    """
    mirror = world.place / name
    done = world.nursery.run("sync", world.root, mirror, "--json", sets=AT_ONCE)
    done.expect(0, 3) if is_stale else done.expect(0)
    world.judge.decide(mirror)
    if not is_stale:
        world.judge.decide_complete(mirror)


@pytest.mark.timeout(LONGEST)
@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_killed_at_its_steps(world: World, kind: str) -> None:
    options, sets = GENERATORS[kind]
    world.tells = False
    world.publish()
    follow(world, "follower")
    world.change()
    steps = world.generate(*options, sets=sets, steps=True).expect(0).steps
    if kind == "first":
        shutil.rmtree(world.root / ".runicorn")
        steps = world.generate(*options, sets=sets, steps=True).expect(0).steps
    for number in chosen(steps, PUBLISHED):
        try:
            count(Tried.KILLED_GENERATIONS, killed_generation(world, kind, number))
        except BaseException:
            print(f"killed at step {number}, {steps[number]}, of {kind}")
            raise


def killed_generation(world: World, kind: str, step: int) -> bool:
    """One generation that is killed at a step, and one that goes on; whether it was alive then."""
    options, sets = GENERATORS[kind]
    world.change()
    if kind == "first":
        shutil.rmtree(world.root / ".runicorn")
        world.line.head = None
    done = world.generate(*options, sets=sets, step=step).expect(0, KILLED)
    follow(world, "follower", is_stale=True)
    new = f"new-{world.changes}"
    follow(world, new, is_stale=True)
    shutil.rmtree(world.place / new)
    world.publish(sets=SMALL_FRAMES)
    if kind not in ("first", "no-journal"):
        world.line.carries_on()
    follow(world, "follower")
    return done.code == KILLED
