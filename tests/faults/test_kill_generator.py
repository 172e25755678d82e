"""A generator that is killed at any moment leaves a journal that clients follow, and the next one carries on.

`RUNICORN_KILL_SEED` is the first seed; each has a root of its own.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runicorn.errors import DamagedError
from runicorn.manifest import ManifestGenerator
from runicorn.remote_storage import ManifestSyncClient, SyncOptions, synchronize
from runicorn.remote_storage.transport import LocalTransport, SshTarget, connect_ssh
from testbed.live import LiveWriter
from testbed.oracle import Oracle
from testbed.selected import selected_files
from testbed.sshd import Sshd
from testbed.trees import make_tree
from tests.faults.line import Line
from tests.faults.nursery import KILLED, Ended, Nursery
from tests.faults.process import TIMEOUT, left_behind
from tests.faults.tally import Tried, count, killed_roots, scale

KILLS = scale(20, 40)
"""Kills of the generators of one root."""

PAUSE = scale(20, 60) / 1000
"""Seconds between two syncs of one client: the processor is shared with those who write."""

INTERVAL = 0.02
"""Seconds between two changes of the root."""

GONE = "the mirror's epoch of the journal is not there any more"
"""A client that was away while three epochs were left goes one rung down, once."""


@dataclass
class Watcher:
    """A client that syncs again and again in a thread, and looks at its mirror each time.

    Attributes:
        mirror: its mirror.
        sync: one sync; gives its statistics.
        oracle: knows what is true.
        leave: what leave its syncs have to delete.
        methods: how often which rung was taken.
        news: how many syncs brought something.
    """

    mirror: Path
    sync: Callable[[], dict[str, object]]
    oracle: Oracle
    leave: dict[str, bool] = field(default_factory=dict)
    methods: Counter[str] = field(default_factory=Counter)
    news: int = 0
    error: BaseException | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def once(self) -> None:
        statistics = self.sync()
        method, reason = str(statistics["method"]), str(statistics["fallback_reason"])
        assert method == "journal" or GONE in reason, statistics
        self.methods[method] += 1
        self.news += not statistics["skipped"]
        faults = self.oracle.faults(self.mirror, undisturbed=True, **self.leave)
        assert faults == [], statistics

    def _loop(self) -> None:
        try:
            while not self._stop.wait(PAUSE):
                self.once()
        except BaseException as error:  # noqa: BLE001 - it is raised where the test waits
            self.error = error

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._loop)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(TIMEOUT)
        self.check()

    def check(self) -> None:
        if self.error is not None:
            raise self.error


def by_new_connections(mirror: Path, root: Path, server: Sshd) -> Callable[[], dict[str, object]]:
    """Syncs of which each has a connection of its own, by ssh and without in turns."""
    turns = iter(range(10**9))
    target = SshTarget(server.host, command=tuple(server.ssh_command))

    def sync() -> dict[str, object]:
        with closing(connect_ssh(target) if next(turns) % 4 == 0 else LocalTransport()) as transport:
            return synchronize(transport, str(root), mirror, SyncOptions(source="it")).report.as_dict()

    return sync


SMALL_EPOCH = {"runicorn.manifest.journal_writer:SMALL_EPOCH": 64 * 1024}
OPTIONS = {(): 16, ("--compact",): 3, ("--active",): 2, ("--watch",): 2}


class Killer:
    """Starts generators, and kills them at random moments.

    Args:
        root: of the generators.
        nursery: starts them.
        chance: when, and how.
        after: is called after each of them.

    Attributes:
        killed: how many it killed alive.
    """

    def __init__(
        self, root: Path, nursery: Nursery, chance: random.Random, after: Callable[[], None]
    ) -> None:
        self._root, self._nursery, self._chance, self._after = root, nursery, chance, after
        self._last = 0.0
        self.killed = 0

    def generate(self, *options: str, after: float | None = None) -> Ended:
        """One generation; killed after some seconds, or left alone."""
        frames = {"runicorn.manifest.frame_writer:FRAME_DATA": self._chance.choice([500, 10**6])}
        arguments = ("generate-manifest", "--root", str(self._root), *options)
        # What changes while it is read is a problem that is told (3).
        done = self._nursery.run(*arguments, after=after, sets=SMALL_EPOCH | frames).expect(0, 3, KILLED)
        self._after()
        return done

    def whole(self) -> None:
        """One that is left alone."""
        done = self.generate(*(["--compact"] if self._chance.random() < 0.2 else []))
        assert done.code != KILLED
        self._last = done.seconds

    def kill(self) -> None:
        """Kill one."""
        (options,) = self._chance.choices(list(OPTIONS), list(OPTIONS.values()))
        watches = "--watch" in options
        longest = 0.6 if watches else self._last
        self.killed += self.generate(*options, after=self._chance.uniform(0, longest)).code == KILLED


@pytest.mark.timeout(scale(90, 1800))
@pytest.mark.parametrize("part", range(scale(1, 4)))
def test_kills_while_clients_follow(tmp_path: Path, part: int) -> None:
    for place, seed in killed_roots(tmp_path, part, slices=2):
        count(Tried.KILLED_GENERATIONS, kill_while_clients_follow(place, seed))


def kill_while_clients_follow(place: Path, seed: int) -> int:
    """The generators of one root are killed; how many were alive."""
    chance = random.Random(seed)
    root = place / "root"
    make_tree(root, 4, files=9, seed=seed, running=2)
    line = Line(root / ".runicorn/journal")
    options = SyncOptions(source="it", delete=True, force_delete=True)
    with (
        Sshd() as server,
        server.paramiko_client() as ssh,
        ssh.open_sftp() as sftp,
        closing(Nursery(place)) as nursery,
        LiveWriter(root, place / "history", interval=INTERVAL, seed=seed) as writer,
        ManifestSyncClient(sftp, str(root), place / "polls", jitter_max=0, options=options) as client,
    ):
        # A client may read a state before the oracle is told of it.
        oracle = Oracle(writer.history, patience=TIMEOUT)
        killer = Killer(root, nursery, chance, lambda: oracle.published_in(line.journal))
        killer.whole()
        line.carries_on()
        polls = Watcher(place / "polls", client.sync, oracle, {"deletes": True, "force": True})
        anew = place / "anew"
        others = Watcher(anew, by_new_connections(anew, root, server), oracle)
        with polls.watching(), others.watching():
            for number in range(KILLS):
                killer.kill()
                if number % 3 < 2:
                    # A third of the time two in a row are killed.
                    killer.whole()
                    line.carries_on()
                polls.check()
                others.check()
        made = writer.stop()
        killer.whole()
        for watcher in (polls, others):
            watcher.once()
    print(f"{killer.killed} killed alive, {line.epochs} epochs left, {sum(made.values())} changes")
    for name, watcher in (("polls", polls), ("anew", others)):
        print(f"{name}: {watcher.news} syncs with news, rungs {dict(watcher.methods)}")
    # A root without any run is not taken for a deletion.
    deletes = bool(selected_files(root))
    assert oracle.complete(polls.mirror, root, deletes=deletes) + oracle.complete(others.mirror, root) == []
    assert left_behind(polls.mirror) == left_behind(others.mirror) == []
    assert killer.killed >= KILLS // 5
    assert polls.news > 0
    assert others.news > 0
    return killer.killed


def test_what_the_line_is_held_to_can_fail(tmp_path: Path) -> None:
    """The checker sees a journal that was begun anew."""
    root = tmp_path / "root"
    (run,) = make_tree(root, 1, files=6)
    line = Line(root / ".runicorn/journal")
    for text in ("one", "two"):
        (run / "summary.json").write_text(f'"{text}"', encoding="utf-8")
        ManifestGenerator(root).publish()
        line.carries_on()
    (line.journal / "HEAD").unlink()
    (run / "summary.json").write_text('"three"', encoding="utf-8")
    ManifestGenerator(root).publish()
    with pytest.raises((AssertionError, FileNotFoundError, DamagedError)):
        line.carries_on()
