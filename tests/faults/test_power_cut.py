"""After a power cut the laws hold, a sync makes the mirror complete, and a generation the journal whole.

What one sync or generation wrote is recorded (`testbed.power`), and cut at random moments, with all that a
disk may then have lost. `RUNICORN_POWER_SEED` is the first seed; one seed is one cut.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from testbed.history import is_log
from testbed.power import Disk, Kept, Recording, record
from tests.faults.nursery import KILLED
from tests.faults.process import environment
from tests.faults.tally import Tried, count, scale, turns
from tests.faults.test_kill_steps import AT_ONCE, DELETES, FEW, IN_STEPS, PARTIAL, SMALL_FRAMES, follow
from tests.faults.world import World
from tests.manifest.journal_reader import Replica

SEED = int(os.environ.get("RUNICORN_POWER_SEED", "1"))
LONGEST = scale(120, 1800)
PROGRAM = """
import importlib, json, sys
sets, arguments, step = json.loads(sys.argv[1])
for name, value in sets.items():
    module, _, constant = name.partition(":")
    setattr(importlib.import_module(module), constant, value)
if step is not None:
    from tests.faults.nursery import Steps
    Steps(step, tells=False).watch()
from runicorn.cli import main
sys.exit(main(arguments))
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with closing(World(tmp_path)) as world:
        yield world


def recorded(
    world: World,
    folder: Path,
    *arguments: object,
    sets: Mapping[str, Any] | None = None,
    step: int | None = None,
) -> Recording:
    """What a command of runicorn does below a folder, as a process of its own; killed at a step or not."""
    order = json.dumps([dict(sets or {}), [*map(str, arguments)], step])
    command = [sys.executable, "-c", PROGRAM, order]
    return record(command, folder, world.place / "trace", environment(), [0 if step is None else KILLED])


def seeds(small: int, full: int) -> Iterator[random.Random]:
    """One chance for each cut."""
    for number in turns(small, full):
        print(f"RUNICORN_POWER_SEED={SEED + number}")
        yield random.Random(SEED + number)


# -- clients ---------------------------------------------------------------------------------


def adopt(mirror: Path, files: Mapping[str, Kept]) -> dict[str, int]:
    """Have the state of a mirror name the inodes that its files have now, as it would on the disk that it was
    recorded on; gives the size that is recorded of each file."""
    database = mirror / ".runicorn/state.db"
    if not database.exists():
        return {}
    with closing(sqlite3.connect(database)) as state:
        assert state.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not state.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone():
            return {}
        rows = state.execute("SELECT folder, inner, inode, size FROM files").fetchall()
        for folder, inner, inode, _ in rows:
            path = f"{folder}/{inner}"
            is_same = path in files and files[path].number == inode
            now = (mirror / path).stat().st_ino if is_same else 0
            state.execute("UPDATE files SET inode = ? WHERE folder = ? AND inner = ?", (now, folder, inner))
        state.commit()
    return {f"{folder}/{inner}": size for folder, inner, _, size in rows}


def growing(world: World, files: Mapping[str, Kept], rows: Mapping[str, int]) -> set[str]:
    """Logs that were growing in place: behind what a barrier has put on disk anything may follow, until the
    next sync. Before that is what is recorded, and a beginning of the server's log."""
    found = set()
    for path, kept in files.items():
        start = kept.content[: kept.synced]
        if is_log(path) and kept.content != start and len(start) == kept.synced >= max(1, rows.get(path, 0)):
            assert world.judge.oracle.fault(path, start) is None, path
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


OFTEN = ["first-in-batches", "journal", "walk"]
"""Those of `make test`."""

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


class Unlucky(random.Random):
    """Whatever no barrier has kept is lost."""

    def random(self) -> float:
        return 1.0

    def choice(self, seq: Any) -> Any:
        return seq[0]


