"""Carries out the downloads of a plan: fetch, prove, put in place, record. In that order, always."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from runicorn.errors import (
    CancelledError,
    ChangedError,
    DamagedError,
    DiskFullError,
    MirrorError,
    RequestError,
    RunicornError,
)
from runicorn.manifest import rules
from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher, block_digest
from runicorn.manifest.model import FileEntry, Run
from runicorn.remote_storage import fetch
from runicorn.remote_storage.context import SyncContext
from runicorn.remote_storage.diff import Append, Fetch, Transfer
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.installing import Installer, Ready
from runicorn.remote_storage.known import Known, Listed, LocalFile
from runicorn.remote_storage.landing import Landing
from runicorn.remote_storage.report import BytesReceived, FileDone, FileFailed
from runicorn.remote_storage.staging import StagedFile, finish_file
from runicorn.remote_storage.transport.base import Job

RESUME_FROM = 8 * 1024 * 1024
"""Bytes from which an interrupted download is gone on with instead of begun again."""

BACKOFF = (0.5, 1.5)
"""Seconds before each new try of the files that failed."""

_PERMISSION_DENIED = 3


class Transferer:
    """Carries out downloads.

    Args:
        context: the sync.
    """

    def __init__(self, context: SyncContext) -> None:
        self._transport = context.transport
        self._remote_root = context.remote_root
        self._mirror = context.mirror.tree
        self._epoch = 0
        self._snapshot = ""
        self._observe = context.observe
        self._report = context.report
        self._cancel = context.cancel
        self._installer = Installer(context.mirror, context.observe, context.report, self._not_installed)
        self._actions: dict[str, Transfer] = {}
        self._failures: dict[str, tuple[Transfer, RunicornError]] = {}
        self._unsettled: dict[str, bytes] = {}

    def run(self, transfers: Sequence[Transfer], epoch: int, snapshot: str = "") -> None:
        """Carry out downloads; files that fail are tried again, then named in the report.

        Args:
            transfers: what is to be fetched.
            epoch: epoch of the mirror that it is recorded in.
            snapshot: the snapshot that lists it; empty when a walk does.

        Raises:
            TransportError: the connection failed. What was fetched before is in place.
            DiskFullError: the mirror's disk is full.
            CancelledError: it was cancelled.
        """
        self._epoch = epoch
        self._snapshot = snapshot
        waiting = list(transfers)
        for delay in (*BACKOFF, None):
            self._failures = {}
            try:
                self._transport.run(self._jobs(waiting))
            finally:
                self._installer.flush()
            final = [
                each for each in self._failures.values() if delay is None or not _worth_retrying(each[1])
            ]
            for action, error in final:
                self._give_up(action, error)
                del self._failures[action.entry.path]
            if delay is None or not self._failures:
                return
            for action, error in self._failures.values():
                self._observe(FileFailed(action.entry.path, rules.escape(str(error)), final=False))
            if self._cancel.wait(delay):
                raise CancelledError("the sync was stopped")
            waiting = [action for action, _ in self._failures.values()]

    def _give_up(self, action: Transfer, error: RunicornError) -> None:
        if isinstance(error, ChangedError) and _is_missing(error):
            self._report.vanished_count += 1
            return
        text = rules.escape(str(error))
        self._report.fail(action.entry.path, text)
        self._observe(FileFailed(action.entry.path, text, final=True))

    def _jobs(self, transfers: Sequence[Transfer]) -> Iterator[Job]:
        for action in transfers:
            if self._cancel.is_set():
                raise CancelledError("the sync was stopped")
            yield self._job(action)

    def _job(self, action: Transfer) -> Job:
        try:
            if isinstance(action, Append):
                yield from self._append(action)
            else:
                yield from self._fetch(action)
        except DiskFullError:
            raise
        except (ChangedError, DamagedError, RequestError, MirrorError) as error:
            self._failures[action.entry.path] = (action, error)
        except OSError as error:
            failure = mirror_error(error, action.entry.path)
            if isinstance(failure, DiskFullError):
                raise failure from error
            self._failures[action.entry.path] = (action, failure)
        else:
            if self._installer.is_due:
                self._installer.flush()

    def _remote(self, entry: FileEntry) -> str:
        return f"{self._remote_root}/{entry.path}"

    def _received(self, take: fetch.Sink) -> fetch.Sink:
        def sink(data: bytes, offset: int) -> None:
            if self._cancel.is_set():
                raise CancelledError("the sync was stopped")
            take(data, offset)
            self._report.bytes_downloaded += len(data)
            self._observe(BytesReceived(len(data)))

        return sink

    # -- whole files -----------------------------------------------------------------------

    def _fetch(self, action: Transfer) -> fetch.Part[None]:
        entry = action.entry
        later = action.later if isinstance(action, Fetch) else None
        same = (yield from self._compare(entry, later)) if later is not None and later.extends else 0
        if later is not None and same > entry.size:
            inner = entry.path[len(action.run.folder) + 1 :]
            self._installer.note(action.run.folder, inner, later.listed_as(entry, self._epoch))
            self._observe(FileDone(entry.path, action.bytes_expected))
            return
        landing = Landing(self._mirror, 0, entry.size + 1, _partial_key(entry))
        try:
            content = None
            if entry.digest is not None and same >= 0:
                content = yield from self._fetch_listed(entry, landing, same)
            if content is None:
                landing.discard()
                landing = Landing(self._mirror, 0, entry.size + 1)
                sink = self._received(landing)
                content = yield from fetch.fetch_current(
                    entry, self._remote(entry), sink, self._mirror.free_bytes()
                )
                self._require_whole(entry, landing, content)
            if later is not None and self._begins_with(landing, entry.path, later.local.size):
                known = self._finish(action.run, entry, landing, content, held=later.local.size)
                self._grow(action, later.local, known, landing)
                landing.discard()
                return
            self._put_ready(action, self._finish(action.run, entry, landing, content), landing.to_staged())
        finally:
            landing.keep()

    def _fetch_listed(
        self, entry: FileEntry, landing: Landing, held: int
    ) -> fetch.Part[fetch.Content | None]:
        hashing = fetch.Hashing(entry.is_log, self._received(landing))
        landing.resume(entry.size, hashing.take)
        if held > hashing.received:
            for data in self._mirror.chunks(entry.path, hashing.received, held):
                landing(data, hashing.received)
                hashing.take(data)
        return (yield from fetch.fetch_listed(entry, self._remote(entry), hashing))

    def _compare(self, entry: FileEntry, longer: Known) -> fetch.Part[int]:
        """Up to where the server's log is now seen to be the mirror's, which is longer than listed: to its
        end, or to the listed size when the server's ends there; -1 when it is another one."""
        path, size, listed = entry.path, longer.local.size, entry.size
        middle = min(size, listed + fetch.OVERLAP)
        windows = [(max(0, listed - fetch.OVERLAP), middle), (max(middle, size - fetch.OVERLAP), size)]
        differs = False

        def compare(data: bytes, offset: int) -> None:
            nonlocal differs
            differs = differs or self._mirror.read_range(path, offset, len(data)) != data

        end = yield from fetch.fetch_windows(entry, self._remote(entry), windows, self._received(compare))
        if differs:
            return -1
        return size if end >= size else listed if end == listed else -1

    def _begins_with(self, landing: Landing, path: str, size: int) -> bool:
        """Whether a log that has landed from its first byte on begins with what the mirror has now."""
        held = _content(self._mirror.chunks(path, 0, size))
        return held[0] == size and _content(landing.chunks(0, size)) == held

    def _require_whole(self, entry: FileEntry, landing: Landing, content: fetch.Content) -> None:
        """Half a JSON file may look unchanged for a while; the same bytes twice are taken as they are."""
        if not fetch.has_to_parse(entry, landing.end) or fetch.parses(landing.read(0, landing.end)):
            return
        if self._unsettled.get(entry.path) != content.hashes[0]:
            self._unsettled[entry.path] = content.hashes[0]
            raise ChangedError("it is not complete yet: it does not parse as JSON", path=entry.path)

    def _finish(
        self, run: Run, entry: FileEntry, landing: Landing, content: fetch.Content, *, held: int = 0
    ) -> Known:
        hashes = content.hashes
        if entry.is_log and not (run.has_ended and content.size >= entry.size):
            end = max(held, landing.last_record_end())
            if end != landing.end:
                landing.cut(end)
                hashes = landing.hashes(list(hashes))
        local = LocalFile(landing.end, content.mtime_ns, 0)
        return Known(local, hashes, content.listed, self._epoch, unpublished=not self._snapshot)

    # -- logs ------------------------------------------------------------------------------

    def _append(self, action: Append) -> fetch.Part[None]:
        entry, held = action.entry, action.known.local.size
        start = held if entry.block_digest is not None else max(0, held - fetch.OVERLAP)
        landing = Landing(self._mirror, start, entry.size - start)
        try:
            ends = yield from fetch.fetch_tail(entry, self._remote(entry), start, self._received(landing))
            known = None if ends is None else self._prove_append(action, landing, start, ends)
            if known is not None:
                self._grow(action, action.known.local, known, landing)
                return
        finally:
            landing.discard()
        yield from self._fetch(Fetch(action.run, entry, "rewritten", later=action.known))

    def _prove_append(self, action: Append, landing: Landing, start: int, ends: bool) -> Known | None:
        """What the log will be after the append; None when its prefix is not the server's.

        Args:
            action: the append.
            landing: what was fetched.
            start: offset of its first byte.
            ends: whether the server's log was seen to end where the listing says.
        """
        entry, held = action.entry, action.known.local.size
        full = list(action.known.hashes[: held // BLOCK_SIZE])
        hasher = self._mirror.prefix_hasher(entry.path, held, full)
        if tuple(hasher.hashes()) != action.known.hashes:
            return None
        overlap = self._mirror.read_range(entry.path, start, held - start)
        if landing.read(start, held) != overlap:
            return None
        whole = hasher.copy()
        for data in landing.chunks(held, entry.size):
            whole.update(data)
        if entry.block_digest is not None and block_digest(whole.hashes()) != entry.block_digest:
            return None
        end = entry.size if action.run.has_ended and ends else max(held, landing.last_record_end())
        for data in landing.chunks(held, end):
            hasher.update(data)
        listed = Listed.of(entry)
        local = LocalFile(end, entry.time_ns, action.known.local.inode)
        hashes = tuple(hasher.hashes())
        return Known(local, hashes, listed, self._epoch, unpublished=not self._snapshot)

    def _grow(self, action: Transfer, before: LocalFile, known: Known, landing: Landing) -> None:
        path = action.entry.path
        fd = self._mirror.append(path, before, landing.chunks(before.size, known.local.size))
        try:
            if action.entry.digest is None:
                # A walk goes by size and time: after a power cut these must not tell of bytes that were lost.
                os.fsync(fd)
            local = finish_file(fd, known.local.mtime_ns)
        finally:
            os.close(fd)
        self._enqueue(action, replace(known, local=local), None, landing.end - before.size)

    # -- putting in place ------------------------------------------------------------------

    def _put_ready(self, action: Transfer, known: Known, staged: StagedFile) -> None:
        try:
            local = staged.finish(known.local.mtime_ns)
        except BaseException:
            staged.discard()
            raise
        self._enqueue(action, replace(known, local=local), staged, local.size)

    def _enqueue(self, action: Transfer, known: Known, staged: StagedFile | None, size: int) -> None:
        path = action.entry.path
        self._actions[path] = action
        is_listed = known.listed is None or known.listed.digest == action.entry.digest
        taken = "" if is_listed else self._snapshot
        ready = Ready(action.run, action.entry, known, staged, action.bytes_expected, taken=taken)
        self._installer.add(ready, size)

    def _not_installed(self, ready: Ready, error: MirrorError) -> bool:
        self._failures[ready.path] = (self._actions[ready.path], error)
        return False


def _content(pieces: Iterable[bytes]) -> tuple[int, list[bytes]]:
    """The size of what comes in pieces, bytes, and the hashes of its blocks."""
    hasher = BlockHasher()
    for data in pieces:
        hasher.update(data)
    return hasher.size, hasher.hashes()


def _is_missing(error: RunicornError) -> bool:
    return isinstance(error.__cause__, RequestError)


def _worth_retrying(error: RunicornError) -> bool:
    if isinstance(error, ChangedError):
        return not _is_missing(error)
    if isinstance(error, RequestError):
        return error.code != _PERMISSION_DENIED
    return isinstance(error, DamagedError)


def _partial_key(entry: FileEntry) -> str | None:
    if entry.size < RESUME_FROM or entry.digest is None:
        return None
    return hashlib.sha256(f"{entry.digest} {entry.size} {entry.path}".encode()).hexdigest()
