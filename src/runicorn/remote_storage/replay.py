"""Applying the frames of the journal to a mirror: prove, put in place, record, and remember the place.

What cannot be applied (bytes that are only listed, a log whose prefix is another one) is remembered as
wanted, and fetched by range afterwards. Frames may be applied twice without harm.
"""

from __future__ import annotations

import os
import time

from runicorn.errors import DamagedError, DiskFullError, MirrorError
from runicorn.journal.frames import Kind, Place, StoredFrame
from runicorn.journal.sections import (
    Carried,
    Change,
    Section,
    decode_commit,
    decode_files,
    decode_seal,
)
from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher, block_digest
from runicorn.manifest.model import FileEntry, Header, Identity, Run
from runicorn.remote_storage.base_install import BaseInstaller
from runicorn.remote_storage.carried import FIRST_USE, ends_whole, proven
from runicorn.remote_storage.context import SyncContext
from runicorn.remote_storage.diff import Note, decide, may_be_later
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.installing import Installer, Ready
from runicorn.remote_storage.known import Cursor, Known, Listed, LocalFile
from runicorn.remote_storage.staging import StagedFile, finish_file


class Replay:
    """Applies frames, in order.

    Args:
        context: the sync.
        epoch: epoch of the mirror that files are recorded in.
        cursor: where the mirror is; it has a place.
        lineage: the lineage of all states.

    Attributes:
        base: puts the files of the base in place, when the mirror was empty before it; it is closed with
            the replay.
        header: the last commit; None before the first.
        place: the mirror is there when the next flush is done.
        came: run folder and path within it of the files that were not in the mirror before, where that tells
            what may be removed; not those of `base`.
    """

    def __init__(self, context: SyncContext, epoch: int, cursor: Cursor, lineage: str | None) -> None:
        if cursor.place is None:
            raise ValueError("the journal is replayed from a place")
        self._context = context
        self.base: BaseInstaller | None = None
        self._mirror, self._state = context.mirror.tree, context.mirror.state
        self._epoch = epoch
        self._lineage = lineage
        self._identity, self._generated_at = cursor.identity, cursor.generated_at
        self._is_committed = cursor.identity is not None
        self._began_empty = cursor.began_empty
        self._begins_anew = cursor.identity is None
        self._priority = 0
        self._has_lost = False
        self._removed: dict[tuple[str, str], None] = {}
        self._wanted_before = not self._state.wants_nothing()
        self._installer = Installer(context.mirror, context.observe, context.report, _want_again)
        self.header: Header | None = None
        self.came: set[tuple[str, str]] = set()
        self.place = cursor.place

    @property
    def identity(self) -> Identity | None:
        """The state that the mirror is at; None within a base."""
        return self._identity

    def take(self, frame: StoredFrame) -> None:
        """Apply one frame.

        Raises:
            DamagedError: it does not fit what came before, or its bytes do not fit their digests.
            UnsafeError: it would harm.
            MirrorError: the mirror cannot be written.
        """
        self._context.check()
        if frame.end.epoch != self.place.epoch:
            raise DamagedError("the journal goes on behind a seal")
        if frame.kind is Kind.FILES and self.base is not None:
            self.base.take(frame)
            return
        if frame.kind is not Kind.BEGIN:
            self._end_base()
        if frame.kind is Kind.FILES:
            self._take_files(frame)
        elif frame.kind is Kind.COMMIT:
            self._commit(decode_commit(frame.open()), frame.end)
        elif frame.kind is Kind.SEAL:
            seal = decode_seal(frame.open(), self._lineage)
            if seal.identity != self._identity or not self._is_committed:
                raise DamagedError("a seal of the journal is of another state than the commit before it")
            self.place = seal.place
        if self._installer.is_due:
            self.flush()

    def _take_files(self, frame: StoredFrame) -> None:
        self._is_committed = False
        for section in decode_files(frame.open()):
            self._take_section(section)
        if self._identity is None:
            self.place = frame.end

    def _end_base(self) -> None:
        base = self.base
        if base is not None:
            base.finish()
            self.base = None
            self._removed, self.place = base.removed, base.place

    def flush(self) -> None:
        """Put in place and record what was applied, and the place with it.

        After a flush that failed there is no other: the place must not pass what was lost with it.

        Raises:
            MirrorError: the mirror cannot be written.
        """
        if self._has_lost:
            return
        if self.base is not None:
            self.base.flush()
            return  # it has recorded the place
        try:
            self._installer.flush(self.cursor())
        except BaseException:
            self._has_lost = True
            raise

    def give_up(self) -> None:
        """Put in place and record what was proven before something failed, so that the next sync goes on
        behind it.

        Raises:
            MirrorError: the mirror cannot be written.
        """
        if self.base is not None:
            self.base.give_up()
        else:
            self.flush()

    def discard(self) -> None:
        """Give up what was not flushed."""
        if self.base is not None:
            self.base.discard()
        self._installer.discard()

    def close(self) -> None:
        """End what helps."""
        if self.base is not None:
            self.base.close()

    def cursor(self) -> Cursor:
        """Where the mirror is."""
        key = self._context.options.selection.key
        began_empty = self._began_empty and self._identity is None
        return Cursor(self._identity, key, self._generated_at, place=self.place, began_empty=began_empty)

    def _commit(self, header: Header, end: Place) -> None:
        if header.identity.lineage != self._lineage:
            raise DamagedError("a commit of the journal is of another history")
        if self._identity is not None and header.identity.revision <= self._identity.revision:
            raise DamagedError("a commit of the journal is not newer than the one before it")
        if any(self._installer.ready(f"{folder}/{inner}") is not None for folder, inner in self._removed):
            self.flush()
        self.header, self.place, self._is_committed = header, end, True
        self._identity, self._generated_at = header.identity, header.generated_at
        # Recorded with the state that they belong to, or not at all (law 4).
        for folder, inner in self._removed:
            self._installer.gone(folder, inner)
        self._removed.clear()

    # -- sections --------------------------------------------------------------------------

    def _take_section(self, section: Section) -> None:
        run, selection = section.run, self._context.options.selection
        changes = [each for each in section.changes if selection.wants(run, each.entry)]
        if changes:
            self._flush_first_use(changes[0].entry.priority)
            known = self._lookup(run, [each.entry for each in changes])
            for change in changes:
                key = (run.folder, change.entry.path[len(run.folder) + 1 :])
                self._removed.pop(key, None)
                before = known.get(change.entry.path)
                if before is None and self._context.options.delete:
                    self.came.add(key)
                self._take_change(run, change, before)
        self._removed.update(dict.fromkeys((run.folder, inner) for inner in section.removed))

    def _flush_first_use(self, priority: int) -> None:
        """In a base the files of first use come first: they are in place before the rest is worked on."""
        if self._priority == FIRST_USE < priority and self._identity is None:
            self.flush()
        self._priority = priority

    def _lookup(self, run: Run, entries: list[FileEntry]) -> dict[str, Known]:
        known: dict[str, Known] = {}
        others = []
        for entry in entries:
            ready = self._installer.ready(entry.path)
            if ready is not None and ready.staged is not None and entry.is_log:
                self.flush()
                ready = None
            if ready is not None:
                known[entry.path] = ready.known
            else:
                others.append(entry)
        found = self._context.knowledge.of_entries(run, others)
        known.update((f"{run.folder}/{inner}", each) for inner, each in found.items())
        return known

    def _take_change(self, run: Run, change: Change, known: Known | None) -> None:
        entry = change.entry
        action = decide(run, entry, known, time.time())
        if (action is None or isinstance(action, Note)) and known is not None:
            self._note(run, entry, known, is_new=action is not None)
            return
        carried = change.carried if not self._is_changed_here(entry, known) else None
        try:
            applied = carried is not None and self._apply(run, entry, carried, known)
        except OSError as error:
            failure = mirror_error(error, entry.path)
            if isinstance(failure, DiskFullError):
                raise failure from error
            applied = False
        except DiskFullError:
            raise
        except MirrorError:
            applied = False
        if not applied:
            self._wanted_before = True
            self._installer.want(run, entry)

    def _is_changed_here(self, entry: FileEntry, known: Known | None) -> bool:
        """Whether a file of the mirror, while a journal is read from its beginning, is not as it was synced.

        It must not give way to a version that the journal itself has removed since: it is fetched when the
        journal is at its end, if it is listed there (law 4).
        """
        if not self._begins_anew:
            return False
        if known is not None:
            return known.listed is None
        try:
            self._mirror.signature(entry.path)
        except OSError:
            return False
        return True

    def _note(self, run: Run, entry: FileEntry, known: Known, *, is_new: bool) -> None:
        if self._installer.ready(entry.path) is not None:
            return  # what waits says the same, and is recorded with the next flush
        inner = entry.path[len(run.folder) + 1 :]
        marked = known.gone or known.unpublished or self._installer.is_gone(run.folder, inner)
        if is_new or marked or self._wanted_before or known.epoch != self._epoch:
            self._installer.note(run.folder, inner, known.listed_as(entry, self._epoch))

    # -- carried bytes ---------------------------------------------------------------------

    def _apply(self, run: Run, entry: FileEntry, carried: Carried, known: Known | None) -> bool:
        if not entry.is_log:
            self._put(run, entry, carried)
            return True
        if not ends_whole(run, carried):
            return False  # by range, its last record is left out
        if known is not None and carried.start <= known.local.size <= carried.end:
            hasher = self._hasher(entry.path, known)
            if hasher is not None and self._grow(run, entry, carried, known, hasher):
                return True
        if carried.start or self._may_be_later(run, entry, known):
            return False  # what is later must not go back; it is decided when the journal is at its end
        self._put(run, entry, carried)
        return True

    def _may_be_later(self, run: Run, entry: FileEntry, known: Known | None) -> bool:
        """Whether a log of the mirror may be of a later state than the frame that tells of it; so is what a
        journal that is read anew has not told of yet, and what an earlier frame did not replace."""
        if known is None:
            return False
        if known.gone or may_be_later(known) or self._installer.is_wanted(entry.path):
            return True
        return self._state.is_wanted(run.folder, entry.path[len(run.folder) + 1 :])

    def _put(self, run: Run, entry: FileEntry, carried: Carried) -> None:
        hashes, hasher = proven(entry, carried)
        staged, local = self._mirror.staging.stage_whole(carried.data, entry.time_ns)
        self._add(run, entry, carried, (local, hashes), staged, hasher)

    def _hasher(self, path: str, known: Known) -> BlockHasher | None:
        """The hasher that stands behind the last byte of a log of the mirror; None when its bytes are not
        those that are known."""
        ready = self._installer.ready(path)
        if ready is not None and ready.hasher is not None:
            return ready.hasher.copy()
        full = list(known.hashes[: known.local.size // BLOCK_SIZE])
        hasher = self._mirror.prefix_hasher(path, known.local.size, full)
        return hasher if tuple(hasher.hashes()) == known.hashes else None

    def _grow(self, run: Run, entry: FileEntry, carried: Carried, known: Known, hasher: BlockHasher) -> bool:
        """Let a log grow in place; False when its bytes are not the first ones of the server's."""
        new = carried.data[known.local.size - carried.start :]
        hasher.update(new)
        hashes = tuple(hasher.hashes())
        if block_digest(hashes) != carried.digest:
            return False
        fd = self._mirror.append(entry.path, known.local, iter([bytes(new)]))
        try:
            local = finish_file(fd, entry.time_ns)
        finally:
            os.close(fd)
        self._add(run, entry, carried, (local, hashes), None, hasher)
        return True

    def _add(
        self,
        run: Run,
        entry: FileEntry,
        carried: Carried,
        content: tuple[LocalFile, tuple[bytes, ...]],
        staged: StagedFile | None,
        hasher: BlockHasher | None,
    ) -> None:
        size = len(carried.data)
        self._context.report.bytes_downloaded += size
        known = Known(*content, Listed.of(entry), self._epoch)
        self._installer.add(Ready(run, entry, known, staged, size, hasher), size)


def _want_again(_ready: Ready, _error: MirrorError) -> bool:
    """What cannot take its name is tried once more with the wanted files, which name the reason."""
    return True
