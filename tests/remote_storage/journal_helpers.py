"""The journal of a site: its files, its places, and connections that stay open over several syncs."""

# ruff: noqa: ARG002 - a fault takes what it is given

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import ConnectError
from runicorn.journal.frames import FrameReader, Kind, Place, beginning
from runicorn.journal.head import Head, decode_head
from runicorn.manifest.model import Identity
from runicorn.remote_storage import Selection, SyncOptions, SyncReport, synchronize
from runicorn.remote_storage.journal_reader import JournalReader
from runicorn.remote_storage.known import Cursor
from runicorn.remote_storage.report import Observer, ignore
from runicorn.remote_storage.state import MirrorState
from runicorn.remote_storage.transport import Answer, LocalTransport, Operation, Read, Transport
from tests.journal.forge import checksummed
from tests.remote_storage.helpers import Relay, Site


def folder(site: Site) -> Path:
    """Where the journal of a site lies."""
    return site.root / ".runicorn/journal"


def head_path(site: Site) -> Path:
    return folder(site) / "HEAD"


def head(site: Site) -> Head:
    return decode_head(head_path(site).read_bytes())


def epoch_path(site: Site, epoch: str = "") -> Path:
    return folder(site) / f"{epoch or head(site).epoch}.journal"


def epoch_bytes(site: Site, epoch: str = "") -> bytes:
    return epoch_path(site, epoch).read_bytes()


def forget_sealed_epochs(site: Site) -> None:
    """What a generator does when their time is over."""
    for path in folder(site).glob("*.journal"):
        if path != epoch_path(site):
            path.unlink()


def change_head(site: Site, **fields: Any) -> None:
    """HEAD with other fields, and a checksum that fits."""
    document = json.loads(head_path(site).read_bytes().partition(b"\n")[0])
    head_path(site).write_bytes(checksummed({**document, **fields}))


def damage(path: Path, offset: int) -> None:
    """One bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def places(site: Site, epoch: str = "") -> list[tuple[Kind, Place, Identity | None]]:
    """Each frame of an epoch: its kind, the place behind it, and of a commit the state."""
    name = epoch or head(site).epoch
    reader = FrameReader(beginning(name))
    reader.feed(epoch_bytes(site, name))
    found = []
    for frame in reader.frames():
        identity = None
        if frame.kind is Kind.COMMIT:
            fields = frame.head
            identity = Identity(fields["lineage"], fields["revision"], fields["snapshot_id"])
        found.append((frame.kind, frame.end, identity))
    return found


def boundaries(site: Site) -> list[int]:
    """The offsets behind the frames of the current epoch."""
    return [place.offset for _, place, _ in places(site)]


@contextlib.contextmanager
def state_of(site: Site) -> Iterator[MirrorState]:
    """The state of the mirror, to look at or to change."""
    with MirrorState(site.database) as state:
        yield state


def cursor_of(site: Site) -> Cursor:
    with state_of(site) as state:
        cursor = state.cursor
    assert cursor is not None
    return cursor


def put_cursor(site: Site, place: Place, identity: Identity | None) -> None:
    """Put the mirror's cursor to another place, as a mirror has it that was put back."""
    with state_of(site) as state:
        assert state.cursor is not None
        began = identity is None
        cursor = dataclasses.replace(
            state.cursor, place=place, identity=identity, base=None, began_empty=began
        )
        state.move_cursor(cursor)


def by_journal(report: SyncReport) -> SyncReport:
    """The sync took the top rung, and all of it went well."""
    assert (report.method, report.fallback_reason) == ("journal", "")
    assert (report.failed_count, report.vanished_count) == (0, 0)
    return report


def by_manifest(report: SyncReport, *words: str) -> SyncReport:
    """The sync went one rung down, and said why."""
    assert report.method == "manifest"
    assert report.fallback_reason
    for word in words:
        assert word in report.fallback_reason, report.fallback_reason
    assert (report.failed_count, report.vanished_count) == (0, 0)
    return report


