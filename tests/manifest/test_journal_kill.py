"""Generators killed at any moment, while a reader follows: no gap, no wrong byte, nothing taken back."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runicorn.journal.frames import FrameReader, Kind, Place, beginning, file_name
from runicorn.journal.sections import decode_seal
from tests.manifest.helpers import append, generate, make_run, replace, temps
from tests.manifest.journal_reader import Replica, epochs, head, journal
from tests.manifest.test_kill import LOOP, child


class Follower:
    """Reads on from the last commit, all the time; what it has read as committed must stay."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place: Place | None = None
        self.looks = 0
        self.seals = 0
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.look()
        except BaseException as error:  # noqa: BLE001 - raised again by `check`
            self.error = error

    def look(self) -> None:
        """Read all frames that are there; only an incomplete one may be at the end."""
        if self.place is None:
            if not (journal(self.root) / "HEAD").exists():
                return
            self.place = beginning(head(self.root).epoch)
        with (journal(self.root) / file_name(self.place.epoch)).open("rb") as stream:
            stream.seek(self.place.offset)
            data = stream.read()
        reader = FrameReader(self.place)
        reader.feed(data)
        for frame in reader.frames():
            if frame.kind is Kind.COMMIT:
                self.place = frame.end
            elif frame.kind is Kind.SEAL:
                self.seals += 1
                self.place = decode_seal(frame, None).place
                break
        self.looks += 1

    def check(self) -> None:
        """It is where HEAD says, or will be with the next look; and it never met anything wrong."""
        if self.error is not None:
            raise self.error
        for _ in range(5):
            self.look()
        assert self.place == head(self.root).end


def change(root: Path, number: int) -> None:
    run = root / f"p/n/runs/r{number % 3}"
    append(run / "logs.txt", b"more of it\n" * 50)
    append(run / "events.jsonl", b'{"half": ' if number % 2 else b"1}\n")
    replace(run / "summary.json", f'{{"step": {number}}}')
    replace(run / "media/a.png", random.Random(number).randbytes(20_000))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(3):
        make_run(tmp_path, f"p/n/runs/r{number}", status="running")
    return tmp_path


def test_killed_at_every_step(root: Path) -> None:
    generate(root)
    follower = Follower(root)
    follower.look()
    first = epochs(root)
    step = -1
    while True:
        step += 2  # after one step is before the next
        change(root, step // 2)
        result = child(root, step, "SIGKILL")
        follower.look()
        if result.returncode == 0:
            break
    assert step >= 60
    generate(root)
    follower.check()
    assert follower.seals or epochs(root) == first
    replica = Replica()
    replica.sync(root)
    replica.check(root)
    assert temps(root) == []


def test_killed_at_every_step_of_a_compaction(root: Path) -> None:
    generate(root)
    follower = Follower(root)
    few = "setattr(sys.modules['runicorn.manifest.journal_store'], 'KEPT_BYTES', 0)"
    code = f"{few} or main(['generate-manifest', '--compact', '--root', root])"
    step = -1
    while True:
        step += 2  # after one step is before the next
        change(root, step // 2)
        result = child(root, step, "SIGKILL", code)
        follower.look()
        if result.returncode == 0:
            break
    assert step >= 70
    generate(root)
    follower.check()
    assert follower.seals >= 2
    replica = Replica()
    replica.sync(root)
    replica.check(root)


def test_killed_at_every_step_of_the_first_generation(root: Path) -> None:
    step = -1
    while True:
        step += 2
        shutil.rmtree(root / ".runicorn", ignore_errors=True)
        if child(root, step, "SIGKILL").returncode == 0:
            break
        if (journal(root) / "HEAD").exists():
            replica = Replica()
            replica.sync(root)
            replica.check(root)
        generate(root)
        replica = Replica()
        replica.sync(root)
        replica.check(root)
        assert len(epochs(root)) == 1
    assert step >= 50


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_while_runs_go_on(root: Path, seed: int) -> None:
    generate(root)
    chance = random.Random(seed)
    with Follower(root) as follower:
        for number in range(8):
            with subprocess.Popen([sys.executable, "-c", LOOP, str(root)], stdout=subprocess.PIPE) as running:
                assert running.stdout is not None
                assert running.stdout.readline() == b"ready\n"
                for again in range(chance.randrange(1, 20)):
                    change(root, number + again)
                    if again % 5 == 4:
                        running.stdout.readline()
                running.kill()
                running.wait(30)
        generate(root)
    follower.check()
    assert follower.looks > 20
    replica = Replica()
    replica.sync(root)
    replica.check(root)
    assert temps(root) == []
