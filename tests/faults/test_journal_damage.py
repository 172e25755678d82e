"""Whatever a server's journal is damaged with: a client heals or refuses, soon, and never shows a wrong byte.

`RUNICORN_DAMAGES` is the number of cases (default 300, in a soak 3,000), `RUNICORN_DAMAGE_SEED` their seed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

import pytest

from runicorn.errors import ConnectError, UnsafeError
from runicorn.manifest import ManifestGenerator, rules
from runicorn.remote_storage import SyncOptions, SyncReport, synchronize
from runicorn.remote_storage.journal_reader import JournalReader
from runicorn.remote_storage.transport import LocalTransport
from testbed.history import is_log
from testbed.trees import append_run, make_tree, replace_file
from tests.faults.process import left_behind
from tests.faults.tally import Tried, count, scale
from tests.journal.damage import damages
from tests.remote_storage.journal_helpers import Cut, short_reads, small_frames

COUNT = int(os.environ.get("RUNICORN_DAMAGES", scale(300, 3000)))
SEED = int(os.environ.get("RUNICORN_DAMAGE_SEED", "0"))
PARTS = 4
SECONDS = 20.0
MEMORY = 400 * 1024**2
"""Bytes by which the process may grow over all cases: a frame of 8 MiB, its JSON, and what Python keeps."""

STATES = ("fresh", "in the base", "epochs behind", "behind", "polling")
SHM = Path("/dev/shm")


def the_place(part: Path) -> Path:
    """Where files lie in memory, if there is such a place."""
    return Path(tempfile.mkdtemp(dir=SHM)) if os.access(SHM, os.W_OK) else part


def run_files(folder: Path) -> dict[str, bytes]:
    """What the files of runs hold; made for many thousand calls."""
    found = {}
    for place, folders, names in os.walk(folder):
        if ".runicorn" in folders:
            folders.remove(".runicorn")
        for name in names:
            path = f"{place}/{name}"
            with open(path, "rb") as stream:  # noqa: PTH123 - pathlib takes longer than reading
                found[path[len(str(folder)) + 1 :]] = stream.read()
    return found


@dataclass
class Truth:
    """All that the files of the root ever held.

    Attributes:
        versions: contents by path.
        seen: paths and contents that were found true before.
    """

    versions: dict[str, list[bytes]] = field(default_factory=dict)
    seen: set[tuple[str, bytes, bool]] = field(default_factory=set)

    def record(self, root: Path) -> None:
        for path, content in run_files(root).items():
            known = self.versions.setdefault(path, [])
            if content not in known:
                known.append(content)

    def faults(self, mirror: Path, *, hostile: bool) -> list[str]:
        """What is wrong in a mirror. A hostile server may give a file the proven content of another one."""
        found = []
        for path, content in run_files(mirror).items():
            if (path, content, hostile) in self.seen:
                continue
            if path not in self.versions and not hostile:
                found.append(f"{path} was never in the root")
            elif not self._is_true(path, content, hostile=hostile):
                found.append(f"{path} was never like this ({content[:60]!r})")
            elif rules.unsafe_path(path) or rules.priority_in_run(self._inner(path)) is None:
                found.append(f"{path} is no file of a run")
            else:
                self.seen.add((path, content, hostile))
        return found

    @staticmethod
    def _inner(path: str) -> str:
        parts = path.split("/")
        run = next(
            folder
            for folder in ("/".join(parts[:count]) for count in range(1, len(parts)))
            if rules.project_and_name(folder) is not None
        )
        return path[len(run) + 1 :]

    def _is_true(self, path: str, content: bytes, *, hostile: bool) -> bool:
        pools = self.versions.values() if hostile else [self.versions[path]]
        for version in itertools.chain.from_iterable(pools):
            if version == content:
                return True
            is_prefix = version.startswith(content) and (hostile or content[-1:] in (b"", b"\n"))
            if is_log(path) and is_prefix:
                return True
        return False


@dataclass
class Scene:
    """A root with two epochs and several revisions, and mirrors that know more or less of it.

    Attributes:
        place: everything lies in it.
        truth: what was ever true.
        epochs: files of the epochs by name.
        head: HEAD.
        wanted: what the root holds at last.
    """

    place: Path
    truth: Truth
    epochs: dict[str, bytes]
    head: bytes
    wanted: dict[str, bytes] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.place / "root"

    @property
    def journal(self) -> Path:
        return self.root / ".runicorn/journal"

    def mirror(self, name: str) -> Path:
        return self.place / f"mirror {name}"

    @classmethod
    def build(cls, place: Path) -> Scene:
        """A life of four runs: appends, new and removed files, a new epoch, a removed run."""
        root, truth = place / "root", Truth()
        runs = make_tree(root, 4, files=9, running=2)
        scene = cls(place, truth, {}, b"")
        scene.publish()
        append_run(runs[3], 5)
        scene.publish()
        scene.sync(scene.mirror("epochs behind"))
        replace_file(runs[2] / "logs.txt", b"rotated\n")
        (runs[1] / "media/new.png").write_bytes(bytes(range(256)) * 8)
        scene.publish()
        (runs[1] / "environment.json").unlink()
        append_run(runs[3], 9)
        scene.publish(compact=True)
        append_run(runs[2], 3)
        scene.publish()
        scene.sync(scene.mirror("behind"))
        shutil.rmtree(runs[0])
        append_run(runs[3], 4)
        scene.publish()
        replace_file(runs[3] / "status.json", b'{"status": "finished"}')
        with (runs[3] / "events.jsonl").open("ab") as log:
            log.write(b'{"half": 1')
        scene.publish()
        scene.wanted = run_files(root)
        # The first part of the base, up to somewhere in the middle of a frame.
        cut = Cut(json.loads(scene.head.partition(b"\n")[0])["base_length"] // 2)
        with contextlib.suppress(ConnectError):
            synchronize(cut, str(root), scene.mirror("in the base"), SyncOptions())
        return scene

    def publish(self, *, compact: bool = False) -> None:
        self.truth.record(self.root)
        ManifestGenerator(self.root, compact=compact).publish()
        self.head = (self.journal / "HEAD").read_bytes()
        self.epochs = {path.stem: path.read_bytes() for path in self.journal.glob("*.journal")}

    def put(self, epochs: dict[str, bytes], head: bytes) -> None:
        """The journal as it is given, under the inodes that are there."""
        for path in self.journal.glob("*.journal"):
            if path.stem not in epochs:
                path.unlink()
        for name, data in epochs.items():
            (self.journal / f"{name}.journal").write_bytes(data)
        (self.journal / "HEAD").write_bytes(head)

    def keep(self, place: Path, epochs: dict[str, bytes], head: bytes) -> Path:
        """Copy all of it, with a damaged journal, to be looked at."""
        self.put(self.epochs, self.head)
        shutil.copytree(self.journal, self.place / "sound", dirs_exist_ok=True)
        self.put(epochs, head)
        return Path(shutil.copytree(self.place, place, symlinks=True))

    def sync(self, mirror: Path, *, delete: bool = False) -> SyncReport:
        transport = LocalTransport()
        try:
            options = SyncOptions(source=str(self.root), delete=delete)
            return synchronize(transport, str(self.root), mirror, options).report
        finally:
            transport.close()


class Client:
    """One mirror in a given state, and a connection that may have been open before."""

    def __init__(self, scene: Scene, state: str, *, delete: bool) -> None:
        self.scene = scene
        self.mirror = scene.place / "mirror"
        self.options = SyncOptions(source=str(scene.root), delete=delete)
        self.transport = LocalTransport()
        self.reader = JournalReader(self.transport, str(scene.root))
        shutil.rmtree(self.mirror, ignore_errors=True)
        if state != "fresh":
            name = "behind" if state == "polling" else state
            shutil.copytree(scene.mirror(name), self.mirror)
            restore_inodes(self.mirror)
        if state == "polling":
            scene.put(scene.epochs, scene.head)
            self.open_epoch()

    def open_epoch(self) -> None:
        """Have the epoch's file open, as a client that polls has it."""
        from runicorn.remote_storage.state import MirrorState

        with MirrorState(self.mirror / ".runicorn/state.db") as state:
            assert state.cursor is not None
            self.reader.look(state.cursor.place)

    def sync(self) -> SyncReport:
        return synchronize(
            self.transport, str(self.scene.root), self.mirror, self.options, journal=self.reader
        ).report

    def comes_to(self, wanted: dict[str, bytes], *, hostile: bool) -> None:
        """The mirror holds what is wanted, now or after some more syncs that nothing is wrong with.

        A poll takes what is whole and committed, and sees with the next look that there has to be more. A
        hostile writer can put another state at the place where a client waits for more, which only a new
        connection sees; or list in an epoch that was left what nobody can fetch: a manifest puts that right.
        """
        found: dict[str, bytes] = {}
        for again in range(3 if hostile else 2):
            self.options = replace(self.options, method="manifest" if again == 2 else "auto")
            report = self.sync()
            assert hostile or report.failed_count == 0, report
            found = run_files(self.mirror)
            if report.failed_count == 0 and {name: found.get(name) for name in wanted} == wanted:
                return
            self.reader.close()
        wrong = [name for name in wanted if found.get(name) != wanted[name]]
        raise AssertionError(f"not as in the root: {wrong}, {report}")

    def close(self) -> None:
        self.transport.close()


