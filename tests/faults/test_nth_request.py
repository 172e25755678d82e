"""Every request of a sync is answered wrong at its n-th use, or not at all, once and from then on."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from runicorn.errors import MirrorError, RunicornError, TransportError
from runicorn.remote_storage import ManifestSyncClient, SyncOptions
from runicorn.remote_storage.transport import FdChannel, SftpEngine
from testbed.fault_sftp import FaultServer
from testbed.nth_request import NTH_KINDS, NthRequest
from tests.faults.scene import (
    Outcome,
    Scene,
    nothing_leaks,
    sync_undisturbed,
    temporary_names,
    without_frames,
)
from tests.faults.tally import NTH_SEED, ONE_CASE, SOAK_END, Tried, scale, try_all

PATIENT, SHORT = 20.0, 0.1
"""Seconds that a server may be silent: where none is, and where the test waits for the deadline."""
CONNECTION = ("cut", "cut within", "stall", "twice", "wrong id")
"""Faults that no connection outlives."""

pytestmark = pytest.mark.usefixtures("small_and_quick")


class Case(NamedTuple):
    """One fault.

    Attributes:
        nth: number of the request, from 1.
        kind: see `NthRequest`.
        forever: whether later requests are answered so, too.
    """

    nth: int
    kind: str
    forever: bool

    def __str__(self) -> str:
        return f"'{self.nth}:{self.kind}:{'forever' if self.forever else 'once'}'"

    @property
    def timeout(self) -> float:
        """Seconds that the server may be silent."""
        return SHORT if self.kind == "stall" else PATIENT


def cases_of(requests: int, step: int) -> list[Case]:
    """All faults of so many requests; in a test without a soak each request, or one of ``step`` where many
    are alike, is cut off or has another fault."""
    if ONE_CASE:
        nth, kind, way = ONE_CASE.split(":")
        return [Case(int(nth), kind, way == "forever")]
    numbers = range(1, requests + 1)
    if SOAK_END:
        ways = [(kind, forever) for kind in NTH_KINDS for forever in (False, True)]
        found = [Case(nth, *way) for nth in numbers for way in ways]
        random.Random(NTH_SEED).shuffle(found)
        return found
    others = [Case(nth, NTH_KINDS[nth % len(NTH_KINDS)], nth % 2 == 0) for nth in numbers[::step]]
    return others + [Case(nth, "cut", forever=False) for nth in numbers[step // 2 :: step]]


class Syncs:
    """A sync of a scene from a server, again and again.

    Args:
        scene: the scene.
        method: of the sync; ``session`` for the second sync of a client that stays connected.
        behind: whether there is a mirror of before the change.
    """

    def __init__(self, scene: Scene, method: str, *, behind: bool) -> None:
        self.scene = scene
        self.method = method
        self.behind = behind

    def sync(self, fault: NthRequest, timeout: float = PATIENT) -> Outcome:
        """One sync of the mirror as it was."""
        if self.behind:
            self.scene.mirror_before.restore()
        else:
            shutil.rmtree(self.scene.mirror, ignore_errors=True)
        with nothing_leaks(), FaultServer(Path("/"), [fault]) as server:
            if self.method == "session":
                return self._sync_open(server, fault, timeout)
            return self.scene.sync_from(server, timeout, method=self.method, delete=True)

    def _sync_open(self, server: FaultServer, fault: NthRequest, timeout: float) -> Outcome:
        """The change is published between two syncs over one connection; the second one has the fault."""
        scene = self.scene
        scene.root_before.restore()
        scene.artefacts_before.restore()
        nth, fault.nth = fault.nth, 0
        engine = SftpEngine(FdChannel(*server.connect()), timeout=timeout)
        options = SyncOptions(source=str(scene.root), lock_timeout=0.0, delete=True)
        client = ManifestSyncClient(engine, str(scene.root), scene.mirror, 0.0, options)
        try:
            client.sync_report()
            scene.root_changed.restore()
            scene.artefacts_changed.restore()
            fault.seen, fault.nth = 0, nth
            return Outcome(client.sync_report(), None)
        except RunicornError as error:
            return Outcome(None, without_frames(error))
        finally:
            scene.root_changed.restore()
            scene.artefacts_changed.restore()
            client.close()
            engine.close()

    def count(self) -> int:
        """The requests of an undisturbed sync."""
        fault = NthRequest(0, "cut")
        outcome = self.sync(fault)
        assert outcome.is_whole, outcome
        self.scene.judge_end()
        return fault.seen

    def try_one(self, case: Case) -> bool:
        """One fault and all that has to hold; whether it was reached."""
        fault = NthRequest(case.nth, case.kind, forever=case.forever)
        outcome = self.sync(fault, case.timeout)
        if not fault.done:
            return False
        self._judge_outcome(case, outcome)
        self.scene.judge(
            behind=self.behind, is_whole=outcome.is_whole, vanished=case.kind in ("missing", "empty read")
        )
        assert temporary_names(self.scene.place) == []
        sync_undisturbed(self.scene)
        self.scene.judge_end(behind=self.behind)
        return True

    def _judge_outcome(self, case: Case, outcome: Outcome) -> None:
        error = outcome.error
        if error is None:
            return
        assert not isinstance(error, MirrorError), repr(error)
        assert str(error).strip()
        assert "\n" not in str(error)
        if case.kind in CONNECTION:
            assert isinstance(error, TransportError), repr(error)
            assert error.exit_code == 4


@pytest.mark.timeout(scale(120, 1800))
@pytest.mark.parametrize(
    ("method", "behind"),
    [(method, behind) for method in ("journal", "manifest", "walk") for behind in (False, True)]
    + [("session", True)],
)
def test_any_request_of_a_sync_may_be_answered_wrong(place: Path, method: str, *, behind: bool) -> None:
    syncs = Syncs(Scene.build(place, published=method != "walk"), method, behind=behind)
    cases = cases_of(syncs.count(), 3 if method == "walk" else 1)
    try_all(cases, syncs.try_one, Tried.FAULTED_SYNCS)
