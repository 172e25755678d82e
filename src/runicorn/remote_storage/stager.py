"""Staging what the frames of a base carry, for a mirror that is empty: decode, prove, write.

It knows nothing of the mirror but the folder for staged files, and gives plain tuples, so that other
processes can do it (`runicorn.remote_storage.crew`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from runicorn.errors import DamagedError, DiskFullError
from runicorn.journal.frames import StoredFrame
from runicorn.journal.sections import Carried, Change, Section, decode_files
from runicorn.manifest.digest import BlockHasher, block_digest
from runicorn.manifest.model import FileEntry, Run
from runicorn.manifest.rules import escape
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.known import Known, Listed
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.staging import stage_file
from runicorn.remote_storage.state_rows import row_of, wanted_row

_NEWLINE = ord("\n")
_RUN_FIELDS = attrgetter("folder", "run_id", "project", "name", "status", "created_at", "updated_at")
_ENTRY_FIELDS = attrgetter(
    "path", "size", "mtime", "priority", "is_log", "mtime_ns", "sha256", "block_digest", "tail_hash"
)


class StagedEntry(NamedTuple):
    """One file of a base.

    Attributes:
        fields: of its `FileEntry`, but for the last one.
        size: carried bytes.
        name: of the staged file that holds them; empty when it has to be fetched.
        row: how it is recorded when it is in place; empty when it has to be fetched.
    """

    fields: tuple[Any, ...]
    size: int
    name: str
    row: tuple[Any, ...]

    @property
    def path(self) -> str:
        """Path relative to the mirror."""
        path: str = self.fields[0]
        return path

    @property
    def priority(self) -> int:
        """Lower is more useful."""
        priority: int = self.fields[3]
        return priority


class StagedSection(NamedTuple):
    """What a frame of a base tells of one run.

    Attributes:
        run: fields of the `Run`, but for its files.
        entries: its files that are selected.
        removed: paths within the run folder of files that are not listed any more.
    """

    run: tuple[Any, ...]
    entries: list[StagedEntry]
    removed: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The run folder."""
        folder: str = self.run[0]
        return folder

    def wanted(self, entry: StagedEntry) -> tuple[Any, ...]:
        """How it is recorded that one of the files has to be fetched."""
        return wanted_row(Run(*(*self.run, ())), FileEntry(*entry.fields))


class Stager:
    """Stages the files of frames.

    Args:
        folder_fd: open folder for staged files.
        stem: how the names of its files begin; nobody else's do.
        selection: what is synced.
        epoch: epoch of the mirror that files are recorded in.
    """

    def __init__(self, folder_fd: int, stem: str, selection: Selection, epoch: int) -> None:
        self._folder_fd = folder_fd
        self._stem = stem
        self._selection = selection
        self._epoch = epoch
        self._staged = 0

    def stage(self, frame: StoredFrame) -> list[StagedSection]:
        """Stage all files that a frame carries, or none.

        Raises:
            DamagedError: it makes no sense, or its bytes do not fit their digests.
            UnsafeError: it would harm.
            DiskFullError: there is no room.
        """
        before = self._staged
        try:
            return [self._section(section) for section in decode_files(frame.open())]
        except BaseException:
            self._discard(range(before + 1, self._staged + 1))
            raise

    def _discard(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._stem}-{number}", dir_fd=self._folder_fd)

    def _section(self, section: Section) -> StagedSection:
        run, wants = section.run, self._selection.wants
        entries = [self._entry(run, change) for change in section.changes if wants(run, change.entry)]
        return StagedSection(_RUN_FIELDS(run), entries, section.removed)

    def _entry(self, run: Run, change: Change) -> StagedEntry:
        entry, carried = change.entry, change.carried
        if carried is None or not _is_applicable(run, entry, carried):
            return StagedEntry(_ENTRY_FIELDS(entry), 0, "", ())
        hashes, listed = _proven(entry, carried), Listed.of(entry)
        self._staged += 1
        name = f"{self._stem}-{self._staged}"
        try:
            local = stage_file(self._folder_fd, name, carried.data, listed.time_ns)
        except OSError as error:
            failure = mirror_error(error, entry.path)
            if isinstance(failure, DiskFullError):
                raise failure from error
            return StagedEntry(_ENTRY_FIELDS(entry), 0, "", ())
        inner = entry.path[len(run.folder) + 1 :]
        row = (run.folder, inner, *row_of(Known(local, hashes, listed, self._epoch)))
        return StagedEntry(_ENTRY_FIELDS(entry), len(carried.data), name, row)


def _is_applicable(run: Run, entry: FileEntry, carried: Carried) -> bool:
    """Whether carried bytes are all that a new mirror takes of a file; a part of a log is not, and neither is
    half a record of a run that goes on again."""
    if not entry.is_log:
        return True
    ends_with_record = not carried.data or carried.data[-1] == _NEWLINE
    return not carried.start and (run.has_ended or ends_with_record)


def _proven(entry: FileEntry, carried: Carried) -> tuple[bytes, ...]:
    if entry.is_log:
        hasher = BlockHasher()
        hasher.update(carried.data)
        hashes = tuple(hasher.hashes())
        found = block_digest(hashes)
    else:
        digest = hashlib.sha256(carried.data).digest()
        hashes, found = (digest,), digest.hex()
    if found != carried.digest:
        raise not_as_listed(entry)
    return hashes


def not_as_listed(entry: FileEntry) -> DamagedError:
    """Carried bytes do not fit their digest."""
    return DamagedError(
        f"the bytes that the journal carries of '{escape(entry.path)}' are not the listed ones"
    )
