"""Carries out the downloads of a plan: fetch, prove, put in place, record. In that order, always."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
from runicorn.manifest.digest import BLOCK_SIZE, block_digest
from runicorn.manifest.model import FileEntry, Run
from runicorn.remote_storage import fetch
from runicorn.remote_storage.diff import Append, Fetch, Transfer
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.durability import Barrier
from runicorn.remote_storage.known import Known, Listed, LocalFile
from runicorn.remote_storage.landing import Landing
from runicorn.remote_storage.opening import OpenMirror
from runicorn.remote_storage.report import BytesReceived, FileDone, FileFailed, Observer, SyncReport
from runicorn.remote_storage.staging import StagedFile, finish_file
from runicorn.remote_storage.transport.base import Job, Transport

RESUME_FROM = 8 * 1024 * 1024
"""Bytes from which an interrupted download is gone on with instead of begun again."""

BATCH_BYTES = 64 * 1024 * 1024
BATCH_SECONDS = 1.0
BACKOFF = (0.5, 1.5)
"""Seconds before each new try of the files that failed."""

_PERMISSION_DENIED = 3


@dataclass(slots=True)
class _Ready:
    """A download that is proven and waits for the next barrier."""

    action: Transfer
    known: Known
    staged: StagedFile | None


class Transferer:
    """Carries out downloads.

    Args:
        transport: the connection.
        remote_root: the root on the server, without a slash at its end.
        mirror: the mirror.
        observer: is told of every step.
        report: counts are added to it.
        cancel: when it is set, the sync ends as soon as it can.
    """

    def __init__(
        self,
        transport: Transport,
        remote_root: str,
        mirror: OpenMirror,
        observer: Observer,
        report: SyncReport,
        cancel: threading.Event,
    ) -> None:
        self._transport = transport
        self._remote_root = remote_root
        self._mirror, self._state = mirror.tree, mirror.state
        self._epoch = 0
        self._observe = observer
        self._report = report
        self._cancel = cancel
        self._barrier = Barrier(self._mirror.fd, 0)
        self._ready: list[_Ready] = []
        self._ready_bytes = 0
        self._last_flush = time.monotonic()
        self._failures: dict[str, tuple[Transfer, RunicornError]] = {}
        self._unsettled: dict[str, bytes] = {}

    def run(self, transfers: Sequence[Transfer], epoch: int) -> None:
        """Carry out downloads; files that fail are tried again, then named in the report.

        Args:
            transfers: what is to be fetched.
            epoch: epoch of the mirror that it is recorded in.

        Raises:
            TransportError: the connection failed. What was fetched before is in place.
            DiskFullError: the mirror's disk is full.
            CancelledError: it was cancelled.
        """
        self._epoch = epoch
        self._barrier = Barrier(self._mirror.fd, len(transfers))
        waiting = list(transfers)
        for delay in (*BACKOFF, None):
            self._failures = {}
            try:
                self._transport.run(self._jobs(waiting))
            finally:
                self._flush()
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
            if self._is_flush_due():
                self._flush()

    def _remote(self, entry: FileEntry) -> str:
        return f"{self._remote_root}/{entry.path}"

    def _received(self, landing: Landing) -> fetch.Sink:
        def sink(data: bytes, offset: int) -> None:
            if self._cancel.is_set():
                raise CancelledError("the sync was stopped")
            landing(data, offset)
            self._report.bytes_downloaded += len(data)
            self._observe(BytesReceived(len(data)))

        return sink

    # -- whole files -----------------------------------------------------------------------

    def _fetch(self, action: Transfer) -> fetch.Part[None]:
        entry = action.entry
        landing = Landing(self._mirror, 0, entry.size + 1, _partial_key(entry))
        try:
            content = None
            if entry.digest is not None:
                content = yield from self._fetch_listed(action, landing)
            if content is None:
                landing.discard()
                landing = Landing(self._mirror, 0, entry.size + 1)
                sink = self._received(landing)
                content = yield from fetch.fetch_current(
                    entry, self._remote(entry), sink, self._mirror.free_bytes()
                )
                self._require_whole(entry, landing, content)
            self._put_ready(action, self._finish(action.run, entry, landing, content), landing.to_staged())
        finally:
            landing.keep()

    def _fetch_listed(self, action: Transfer, landing: Landing) -> fetch.Part[fetch.Content | None]:
        entry = action.entry
        hashing = fetch.Hashing(entry.is_log, self._received(landing))
        landing.resume(entry.size, hashing.take)
        if isinstance(action, Fetch) and action.held > hashing.received:
            for data in self._mirror.chunks(entry.path, hashing.received, action.held):
                landing(data, hashing.received)
                hashing.take(data)
        return (yield from fetch.fetch_listed(entry, self._remote(entry), hashing))

    def _require_whole(self, entry: FileEntry, landing: Landing, content: fetch.Content) -> None:
        """Half a JSON file may look unchanged for a while; the same bytes twice are taken as they are."""
        if not fetch.has_to_parse(entry, landing.end) or fetch.parses(landing.read(0, landing.end)):
            return
        if self._unsettled.get(entry.path) != content.hashes[0]:
            self._unsettled[entry.path] = content.hashes[0]
            raise ChangedError("it is not complete yet: it does not parse as JSON", path=entry.path)

    def _finish(self, run: Run, entry: FileEntry, landing: Landing, content: fetch.Content) -> Known:
        hashes = content.hashes
        if entry.is_log and not (run.has_ended and content.size >= entry.size):
            end = landing.last_record_end()
            if end != landing.end:
                landing.cut(end)
                hashes = landing.hashes(list(hashes))
        local = LocalFile(landing.end, content.mtime_ns, 0)
        return Known(local, hashes, content.listed, self._epoch)

    # -- logs ------------------------------------------------------------------------------

    def _append(self, action: Append) -> fetch.Part[None]:
        entry, held = action.entry, action.known.local.size
        start = held if entry.block_digest is not None else max(0, held - fetch.OVERLAP)
        landing = Landing(self._mirror, start, entry.size - start)
        try:
            ends = yield from fetch.fetch_tail(entry, self._remote(entry), start, self._received(landing))
            known = None if ends is None else self._prove_append(action, landing, start, ends)
            if known is not None:
                self._grow(action, known, landing)
                return
        finally:
            landing.discard()
        yield from self._fetch(Fetch(action.run, entry, "rewritten"))

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
        local = LocalFile(end, fetch.mtime_ns_of(entry), action.known.local.inode)
        return Known(local, tuple(hasher.hashes()), Listed.of(entry), self._epoch)

    def _grow(self, action: Append, known: Known, landing: Landing) -> None:
        path, before = action.entry.path, action.known.local
        fd = self._mirror.append(path, before, landing.chunks(before.size, known.local.size))
        try:
            local = finish_file(fd, known.local.mtime_ns, self._barrier.file_written)
        finally:
            os.close(fd)
        self._enqueue(_Ready(action, replace(known, local=local), None), landing.end - before.size)

    # -- putting in place ------------------------------------------------------------------

    def _put_ready(self, action: Transfer, known: Known, staged: StagedFile) -> None:
        try:
            local = staged.finish(known.local.mtime_ns, self._barrier.file_written)
        except BaseException:
            staged.discard()
            raise
        self._enqueue(_Ready(action, replace(known, local=local), staged), local.size)

    def _enqueue(self, ready: _Ready, size: int) -> None:
        self._ready.append(ready)
        self._ready_bytes += size

    def _is_flush_due(self) -> bool:
        if len(self._ready) >= self._barrier.batch_files or self._ready_bytes >= BATCH_BYTES:
            return True
        return bool(self._ready) and time.monotonic() - self._last_flush >= BATCH_SECONDS

    def _flush(self) -> None:
        """Content to disk, then names, then names to disk, then the record of it."""
        ready, self._ready, self._ready_bytes = self._ready, [], 0
        if not ready:
            return
        done: list[_Ready] = []
        left = iter(ready)
        try:
            self._barrier.wait()
            folders = set()
            for each in left:
                folder = self._install(each)
                if folder is not None:
                    folders.add(folder)
                    done.append(each)
            self._barrier.names_changed(folders)
        except OSError as error:
            raise mirror_error(error) from error
        finally:
            for each in left:
                if each.staged is not None:
                    each.staged.discard()
        self._record(done)
        self._last_flush = time.monotonic()

    def _install(self, ready: _Ready) -> int | None:
        path = ready.action.entry.path
        if ready.staged is None:
            return self._mirror.fd
        try:
            return self._mirror.install(ready.staged, path)
        except DiskFullError:
            raise
        except MirrorError as error:
            self._failures[path] = (ready.action, error)
            return None

    def _record(self, done: list[_Ready]) -> None:
        self._state.record(
            (each.action.run.folder, each.action.entry.path[len(each.action.run.folder) + 1 :], each.known)
            for each in done
        )
        for each in done:
            self._report.files_synced += 1
            if each.staged is None:
                self._report.incremental_count += 1
            else:
                self._report.full_count += 1
            self._observe(FileDone(each.action.entry.path, each.action.bytes_expected))


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
