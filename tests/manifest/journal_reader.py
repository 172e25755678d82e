"""An independent reader of journals: follows one from a place on and holds what it tells, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from runicorn.journal.frames import FrameReader, Kind, Place, beginning, file_name
from runicorn.journal.head import Head, decode_head
from runicorn.journal.sections import (
    Section,
    decode_begin,
    decode_commit,
    decode_files,
    decode_seal,
)
from runicorn.manifest import FileEntry, rules
from runicorn.manifest.digest import BlockHasher, block_digest
from runicorn.manifest.model import Header, Identity

NAMES = ".runicorn/journal"


def journal(root: Path) -> Path:
    return root / NAMES


def head(root: Path) -> Head:
    return decode_head((journal(root) / "HEAD").read_bytes())


def epochs(root: Path) -> list[str]:
    return sorted(path.stem for path in journal(root).glob("*.journal"))


def log_digest(data: bytes) -> str:
    hasher = BlockHasher()
    hasher.update(data)
    return block_digest(hasher.hashes())


class Replica:
    """What a reader of the journal has.

    Attributes:
        data: content by path, of the files that were carried.
        entries: how each live file is listed.
        listed: paths whose content has to be fetched in another way.
        statuses: of each run.
        identity: of the last commit.
        header: the last commit.
        carried: number of bytes that came with the frames since it was last set to zero.
    """

    def __init__(self) -> None:
        self.place: Place | None = None
        self.data: dict[str, bytes] = {}
        self.entries: dict[str, FileEntry] = {}
        self.listed: set[str] = set()
        self.statuses: dict[str, str] = {}
        self.identity: Identity | None = None
        self.header: Header | None = None
        self.carried = 0
        self.frames: list[Kind] = []
        self._last = Kind.COMMIT

    def begin(self, epoch: str) -> None:
        self.place = beginning(epoch)

    def sync(self, root: Path) -> Head:
        """Read up to HEAD; each hop must lead somewhere."""
        at = head(root)
        if self.place is None:
            self.begin(at.epoch)
        for _ in range(10):
            assert self.place is not None
            end = at.end.offset if self.place.epoch == at.epoch else None
            self.follow(root, end)
            if self.place == at.end or end is not None:
                break
        assert self.place == at.end, (self.place, at.end)
        assert self.identity == at.identity
        assert self.header is not None
        assert (at.total_files, at.total_bytes) == (self.header.total_files, self.header.total_bytes)
        assert at.total_experiments == self.header.total_experiments
        assert (at.complete, at.problem_count) == (self.header.complete, self.header.problem_count)
        return at

    def follow(self, root: Path, end: int | None = None) -> None:
        """Apply all frames from the place on that are complete, up to an offset."""
        assert self.place is not None
        with (journal(root) / file_name(self.place.epoch)).open("rb") as stream:
            stream.seek(self.place.offset)
            data = stream.read() if end is None else stream.read(end - self.place.offset)
        reader = FrameReader(self.place)
        reader.feed(data)
        for frame in reader.frames():
            self.frames.append(frame.kind)
            if frame.kind is Kind.BEGIN:
                assert decode_begin(frame)[0] == self.place.epoch
                assert self.place == beginning(self.place.epoch)
            elif frame.kind is Kind.FILES:
                for section in decode_files(frame):
                    self._apply(section)
            elif frame.kind is Kind.COMMIT:
                self.header = decode_commit(frame)
                assert self.identity is None or self.header.identity.revision >= self.identity.revision
                self.identity = self.header.identity
                assert self.header.total_files == len(self.entries)
                assert self.header.total_bytes == sum(each.size for each in self.entries.values())
            else:
                assert self._last is Kind.COMMIT
                seal = decode_seal(frame, self.identity.lineage if self.identity else None)
                assert seal.identity == self.identity
                self._last = Kind.COMMIT
                self.place = seal.place
                assert reader.held == 0
                return
            self._last = frame.kind
            self.place = frame.end
        assert end is None or reader.held == 0

    def _apply(self, section: Section) -> None:
        self.statuses[section.run.folder] = section.run.status
        for change in section.changes:
            entry, path = change.entry, change.entry.path
            before = self.entries.get(path)
            self.entries[path] = entry
            if change.carried is not None:
                self.carried += len(change.carried.data)
                if not entry.is_log:
                    self.data[path] = bytes(change.carried.data)
                    assert sha256(self.data[path]).hexdigest() == entry.sha256 == change.carried.digest
                    self.listed.discard(path)
                    continue
                old = self.data.get(path, b"")
                if change.carried.start and path in self.listed:
                    continue  # fetched by range meanwhile, by a reader that does that
                assert len(old) >= change.carried.start, path
                new = old[: change.carried.start] + bytes(change.carried.data)
                assert log_digest(new) == change.carried.digest, path
                self.data[path] = new
                self.listed.discard(path)
            elif before is None or before.digest != entry.digest:
                self.listed.add(path)
        for inner in section.removed:
            path = f"{section.run.folder}/{inner}"
            self.entries.pop(path)
            self.data.pop(path, None)
            self.listed.discard(path)

    def check(self, root: Path) -> None:
        """What is held is what lies in the root, and nothing is missing."""
        there = dict(live_files(root))
        assert sorted(there) == sorted(self.entries)
        for path, data in there.items():
            entry = self.entries[path]
            assert entry.size == len(data), path
            if path in self.listed:
                continue
            if entry.is_log:
                folder = path.rpartition("/")[0]
                ended = rules.has_ended(self.statuses[folder])
                size = len(data) if ended else data.rfind(b"\n") + 1
                assert self.data[path][:size] == data[:size], path
                assert len(self.data[path]) <= len(data)
                assert data.startswith(self.data[path])
            else:
                assert self.data[path] == data, path


def live_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file that belongs to a run."""
    for path in root.rglob("*"):
        inner = path.relative_to(root).as_posix()
        if not path.is_file() or path.is_symlink() or inner.startswith("."):
            continue
        parts = inner.split("/")
        for count in range(2, len(parts)):
            folder = "/".join(parts[:count])
            is_run = any(os.path.lexists(root / folder / name) for name in rules.RUN_MARKERS)
            if is_run and rules.project_and_name(folder) is not None and rules.belongs(inner, folder):
                yield inner, path.read_bytes()
                break
