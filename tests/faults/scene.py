"""One change of a root, a mirror that is one change behind, and both again and again as they were.

What a fault left is judged here: the contents are known, so each file is the old or the new one, or wrong.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from runicorn.errors import ConnectError, RunicornError
from runicorn.manifest import ManifestGenerator
from runicorn.remote_storage import SyncOptions, SyncReport, synchronize
from runicorn.remote_storage.transport import FdChannel, LocalTransport, SftpEngine
from runicorn.remote_storage.transport.base import Transport
from testbed.fault_sftp import FaultServer
from tests.faults.frozen import Frozen, all_below
from tests.faults.process import run_files
from tests.manifest.helpers import append, make_run, replace

BLOCK = 1024 * 1024
PAST = 1_700_000_000
GROWING, REPLACED, DROPPED, ADDED = (
    "vision/resnet/runs/r1",
    "runs/nlp/bert/base/r2",
    "vision/resnet/runs/old",
    "vision/resnet/runs/r3",
)
ARTEFACTS = ".runicorn"
LOGS = ("events.jsonl", "logs.txt")


def scenes_folder(fallback: Path) -> Path:
    """Where scenes are quick: a folder in memory, when there is one."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else fallback


def settle(folder: Path) -> None:
    """Let all be as if it had been written long ago."""
    for path in all_below(folder):
        if ".runicorn" not in path.parts and path.is_file():
            os.utime(path, (PAST, PAST))


@dataclass(frozen=True)
class Resources:
    """What a process holds."""

    descriptors: frozenset[str]
    threads: int

    @classmethod
    def now(cls) -> Resources:
        """What this process holds now."""
        return cls(frozenset(os.listdir("/proc/self/fd")), threading.active_count())  # noqa: PTH208


@contextlib.contextmanager
def nothing_leaks() -> Iterator[None]:
    """The process holds as many descriptors and threads after the block as before."""
    before = Resources.now()
    yield
    after = Resources.now()
    if after != before:
        gc.collect()  # the frames of an exception may hold what is closed with them
        after = Resources.now()
    leaked = [_target(each) for each in after.descriptors - before.descriptors]
    assert not leaked, f"left open: {leaked}"
    assert after.threads == before.threads, threading.enumerate()


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:
        return descriptor


ErrorT = TypeVar("ErrorT", bound=BaseException)


def without_frames(error: ErrorT) -> ErrorT:
    """The same error, which holds nothing open any more."""
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__
    return error


class Outcome(NamedTuple):
    """How a sync ended: with a report, or with an error."""

    report: SyncReport | None
    error: RunicornError | None

    @property
    def is_whole(self) -> bool:
        """Whether it claims that the mirror is what the root is."""
        report = self.report
        if report is None:
            return False
        trouble = report.failed_count + report.problem_count + report.vanished_count + report.gone_count
        return trouble == 0


