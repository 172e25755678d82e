"""Writing a base: every live file once, most useful first (section The base of the journal's format).

The runs come from the scan state. One record per file is sorted, with memory that does not grow with the
tree; then the files are read again, each through the handle of its folder. A file whose content is not what
the state lists was changed since: it is only listed.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from runicorn.journal.head import Media
from runicorn.journal.sections import encode_change
from runicorn.manifest.digest import BlockHasher, block_digest
from runicorn.manifest.external_sort import sorted_records
from runicorn.manifest.frame_writer import FrameWriter, RunFields, Section, is_full
from runicorn.manifest.model import FileEntry
from runicorn.manifest.rights import READ, Audience
from runicorn.manifest.rules import MEDIA_PRIORITY
from runicorn.manifest.scan_memory import OldRun
from runicorn.manifest.scan_read import (
    CARRY_LIMIT,
    OPEN_FILE,
    OPEN_FOLDER,
    OPEN_ROOT,
    Trouble,
    Unsettled,
    feed,
    refuse_irregular,
)
from runicorn.manifest.scan_state import RunState, StateLost

LOG_LIMIT = 2 * CARRY_LIMIT
"""Bytes of a log that are read to prove what a base carries of it."""

_KEY = struct.Struct(">BQQI")
_NEWEST = 2**63
_FOLDERS = 128


class _Record(NamedTuple):
    fields: RunFields
    inner: str
    entry: FileEntry
    shown: bool
    boundary: int
    digest: str


class BaseSums(NamedTuple):
    """What became of the files of a base.

    Attributes:
        media: where its media lie.
        changed: number of files that were changed since they were listed.
    """

    media: Media
    changed: int


def _records(runs: Iterable[RunState]) -> Iterator[bytes]:
    for number, state in enumerate(runs):
        try:
            yield from _files_of(number, state)
        except (KeyError, TypeError, AttributeError, struct.error) as error:
            raise StateLost("a run makes no sense") from error


def _files_of(number: int, state: RunState) -> Iterator[bytes]:
    known = OldRun(state)
    fields = [known.line[name] for name in RunFields._fields]
    logs = known.memory.get("logs", {})
    for index, (inner, raw) in enumerate(known.entries.items()):
        key = _KEY.pack(raw["priority"], _NEWEST - state.sums.newest_ns, number, index)
        yield key + marshal.dumps((fields, inner, raw, known.shown(inner), logs.get(inner, ())[2:]))


def _decoded(record: bytes) -> _Record:
    fields, inner, raw, shown, boundary = marshal.loads(record[_KEY.size :])  # noqa: S302 - written above
    entry = FileEntry(
        path=f"{fields[0]}/{inner}",
        size=raw["size"],
        mtime=raw["mtime"],
        priority=raw["priority"],
        is_log=bool(boundary),
        mtime_ns=raw.get("mtime_ns"),
        sha256=raw.get("sha256"),
        block_digest=raw.get("block_digest"),
        tail_hash=raw.get("tail_hash"),
    )
    offset, digest = boundary or (0, "")
    return _Record(RunFields(*fields), inner, entry, shown, offset, digest)


class _Folders:
    """Handles of folders below a root, each opened through the one above it; the last ones stay open."""

    def __init__(self, root: str) -> None:
        self._root = os.open(root, OPEN_ROOT)
        self._open: OrderedDict[str, int] = OrderedDict()

    def close(self) -> None:
        """Close all handles."""
        for fd in (*self._open.values(), self._root):
            os.close(fd)

    def handle(self, path: str) -> int:
        """A handle that is valid until the next call.

        Raises:
            OSError: there is no such folder, or a link is in its way.
        """
        if not path:
            return self._root
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        parent, _, name = path.rpartition("/")
        fd = os.open(name, OPEN_FOLDER, dir_fd=self.handle(parent))
        self._open[path] = fd
        while len(self._open) > _FOLDERS:
            os.close(self._open.popitem(last=False)[1])
        return fd


class _Base:
    def __init__(self, writer: FrameWriter, folders: _Folders, audience: Audience) -> None:
        self._writer = writer
        self._folders = folders
        self._audience = audience
        self._section = Section()
        self._fields: RunFields | None = None
        self.changed = 0

    def take(self, record: _Record) -> None:
        """Write one file."""
        if record.fields != self._fields or is_full((self._section.json, self._section.size)):
            self.flush()
            self._fields = record.fields
        data = self._content(record) if record.shown else None
        digest = record.digest if record.boundary < record.entry.size else ""
        size = None if data is None else len(data)
        self._section.add(encode_change(record.entry, record.inner, size, 0, digest), data)

    def flush(self) -> None:
        """Hand over the section that waits."""
        if self._fields is not None and not self._section.empty:
            self._writer.section(self._fields, self._section)
        self._section = Section()

    def _content(self, record: _Record) -> bytes | None:
        entry = record.entry
        too_large = max(record.boundary, entry.size - CARRY_LIMIT) if entry.is_log else entry.size
        if too_large > CARRY_LIMIT:
            return None
        folder, _, name = entry.path.rpartition("/")
        data = None
        with suppress(OSError, Trouble, Unsettled):  # gone or changed since it was listed
            data = self._read(name, self._folders.handle(folder), record)
        self.changed += data is None
        return data

    def _read(self, name: str, folder: int, record: _Record) -> bytes | None:
        """The bytes to carry; None when they are not those that are listed: the digest proves them."""
        entry = record.entry
        fd = os.open(name, OPEN_FILE, dir_fd=folder)
        try:
            status = os.fstat(fd)
            refuse_irregular(status.st_mode)
            if not (entry.is_log or status.st_size == entry.size) or not self._audience.has(READ, status, fd):
                return None
            parts: list[bytes] = []
            feed(fd, entry.size, parts.append)
        finally:
            os.close(fd)
        data = b"".join(parts)
        if not entry.is_log:
            return data if hashlib.sha256(data).hexdigest() == entry.sha256 else None
        hasher = BlockHasher()
        hasher.update(data)
        return data[: record.boundary] if block_digest(hasher.hashes()) == entry.block_digest else None


def write_base(
    writer: FrameWriter, root: str, runs: Iterable[RunState], audience: Audience, scratch: Path
) -> BaseSums:
    """Write the files frames of a base.

    Args:
        writer: where to; the begin frame is written.
        root: the root, without links.
        runs: what the scan found.
        audience: who may read the journal.
        scratch: where files without a name are made.

    Raises:
        OSError: it cannot be written.
        StateLost: from ``runs``.
    """
    folders = _Folders(root)
    base = _Base(writer, folders, audience)
    begin: int | None = None
    try:
        for each in sorted_records(_records(runs), scratch):
            record = _decoded(each)
            if record.entry.priority == MEDIA_PRIORITY and begin is None:
                base.flush()
                writer.flush()
                begin = writer.place.offset
            base.take(record)
        base.flush()
        writer.flush()
    finally:
        folders.close()
    end = writer.place
    return BaseSums(Media(end.offset if begin is None else begin, end), base.changed)
