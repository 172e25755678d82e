"""Any life of a root, any habits of two clients: the laws hold after each step, and in the end all is there.

`RUNICORN_LIVES` is the number of lives, `RUNICORN_LIVES_SEED` their seed; with one a failure is made shorter.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from runicorn.errors import CancelledError, NoJournalError, NoManifestError
from runicorn.manifest import ManifestGenerator, ManifestType
from runicorn.remote_storage import SyncOptions, SyncReport, synchronize
from runicorn.remote_storage.journal_reader import JournalReader
from runicorn.remote_storage.transport import LocalTransport
from testbed.history import History
from testbed.mirror_records import STATE
from testbed.oracle import Oracle
from tests.faults.lives import (
    KILLED,
    PLACES,
    STOPPED,
    YEAR,
    Change,
    Changes,
    RootLife,
    clock,
    denied,
    in_child,
    kill_me,
    unmounted,
)
from tests.faults.process import snapshot
from tests.faults.tally import SOAK_END, Tried, count, scale, turns

LIVES = int(os.environ.get("RUNICORN_LIVES", scale(20, 40)))
"""Lives of a turn; a soak takes turns until its time is over."""

SEED = int(os.environ.get("RUNICORN_LIVES_SEED", "0"))
STEPS = 30
IN_MEMORY = Path("/dev/shm")
SOURCE = "it"
AWAY = -1
"""In place of a file that may not be opened: the whole root is not there."""

KEPT = ("synced from another root", "the server lists no run at all", "changed in the mirror")
"""Reasons that last; what was synced while nothing told the lineage may be of another root."""

picks = st.integers(0, 10**6)
changes = st.tuples(st.sampled_from(Changes.names()), picks, st.integers(0, 3), st.booleans())
jumps = st.sampled_from([0, 0, 0, 1, -3, 3600, -YEAR, YEAR])
steps = st.integers(1, 200).map(lambda number: number if number % 2 else -number)


@dataclass
class Mirror:
    """A mirror and the habits of its user.

    Attributes:
        deletes: whether its syncs have leave to delete.
        has_lost: whether it may not know any more what it has synced from this root.
    """

    path: Path
    deletes: bool
    has_lost: bool = False
    connection: tuple[LocalTransport, JournalReader] | None = None

    def connect(self, root: Path) -> tuple[LocalTransport, JournalReader]:
        """The connection that stays open between syncs."""
        if self.connection is None:
            transport = LocalTransport()
            self.connection = (transport, JournalReader(transport, str(root)))
        return self.connection

    def disconnect(self) -> None:
        """End it."""
        if self.connection is not None:
            transport, reader = self.connection
            reader.close()
            transport.close()
            self.connection = None


class Lives(RuleBasedStateMachine):
    """One root, its generator, two mirrors and an oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="lives-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None))
        self.life = RootLife(self.place / "root", History(self.place / "history"))
        self.changes = Changes(self.life)
        self.oracle = Oracle(self.life.history)
        self.mirrors = (Mirror(self.place / "a", deletes=True), Mirror(self.place / "b", deletes=False))
        self.server_clock = self.client_clock = 0.0
        self.denied: Path | None = None
        self.is_published = False

    @property
    def root(self) -> Path:
        return self.life.root

    @initialize(places=st.lists(st.sampled_from(PLACES), min_size=2, max_size=4, unique=True))
    def begin(self, places: list[str]) -> None:
        for place in places:
            self.life.create(place, 1)

    # -- the root ----------------------------------------------------------------------------------

    @rule(several=st.lists(changes, min_size=1, max_size=4))
    def change(self, several: list[Change]) -> None:
        """Some changes; what could not be opened can be again."""
        self.is_published, self.denied = False, None
        for each in several:
            self.changes.make(each)

    @rule(pick=picks, folder=st.booleans(), publish=st.booleans())
    def deny(self, pick: int, folder: bool, publish: bool) -> None:
        files = self.life.files()
        if files:
            path = self.root / files[pick % len(files)]
            self.denied = path.parent if folder else path
            self.is_published = False
        if publish:
            self.generate(ManifestType.FULL, journal=True, compact=False)

    @rule(server=jumps, client=jumps)
    def clocks_jump(self, server: float, client: float) -> None:
        self.server_clock, self.client_clock = server, client

    # -- the generator -----------------------------------------------------------------------------

    def publish(self, kind: ManifestType, **options: bool) -> None:
        with clock(self.server_clock), denied(self.denied):
            ManifestGenerator(self.root, **options).publish(kind)  # type: ignore[arg-type]

    def learn(self) -> None:
        """Tell the oracle all that is published."""
        own = self.root / ".runicorn"
        self.oracle.published_in(own / "journal")
        for kind in ManifestType:
            path = own / f"{kind.value}_manifest.json"
            if path.exists():
                self.oracle.published(json.loads(path.read_bytes()))

    @rule(
        kind=st.sampled_from([ManifestType.FULL, ManifestType.FULL, ManifestType.ACTIVE]),
        journal=st.sampled_from([True, True, True, True, False]),
        compact=st.sampled_from([False, False, False, True]),
    )
    def generate(self, kind: ManifestType, journal: bool, compact: bool) -> None:
        self.publish(kind, journal=journal, compact=compact and journal)
        self.learn()
        self.is_published = kind is ManifestType.FULL and self.denied is None

    @rule(step=steps, compact=st.booleans())
    def kill_a_generation(self, step: int, compact: bool) -> None:
        code = in_child(lambda: self.publish(ManifestType.FULL, compact=compact), step, kill_me)
        assert code in {0, KILLED}
        self.learn()
        self.is_published = False
        count(Tried.KILLED_GENERATIONS, code == KILLED)

    # -- the clients -------------------------------------------------------------------------------

    def sync(self, mirror: Mirror, cancel: threading.Event | None = None, **options: Any) -> SyncReport:
        leave = {"delete": mirror.deletes} | options
        stays = leave.pop("stays", False)
        chosen = SyncOptions(source=SOURCE, **leave)
        with clock(self.client_clock), denied(self.denied), closing(LocalTransport()) as anew:
            transport, journal = mirror.connect(self.root) if stays else (anew, None)
            where = (transport, str(self.root), mirror.path)
            return synchronize(*where, chosen, cancel=cancel, journal=journal).report

    @rule(
        which=st.integers(0, 1),
        method=st.sampled_from(["auto", "auto", "auto", "journal", "manifest", "walk"]),
        force=st.booleans(),
        stays=st.booleans(),
        trouble=st.one_of(st.none(), st.none(), st.none(), st.just(AWAY), picks),
        several=st.lists(changes, max_size=3),
    )
    def sync_undisturbed(
        self,
        which: int,
        method: str,
        force: bool,
        stays: bool,
        trouble: int | None,
        several: list[Change],
    ) -> None:
        """A sync, maybe of what has just changed and been published."""
        mirror = self.mirrors[which]
        force = force and mirror.deletes
        if several:
            self.change(several)
            self.generate(ManifestType.FULL, journal=True, compact=False)
        if trouble is not None and trouble != AWAY:
            self.deny(trouble, folder=trouble % 2 == 0, publish=False)
        with unmounted(self.root, when=trouble == AWAY):
            try:
                report = self.sync(mirror, method=method, force_delete=force, stays=stays)
            except (NoJournalError, NoManifestError):
                assert method in {"journal", "manifest"}
                return
        # What a kill left unrecorded stays so as long as it is not listed.
        heals = not (trouble is not None or report.failed_count or mirror.has_lost)
        self.look(mirror, force=force, undisturbed=heals)
        if report.failed_count or report.vanished_count or self.denied or trouble == AWAY:
            return
        by_walk = report.method == "walk"
        if by_walk or self.is_published:
            assert self.oracle.complete(mirror.path, self.root, by_walk=by_walk) == []

    @rule(which=st.integers(0, 1), method=st.sampled_from(["auto", "manifest", "walk"]))
    def dry_run(self, which: int, method: str) -> None:
        mirror = self.mirrors[which]
        own = [mirror.path / ".runicorn"]
        before = snapshot(mirror.path, without=own) if mirror.path.exists() else {}
        try:
            self.sync(mirror, method=method, dry_run=True)
        except NoManifestError:
            assert method == "manifest"
        assert (snapshot(mirror.path, without=own) if mirror.path.exists() else {}) == before

    @rule(
        which=st.integers(0, 1),
        method=st.sampled_from(["auto", "auto", "manifest", "walk"]),
        step=steps,
        kill=st.booleans(),
        force=st.booleans(),
        publish=st.booleans(),
    )
    def interrupt_a_sync(
        self, which: int, method: str, step: int, kill: bool, force: bool, publish: bool
    ) -> None:
        mirror, stop = self.mirrors[which], threading.Event()
        force = force and mirror.deletes
        if publish:
            self.generate(ManifestType.FULL, journal=True, compact=False)

        def work() -> None:
            try:
                self.sync(mirror, stop, method=method, force_delete=force)
            except CancelledError:
                raise SystemExit(STOPPED) from None
            except NoManifestError:
                assert method == "manifest"

        code = in_child(work, step, kill_me if kill else stop.set)
        assert code in {0, KILLED, STOPPED}
        self.look(mirror, force=force)
        mirror.has_lost |= code == KILLED
        count(Tried.KILLED_SYNCS, code == KILLED)
        count(Tried.FAULTED_SYNCS, code == STOPPED)

    # -- what users do to their mirrors ------------------------------------------------------------

    @rule(
        which=st.integers(0, 1), pick=picks, how=st.sampled_from(["remove", "grow", "cut", "other", "beside"])
    )
    def user_meddles(self, which: int, pick: int, how: str) -> None:
        mirror = self.mirrors[which].path
        if not mirror.exists():
            return
        found = [
            name for name in snapshot(mirror, without=[mirror / ".runicorn"]) if (mirror / name).is_file()
        ]
        if how == "beside" or not found:
            path = f"notes-{pick % 3}.txt"
            (mirror / path).write_bytes(b"mine %d" % pick)
        else:
            path = found[pick % len(found)]
            _meddle(mirror / path, how)
        self.oracle.somebody_did(mirror, path)

    @rule(which=st.integers(0, 1))
    def state_is_lost(self, which: int) -> None:
        mirror = self.mirrors[which]
        for suffix in ("", "-wal", "-shm"):
            (mirror.path / (STATE + suffix)).unlink(missing_ok=True)
        mirror.has_lost = True
        self.oracle.somebody_did(mirror.path, STATE)

    # -- what is decided ---------------------------------------------------------------------------

    def look(self, mirror: Mirror, **told: bool) -> None:
        faults = self.oracle.faults(mirror.path, deletes=mirror.deletes, **told)
        assert faults == [], "\n".join(faults)

    @invariant()
    def laws_hold(self) -> None:
        for mirror in self.mirrors:
            assert self.oracle.faults(mirror.path) == []
        count(Tried.STEPS)

    def teardown(self) -> None:
        try:
            self.end_well()
        finally:
            self.oracle.close()
            for mirror in self.mirrors:
                mirror.disconnect()
            shutil.rmtree(self.place)

    def end_well(self) -> None:
        self.denied = None
        self.server_clock = self.client_clock = 0.0
        self.life.tidy()
        self.publish(ManifestType.FULL)
        self.learn()
        for mirror in self.mirrors:
            force = mirror.deletes
            self.sync(mirror, force_delete=force)
            self.look(mirror, force=force, undisturbed=not mirror.has_lost)
            lacking = self.oracle.complete(mirror.path, self.root)
            assert lacking == [], "\n".join(lacking)
            if mirror.deletes:
                self.removes_what_is_gone(mirror)

    def removes_what_is_gone(self, mirror: Mirror) -> None:
        """But for what it has reason to keep; a mirror that was never complete before may now delete."""
        report = self.sync(mirror, force_delete=True)
        self.look(mirror, force=True, undisturbed=not mirror.has_lost)
        extra = [
            line.partition(":")[0] for line in self.oracle.complete(mirror.path, self.root, deletes=True)
        ]
        known = self.oracle.recorded(mirror.path).intersection(extra)
        assert len(known) <= report.gone_count, report
        assert report.kept_reason.startswith(KEPT) or not known
        # A kill between a name and its record leaves a file that the client cannot know for its own.
        assert known == set(extra) or mirror.has_lost


def _meddle(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "remove":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content + b"mine\n" if how == "grow" else b"mine\n")


@pytest.mark.timeout(scale(120, 1_800))
def test_the_laws_hold_in_any_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicorn.remote_storage.transfer.BACKOFF", (0.0, 0.0))
    lives = settings(
        max_examples=LIVES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=not SOAK_END and not SEED,
        phases=[Phase.generate, Phase.shrink] if SEED else [Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    first = SEED or (int.from_bytes(os.urandom(4), "big") if SOAK_END else 0)
    for turn in turns(1, 10**6, slices=10):
        number = first + turn
        machine = seed(number)(type("Lives", (Lives,), {})) if number else Lives
        print(f"{LIVES} lives, repeated by RUNICORN_LIVES_SEED={number} RUNICORN_LIVES={LIVES}")
        run_state_machine_as_test(machine, settings=lives)  # type: ignore[no-untyped-call]