class Client:
    """The syncs of a scenario, recorded."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        self._scenario = scenario = SCENARIOS[name]
        mirror = world.place / "mirror"
        for _ in range(3):
            world.change()
            world.publish(sets=SMALL_FRAMES)
        if not scenario.is_first:
            world.nursery.run("sync", world.root, mirror, *scenario.options).expect(0)
        parts = []
        for _ in range(scenario.syncs):
            world.change()
            world.publish(sets=SMALL_FRAMES)
            arguments = ("sync", world.root, mirror, *scenario.options)
            parts.append(recorded(world, mirror, *arguments, sets=scenario.sets))
        self.recording = functools.reduce(Recording.then, parts)
        self.end = len(self.recording.ops)

    def cut(self, moment: int, chance: random.Random) -> dict[str, int]:
        """The laws hold in what a cut left, and a sync makes it complete; gives what was recorded."""
        place = self._world.place / f"cut-{moment}-{chance.random()}"
        files = self.recording.after(moment).cut(chance).make(place)
        try:
            rows = cut_sync(self._world, self._scenario, files, place)
        except BaseException:
            tell(self.recording, moment, self._name)
            raise
        shutil.rmtree(place)
        self._world.judge.forget()
        count(Tried.POWER_CUTS)
        return rows


def tell(recording: Recording, moment: int, name: str) -> None:
    """Say where it was cut."""
    print(f"cut after {moment} of {len(recording.ops)} operations of {name}")
    for op in recording.ops[max(0, moment - 5) : moment]:
        print(op._replace(data=op.data[:20]))


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Client]]:
    """Gives the client of a scenario, which is recorded once."""
    with ExitStack() as stack:

        @functools.cache
        def client(name: str) -> Client:
            return Client(stack.enter_context(closing(World(tmp_path_factory.mktemp(name)))), name)

        yield client


@pytest.mark.timeout(LONGEST)
@pytest.mark.parametrize("name", scale(1, 0) * OFTEN or SCENARIOS)
def test_power_fails_in_a_sync(clients: Callable[[str], Client], name: str) -> None:
    client = clients(name)
    for chance in seeds(6, 600):
        client.cut(chance.randrange(client.end + 1), chance)


class Spiteful(Unlucky):
    """Of files lengths and times are kept, and no byte that no barrier has kept."""

    def choice(self, seq: Any) -> Any:
        return seq[-1] if isinstance(seq, list) else seq[0]


@pytest.mark.timeout(LONGEST)
@pytest.mark.parametrize("name", scale(1, 0) * ["walk"] or ["walk", "manifest", "journal"])
def test_length_and_time_of_a_log_tell_nothing_that_is_not_on_disk(
    clients: Callable[[str], Client], name: str
) -> None:
    client = clients(name)
    ends = [number for number, op in enumerate(client.recording.ops, 1) if op.call == "utimensat"]
    grown = [number for number in ends if is_log(client.recording.ops[number - 1].path)]
    for moment in (grown[0], grown[-1]):
        client.cut(moment, Spiteful())


@pytest.mark.timeout(LONGEST)
@pytest.mark.parametrize("name", scale(1, 0) * ["journal"] or ["first", "journal", "manifest"])
def test_all_that_a_sync_has_done_is_kept_at_its_end(
    clients: Callable[[str], Client], tmp_path: Path, name: str
) -> None:
    client = clients(name)
    files = client.recording.after(client.end).cut(Unlucky()).make(tmp_path / "worst")
    there = {path for path in files if not path.startswith(".")}
    assert there
    assert client.cut(client.end, Unlucky()).keys() == there


def is_gone(world: World, fault: str) -> bool:
    """Whether the root lacks the file of a fault."""
    return not (world.root / fault.split(": ")[1]).exists()


def cut_sync(world: World, scenario: Scenario, files: Mapping[str, Kept], mirror: Path) -> dict[str, int]:
    """Have the oracle look, and a sync follow; gives what was recorded."""
    rows = adopt(mirror, files)
    spoiled = growing(world, files, rows)
    allowed = [f"law {number}: {path}: " for path in spoiled for number in (2, 3)]
    faults = [each for each in world.judge.oracle.faults(mirror) if not each.startswith(tuple(allowed))]
    if scenario.deletes or scenario.is_first:
        # Taken away with leave; that it was could not be recorded any more.
        faults = [each for each in faults if not (each.endswith("is not there") and is_gone(world, each))]
    assert not faults, "\n".join([*faults, f"recorded: {rows}"])
    world.judge.may_replace = True
    world.judge.left_by_a_cut(mirror, *spoiled)
    done = world.nursery.run("sync", world.root, mirror, *scenario.options, sets=AT_ONCE)
    if "the next sync may delete" in done.said:
        done = world.nursery.run("sync", world.root, mirror, *scenario.options, sets=AT_ONCE)
    keeps = scenario.deletes and "are kept" in done.said
    done.expect(3 if keeps else 0)
    # What could not be recorded, and the server has dropped since, is nobody's (docs/reliability.md).
    orphans = [
        path for path in files if path not in rows and not path.startswith(".") and (mirror / path).exists()
    ]
    world.judge.oracle.somebody_did(mirror, *(each for each in orphans if not (world.root / each).exists()))
    world.judge.decide_complete(mirror, deletes=scenario.deletes, keeps=keeps)
    return rows


@pytest.mark.timeout(LONGEST)
def test_what_a_killed_sync_left_is_on_disk_when_the_next_one_records_it(world: World) -> None:
    mirror, other, sets = world.place / "mirror", world.place / "other", {FEW: 10**6}
    options = ("--method", "manifest")
    world.publish()
    for each in (mirror, other):
        world.nursery.run("sync", world.root, each, *options).expect(0)
    world.change()
    world.publish()
    steps = world.nursery.run("sync", world.root, other, *options, sets=sets, steps=True).steps
    last = max(number for number, place in enumerate(steps) if place.startswith("rename "))
    killed = recorded(world, mirror, "sync", world.root, mirror, *options, sets=sets, step=last)
    recording = killed.then(recorded(world, mirror, "sync", world.root, mirror, *options, sets=sets))
    end = len(recording.ops)
    files = recording.after(end).cut(Unlucky()).make(world.place / "worst")
    rows = cut_sync(world, SCENARIOS["manifest"], files, world.place / "worst")
    assert rows
    assert rows.keys() == {path for path in files if not path.startswith(".")}
    count(Tried.POWER_CUTS)


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
    parts = []
    for options in GENERATORS[name]:
        world.change()
        arguments = ("generate-manifest", "--root", world.root, *options)
        parts.append(recorded(world, published, *arguments, sets=SMALL_FRAMES))
    recording = functools.reduce(Recording.then, parts)
    for number, chance in enumerate(seeds(6, 600)):
        moment = chance.randrange(len(recording.ops) + 1)
        try:
            cut_generation(world, recording, moment, chance, (follower, f"mirror-{number}"))
        except BaseException:
            tell(recording, moment, name)
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
    _replace(published, functools.partial(disk.seen().make, published))
    follow(world, name, is_stale=True)
    _replace(published, functools.partial(lost.make, published))
    follow(world, name, is_stale=True)
    world.publish()
    follow(world, name)
    replica = Replica()
    replica.sync(world.root)
    replica.check(world.root)
    assert [each.name for each in published.rglob("*.tmp")] == []
    shutil.rmtree(place)


def _replace(folder: Path, make: functools.partial[dict[str, Kept]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    make()
