"""After a power cut the laws hold, a sync makes the mirror complete, and a generation the journal whole.

What one sync or generation wrote is recorded (`testbed.power`), and cut at random moments, with all that a disk
may then have lost. `RUNICORN_POWER_SEED` is the first seed; one seed is one cut.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from testbed.history import is_log
from testbed.power import Disk, Recording, record
from tests.faults.process import environment
from tests.faults.tally import Tried, count, scale, turns
from tests.faults.test_kill_steps import AT_ONCE, DELETES, FEW, IN_STEPS, PARTIAL, SMALL_FRAMES, follow
from tests.faults.world import World
from tests.manifest.journal_reader import Replica

SEED = int(os.environ.get("RUNICORN_POWER_SEED", "1"))
LONGEST = scale(120, 1800)
PROGRAM = """
import importlib, json, sys
sets, arguments = json.loads(sys.argv[1])
for name, value in sets.items():
    module, _, constant = name.partition(":")
    setattr(importlib.import_module(module), constant, value)
from runicorn.cli import main
sys.exit(main(arguments))
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with closing(World(tmp_path)) as world:
        yield world


def recorded(
    world: World, folder: Path, *arguments: str | Path, sets: Mapping[str, Any] | None = None
) -> Recording:
    """What a command of runicorn does below a folder, as a process of its own."""
    order = json.dumps([dict(sets or {}), [*map(str, arguments)]])
    command = [sys.executable, "-c", PROGRAM, order]
    return record(command, folder, world.place / "trace", environment())


def seeds(small: int, full: int) -> Iterator[random.Random]:
    """One chance for each cut."""
    for number in turns(small, full):
        print(f"RUNICORN_POWER_SEED={SEED + number}")
        yield random.Random(SEED + number)


# -- clients ---------------------------------------------------------------------------------


def adopt(mirror: Path, numbers: Mapping[str, int]) -> dict[str, tuple[int, bytes]]:
    """Have the state of a mirror name the inodes that its files have now, as it would on the disk that it was
    recorded on; gives the size and the hashes that are recorded of each file."""
    database = mirror / ".runicorn/state.db"
    if not database.exists():
        return {}
    with closing(sqlite3.connect(database)) as state:
        assert state.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not state.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone():
            return {}
        rows = state.execute("SELECT folder, inner, inode, size, hashes FROM files").fetchall()
        for folder, inner, inode, *_ in rows:
            path = f"{folder}/{inner}"
            now = (mirror / path).stat().st_ino if numbers.get(path) == inode else 0
            state.execute("UPDATE files SET inode = ? WHERE folder = ? AND inner = ?", (now, folder, inner))
        state.commit()
    return {f"{folder}/{inner}": (size, hashes) for folder, inner, _, size, hashes in rows}


def spoiled_logs(mirror: Path, rows: Mapping[str, tuple[int, bytes]]) -> set[str]:
    """Logs that were growing: behind what is recorded anything may follow until the next sync."""
    found = set()
    for path, (size, hashes) in rows.items():
        content = (mirror / path).read_bytes() if (mirror / path).exists() else b""
        if is_log(path) and len(content) > size and sha256(content[:size]).digest() == hashes:
            found.add(path)
    return found


@dataclass(frozen=True)
class Scenario:
    """Syncs that are recorded.

    Attributes:
        options: of each sync.
        syncs: how many, with changes of the root between them.
        is_first: whether the mirror is not there before them.
        sets: constants of the syncs.
    """

    options: tuple[str, ...] = ()
    syncs: int = 1
    is_first: bool = False
    sets: Mapping[str, Any] = field(default_factory=dict)

    @property
    def deletes(self) -> bool:
        return "--delete" in self.options


SCENARIOS = {
    "first": Scenario(is_first=True, sets={FEW: 10**6}),
    "first-in-batches": Scenario(is_first=True, sets={FEW: 0, **IN_STEPS}),
    "first-and-on": Scenario(DELETES, syncs=3, is_first=True),
    "journal": Scenario(DELETES, syncs=2, sets={FEW: 10**6}),
    "journal-by-syncfs": Scenario(DELETES, sets={FEW: 0}),
    "manifest": Scenario(("--method", "manifest", *DELETES), syncs=2),
    "walk": Scenario(("--method", "walk")),
    "partial": Scenario(("--method", "manifest"), syncs=2, sets=PARTIAL),
}