def restore_inodes(mirror: Path) -> None:
    """A copied mirror is on other inodes; its records have to know them to be the ones of a real mirror."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(mirror / ".runicorn/state.db", isolation_level=None)) as database:
        rows = database.execute("SELECT folder, inner FROM files").fetchall()
        changes = [((mirror / folder / inner).stat().st_ino, folder, inner) for folder, inner in rows]
        database.execute("PRAGMA synchronous=OFF")
        database.execute("BEGIN")
        database.executemany("UPDATE files SET inode = ? WHERE folder = ? AND inner = ?", changes)
        database.execute("COMMIT")


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """A hang ends here."""

    def hangs(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    place = the_place(tmp_path_factory.mktemp("scene"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            small_frames(patch, 3000)
            short_reads(patch, 100)
            built = Scene.build(place)
        yield built
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed file is tried again at once, and nothing is put on disk for good."""
    monkeypatch.setattr("runicorn.remote_storage.transfer.BACKOFF", (0.0, 0.0))
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)
    monkeypatch.setattr(logging.getLogger("runicorn"), "disabled", True)
    monkeypatch.setattr("runicorn.remote_storage.sync.log.disabled", True)


def is_hostile(kind: str) -> bool:
    """Whether a damage has chains that fit, so that only a hostile writer can have made it."""
    return kind.startswith(("chained_", "head_json", "head_places"))


