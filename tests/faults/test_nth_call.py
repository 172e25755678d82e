"""Every file-system call of client and generator fails at its n-th use, once and from then on."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from runicorn.errors import DiskFullError, PublishError
from runicorn.manifest import ManifestGenerator, read_manifest, session
from runicorn.manifest.generation import Hooks
from runicorn.manifest.scan_limit import LimitLost
from runicorn.manifest.standing import Standing
from testbed.fault_calls import SHORT, Call, FaultyCalls
from testbed.fault_sftp import FaultServer
from tests.faults.frozen import Frozen
from tests.faults.scene import (
    ARTEFACTS,
    GROWING,
    Outcome,
    Scene,
    nothing_leaks,
    sync_undisturbed,
    temporary_names,
    without_frames,
)
from tests.faults.tally import NTH_SEED, ONE_CASE, SOAK_END, Tried, scale, try_all
from tests.manifest.journal_reader import Replica

TIMEOUT = 5.0
NO_ROOM = ("ENOSPC", "EDQUOT")
CLEANING = {"unlink", "rmdir", "scandir", "listdir", "readdir", "open", "entry.stat"}
"""Calls without which something that is left behind cannot be removed; the next sync does it."""

pytestmark = pytest.mark.usefixtures("small_and_quick")


class Case(NamedTuple):
    """One fault.

    Attributes:
        nth: number of the call, from 1.
        error: what it fails with.
        forever: whether later calls fail, too.
    """

    nth: int
    error: str
    forever: bool

    def __str__(self) -> str:
        return f"{self.nth}:{self.error}:{'forever' if self.forever else 'once'}"


def cases_of(calls: list[Call]) -> list[Case]:
    """All faults of an undisturbed run's calls; in a test without a soak at least one for each place of the
    code, so that each error and both ways come in turn."""
    if ONE_CASE:
        nth, error, way = ONE_CASE.split(":")
        return [Case(int(nth), error, way == "forever")]
    if SOAK_END:
        found = [
            Case(nth, error, forever)
            for nth, call in enumerate(calls, 1)
            for error in call.errors
            for forever in (False, True)
        ]
        random.Random(NTH_SEED).shuffle(found)
        return found
    some: dict[tuple[str, str], int] = {}
    for number, call in enumerate(calls, 1):
        if call.errors:
            some.setdefault((call.name, call.site), number)
    return [
        Case(number, calls[number - 1].errors[turn % len(calls[number - 1].errors)], turn % 2 == 1)
        for turn, number in enumerate(some.values())
    ]


@pytest.fixture(autouse=True)
def _little_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicorn.remote_storage.landing.IN_MEMORY", 2_000)


# -- the client ----------------------------------------------------------------------------


@dataclass
class Client:
    """A sync of a scene, again and again."""

    scene: Scene
    method: str
    behind: bool
    over_sftp: bool = False
    mirror: Frozen | None = None

    def begin(self) -> None:
        """The mirror as it was."""
        if self.mirror is not None:
            self.mirror.restore()
        elif self.behind:
            self.scene.mirror_before.restore()
        else:
            shutil.rmtree(self.scene.mirror, ignore_errors=True)

    def interrupt(self) -> None:
        """Begin with a mirror whose last sync was interrupted in the middle of a large file."""
        calls = self.count()
        large = self.scene.root / GROWING / "media/b.bin"
        for nth in range(1, len(calls) + 1):
            self.begin()
            with FaultyCalls(nth, "EIO", forever=True):
                self.sync()
            left = list((self.scene.mirror / ".runicorn/staging").glob("*.partial"))
            if left and 0 < left[0].stat().st_size < large.stat().st_size:
                for path in (self.scene.mirror / ".runicorn/staging").iterdir():
                    if path not in left:
                        path.unlink()
                self.mirror = Frozen(self.scene.mirror, self.scene.place / "kept/interrupted")
                return
        raise AssertionError("nothing was left to go on with")

    def sync(self) -> Outcome:
        """A sync by the method."""
        if not self.over_sftp:
            return self.scene.sync(method=self.method, delete=True)
        with FaultServer(Path("/")) as server:
            return self.scene.sync_from(server, TIMEOUT, method=self.method, delete=True)

    def count(self) -> list[Call]:
        """The calls of an undisturbed sync."""
        self.begin()
        with FaultyCalls() as calls, nothing_leaks():
            assert self.sync().is_whole
        self.scene.judge_end()
        return calls.seen

    def try_one(self, case: Case) -> bool:
        """One fault and all that has to hold; whether it was reached."""
        self.begin()
        calls = FaultyCalls(case.nth, case.error, forever=case.forever)
        with nothing_leaks(), calls:
            outcome = self.sync()
        if not calls.failed:
            return False
        self._judge_outcome(case, calls, outcome)
        vanished = any(call.is_of_the_source for call in calls.failed) and case.error == "ENOENT"
        self.scene.judge(behind=self.behind, is_whole=outcome.is_whole, vanished=vanished)
        left = temporary_names(self.scene.place)
        assert not left or CLEANING & {call.name for call in calls.failed}, left
        sync_undisturbed(self.scene)
        self.scene.judge_end(behind=self.behind)
        return True

    def _judge_outcome(self, case: Case, calls: FaultyCalls, outcome: Outcome) -> None:
        error = outcome.error
        if error is None:
            return
        assert str(error).strip()
        assert "\n" not in str(error)
        assert case.error != SHORT, error
        if case.error in NO_ROOM and not any(call.is_of_the_source for call in calls.failed):
            assert isinstance(error, DiskFullError), repr(error)


# -- the generator -------------------------------------------------------------------------


@dataclass
class Generation:
    """A generation of a scene, again and again.

    Attributes:
        scene: the scene.
        kind: ``first``, ``changed``, ``compact``, or ``step``: one of a watching generator.
    """

    scene: Scene
    kind: str

    def generate(self, faults: FaultyCalls) -> PublishError | None:
        """A generation with faults; what it raises of its own."""
        if self.kind == "step":
            return self._step(faults)
        with nothing_leaks():
            self._begin()
            try:
                with faults:
                    self.scene.generate(compact=self.kind == "compact")
            except PublishError as error:
                return without_frames(error)
        return None

    def _begin(self) -> None:
        self.scene.root_changed.restore()
        if self.kind == "first":
            shutil.rmtree(self.scene.root / ARTEFACTS)
            shutil.rmtree(self.scene.mirror, ignore_errors=True)
        else:
            self.scene.artefacts_before.restore()
            self.scene.mirror_before.restore()

    def _step(self, faults: FaultyCalls) -> PublishError | None:
        """What `runicorn.manifest.watch` does: a step that fails is followed by a whole generation."""
        self.scene.root_before.restore()
        self.scene.artefacts_before.restore()
        self.scene.mirror_before.restore()
        standing = Standing()
        generator = ManifestGenerator(self.scene.root, lock_timeout=0)
        with nothing_leaks(), generator.session(standing, Hooks()) as held:
            held.publish()
            self.scene.root_changed.restore()
            error = None
            try:
                with nothing_leaks(), faults:
                    held.publish_changes(None, renew=True)
            except LimitLost:
                assert faults.failed, "the next turn scans all"
            except PublishError as raised:
                error = without_frames(raised)
            if faults.failed:
                self._judge(error, faults)
                with nothing_leaks():
                    held.publish()
        return error

    def count(self) -> list[Call]:
        """The calls of an undisturbed generation."""
        calls = FaultyCalls()
        assert self.generate(calls) is None
        self.scene.generate()
        self._judge_end()
        return calls.seen

    def try_one(self, case: Case) -> bool:
        """One fault and all that has to hold; whether it was reached."""
        calls = FaultyCalls(case.nth, case.error, forever=case.forever)
        error = self.generate(calls)
        if not calls.failed:
            return False
        if self.kind != "step":
            self._judge(error, calls)
        with nothing_leaks():
            self.scene.generate()
        self._judge_end()
        return True

    def _judge(self, error: PublishError | None, calls: FaultyCalls) -> None:
        """Whatever is published now is whole: a client goes on with it, by any rung."""
        if error is not None:
            assert str(error).strip()
            assert "\n" not in str(error)
        left = temporary_names(self.scene.place)
        assert not left or CLEANING & {call.name for call in calls.failed}, left
        vanished = any("ENOENT" in call.errors for call in calls.failed)
        outcome = self.scene.sync(method="auto")
        assert outcome.error is None, outcome
        self.scene.judge(behind=self.kind != "first", is_whole=False, vanished=vanished)

    def _judge_end(self) -> None:
        root = self.scene.root
        manifest = read_manifest(root / ARTEFACTS / "full_manifest.json")
        assert {entry.path for run in manifest.experiments for entry in run.files} == set(self.scene.new)
        assert manifest.complete
        Replica().sync(root)
        sync_undisturbed(self.scene)
        self.scene.judge_end(behind=self.kind != "first")


@pytest.mark.timeout(scale(120, 1800))
@pytest.mark.parametrize("kind", ["first", "changed", "compact", "step"])
def test_any_call_of_a_generation_may_fail(place: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # However quick this machine is: either all files are read again, or those that changed.
    monkeypatch.setattr(session, "RACY_NS", 10**18 if kind in ("first", "changed") else -(10**18))
    generation = Generation(Scene.build(place), kind)
    try_all(cases_of(generation.count()), generation.try_one, Tried.FAULTED_GENERATIONS)


@pytest.mark.timeout(scale(120, 1800))
@pytest.mark.parametrize("behind", [False, True], ids=["first", "changed"])
@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_any_call_of_a_sync_may_fail(place: Path, method: str, behind: bool) -> None:
    client = Client(Scene.build(place, published=method != "walk"), method, behind)
    try_all(cases_of(client.count()), client.try_one, Tried.FAULTED_SYNCS)


@pytest.mark.timeout(scale(120, 1800))
def test_any_call_of_a_sync_that_goes_on_with_a_download_may_fail(place: Path) -> None:
    client = Client(Scene.build(place), "manifest", behind=True)
    client.interrupt()
    try_all(cases_of(client.count()), client.try_one, Tried.FAULTED_SYNCS)


@pytest.mark.timeout(scale(120, 1800))
def test_any_call_of_a_sync_over_sftp_may_fail(place: Path) -> None:
    client = Client(Scene.build(place), "manifest", behind=True, over_sftp=True)
    try_all(cases_of(client.count()), client.try_one, Tried.FAULTED_SYNCS)