@pytest.mark.timeout(LONGEST)
@pytest.mark.parametrize("name", SCENARIOS)
def test_power_fails_in_a_sync(world: World, name: str) -> None:
    scenario = SCENARIOS[name]
    mirror = world.place / "mirror"
    command = ("sync", world.root, mirror, *scenario.options)
    for _ in range(3):
        world.change()
        world.publish(sets=SMALL_FRAMES)
    if not scenario.is_first:
        world.nursery.run(*command).expect(0)
    recording: Recording | None = None
    for _ in range(scenario.syncs):
        world.change()
        world.publish(sets=SMALL_FRAMES)
        one = recorded(world, mirror, *command, sets=scenario.sets)
        recording = one if recording is None else recording.then(one)
    assert recording is not None
    for number, chance in enumerate(seeds(8, 600)):
        moment = chance.randrange(len(recording.ops) + 1)
        place = world.place / f"cut-{number}"
        try:
            cut_sync(world, scenario, recording.after(moment).cut(chance).make(place), place)
        except BaseException:
            print(f"cut after {moment} of {len(recording.ops)} operations of {name}")
            print(
                *(op._replace(data=op.data[:20]) for op in recording.ops[max(0, moment - 5) : moment]),
                sep="\n",
            )
            raise
        shutil.rmtree(place)
        count(Tried.POWER_CUTS)


def cut_sync(world: World, scenario: Scenario, numbers: Mapping[str, int], mirror: Path) -> None:
    """The laws hold in what a cut left, and a sync makes it complete."""
    rows = adopt(mirror, numbers)
    spoiled = spoiled_logs(mirror, rows)
    faults = world.judge.oracle.faults(mirror)
    left = [fault for fault in faults if not fault.startswith(tuple(f"law 3: {path}: " for path in spoiled))]
    assert left == []
    world.judge.may_replace = True
    world.judge.left_by_a_cut(mirror, *spoiled)
    world.nursery.run("sync", world.root, mirror, *scenario.options, sets=AT_ONCE).expect(0)
    world.judge.decide_complete(mirror, deletes=scenario.deletes)


# -- generators ------------------------------------------------------------------------------

GENERATORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "changes": ((), ()),
    "compact": (("--compact",), ()),
    "first": ((),),
}


@pytest.mark.timeout(LONGEST)
@pytest.mark.parametrize("name", GENERATORS)
def test_power_fails_in_a_generation(world: World, name: str) -> None:
    world.tells = False
    published, mirror = world.root / ".runicorn", world.place / "mirror"
    world.publish()
    world.nursery.run("sync", world.root, mirror).expect(0)
    follower = Disk(mirror)
    if name == "first":
        shutil.rmtree(published)
    recording: Recording | None = None
    for options in GENERATORS[name]:
        world.change()
        arguments = ("generate-manifest", "--root", world.root, *options)
        one = recorded(world, published, *arguments, sets=SMALL_FRAMES)
        recording = one if recording is None else recording.then(one)
    assert recording is not None
    for number, chance in enumerate(seeds(8, 600)):
        moment = chance.randrange(len(recording.ops) + 1)
        try:
            cut_generation(world, recording, moment, chance, (follower, f"mirror-{number}"))
        except BaseException:
            print(f"cut after {moment} of {len(recording.ops)} operations of {name}")
            print(
                *(op._replace(data=op.data[:20]) for op in recording.ops[max(0, moment - 5) : moment]),
                sep="\n",
            )
            raise
        count(Tried.POWER_CUTS)


def cut_generation(
    world: World, recording: Recording, moment: int, chance: random.Random, mirror: tuple[Disk, str]
) -> None:
    """A client that had read what was lost goes on without a wrong byte, and a generation makes all whole."""
    published, (follower, name) = world.root / ".runicorn", mirror
    place = world.place / name
    adopt(place, follower.seen().make(place))
    disk = recording.after(moment)
    lost = disk.cut(chance)
    _replace(published, partial(disk.seen().make, published))
    follow(world, name, is_stale=True)
    _replace(published, partial(lost.make, published))
    follow(world, name, is_stale=True)
    world.publish()
    follow(world, name)
    replica = Replica()
    replica.sync(world.root)
    replica.check(world.root)
    assert [each.name for each in published.rglob("*.tmp")] == []
    shutil.rmtree(place)


def _replace(folder: Path, make: partial[dict[str, int]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    make()
