"""A root beside its mirror, transports that do one thing wrong, and what a folder holds."""

# ruff: noqa: ARG002 - a fault takes what it is given

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from runicorn.errors import RequestError
from runicorn.manifest import Manifest, ManifestGenerator, ManifestType, base, scan_log, scan_read, scan_run
from runicorn.manifest.model import FileEntry, Run
from runicorn.remote_storage import Selection, SyncOptions, SyncReport, synchronize
from runicorn.remote_storage.known import Known, Listed, LocalFile
from runicorn.remote_storage.report import FileDone
from runicorn.remote_storage.transport import (
    Answer,
    FdChannel,
    Handle,
    Job,
    LocalTransport,
    Open,
    OpenDir,
    Operation,
    Read,
    SftpEngine,
    Stat,
    Traffic,
    Transport,
)
from testbed.sshd import find_sftp_server

TIMEOUT = 30.0
RUN = "vision/resnet/runs/r1"
EVENTS = f"{RUN}/events.jsonl"
OLD = 1_700_000_000
NO_JOURNAL = "the server keeps no journal"
"""Why a sync of a root with manifests only does not go by the journal."""
NOBODY = 65534
STATE_FILES = ("meta.json", "status.json", "summary.json")
LINE = '{"step": %d, "loss": 0.5}\n'
CARRYING = (base, scan_log, scan_read, scan_run)
"""Modules of the generator that ask how much of a file the journal carries."""


def lines(count: int, start: int = 0) -> str:
    """Whole records of a log."""
    return "".join(LINE % step for step in range(start, start + count))


def put(path: Path, content: bytes | str, mtime: int | None = None) -> Path:
    """A file that takes its name whole, as a training script makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.new")
    temp.write_bytes(content.encode() if isinstance(content, str) else content)
    if mtime is not None:
        os.utime(temp, (mtime, mtime))
    temp.replace(path)
    return path


def append(path: Path, content: bytes | str) -> None:
    with path.open("ab") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def overwrite(path: Path, content: bytes | str) -> None:
    """Other content of the same size under unchanged attributes, as bad hardware or a clock leaves it."""
    data = content.encode() if isinstance(content, str) else content
    before = path.stat()
    assert len(data) == before.st_size
    with path.open("r+b") as stream:
        stream.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def hollow(path: Path, size: int, mtime: int = OLD) -> None:
    """A file of zeros that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)
    os.utime(path, (mtime, mtime))


def status(text: str) -> str:
    return json.dumps({"status": text, "started_at": OLD})


def make_run(root: Path, folder: str = RUN, *, state: str = "running", mtime: int = OLD) -> Path:
    """A run of six files, all as old as ``mtime``."""
    run = root / folder
    put(run / "meta.json", json.dumps({"id": run.name, "created_at": OLD}), mtime)
    put(run / "status.json", status(state), mtime)
    put(run / "summary.json", '{"best": 1}', mtime)
    put(run / "events.jsonl", lines(20), mtime)
    put(run / "logs.txt", "begin\n", mtime)
    put(run / "media/a.png", b"\x89PNG\r\n" + bytes(range(256)), mtime)
    return run


@dataclasses.dataclass
class Site:
    """A root, the mirror of it, and the way between them.

    Attributes:
        rung: the one that a sync goes by when nothing is in its way: ``journal`` or ``manifest``. The root is
            published with a journal beside its manifests, or without one. ``listed`` is a journal that
            carries no bytes, as if each file were too large for that: all are fetched from the root.
    """

    root: Path
    mirror: Path
    rung: str = "journal"

    def publish(self, kind: ManifestType = ManifestType.FULL, **options: Any) -> Manifest:
        options.setdefault("journal", self.rung != "manifest")
        with contextlib.ExitStack() as stack:
            for module in CARRYING if self.rung == "listed" else ():
                stack.enter_context(mock.patch.object(module, "CARRY_LIMIT", -1))
            return ManifestGenerator(self.root, **options).generate(kind)[0]

    @property
    def method(self) -> str:
        """The method of a sync that nothing is in the way of."""
        return "manifest" if self.rung == "manifest" else "journal"

    def sync(self, transport: Transport | None = None, **options: Any) -> SyncReport:
        """One sync; keywords are those of the options or, as a shorthand, of the selection."""
        selecting = {each.name for each in dataclasses.fields(Selection)}
        chosen = {name: options.pop(name) for name in list(options) if name in selecting}
        options.setdefault("source", str(self.root))
        wanted = SyncOptions(selection=Selection(**chosen), **options)
        return synchronize(transport or LocalTransport(), str(self.root), self.mirror, wanted).report

    def order(self, transport: Transport | None = None, **options: Any) -> list[str]:
        """One sync; the files in the order in which they were put in place."""
        done: list[str] = []

        def watch(event: object) -> None:
            if isinstance(event, FileDone):
                done.append(event.path)

        synchronize(transport or LocalTransport(), str(self.root), self.mirror, SyncOptions(**options), watch)
        return done

    @property
    def database(self) -> Path:
        return self.mirror / ".runicorn/state.db"

    def staged(self) -> list[str]:
        """What a sync left behind."""
        return names(self.mirror / ".runicorn/staging")

    def lose_state(self) -> None:
        for path in self.database.parent.glob("state.db*"):
            path.unlink()

    def assert_equal(self) -> None:
        """The mirror holds what the root holds, byte for byte, and no leftovers."""
        assert run_files(self.mirror) == run_files(self.root)
        assert not self.staged()


def names(folder: Path | str) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in Path(folder).iterdir())