@dataclass
class Scene:
    """A root that has changed once, and a mirror that was synced before that.

    Attributes:
        place: everything lies in it.
        published: whether the root has journal and manifests; else it can only be walked.
        old: the files of the root before the change.
        new: the files after it.
        mirror_before: the mirror before the change.
        artefacts_before: what the generator had made before it.
        artefacts_changed: what it made of it.
        root_before: the files of the root before it.
        root_changed: the files of the root after it.
    """

    place: Path
    published: bool = True
    old: dict[str, bytes] = field(default_factory=dict)
    new: dict[str, bytes] = field(default_factory=dict)
    mirror_before: Frozen = field(init=False)
    artefacts_before: Frozen = field(init=False)
    artefacts_changed: Frozen = field(init=False)
    root_before: Frozen = field(init=False)
    root_changed: Frozen = field(init=False)

    @classmethod
    def build(cls, place: Path, *, published: bool = True) -> Scene:
        """Make it; the change is published."""
        scene = cls(place, published)
        for folder in (GROWING, REPLACED, DROPPED):
            make_run(scene.root, folder, "running", summary='{"best": 1}')
        replace(scene.root / GROWING / "media/deep/a.bin", bytes(range(256)) * 40)
        settle(scene.root)
        scene.generate()
        scene.old = run_files(scene.root)
        assert scene.sync().is_whole
        scene.mirror_before = Frozen(scene.mirror, place / "kept/mirror")
        if published:
            scene.artefacts_before = Frozen(scene.root / ARTEFACTS, place / "kept/artefacts")
        scene.root_before = Frozen(scene.root, place / "kept/before", ARTEFACTS)
        scene.change()
        scene.root_changed = Frozen(scene.root, place / "kept/changed", ARTEFACTS)
        scene.generate()
        if published:
            scene.artefacts_changed = Frozen(scene.root / ARTEFACTS, place / "kept/artefacts-changed")
        return scene

    @property
    def root(self) -> Path:
        """The root."""
        return self.place / "root"

    @property
    def mirror(self) -> Path:
        """The mirror."""
        return self.place / "mirror"

    def change(self) -> None:
        """Append, replace, add and remove."""
        for name in LOGS:
            append(self.root / GROWING / name, b'{"step": 2}\n{"step": 3}\n')
        append(self.root / REPLACED / "events.jsonl", b'{"step": 2}\n')
        replace(self.root / REPLACED / "logs.txt", b"begin anew\n")
        for folder in (GROWING, REPLACED):
            replace(self.root / folder / "summary.json", '{"best": 2, "longer": true}')
        replace(self.root / REPLACED / "status.json", json.dumps({"status": "completed", "started_at": 1.0}))
        (self.root / REPLACED / "media/a.png").unlink()
        replace(self.root / GROWING / "media/b.bin", bytes(range(256)) * 50)
        shutil.rmtree(self.root / DROPPED)
        make_run(self.root, ADDED, "running")
        self.new = run_files(self.root)

    def generate(self, *, compact: bool = False) -> None:
        """Publish what the root holds."""
        if self.published:
            ManifestGenerator(self.root, lock_timeout=0, compact=compact).generate()

    def sync(self, transport: Transport | None = None, **options: Any) -> Outcome:
        """One sync in this process. Whatever it raises but an error of runicorn is raised here."""
        own = transport or LocalTransport()
        chosen = SyncOptions(**{"source": str(self.root), "lock_timeout": 0.0, **options})
        try:
            return Outcome(synchronize(own, str(self.root), self.mirror, chosen).report, None)
        except RunicornError as error:
            return Outcome(None, without_frames(error))
        finally:
            own.close()

    def sync_from(self, server: FaultServer, timeout: float, **options: Any) -> Outcome:
        """One sync from a server of the testbed, in this process.

        Args:
            server: it serves the whole machine.
            timeout: seconds that it may be silent.
        """
        try:
            engine = SftpEngine(FdChannel(*server.connect()), timeout=timeout)
        except RunicornError as error:
            return Outcome(None, without_frames(error))
        except OSError as error:  # whoever connects tells what that means: see `transport.ssh`
            return Outcome(None, ConnectError(str(error)))
        return self.sync(engine, **options)

    # -- the laws --------------------------------------------------------------------------

    def judge(self, *, behind: bool, is_whole: bool, vanished: bool = False) -> None:
        """Laws 1 to 4 and 6 of the mirror as it is, after a sync that had leave to delete.

        Args:
            behind: whether the mirror was there before the sync.
            is_whole: whether the sync claims that it is what the root is now.
            vanished: whether the sync was told of files of the root that they are not there.
        """
        found = run_files(self.mirror)
        for path, content in found.items():
            assert self._is_right(path, content), f"{path} was never {content[:200]!r}"
        if behind and not vanished:
            lost = (self.old.keys() & self.new.keys()) - found.keys()
            assert not lost, f"the root has what was removed: {lost}"
        if is_whole and not vanished:
            assert found == self.new, f"it claims to be whole: {found.keys() ^ self.new.keys()}"
        self._judge_state(found)

    def _is_right(self, path: str, content: bytes) -> bool:
        versions = [held[path] for held in (self.old, self.new) if path in held]
        if not path.endswith(LOGS):
            return content in versions
        ends_record = not content or content.endswith(b"\n")
        return ends_record and any(version.startswith(content) for version in versions)

    def _judge_state(self, found: dict[str, bytes]) -> None:
        """Law 2: what the client records as synced is on disk with that content. A file that looks otherwise
        than recorded is fetched or proven again, so that is no lie."""
        for row in _rows(self.mirror, self.place / "copy.db"):
            path = f"{row['folder']}/{row['inner']}"
            if row["gone"]:
                continue
            if path not in found and path not in self.new:
                continue  # removed with leave, and not recorded yet
            assert path in found, f"{path} is recorded and not there"
            status = (self.mirror / path).stat()
            if (row["size"], row["mtime_ns"], row["inode"]) != (
                status.st_size,
                status.st_mtime_ns,
                status.st_ino,
            ):
                continue
            assert row["hashes"] == _hashes(path, found[path]), f"{path} is not what is recorded"

    def judge_end(self, *, behind: bool = True) -> None:
        """After an undisturbed sync: the mirror is the root, every record is true, and nothing else is left.

        Args:
            behind: whether the mirror was there before the sync with the fault. A first sync that is
                disturbed between a name and its record leaves a file that the client does not know, and so
                never removes.
        """
        self.judge(behind=True, is_whole=behind)
        assert not (left := temporary_names(self.place)), left
        rows = {f"{row['folder']}/{row['inner']}": row for row in _rows(self.mirror, self.place / "copy.db")}
        assert run_files(self.mirror).keys() - self.new.keys() <= self.old.keys() - rows.keys()
        for path, content in self.new.items():
            status = (self.mirror / path).stat()
            row = rows[path]
            assert (self.mirror / path).read_bytes() == content, path
            assert not row["gone"], path
            assert (row["size"], row["inode"]) == (status.st_size, status.st_ino), path
            assert row["hashes"] == _hashes(path, content), path


