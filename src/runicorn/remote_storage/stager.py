"""Staging what the frames of a base carry, for a mirror that is empty: decode, prove, write.

It knows nothing of the mirror but the folder for staged files, and gives plain tuples, so that other
processes can do it (`runicorn.remote_storage.workers`).
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
from operator import attrgetter
from typing import Any, NamedTuple

from runicorn.errors import DiskFullError
from runicorn.journal.frames import StoredFrame
from runicorn.journal.sections import Change, Section, decode_files
from runicorn.manifest.model import FileEntry, Run
from runicorn.remote_storage.carried import ends_whole, proven
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.folders import FOLDER_FLAGS
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.staging import stage_file
from runicorn.remote_storage.state_rows import new_row, wanted_row

_RUN_FIELDS = attrgetter("folder", "run_id", "project", "name", "status", "created_at", "updated_at")
_ENTRY_FIELDS = attrgetter(
    "path", "size", "mtime", "priority", "is_log", "mtime_ns", "sha256", "block_digest", "tail_hash"
)


FOLDER_FILES = 128
"""Files of one folder: to look for a name, and for a place for it, takes longer in a large one."""


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


def packed(sections: list[StagedSection] | None) -> bytes:
    """What was staged, for another process of the same Python."""
    if sections is None:
        return marshal.dumps(None)
    return marshal.dumps([(each.run, list(map(tuple, each.entries)), each.removed) for each in sections])


def unpacked(data: bytes) -> list[StagedSection] | None:
    """What `packed` has packed."""
    sections = marshal.loads(data)  # noqa: S302 - of a process that this one has started
    if sections is None:
        return None
    make = StagedEntry._make
    return [StagedSection(run, list(map(make, entries)), removed) for run, entries, removed in sections]


class Stager:
    """Stages the files of frames, in folders of its own: making files in one folder, processes wait for
    each other.

    Args:
        staging_fd: open folder for staged files.
        name: what the names of its own folders below that begin with; none is there yet.
        selection: what is synced.
        epoch: epoch of the mirror that files are recorded in.
    """

    def __init__(self, staging_fd: int, name: str, selection: Selection, epoch: int) -> None:
        self._staging_fd = staging_fd
        self._name = name
        self._folder, self._folder_fd, self._folders = "", -1, 0
        self._selection = selection
        self._epoch = epoch
        self._staged = 0
        self._is_swept = False
        self._in_frame: list[str] = []

    def stage(self, frame: StoredFrame) -> list[StagedSection]:
        """Stage all files that a frame carries, or none.

        Raises:
            DamagedError: it makes no sense, or its bytes do not fit their digests.
            UnsafeError: it would harm.
            DiskFullError: there is no room.
        """
        self._in_frame = []
        try:
            return [self._section(section) for section in decode_files(frame.open())]
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        for name in self._in_frame:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._staging_fd)

    def _next_folder(self) -> None:
        if self._is_swept:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.close()
        self._folders += 1
        folder = f"{self._name}-{self._folders}"
        os.mkdir(folder, 0o700, dir_fd=self._staging_fd)
        self._folder_fd = os.open(folder, FOLDER_FLAGS, dir_fd=self._staging_fd)
        self._folder = folder

    def close(self) -> None:
        """Close its folder; whoever gave the name removes it, and those before it."""
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1

    def _section(self, section: Section) -> StagedSection:
        run, wants = section.run, self._selection.wants
        entries = [self._entry(run, change) for change in section.changes if wants(run, change.entry)]
        return StagedSection(_RUN_FIELDS(run), entries, section.removed)

    def _entry(self, run: Run, change: Change) -> StagedEntry:
        entry, carried = change.entry, change.carried
        if carried is None or (entry.is_log and (carried.start or not ends_whole(run, carried))):
            return StagedEntry(_ENTRY_FIELDS(entry), 0, "", ())
        hashes, _ = proven(entry, carried)
        try:
            if self._staged % FOLDER_FILES == 0:
                self._next_folder()
            self._staged += 1
            number = str(self._staged)
            local = stage_file(self._folder_fd, number, carried.data, entry.time_ns)
        except OSError as error:
            # By another sync, when this process has outlived its own: it must not begin another folder.
            self._is_swept |= isinstance(error, FileNotFoundError)
            failure = mirror_error(error, entry.path)
            if isinstance(failure, DiskFullError):
                raise failure from error
            return StagedEntry(_ENTRY_FIELDS(entry), 0, "", ())
        name = f"{self._folder}/{number}"
        self._in_frame.append(name)
        inner = entry.path[len(run.folder) + 1 :]
        row = (run.folder, inner, *new_row(local, hashes, entry, self._epoch))
        return StagedEntry(_ENTRY_FIELDS(entry), len(carried.data), name, row)
