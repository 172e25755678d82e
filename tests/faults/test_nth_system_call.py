"""SQLite's calls on the state of a mirror fail at their n-th use; being made in C, they fail by strace."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from runicorn.cli import main
from runicorn.cli import sync as _loaded_before_the_fork  # noqa: F401
from runicorn.remote_storage import transfer
from testbed.strace import Ended, run_traced, works
from tests.faults.scene import Scene, nothing_leaks, sync_undisturbed, temporary_names
from tests.faults.tally import NTH_SEED, ONE_CASE, SOAK_END, Tried, scale, try_all

ERRORS = {
    "openat": ("EMFILE", "EACCES", "EIO", "ENOSPC"),
    "pread64": ("EIO",),
    "pwrite64": ("ENOSPC", "EIO", "EDQUOT"),
    "fdatasync": ("EIO", "ENOSPC"),
    "fsync": ("EIO",),
    "ftruncate": ("EIO", "ENOSPC"),
    "unlink": ("EIO", "EACCES"),
    "fstat": ("EIO",),
    "newfstatat": ("EIO", "EACCES"),
}
"""What each call can fail with."""

pytestmark = pytest.mark.skipif(not works(), reason="strace may not trace here")


class Case(NamedTuple):
    """One fault: the n-th call of a name fails so, or all from there on."""

    call: str
    nth: int
    error: str
    forever: bool

    def __str__(self) -> str:
        return f"{self.call}:{self.nth}:{self.error}:{'forever' if self.forever else 'once'}"

    @property
    def inject(self) -> str:
        """The same for strace."""
        return f"{self.call}:error={self.error}:when={self.nth}{'+' if self.forever else ''}"


def cases_of(calls: Counter[str]) -> list[Case]:
    """All faults of so many calls; in a test without a soak a few of each call."""
    if ONE_CASE:
        call, nth, error, way = ONE_CASE.split(":")
        return [Case(call, int(nth), error, way == "forever")]
    found = [
        Case(call, nth, error, forever)
        for call, number in sorted(calls.items())
        for nth in range(1, number + 1)
        for error in ERRORS[call]
        for forever in (False, True)
    ]
    chance = random.Random(NTH_SEED)
    chance.shuffle(found)
    if SOAK_END:
        return found
    firsts = {case.call: case for case in reversed(found)}
    return [*firsts.values(), *found[:4]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BACKOFF", (0.0, 0.0))


class Client:
    """The real command on a scene, again and again."""

    def __init__(self, scene: Scene, *, behind: bool) -> None:
        self.scene = scene
        self.behind = behind

    def sync(self, inject: str = "") -> Ended:
        """One sync of the mirror as it was, in a process of its own."""
        if self.behind:
            self.scene.mirror_before.restore()
        else:
            shutil.rmtree(self.scene.mirror, ignore_errors=True)
        state = self.scene.mirror / ".runicorn/state.db"
        words = ["sync", str(self.scene.root), str(self.scene.mirror), "--delete", "--lock-timeout", "0"]
        files = [Path(f"{state}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")]
        with nothing_leaks():
            return run_traced(lambda: main(words), files, list(ERRORS), self.scene.place, inject)

    def try_one(self, case: Case) -> bool:
        """One fault and all that has to hold; whether it was reached."""
        ended = self.sync(case.inject)
        if not ended.failed:
            return False
        assert ended.code in (0, 1, 3, 9), ended
        assert "Traceback" not in ended.said, ended.said
        assert "internal error" not in ended.said, ended.said
        if ended.code in (1, 9):
            assert "runicorn: " in ended.said, ended
        assert not list((self.scene.mirror / ".runicorn").glob("state.db*.damaged-*")), ended.said
        self.scene.judge(behind=self.behind, is_whole=ended.code == 0 and self.behind)
        assert temporary_names(self.scene.place) == []
        sync_undisturbed(self.scene)
        self.scene.judge_end(behind=self.behind)
        return True


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """On a real disk: SQLite asks it for more than a folder in memory would do."""
    return Scene.build(tmp_path)


@pytest.mark.timeout(scale(120, 1800))
@pytest.mark.parametrize("forever", [False, True], ids=["once", "forever"])
def test_disk_that_does_not_give_a_page_of_the_state_is_no_damage(scene: Scene, *, forever: bool) -> None:
    client = Client(scene, behind=True)
    number = client.sync().calls["pread64"]
    for nth in range(1, number + 1):
        ended = client.sync(Case("pread64", nth, "EIO", forever).inject)
        assert ended.failed, nth
        assert "damaged" not in ended.said, ended.said
        assert not list((scene.mirror / ".runicorn").glob("*damaged*")), ended.said
        assert ended.code == 0 or (ended.code == 1 and "runicorn: cannot " in ended.said), ended


@pytest.mark.timeout(scale(120, 1800))
@pytest.mark.parametrize("behind", [False, True], ids=["first", "changed"])
def test_any_call_of_sqlite_may_fail(scene: Scene, *, behind: bool) -> None:
    client = Client(scene, behind=behind)
    ended = client.sync()
    assert ended.code == 0, ended
    cases = cases_of(ended.calls)
    try_all(cases, client.try_one, Tried.FAULTED_SYNCS)