def small_frames(monkeypatch: pytest.MonkeyPatch, size: int = 1) -> None:
    """Let the generator write a frame for so many bytes of data."""
    monkeypatch.setattr("runicorn.manifest.frame_writer.FRAME_DATA", size)
    monkeypatch.setattr("runicorn.manifest.frame_writer.FRAME_JSON", 300)


def short_reads(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let the client ask for so few bytes of the journal at a time, and for none of it ahead."""
    monkeypatch.setattr("runicorn.remote_storage.transport.stream.MAX_READ", size)
    monkeypatch.setattr("runicorn.remote_storage.journal_reader.MAX_READ", 1)
    monkeypatch.setattr("runicorn.remote_storage.journal_look.MAX_READ", 1)


class Counting(Relay):
    """Counts the bytes of the journal that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def open_more(self, count: int) -> list[Transport]:
        return []

    def is_of_journal(self, operation: Operation) -> bool:
        return self.path_of(operation).endswith(".journal")

    def after(self, operation: Operation, answer: Answer) -> Answer:
        if isinstance(operation, Read) and isinstance(answer, bytes) and self.is_of_journal(operation):
            self.read += len(answer)
        return answer

    def opened_files(self) -> list[str]:
        """The names of files of the artefacts that were opened."""
        return [Path(path).name for path in self.opened if "/.runicorn/" in path]


class Cut(Counting):
    """The connection ends when the journal is read beyond some byte."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end

    def before(self, operation: Operation) -> None:
        if not isinstance(operation, Read) or not self.is_of_journal(operation):
            return
        if operation.offset + operation.length > self.end:
            raise ConnectError("cut on purpose")


class Follower:
    """A client that stays connected.

    Args:
        site: what it follows.
        transport: the connection.
    """

    def __init__(self, site: Site, transport: Transport | None = None) -> None:
        self.site = site
        self.transport: Transport = transport or LocalTransport()
        self.reader = JournalReader(self.transport, str(site.root))

    def sync(self, observer: Observer = ignore, **options: Any) -> SyncReport:
        """One sync; keywords are those of `Site.sync`."""
        selecting = {each.name for each in dataclasses.fields(Selection)}
        chosen = {name: options.pop(name) for name in list(options) if name in selecting}
        options.setdefault("source", str(self.site.root))
        wanted = SyncOptions(selection=Selection(**chosen), **options)
        root, mirror = str(self.site.root), self.site.mirror
        return synchronize(self.transport, root, mirror, wanted, observer, journal=self.reader).report

    def operations(self) -> int:
        """Operations done so far."""
        return self.transport.traffic.requests

    def close(self) -> None:
        self.reader.close()
        self.transport.close()


@contextlib.contextmanager
def following(site: Site, transport: Transport | None = None) -> Iterator[Follower]:
    """A client that stays connected, until the end of the context."""
    follower = Follower(site, transport)
    try:
        yield follower
    finally:
        follower.close()


def append_to_epoch(site: Site, data: bytes) -> None:
    """Bytes behind the end of the current epoch, as a generator that was killed leaves them."""
    with epoch_path(site).open("ab") as stream:
        stream.write(data)


class Server:
    """Copies of a server's artefacts, to be put back: what a generator that was killed leaves."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._folder = site.root / ".runicorn"
        self._files = {
            path.relative_to(self._folder): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in self._folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        self.epoch = head(site).epoch
        self.length = head(site).end.offset

    def put_back(self, *, but: tuple[str, ...] = ()) -> None:
        """Put everything back, but for files of these names and the current epoch's, whose inode stays."""
        for inner, (data, mtime) in self._files.items():
            path = self._folder / inner
            if path.name in but or path.suffix == ".journal" or path.name.endswith(".lock"):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            os.utime(path, ns=(mtime, mtime))

    def tail(self) -> bytes:
        """What the epoch of then has got since."""
        path = self._folder / f"journal/{self.epoch}.journal"
        return path.read_bytes()[self.length :]

    def cut_epoch(self, more: int = 0) -> None:
        """Cut the epoch of then back to its length, and some bytes."""
        os.truncate(self._folder / f"journal/{self.epoch}.journal", self.length + more)