def one_case(
    scene: Scene, kind: str, epochs: dict[str, bytes], head: bytes, state: str, *, delete: bool
) -> str:
    """Sync by a damaged journal, and then by the sound one; how the first sync ended."""
    hostile = is_hostile(kind)
    wanted = scene.wanted
    client = Client(scene, state, delete=delete)
    try:
        scene.put(epochs, head)
        try:
            report = client.sync()
        except UnsafeError as error:
            outcome = f"refused {error.exit_code}"
        else:
            outcome = report.method
            assert report.method in ("journal", "manifest"), report
            assert bool(report.fallback_reason) == (report.method == "manifest"), report
            if not hostile:
                assert report.failed_count == 0, report
        assert scene.truth.faults(client.mirror, hostile=hostile) == []
        assert left_behind(client.mirror) == []
        if outcome != "refused 7" and not hostile:
            found = run_files(client.mirror)
            if {name: found.get(name) for name in wanted} != wanted:
                assert state == "polling"
                client.comes_to(wanted, hostile=False)
        scene.put(scene.epochs, scene.head)
        client.comes_to(wanted, hostile=hostile)
        assert hostile or scene.truth.faults(client.mirror, hostile=False) == []
        return outcome
    finally:
        client.close()


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_client_heals_or_refuses(scene: Scene, part: int, tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    begun = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seed = SEED * PARTS + part
    cases = itertools.islice(damages(scene.epochs, scene.head, seed), COUNT // PARTS)
    for number, (name, epochs, head) in enumerate(cases):
        state = STATES[number % len(STATES)]
        try:
            with deadline(SECONDS):
                delete = bool(number // len(STATES) % 2)
                outcomes[one_case(scene, name.split()[1], epochs, head, state, delete=delete)] += 1
                count(Tried.HOSTILE_INPUTS)
        except BaseException as error:
            kept = scene.keep(tmp_path / f"case-{number}", epochs, head)
            raise AssertionError(f"{name}, {state}, see {kept}: {error!r}") from error
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - peak
    print(f"{dict(outcomes)} in {time.monotonic() - begun:.1f} s, grown by {grown // 1024**2} MiB")
    assert grown < MEMORY
    assert set(outcomes) <= {"journal", "manifest", "refused 7"}
    assert outcomes["manifest"] > 0


@pytest.mark.parametrize("state", STATES)
def test_what_is_not_damaged_is_read(scene: Scene, state: str) -> None:
    client = Client(scene, state, delete=True)
    try:
        report = client.sync()
        assert (report.method, report.fallback_reason, report.failed_count) == ("journal", "", 0)
        assert run_files(client.mirror) == run_files(scene.root)
    finally:
        client.close()
