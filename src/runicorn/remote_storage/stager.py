"""Staging what the frames of a base carry, for a mirror that is empty: decode, prove, write.

It knows nothing of the mirror but the folder for staged files, and gives plain tuples, so that other
processes can do it (`runicorn.remote_storage.workers`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from runicorn.errors import DiskFullError
from runicorn.journal.frames import StoredFrame
from runicorn.journal.sections import Change, Section, decode_files
from runicorn.manifest.model import FileEntry, Run
from runicorn.remote_storage.carried import ends_whole, proven
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.folders import FOLDER_FLAGS
from runicorn.remote_storage.known import Known, Listed
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.staging import discard_folder, stage_file
from runicorn.remote_storage.state_rows import row_of, wanted_row

_RUN_FIELDS = attrgetter("folder", "run_id", "project", "name", "status", "created_at", "updated_at")
_ENTRY_FIELDS = attrgetter(
    "path", "size", "mtime", "priority", "is_log", "mtime_ns", "sha256", "block_digest", "tail_hash"
)


class StagedEntry(NamedTuple):
    """One file of a base.

    Attributes:
        fields: of its `FileEntry`, but for the last one.
        size: carried bytes.
        name: of the staged file that holds them, below the folder for staged files; empty when it has to be
            fetched.
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
    """Stages the files of frames, in a folder of its own: making files in one folder, processes wait for
    each other.

    Args:
        staging_fd: open folder for staged files.
        name: of its own folder below that, which is not there yet.
        selection: what is synced.
        epoch: epoch of the mirror that files are recorded in.
    """

    def __init__(self, staging_fd: int, name: str, selection: Selection, epoch: int) -> None:
        self._staging_fd = staging_fd
        self._name = name
        self._folder_fd = -1
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
        for number in numbers if self._folder_fd >= 0 else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(str(number), dir_fd=self._folder_fd)

    def _folder(self) -> int:
        if self._folder_fd < 0:
            os.mkdir(self._name, 0o700, dir_fd=self._staging_fd)
            self._folder_fd = os.open(self._name, FOLDER_FLAGS, dir_fd=self._staging_fd)
        return self._folder_fd

    def close(self) -> None:
        """Remove its folder, and what is left in it."""
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1
        discard_folder(self._staging_fd, self._name)

    def _section(self, section: Section) -> StagedSection:
        run, wants = section.run, self._selection.wants
        entries = [self._entry(run, change) for change in section.changes if wants(run, change.entry)]
        return StagedSection(_RUN_FIELDS(run), entries, section.removed)

    def _entry(self, run: Run, change: Change) -> StagedEntry:
        entry, carried = change.entry, change.carried
        if carried is None or (entry.is_log and (carried.start or not ends_whole(run, carried))):
            return StagedEntry(_ENTRY_FIELDS(entry), 0, "", ())
        (hashes, _), listed = proven(entry, carried), Listed.of(entry)
        self._staged += 1
        name = str(self._staged)
        try:
            local = stage_file(self._folder(), name, carried.data, listed.time_ns)
        except OSError as error:
            failure = mirror_error(error, entry.path)
            if isinstance(failure, DiskFullError):
                raise failure from error
            return StagedEntry(_ENTRY_FIELDS(entry), 0, "", ())
        inner = entry.path[len(run.folder) + 1 :]
        row = (run.folder, inner, *row_of(Known(local, hashes, listed, self._epoch)))
        return StagedEntry(_ENTRY_FIELDS(entry), len(carried.data), f"{self._name}/{name}", row)
