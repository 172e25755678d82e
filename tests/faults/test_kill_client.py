"""A client that is killed or stopped at any moment leaves a mirror that the laws hold for.

`RUNICORN_KILL_SEED` is the first seed of the random kills; each has a root of its own.
"""

from __future__ import annotations

import os
import random
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from testbed.live import LiveWriter
from testbed.processes import descendants
from testbed.sshd import Sshd
from testbed.trees import make_tree
from tests.faults.judge import Judge
from tests.faults.lab import Lab
from tests.faults.nursery import KILLED, Nursery
from tests.faults.process import (
    COMMAND,
    PROJECT_ROOT,
    TIMEOUT,
    environment,
    left_behind,
    over,
    run_files,
)
from tests.faults.tally import Tried, count, killed_roots, scale
from tests.faults.test_kill_steps import DELETES, FEW, IN_STEPS, PARTIAL

KILLS, KILLS_OF_A_MIRROR = scale(30, 60), 6
"""Kills of the syncs of one root, and of one mirror."""

CHANGE_EVERY, PUBLISH_EVERY = 0.01, 0.3

KINDS = {"auto": 8, "journal": 4, "manifest": 4, "walk": 4, "watch": 1, "program": 1}
SETS: list[dict[str, Any]] = [{}, {FEW: 0}, {FEW: 10**6, **IN_STEPS}, PARTIAL]
"""By which ways files get on disk."""