def run_files(folder: Path) -> dict[str, bytes]:
    """The content of the regular files of runs, by path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(".runicorn") and path.is_file() and not path.is_symlink():
            found[name] = path.read_bytes()
    return found


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """All of a tree: content, times, inodes and modes."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        about = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
        name = path.relative_to(folder).as_posix()
        found[name] = (about.st_mode, about.st_ino, about.st_mtime_ns, content)
    return found


# -- transports ------------------------------------------------------------------------------


class Relay:
    """Passes one operation after the other to a local folder; subclasses do one thing wrong."""

    def __init__(self) -> None:
        self._inner = LocalTransport()
        self._paths: dict[bytes, str] = {}
        self.opened: list[str] = []

    @property
    def traffic(self) -> Traffic:
        return self._inner.traffic

    def open_more(self, count: int) -> list[Transport]:
        return []  # what does something wrong does all of it

    def close(self) -> None:
        self._inner.close()

    def run(self, jobs: Iterable[Job]) -> None:
        self._inner.run(self._relay(job) for job in jobs)

    def before(self, operation: Operation) -> None:
        """Is called before each operation."""

    def after(self, operation: Operation, answer: Answer) -> Answer:
        """Gives the answer that the client gets."""
        return answer

    def path_of(self, operation: Operation) -> str:
        """The path that an operation is about."""
        if isinstance(operation, Open | OpenDir | Stat):
            return operation.path
        return self._paths.get(operation.handle.value, "")

    def opened_runs(self) -> list[str]:
        """The files of runs that were opened."""
        return [path for path in self.opened if "/.runicorn/" not in path]

    def _relay(self, job: Job) -> Generator[Sequence[Operation], Sequence[Answer], None]:
        try:
            batch = next(job)
            while True:
                answers = []
                for operation in batch:
                    answers.append((yield from self._one(operation)))
                batch = job.send(answers)
        except StopIteration:
            return
        finally:
            job.close()

    def _one(self, operation: Operation) -> Generator[Sequence[Operation], Sequence[Answer], Answer]:
        self.before(operation)
        (answer,) = yield [operation]
        if isinstance(answer, Handle):
            self._paths[answer.value] = self.path_of(operation)
            self.opened.append(self.path_of(operation))
        return self.after(operation, answer)


class RaiseAt(Relay):
    """The nth operation (from 1) does not come back."""

    def __init__(self, nth: int, error: BaseException) -> None:
        super().__init__()
        self.left, self.error = nth, error

    def before(self, operation: Operation) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


class WrongBytes(Relay):
    """What is read of files with this name is not what they hold, so many times."""

    def __init__(self, name: str, times: int = 1_000_000) -> None:
        super().__init__()
        self.name, self.times = name, times

    def after(self, operation: Operation, answer: Answer) -> Answer:
        mine = isinstance(operation, Read) and self.path_of(operation).endswith(self.name)
        if mine and isinstance(answer, bytes) and answer and self.times > 0:
            self.times -= 1
            return bytes([answer[0] ^ 1]) + answer[1:]
        return answer


class Refuse(Relay):
    """Operations of one kind on files with this name are refused, so many times."""

    def __init__(self, name: str, code: int, kind: type[Operation] = Open, times: int = 1_000_000) -> None:
        super().__init__()
        self.name, self.code, self.kind, self.times = name, code, kind, times

    def after(self, operation: Operation, answer: Answer) -> Answer:
        if isinstance(operation, self.kind) and self.path_of(operation).endswith(self.name) and self.times:
            self.times -= 1
            return RequestError("refused on purpose", code=self.code, path=self.name)
        return answer


class Meanwhile(Relay):
    """Something happens before the nth (from 1) operation of one kind on files with this name."""

    def __init__(
        self, name: str, action: Callable[[], object], kind: type[Operation] = Open, nth: int = 1
    ) -> None:
        super().__init__()
        self.name, self.action, self.kind, self.left = name, action, kind, nth

    def before(self, operation: Operation) -> None:
        if isinstance(operation, self.kind) and self.path_of(operation).endswith(self.name):
            self.left -= 1
            if self.left == 0:
                self.action()


@contextmanager
def sftp_server() -> Iterator[SftpEngine]:
    """The real sftp-server behind pipes."""
    with subprocess.Popen([find_sftp_server()], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        fds = os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno())
        process.stdin.close()
        engine = SftpEngine(FdChannel(*fds), timeout=TIMEOUT)
        try:
            yield engine
        finally:
            engine.close()
            process.wait(TIMEOUT)


# -- values ----------------------------------------------------------------------------------


def an_entry(path: str = f"{RUN}/summary.json", size: int = 10, **changes: Any) -> FileEntry:
    is_log = path.endswith((".jsonl", ".txt"))
    fields: dict[str, Any] = {"mtime": float(OLD), "priority": 1, "is_log": is_log}
    return FileEntry(path, size, **{**fields, **changes})


def a_run(*entries: FileEntry, state: str = "running", folder: str = RUN, updated: float = OLD) -> Run:
    return Run(folder, folder.rsplit("/", 1)[-1], "vision", "resnet", state, OLD, updated, tuple(entries))


def a_known(
    size: int, hashes: tuple[bytes, ...] = (bytes(32),), listed: Listed | None = None, **changes: Any
) -> Known:
    return Known(LocalFile(size, OLD * 10**9, 7), hashes, listed, **changes)


def transport_of(kind: str) -> AbstractContextManager[Transport]:
    return sftp_server() if kind == "sftp" else nullcontext(LocalTransport())


# -- rights ----------------------------------------------------------------------------------


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without the rights of root, when the tests have them."""
    if os.geteuid() != 0:
        yield
        return
    group = os.getegid()
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


@contextmanager
def open_site() -> Iterator[Site]:
    """A site in a folder that everybody can write to and reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    try:
        yield Site(folder / "root", folder / "mirror")
    finally:
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o777)
        shutil.rmtree(folder)