def sync_undisturbed(scene: Scene) -> None:
    """A mirror that was never complete may delete only from the next sync on (law 4)."""
    for _ in range(2):
        with nothing_leaks():
            again = scene.sync(method="auto", delete=True)
        if again.report is None or not again.report.gone_count:
            break
        assert "the next sync may delete" in again.report.kept_reason, again
    assert again.is_whole, again


def temporary_names(place: Path) -> list[str]:
    """What lies in a staging folder or has a temporary name, in root and mirror; but for downloads that can
    be gone on with, which stay for a week."""
    found = []
    for top in ("root", "mirror"):
        for path in all_below(place / top):
            name = path.relative_to(place).as_posix()
            is_staged = "/staging/" in name and not name.endswith(".partial")
            if is_staged or name.endswith((".tmp", ".new")) or ".damaged-" in name:
                found.append(name)
    return found


def _hashes(path: str, content: bytes) -> bytes:
    if not path.endswith(LOGS):
        return hashlib.sha256(content).digest()
    blocks = range(0, len(content), BLOCK)
    return b"".join(hashlib.sha256(content[at : at + BLOCK]).digest() for at in blocks)


def _rows(mirror: Path, copy: Path) -> list[sqlite3.Row]:
    """The rows of a state, read from a copy: to read it in place would mend it."""
    state = mirror / ".runicorn/state.db"
    if not state.exists() or not state.stat().st_size:
        return []
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{state}{suffix}", f"{copy}{suffix}")
    database = sqlite3.connect(copy)
    try:
        database.row_factory = sqlite3.Row
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone():
            return []
        return database.execute("SELECT * FROM files").fetchall()
    finally:
        database.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
