"""A generator that is killed at any moment leaves a journal that clients follow, and the next one carries on.

`RUNICORN_KILLS` is the number of kills, `RUNICORN_KILL_SEED` their seed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runicorn.errors import DamagedError
from runicorn.remote_storage import ManifestSyncClient, SyncOptions, synchronize
from runicorn.remote_storage.transport import LocalTransport, SshTarget, connect_ssh
from testbed.live import LiveWriter
from testbed.oracle import Oracle
from testbed.sshd import Sshd
from testbed.trees import make_tree
from tests.faults.line import Line
from tests.faults.process import TIMEOUT, environment, left_behind
from tests.faults.tally import Tried, count, scale, turns

KILLS = int(os.environ.get("RUNICORN_KILLS", scale(25, 2_500)))
SEED = int(os.environ.get("RUNICORN_KILL_SEED", "20240607"))
PAUSE = 0.02
"""Seconds between two syncs of one client: the processor is shared with those who write."""

NURSERY = """
import os, signal, sys, time
from runicorn.manifest import ManifestGenerator, frame_writer, journal_writer
import runicorn.manifest.generator
journal_writer.SMALL_EPOCH = 64 * 1024
for line in sys.stdin:
    delay, small, compact = line.split()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        frame_writer.FRAME_DATA = int(small)
        ManifestGenerator(sys.argv[1], compact=compact == "1").publish()
        os._exit(0)
    if delay != "-":
        time.sleep(float(delay))
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, time.monotonic() - begun, flush=True)
"""
GONE = "the mirror's epoch of the journal is not there any more"
"""A client that was away while three epochs were left goes one rung down, once."""


class Nursery:
    """Starts generators fast, and kills them: a process with everything loaded has them as its children.

    Attributes:
        after: is called after each generation.
    """

    def __init__(self, root: Path) -> None:
        self.after: Callable[[], None] = lambda: None
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def generate(self, kill_after: float | None = None, *, small: int = 10**6, compact: bool = False) -> int:
        """Run a generator; its exit code, negative when it was killed in time."""
        code, seconds = self._ask(kill_after, small, compact)
        self.seconds = seconds
        self.after()
        return code

    def _ask(self, kill_after: float | None, small: int, compact: bool) -> tuple[int, float]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        delay = "-" if kill_after is None else f"{kill_after:.6f}"
        process.stdin.write(f"{delay} {small} {int(compact)}\n")
        process.stdin.flush()
        code, seconds = process.stdout.readline().split()
        return int(code), float(seconds)

    def close(self) -> None:
        self._process.communicate(timeout=TIMEOUT)


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


@pytest.mark.timeout(90 + 4 * KILLS)
def test_kills_while_clients_follow(tmp_path: Path) -> None:
    print(f"seed {SEED}, {KILLS} kills")
    chance = random.Random(SEED)
    root = tmp_path / "root"
    make_tree(root, 4, files=9, seed=SEED, running=2)
    line = Line(root / ".runicorn/journal")
    killed, codes = 0, []
    options = SyncOptions(source="it", delete=True, force_delete=True)
    with (
        Sshd() as server,
        server.paramiko_client() as ssh,
        ssh.open_sftp() as sftp,
        closing(Nursery(root)) as nursery,
        LiveWriter(root, tmp_path / "history", seed=SEED) as writer,
        ManifestSyncClient(sftp, str(root), tmp_path / "polls", jitter_max=0, options=options) as client,
    ):
        # A client may read a state before the oracle is told of it.
        oracle = Oracle(writer.history, patience=TIMEOUT)
        nursery.after = lambda: oracle.published_in(line.journal)
        assert nursery.generate() == 0
        line.carries_on()
        polls = Watcher(tmp_path / "polls", client.sync, oracle, {"deletes": True, "force": True})
        anew = tmp_path / "anew"
        others = Watcher(anew, by_new_connections(anew, root, server), oracle)
        with polls.watching(), others.watching():
            longest = nursery.seconds
            for number in turns(KILLS, KILLS):
                small = chance.choice([500, 10**6])
                compact = chance.random() < 0.15
                code = nursery.generate(chance.uniform(0, 1.1 * longest), small=small, compact=compact)
                killed += code < 0
                codes.append(code)
                if number % 3 < 2:
                    # A third of the time two in a row are killed.
                    assert nursery.generate(small=small, compact=chance.random() < 0.2) == 0
                    longest = max(nursery.seconds, longest / 2)
                    line.carries_on()
                polls.check()
                others.check()
                count(Tried.KILLED_GENERATIONS, code < 0)
        made = writer.stop()
        assert nursery.generate() == 0
        for watcher in (polls, others):
            watcher.once()
    print(f"{killed} killed alive, {line.epochs} epochs left, {sum(made.values())} changes")
    for name, watcher in (("polls", polls), ("anew", others)):
        print(f"{name}: {watcher.news} syncs with news, rungs {dict(watcher.methods)}")
    assert oracle.complete(polls.mirror, root, deletes=True) + oracle.complete(others.mirror, root) == []
    assert left_behind(polls.mirror) == left_behind(others.mirror) == []
    assert set(codes) <= {0, -9}
    assert killed >= len(codes) // 2
    assert polls.news > 0
    assert others.news > 0


def test_what_the_line_is_held_to_can_fail(tmp_path: Path) -> None:
    """The checker sees a journal that was begun anew."""
    root = tmp_path / "root"
    (run,) = make_tree(root, 1, files=6)
    line = Line(root / ".runicorn/journal")
    with closing(Nursery(root)) as nursery:
        for text in ("one", "two"):
            (run / "summary.json").write_text(f'"{text}"', encoding="utf-8")
            assert nursery.generate() == 0
            line.carries_on()
        (line.journal / "HEAD").unlink()
        (run / "summary.json").write_text('"three"', encoding="utf-8")
        assert nursery.generate() == 0
        with pytest.raises((AssertionError, FileNotFoundError, DamagedError)):
            line.carries_on()
