"""The client of a program: `ManifestSyncClient`."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from runicorn.errors import CancelledError, TransportError, UsageError
from runicorn.remote_storage.journal_reader import JournalReader
from runicorn.remote_storage.options import SyncOptions
from runicorn.remote_storage.report import Event, FileDone, Observer, SyncReport, TransferStarted
from runicorn.remote_storage.sync import synchronize
from runicorn.remote_storage.transport import open_beside
from runicorn.remote_storage.transport.base import Traffic, Transport

if TYPE_CHECKING:
    from paramiko import SFTPClient

log = logging.getLogger(__name__)

ProgressCallback: TypeAlias = Callable[[int, int, str], None]
"""Is given the files done, the files in all (at least 1) and the path of the last one."""


class ManifestSyncClient:
    """Brings a local folder to the state of a root on a server.

    Args:
        sftp_client: an open paramiko client; a second channel is opened beside it by the first sync
            and kept for the next ones, and it must not be used by others while a sync runs. A
            `Transport` is taken as well.
        remote_root: the root on the server; relative to the home folder when it does not begin
            with a slash.
        cache_dir: folder of the mirror; made by the first sync.
        jitter_max: a random delay of up to that many seconds comes before each sync, so that
            many clients do not ask at once.
        options: what is synced and how.

    Raises:
        UsageError: an argument means nothing.
    """

    def __init__(
        self,
        sftp_client: SFTPClient | Transport,
        remote_root: str,
        cache_dir: Path,
        jitter_max: float = 5.0,
        options: SyncOptions | None = None,
    ) -> None:
        if jitter_max < 0:
            raise UsageError("the longest delay before a sync cannot be negative")
        self.remote_root = str(remote_root)
        self.cache_dir = Path(cache_dir).expanduser()
        self.jitter_max = jitter_max
        self.options = options or SyncOptions()
        self.options.check()
        self._sftp_client = sftp_client
        self._transport: Transport | None = None
        self._journal: JournalReader | None = None

    def sync(
        self,
        progress_callback: ProgressCallback | None = None,
        *,
        observer: Observer | None = None,
        cancel: threading.Event | None = None,
    ) -> dict[str, Any]:
        """Sync once.

        Args:
            progress_callback: is called after each file, in this thread.
            observer: is told of every step, in this thread.
            cancel: when it is set, the sync ends as soon as it can.

        Returns:
            The statistics, see `runicorn.remote_storage.report.SyncReport`. Files that failed are
            counted in ``failed_count`` and named in ``failed``.

        Raises:
            RunicornError: one of its classes for each cause.
        """
        return self.sync_report(progress_callback, observer=observer, cancel=cancel).as_dict()

    def sync_report(
        self,
        progress_callback: ProgressCallback | None = None,
        *,
        observer: Observer | None = None,
        cancel: threading.Event | None = None,
    ) -> SyncReport:
        """As `sync`, with the statistics as an object.

        Raises:
            RunicornError: one of its classes for each cause.
        """
        stop = cancel or threading.Event()
        wait_jitter(self.jitter_max, stop)
        watchers = [watcher for watcher in (observer, _progress(progress_callback)) if watcher is not None]

        def tell(event: Event) -> None:
            for watcher in watchers:
                watcher(event)

        was_kept = self._transport is not None
        try:
            return self._synchronize(tell, stop)
        except TransportError:
            self.close()
            if not was_kept:
                raise
            # The channel of an earlier sync may have ended meanwhile; a new one tells.
            log.info("the connection of the last sync has ended; trying with a new one")
        try:
            return self._synchronize(tell, stop)
        except TransportError:
            self.close()
            raise

    def _synchronize(self, tell: Observer, stop: threading.Event) -> SyncReport:
        is_first = self._transport is None
        transport, journal = self._connected()
        report = synchronize(
            transport, self.remote_root, self.cache_dir, self.options, tell, stop, journal
        ).report
        if is_first and transport is not self._sftp_client:
            report.count_traffic(Traffic(), transport.traffic)
        return report

    def _connected(self) -> tuple[Transport, JournalReader]:
        if self._transport is None or self._journal is None:
            client = self._sftp_client
            self._transport = client if isinstance(client, Transport) else open_beside(client)
            self._journal = JournalReader(self._transport, self.remote_root.rstrip("/"))
        return self._transport, self._journal

    def connect(self) -> None:
        """Open the channel, unless it is open; a sync does it by itself.

        Raises:
            TransportError: it cannot be opened.
        """
        self._connected()

    @property
    def is_connected(self) -> bool:
        """Whether a channel is open, as far as that is known."""
        return self._transport is not None

    def close(self) -> None:
        """Give up the channel that was opened; the next sync opens another one. May be called again."""
        transport, self._transport = self._transport, None
        journal, self._journal = self._journal, None
        if transport is None or journal is None:
            return
        if transport is not self._sftp_client:
            transport.close()
            return
        with contextlib.suppress(TransportError):  # it may have ended
            journal.close()

    def __enter__(self) -> ManifestSyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def wait_jitter(longest: float, cancel: threading.Event | None = None) -> None:
    """Wait for a random time of up to ``longest`` seconds.

    Raises:
        CancelledError: it was cancelled meanwhile.
    """
    if longest > 0 and (cancel or threading.Event()).wait(random.uniform(0, longest)):  # noqa: S311 - spreads load, protects nothing
        raise CancelledError("the sync was stopped")


def _progress(callback: ProgressCallback | None) -> Observer | None:
    if callback is None:
        return None
    total = done = 0

    def watch(event: Event) -> None:
        nonlocal total, done
        if isinstance(event, TransferStarted):
            # What the journal only lists is announced when it has been read.
            total = max(total, done + event.files)
        elif isinstance(event, FileDone):
            done += 1
            # A walk fetches status files before it knows how many files there are in all.
            callback(done, max(total, done), event.path)

    return watch
