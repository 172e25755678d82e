"""The base of the journal in a mirror that is empty: nothing is there that could be gone on with or be in the
way, so files can be staged beside the reading, and the disk be waited for beside both.

The order is that of `runicorn.remote_storage.installing`: contents to disk, names, names to disk, record. But
one barrier serves the names of one batch and the contents of the next, and the next frames are staged
meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from runicorn.errors import DiskFullError, MirrorError, RunicornError, UnsafeError
from runicorn.journal.frames import Place, StoredFrame
from runicorn.remote_storage.carried import FIRST_USE
from runicorn.remote_storage.context import SyncContext
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.durability import Barrier
from runicorn.remote_storage.known import Cursor
from runicorn.remote_storage.report import FileDone
from runicorn.remote_storage.stager import StagedEntry, StagedSection
from runicorn.remote_storage.workers import WorkerPool, Workers

log = logging.getLogger(__name__)

BATCH_BYTES = 64 * 1024 * 1024
BATCH_SECONDS = 0.3
RESTING_SECONDS = 0.1
"""How long files wait at most for others to share their barriers while the disk has nothing to do."""


@dataclass(slots=True)
class _Batch:
    """What takes its names, and is recorded, together.

    Attributes:
        place: the mirror is there when all of it is recorded.
        files: with the sections that they belong to.
        wanted: rows of files that have to be fetched.
        size: bytes.
        is_first_use: whether a file of first use is among them.
    """

    place: Place
    files: list[tuple[StagedSection, StagedEntry]] = field(default_factory=list)
    wanted: list[tuple[Any, ...]] = field(default_factory=list)
    size: int = 0
    is_first_use: bool = False


class BaseInstaller:
    """Puts the files of a base in place.

    Args:
        context: the sync.
        epoch: epoch of the mirror that files are recorded in.
        cursor: where the mirror is: at the beginning of a base.
        workers: processes that help; it takes them, and ends them.

    Attributes:
        place: the mirror is there, on disk and recorded.
        removed: run folder and path within it of files that the base tells are not listed.
    """

    def __init__(
        self, context: SyncContext, epoch: int, cursor: Cursor, place: Place, workers: Workers
    ) -> None:
        self._context = context
        self._mirror, self._state = context.mirror.tree, context.mirror.state
        self._cursor = cursor
        self._barrier = Barrier(self._mirror.fd)
        self._pool = ThreadPoolExecutor(1, "runicorn-barrier")
        self._waiting: Future[None] | None = None
        selection = context.options.selection
        self._workers = WorkerPool(self._mirror.staging.fd, selection, epoch, workers, context.check)
        self._batch = _Batch(place)
        self._handed = place
        self._written: _Batch | None = None
        self._named: _Batch | None = None
        self._last = time.monotonic()
        self._is_broken = self._is_ending = False
        self.place = place
        self.removed: dict[tuple[str, str], None] = {}

    # -- taking ----------------------------------------------------------------------------

    def take(self, frame: StoredFrame) -> None:
        """Take the next files frame of the base.

        Raises:
            DamagedError: this or an earlier one does not make sense, or its bytes do not fit their digests.
            UnsafeError: it would harm.
            MirrorError: the mirror cannot be written.
        """
        self._gather_all(self._workers.put(frame))

    def finish(self) -> None:
        """Wait until all that was taken is in place and recorded; nothing can be taken after it.

        Raises:
            RunicornError: as of `take`.
        """
        self._is_ending = True
        self.flush()
        self.close()

    def _gather_all(self, staged: Iterator[tuple[Place, list[StagedSection]]]) -> None:
        try:
            for place, sections in staged:
                self._gather(place, sections)
                if self._is_due():
                    self._advance()
        except BaseException:
            self._is_broken = True  # the place must not pass what was not staged
            raise

    def _gather(self, place: Place, sections: list[StagedSection]) -> None:
        priority = next((entry.priority for section in sections for entry in section.entries), FIRST_USE)
        if self._batch.is_first_use and priority > FIRST_USE:
            self._advance()
        batch = self._batch
        batch.is_first_use |= priority == FIRST_USE
        for section in sections:
            folder = section.folder
            for entry in section.entries:
                if self.removed:
                    self.removed.pop((folder, entry.path[len(folder) + 1 :]), None)
                if entry.name:
                    batch.files.append((section, entry))
                    batch.size += entry.size
                else:
                    batch.wanted.append(section.wanted(entry))
            self.removed.update(dict.fromkeys((folder, inner) for inner in section.removed))
        batch.place = place

    def _is_due(self) -> bool:
        batch, waited = self._batch, time.monotonic() - self._last
        if len(batch.files) >= self._barrier.batch_files or batch.size >= BATCH_BYTES:
            return True
        if waited >= BATCH_SECONDS:
            return True
        if self._waiting is not None and not self._waiting.done():
            return False
        # On a slow line the next frames may be long in coming, and at the end none come.
        if self._written is not None and self._written.is_first_use:
            return True
        has_rested = waited >= RESTING_SECONDS
        if batch.is_first_use:
            return has_rested
        return (self._is_ending or has_rested) and not self._barrier.flushes_each(len(batch.files))

    # -- putting in place ------------------------------------------------------------------

    def flush(self) -> None:
        """Put in place and record all that was taken.

        Raises:
            RunicornError: as of `take`.
        """
        if not self._is_broken:
            self._gather_all(self._workers.rest())
        self._advance_all()

    def give_up(self) -> None:
        """Put in place and record what is proven by now; whatever cannot be is met again by the next sync.

        Raises:
            MirrorError: the mirror cannot be written.
        """
        if not self._is_broken:
            try:
                self._gather_all(self._workers.ready())
            except UnsafeError:
                self.discard()
            except RunicornError as error:
                log.info("the sync ends before this is told: %s", error)
        self._advance_all()

    def _advance_all(self) -> None:
        while self._named or self._written or self._batch.place != self._handed:
            self._advance()

    def _advance(self) -> None:
        """Let each batch take its next step."""
        try:
            self._wait_for_disk()
            named, self._named = self._named, None
            try:
                self._step()
            except BaseException:
                if named is not None:
                    with contextlib.suppress(RunicornError):  # what failed first says more
                        self._record(named)
                raise
            if named is not None:
                self._record(named)
        except OSError as error:
            self.discard()
            raise mirror_error(error) from error
        except BaseException:
            self.discard()
            raise
        self._last = time.monotonic()

    def _step(self) -> None:
        if self._written is not None:
            self._give_names(self._written)
            self._named = self._written
        self._written = self._batch if self._batch.place != self._handed else None
        self._handed = self._batch.place
        self._batch = _Batch(self._handed)
        self._start_barrier()

    def _start_barrier(self) -> None:
        files = sum(len(each.files) for each in (self._written, self._named) if each is not None)
        if not self._barrier.flushes_each(files):
            self._mirror.take_changed()
            self._waiting = self._pool.submit(self._barrier.wait)
            return
        if self._written is not None:
            staged = [self._mirror.staging.staged(entry.name) for _, entry in self._written.files]
            self._barrier.contents([each.open for each in staged])
        if self._named is not None:
            self._barrier.names(self._mirror.take_changed(), len(self._named.files))

    def _wait_for_disk(self) -> None:
        if self._waiting is not None:
            self._waiting.result()
            self._waiting = None  # not before: what an interrupt ends must still be waited for

    def _give_names(self, batch: _Batch) -> None:
        done = []
        for section, entry in batch.files:
            try:
                self._mirror.install(self._mirror.staging.staged(entry.name), entry.path)
            except DiskFullError:
                raise
            except MirrorError:
                # It is tried once more with the wanted files, which name the reason.
                batch.wanted.append(section.wanted(entry))
            else:
                done.append((section, entry))
        batch.files = done

    def _record(self, batch: _Batch) -> None:
        cursor = Cursor(
            None, self._cursor.selection, self._cursor.generated_at, place=batch.place, began_empty=True
        )
        self._state.record_base((entry.row for _, entry in batch.files), batch.wanted, cursor)
        self.place = batch.place
        report, observe = self._context.report, self._context.observe
        report.files_synced += len(batch.files)
        report.full_count += len(batch.files)
        report.bytes_downloaded += batch.size
        for _, entry in batch.files:
            observe(FileDone(entry.path, entry.size))

    # -- giving up -------------------------------------------------------------------------

    def discard(self) -> None:
        """Give up what has not taken its name; it is removed by `close`."""
        self._is_broken = True
        self._named = self._written = None
        self._batch, self._handed = _Batch(self.place), self.place

    def close(self) -> None:
        """End what helps; what was staged and has no name is removed.

        Raises:
            OSError: it cannot be removed.
        """
        try:
            self._workers.close()
        finally:
            self._pool.shutdown()