def popen(*arguments: str | Path, **env: str) -> subprocess.Popen[bytes]:
    """Start `runicorn sync`."""
    return subprocess.Popen(
        [*COMMAND, "sync", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(**env),
    )


def wait_for_lines(stream: IO[bytes], count: int, seconds: float) -> bytes:
    """What comes until there are so many lines, the stream ends or the time is over."""
    deadline = time.monotonic() + seconds
    seen = b""
    while seen.count(b"\n") < count and (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([stream], [], [], left)
        chunk = os.read(stream.fileno(), 4096) if ready else b""
        if not chunk:
            break
        seen += chunk
    return seen


# -- random moments, against a live writer ---------------------------------------------------


class Publisher:
    """Publishes the root again and again, and tells the oracle of every state."""

    def __init__(self, root: Path, judge: Judge, nursery: Nursery) -> None:
        self._root, self._judge, self._nursery = root, judge, nursery
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self._error: BaseException | None = None
        self.publish()

    def publish(self) -> None:
        """Publish once."""
        compact = ["--compact"] if self._judge.states % 10 == 9 else []
        # What changes while it is read is a problem that is told (3).
        self._nursery.run("generate-manifest", "--root", self._root, *compact).expect(0, 3)
        self._judge.published()

    def check(self) -> None:
        """It still publishes."""
        if self._error is not None:
            raise self._error

    def _loop(self) -> None:
        try:
            while not self._stop.wait(PUBLISH_EVERY):
                self.publish()
        except BaseException as error:  # noqa: BLE001 - it is raised where the test waits
            self._error = error

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Go on until the end of the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(TIMEOUT)
        self.check()


@dataclass
class Target:
    """A mirror whose syncs are killed.

    Attributes:
        mirror: its folder.
        deletes: whether its syncs have leave to delete.
    """

    mirror: Path
    deletes: bool

    @property
    def options(self) -> tuple[str, ...]:
        """Of its syncs."""
        return DELETES if self.deletes else ()


class Killer:
    """Starts syncs of the mirrors of one root, and kills them at random moments.

    Attributes:
        killed: how many it killed alive.
    """

    def __init__(self, root: Path, server: Sshd, nursery: Nursery, chance: random.Random) -> None:
        self._near: tuple[str, ...] = (str(root),)
        self._far = (*over(server), f"{server.host}:{root}")
        self._nursery, self._chance = nursery, chance
        self._took: dict[str, float] = {}
        self.killed = 0

    def kill(self, target: Target) -> str:
        """Kill one sync; tells what it was."""
        chance = self._chance
        (kind,) = chance.choices(list(KINDS), list(KINDS.values()))
        source = self._far if kind == "program" or chance.random() < 0.1 else self._near
        method = ["--watch", "--interval", "0.05"] if kind == "watch" else ["--method", kind]
        if kind == "program":
            self.killed += self._kill_program(*source, target.mirror, "-v", *target.options)
            return kind
        key = f"{kind} {source is self._far}"
        took = self._took.get(key, 0.1)
        done = self._nursery.run(
            "sync",
            *source,
            target.mirror,
            *method,
            *target.options,
            after=chance.uniform(0, 0.5 if kind == "watch" else took),
            sets=chance.choice(SETS),
        )
        done.expect(0, 3, KILLED)
        # One that was killed too late tells how long one takes; else a little more is tried the next time.
        self._took[key] = min(2.0, took * 1.02) if done.code == KILLED else done.seconds
        self.killed += done.code == KILLED
        return f"{kind}, {source[0]}"

    def _kill_program(self, *arguments: str | Path) -> bool:
        """The same of a process that was begun for it."""
        process = popen(*arguments)
        assert process.stderr is not None
        wait_for_lines(process.stderr, self._chance.randrange(1, 60), self._chance.uniform(0.3, 0.9))
        alive = process.poll() is None
        process.kill()
        process.wait(TIMEOUT)
        process.stderr.close()
        return alive


@pytest.mark.timeout(scale(90, 1800))
@pytest.mark.parametrize("part", range(scale(1, 4)))
def test_kills_at_random_moments_against_a_live_writer(tmp_path: Path, part: int) -> None:
    for place, seed in killed_roots(tmp_path, part):
        count(Tried.KILLED_SYNCS, kill_beside_a_writer(place, seed))


def kill_beside_a_writer(place: Path, seed: int) -> int:
    """The syncs of some mirrors of one root are killed; how many were alive."""
    chance = random.Random(seed)
    root = place / "root"
    runs = make_tree(root, 3, files=9, seed=seed, running=2)
    (runs[-1] / "media/big.bin").write_bytes(chance.randbytes(300_000))
    targets: list[Target] = []
    with (
        Sshd() as server,
        closing(Nursery(place)) as nursery,
        closing(Nursery(place)) as other,
        LiveWriter(root, place / "history", interval=CHANGE_EVERY, seed=seed) as writer,
    ):
        judge = Judge(root, writer.history, TIMEOUT, may_replace=True)
        publisher, killer = Publisher(root, judge, other), Killer(root, server, nursery, chance)
        with publisher.publishing():
            for number in range(KILLS):
                if number % KILLS_OF_A_MIRROR == 0:
                    targets.append(Target(place / f"mirror-{len(targets)}", len(targets) % 2 == 1))
                target = chance.choice(targets[-2:])
                what = killer.kill(target)
                publisher.check()
                try:
                    judge.killed(target.mirror, deletes=target.deletes)
                except BaseException:
                    print(f"kill {number}, {what}, {target}")
                    raise
        writer.stop()
        publisher.publish()
        for number, target in enumerate(targets):
            method = ("journal", "auto", "manifest")[number % 3]
            # What a killed sync put in place and could not record is nobody's: when the server removes it
            # before the next sync, it stays. So does what differs from its record; that is told (3).
            done = nursery.run("sync", root, target.mirror, "--method", method, *target.options)
            done.expect(3 if target.deletes and "are kept" in done.said else 0)
            judge.decide_complete(target.mirror, deletes=target.deletes, keeps=True)
    torn = (judge.oracle.torn_ends, judge.oracle.torn_pages)
    print(
        f"{killer.killed} killed alive; {torn[0]} torn ends after the end of a run, {torn[1]} torn at a page"
    )
    assert killer.killed >= KILLS // 5
    return killer.killed


# -- signals ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["journal", "manifest"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab.build(tmp_path_factory.mktemp("lab"), journal=request.param == "journal")


@pytest.fixture
def lab(built: Lab, tmp_path: Path) -> Lab:
    return built.moved(tmp_path)


@pytest.fixture
def silent_ssh(tmp_path: Path) -> Path:
    """A program in the place of ssh that takes its arguments and starts the server of `STALL_AFTER`."""
    program = tmp_path / "silent-ssh"
    server = shlex.join([sys.executable, str(PROJECT_ROOT / "testbed/fault_sftp.py")])
    program.write_text(f'#!/bin/sh\nexec {server} --fault "StallForever:$STALL_AFTER"\n', encoding="utf-8")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("answers", "lines"), [(0, 0), (2, 0), (20, 1)], ids=["greeting", "manifest", "files"]
)
def test_signal_ends_the_command_in_order(
    lab: Lab, silent_ssh: Path, number: signal.Signals, answers: int, lines: int
) -> None:
    before = run_files(lab.mirror)
    big = lab.root / "vision/resnet/runs/r1/media/big.png"
    big.write_bytes(b"x" * 2_000_000)
    lab.generate()
    process = popen(f"host:{lab.root}", lab.mirror, "--ssh", str(silent_ssh), "-v", STALL_AFTER=str(answers))
    assert process.stderr is not None
    deadline = time.monotonic() + TIMEOUT
    # The second thread reads what ssh says: from then on ssh has someone who ends it.
    while sum(1 for _ in Path(f"/proc/{process.pid}/task").iterdir()) < 2:
        assert time.monotonic() < deadline
    children = descendants(process.pid)
    shown = wait_for_lines(process.stderr, lines, TIMEOUT)
    process.send_signal(number)
    shown += process.communicate(timeout=TIMEOUT)[1]
    assert process.returncode == 130, shown
    assert shown.decode().splitlines()[-1] == "runicorn: stopped"
    assert b"Traceback" not in shown
    assert left_behind(lab.mirror) == []
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    if lines == 0:
        assert run_files(lab.mirror) == before
    big.unlink()
    lab.generate()
    lab.recovers()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_an_ssh_that_listens_to_nobody(lab: Lab, tmp_path: Path, number: signal.Signals) -> None:
    program = tmp_path / "deaf-ssh"
    program.write_text("#!/bin/sh\ntrap '' TERM HUP INT\necho ready >&2\nexec sleep 1000\n", encoding="utf-8")
    program.chmod(0o755)
    process = popen(f"host:{lab.root}", lab.mirror, "--ssh", str(program), "-v")
    assert process.stderr is not None
    assert wait_for_lines(process.stderr, 1, TIMEOUT) == b"ready\n"
    children = descendants(process.pid)
    assert len(children) == 1
    process.send_signal(number)
    _, shown = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, shown.strip()) == (130, b"runicorn: stopped")
    assert not Path(f"/proc/{children[0]}").exists()
