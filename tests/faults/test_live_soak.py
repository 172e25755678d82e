"""Both sides watch while runs change, and one thing after the other fails; in the end the mirror is the root.

`RUNICORN_SOAK_SECONDS` is how long things fail (default 8; never before each fault had its turn),
`RUNICORN_SOAK_SEED` the seed of the changes and of the faults.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runicorn.journal.head import decode_head
from testbed.history import History
from testbed.live import LiveWriter
from testbed.oracle import Oracle
from testbed.sshd import Sshd
from testbed.trees import make_tree
from tests.faults.process import left_behind, over, run_files, runicorn
from tests.faults.programs import PAGE, Observer, WatchingClient, WatchingGenerator

SECONDS = float(os.environ.get("RUNICORN_SOAK_SECONDS", "8"))
SEED = int(os.environ.get("RUNICORN_SOAK_SEED", "20240611"))
LONGEST_PAUSE = min(3.0, SECONDS / 20)
RUNS, CHANGE_EVERY = 24, 0.04
SLEEP = 2.0
"""Seconds that the client sleeps."""

ARRIVE = 20.0
"""Seconds until the last change has to be there."""

MEMORY = 20_000_000
"""Bytes that a process may grow by."""


@dataclass
class Trouble:
    """All that can go wrong, each by a method of its own.

    Attributes:
        made: how often what went wrong.
    """

    root: Path
    server: Sshd
    generator: WatchingGenerator
    client: WatchingClient
    chance: random.Random
    made: Counter[str] = field(default_factory=Counter)

    def happens(self, until: float) -> None:
        """Until a moment of the steady clock; everything at least once."""
        kinds: list[Callable[[], None]] = [
            self.ssh_is_killed,
            self.sessions_are_dropped,
            self.server_is_away,
            self.generator_is_killed,
            self.generator_is_ended,
            self.journal_is_compacted,
            self.client_sleeps,
        ]
        self.chance.shuffle(kinds)
        turn = 0
        while turn < len(kinds) or time.monotonic() < until:
            fault = kinds[turn] if turn < len(kinds) else self.chance.choice(kinds)
            fault()
            self.made[fault.__name__] += 1
            turn += 1
            self.client.lives(self.chance.uniform(0.0, LONGEST_PAUSE))
            self.generator.lives()

    def _cut(self, cut: Callable[[], None]) -> None:
        """Cut the connection, until the client has noticed; but not before it is well.

        Cut each time in the moment of the login, it would wait longer and longer before the next one.
        """
        self.client.until(lambda: self.client.is_well)
        before = self.client.events["connection_lost"]
        cut()
        self.client.until(lambda: self.client.events["connection_lost"] > before)

    def ssh_is_killed(self) -> None:
        self._cut(self._kill_ssh)

    def _kill_ssh(self) -> None:
        found = self.client.ssh()
        assert found
        for pid in found:
            os.kill(pid, signal.SIGKILL)

    def sessions_are_dropped(self) -> None:
        self._cut(self.server.drop_connections)

    def server_is_away(self) -> None:
        self._cut(self.server.stop)
        self.client.lives(self.chance.uniform(0.0, LONGEST_PAUSE))
        self.server.start_again()

    def generator_is_killed(self) -> None:
        assert self.generator.end(signal.SIGKILL) == -signal.SIGKILL
        self.generator.begin()

    def generator_is_ended(self) -> None:
        assert self.generator.end() == 0, self.generator.tail()
        self.generator.begin()

    def journal_is_compacted(self) -> None:
        """Not beside a watching generator: that has the lock."""
        compact = ("generate-manifest", "--root", self.root, "--compact", "--lock-timeout")
        runicorn(*compact, "0").refused(1, "another generator")
        assert self.generator.end() == 0, self.generator.tail()
        before = self._epoch()
        # Files that changed all the time while they were read are named by 3, and come with the next look.
        assert runicorn(*compact, "30").code in {0, 3}
        assert self._epoch() != before
        self.generator.begin()

    def _epoch(self) -> str:
        return decode_head((self.root / ".runicorn/journal/HEAD").read_bytes()).epoch

    def client_sleeps(self) -> None:
        os.killpg(self.client.process.pid, signal.SIGSTOP)
        try:
            self.generator.lives(SLEEP)
        finally:
            os.killpg(self.client.process.pid, signal.SIGCONT)


def await_equal(root: Path, client: WatchingClient) -> float:
    """Wait until the mirror is the root; the seconds that it took."""
    mirror, wanted, begin = root.with_name("mirror"), run_files(root), time.monotonic()
    while True:
        syncs = client.events["sync"]
        found = run_files(mirror)
        took = time.monotonic() - begin
        if found == wanted:
            return took
        differ = sorted({path for path, _ in found.items() ^ wanted.items()})
        assert took < ARRIVE, f"{len(differ)} files differ: {differ[:5]}\n{client.tail()}"
        client.lives()
        client.next_sync(syncs, ARRIVE - took + 0.1)


@pytest.mark.timeout(90 + 2 * SECONDS)
def test_mirror_is_the_root_whatever_failed(tmp_path: Path) -> None:
    print(f"seed {SEED}, {SECONDS:g} s")
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    make_tree(root, RUNS, files=9, seed=SEED, running=RUNS)
    generator = WatchingGenerator(root)
    writer = LiveWriter(root, tmp_path / "history", interval=CHANGE_EVERY, seed=SEED, finishing=False)
    oracle = Oracle(writer.history)
    observer = Observer(mirror, oracle)
    with Sshd() as server:
        options = ("--delete", "--interval", "0.2", *over(server))
        client = WatchingClient(f"{server.host}:{root}", mirror, *options)
        trouble = Trouble(root, server, generator, client, random.Random(SEED))
        with generator.running(), client.running():
            generator.until(lambda: bool(generator.out))
            generator.warm()
            await_equal(root, client)
            client.warm()
            with writer, observer.looking():
                trouble.happens(time.monotonic() + SECONDS)
                made = writer.stop()
                took = await_equal(root, client)
            assert client.end() == 0, client.tail()
            assert generator.end() == 0, generator.tail()
    print(f"{sum(made.values())} changes: {made}")
    print(f"{sum(trouble.made.values())} faults: {dict(trouble.made)}")
    print(f"events: {dict(client.events)}; {client.changes} files changed; {observer.seen} contents seen")
    print(f"{observer.passing} of these within a write of more than one page")
    print(f"equal {took:.1f} s after the last change")
    for name, each in (("generator", generator), ("client", client)):
        print(f"memory of the {name}: {each.growth / 1e6:+.1f} MB")
    assert observer.faults == []
    oracle.published_in(root / ".runicorn/journal")
    assert oracle.faults(mirror, undisturbed=True) == []
    assert oracle.complete(mirror, root, deletes=True) == []
    assert left_behind(mirror) == []
    assert observer.seen > 0
    assert not [line for line in generator.err + client.err if "Traceback" in line]
    assert generator.growth < MEMORY
    assert client.growth < MEMORY


def test_the_observer_sees_half_a_line_and_wrong_bytes(tmp_path: Path) -> None:
    history, mirror = History(tmp_path / "history"), tmp_path / "mirror"
    history.record("run/logs.txt", b"one\ntwo\n")
    log = mirror / "run/logs.txt"
    log.parent.mkdir(parents=True)
    observer = Observer(mirror, Oracle(history))
    for content, word in ((b"one\n", ""), (b"one\nt", "within a record"), (b"one\nfoo\n", "no prefix")):
        log.write_bytes(content)
        observer.look()
        assert word in "".join(observer.faults)
        assert bool(observer.faults) == bool(word)


def test_half_a_line_at_the_end_of_a_page_has_to_pass(tmp_path: Path) -> None:
    history, mirror = History(tmp_path / "history"), tmp_path / "mirror"
    history.record("run/logs.txt", b"x" * 2 * PAGE + b"\n")
    log = mirror / "run/logs.txt"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * PAGE)
    observer = Observer(mirror, Oracle(history))
    observer.look()
    assert (len(observer.faults), observer.passing) == (1, 0)
