"""Putting proven content in place: to disk, names, names to disk, then the record of it. In that order.

What was proven waits here for the next flush, so that one barrier serves a batch of files.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from runicorn.errors import DiskFullError, MirrorError
from runicorn.manifest.digest import BlockHasher
from runicorn.manifest.model import FileEntry, Run
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.durability import Barrier
from runicorn.remote_storage.known import Cursor, Known
from runicorn.remote_storage.opening import OpenMirror
from runicorn.remote_storage.report import FileDone, Observer, SyncReport
from runicorn.remote_storage.staging import StagedFile

BATCH_BYTES = 64 * 1024 * 1024
BATCH_SECONDS = 1.0


@dataclass(slots=True)
class Ready:
    """Content that is proven and waits for the next flush.

    Attributes:
        run: the run.
        entry: how the file is listed.
        known: what is recorded of it.
        staged: the content; None when the file grew in place.
        expected: bytes that it was expected to need, for the observer.
        hasher: of a log: the state behind its last byte, when it is at hand.
        taken: snapshot that lists other content than this; empty when this is what is listed.
    """

    run: Run
    entry: FileEntry
    known: Known
    staged: StagedFile | None
    expected: int
    hasher: BlockHasher | None = None
    taken: str = ""

    @property
    def path(self) -> str:
        """Path relative to the mirror."""
        return self.entry.path


@dataclass(slots=True)
class _Batch:
    """What is put in place and recorded together."""

    ready: dict[str, Ready] = field(default_factory=dict)
    notes: dict[tuple[str, str], Known] = field(default_factory=dict)
    gone: dict[tuple[str, str], None] = field(default_factory=dict)
    wanted: dict[str, tuple[Run, FileEntry]] = field(default_factory=dict)
    size: int = 0
    cursor: Cursor | None = None

    def __len__(self) -> int:
        return len(self.ready) + len(self.notes) + len(self.gone) + len(self.wanted)

    def discard(self) -> None:
        for each in self.ready.values():
            if each.staged is not None:
                each.staged.discard()


class Installer:
    """Puts proven content in place, in batches.

    Args:
        mirror: the mirror.
        observe: is told of every file that is in place.
        report: counts are added to it.
        failed: is told of content that could not take its name, and why; says whether it is wanted again.
    """

    def __init__(
        self,
        mirror: OpenMirror,
        observe: Observer,
        report: SyncReport,
        failed: Callable[[Ready, MirrorError], bool],
    ) -> None:
        self._mirror, self._state = mirror.tree, mirror.state
        self._observe = observe
        self._report = report
        self._failed = failed
        self._barrier = Barrier(self._mirror.fd)
        self._batch = _Batch()
        self._last_flush = time.monotonic()

    # -- gathering -------------------------------------------------------------------------

    def ready(self, path: str) -> Ready | None:
        """What waits for a path."""
        return self._batch.ready.get(path)

    def add(self, ready: Ready, size: int) -> None:
        """Take proven content of so many bytes; it takes the place of older content of the same path."""
        older = self._batch.ready.pop(ready.path, None)
        if older is not None and older.staged is not None:
            older.staged.discard()
        self._batch.ready[ready.path] = ready
        self._batch.wanted.pop(ready.path, None)
        self._batch.size += size

    def note(self, folder: str, inner: str, known: Known) -> None:
        """Record with the next flush what is known of a file that is in place already."""
        self._batch.notes[folder, inner] = known
        self._batch.wanted.pop(f"{folder}/{inner}", None)

    def gone(self, folder: str, inner: str) -> None:
        """Record with the next flush that a file is not listed any more."""
        self._batch.gone[folder, inner] = None
        self._batch.notes.pop((folder, inner), None)
        self._batch.wanted.pop(f"{folder}/{inner}", None)

    def is_wanted(self, path: str) -> bool:
        """Whether it is about to be recorded that a file has to be fetched."""
        return path in self._batch.wanted

    def is_gone(self, folder: str, inner: str) -> bool:
        """Whether it is about to be recorded that a file is not listed any more."""
        return (folder, inner) in self._batch.gone

    def want(self, run: Run, entry: FileEntry) -> None:
        """Record with the next flush that a file has to be fetched."""
        self._batch.wanted[entry.path] = (run, entry)

    @property
    def is_due(self) -> bool:
        """Whether enough waits for a flush."""
        if len(self._batch) >= self._barrier.batch_files or self._batch.size >= BATCH_BYTES:
            return True
        return bool(len(self._batch)) and time.monotonic() - self._last_flush >= BATCH_SECONDS

    # -- putting in place ------------------------------------------------------------------

    def flush(self, cursor: Cursor | None = None) -> None:
        """Put in place and record what waits.

        Args:
            cursor: where the mirror is after that; recorded with the rest.

        Raises:
            MirrorError: it cannot be written. What is staged is discarded.
        """
        batch, self._batch = self._batch, _Batch()
        batch.cursor = cursor
        self._last_flush = time.monotonic()
        self._put_in_place(batch)

    def discard(self) -> None:
        """Give up what waits; it was never recorded."""
        self._batch.discard()
        self._batch = _Batch()

    def _put_in_place(self, batch: _Batch) -> None:
        left = deque(batch.ready.values())
        done: list[Ready] = []
        try:
            if batch.ready:
                self._barrier.contents([functools.partial(self._open, each) for each in batch.ready.values()])
            while left:
                each = left[0]  # an interrupt within its turn leaves it to be discarded
                error = self._install(each)
                left.popleft()
                if error is None:
                    done.append(each)
                elif self._failed(each, error):
                    batch.wanted[each.path] = (each.run, each.entry)
            if done:
                self._barrier.names(self._mirror.take_changed(), len(done))
        except OSError as error:
            raise mirror_error(error) from error
        finally:
            for each in left:
                if each.staged is not None:
                    each.staged.discard()
        self._record(batch, done)

    def _open(self, ready: Ready) -> int:
        return self._mirror.open_file(ready.path) if ready.staged is None else ready.staged.open()

    def _install(self, ready: Ready) -> MirrorError | None:
        try:
            if ready.staged is not None:
                self._mirror.install(ready.staged, ready.path)
        except DiskFullError:
            raise
        except MirrorError as error:
            return error
        return None

    def _record(self, batch: _Batch, done: list[Ready]) -> None:
        if done or len(batch) or batch.cursor is not None:
            notes = ((*key, known) for key, known in batch.notes.items())
            rows = [*notes, *((each.run.folder, _inner(each), each.known) for each in done)]
            wanted = batch.wanted.values()
            taken = [(each.run, each.entry, each.taken) for each in done if each.taken]
            self._state.record(rows, gone=batch.gone, wanted=wanted, taken=taken, cursor=batch.cursor)
        for each in done:
            self._report.files_synced += 1
            if each.staged is None:
                self._report.incremental_count += 1
            else:
                self._report.full_count += 1
            self._observe(FileDone(each.path, each.expected))


def _inner(ready: Ready) -> str:
    return ready.path[len(ready.run.folder) + 1 :]
