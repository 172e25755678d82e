"""`MetadataSyncService`: syncs on demand or in the background."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from runicorn.errors import CancelledError, RunicornError, UsageError
from runicorn.manifest.rules import escape
from runicorn.remote_storage.cache import LocalCacheManager
from runicorn.remote_storage.manifest_sync import ManifestSyncClient, ProgressCallback
from runicorn.remote_storage.options import AUTO, WALK, SyncOptions
from runicorn.remote_storage.report import Event, Observer, SyncReport
from runicorn.remote_storage.transport.base import Transport
from runicorn.remote_storage.watch import Watcher, WatchOptions

if TYPE_CHECKING:
    from paramiko import SFTPClient, SSHClient

log = logging.getLogger(__name__)

_STOP_TIMEOUT = 30.0


@dataclass(frozen=True)
class SyncProgress:
    """How far a service is.

    Attributes:
        running: whether a sync is under way.
        completed: files done in this or the last sync.
        total: files to fetch in this or the last sync.
        current_file: path of the last file; a remote name: escape it before it is shown.
        last_stats: statistics of the last sync that ended, or None.
        last_error: why the last sync failed, or an empty string.
    """

    running: bool = False
    completed: int = 0
    total: int = 0
    current_file: str = ""
    last_stats: dict[str, Any] | None = None
    last_error: str = ""

    @property
    def percent(self) -> float:
        """Files done of all files to fetch, 0 to 100."""
        return 100.0 * self.completed / self.total if self.total else 0.0


class MetadataSyncService:
    """Keeps a mirror of a root.

    Args:
        ssh_session: the connected paramiko client; it is kept alive as long as the service.
        sftp_client: an open SFTP client of it; must not be used by others while a sync runs.
        remote_root: the root on the server.
        cache_manager: knows where the mirror lies.
        use_manifest_sync: whether published manifests are used; otherwise folders are walked.
        manifest_sync_jitter: longest random delay before a sync, seconds.
        options: what is synced and how.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the documented interface
        self,
        ssh_session: SSHClient | None,
        sftp_client: SFTPClient | Transport,
        remote_root: str,
        cache_manager: LocalCacheManager,
        use_manifest_sync: bool = True,
        manifest_sync_jitter: float = 5.0,
        options: SyncOptions | None = None,
    ) -> None:
        options = options or SyncOptions()
        method = options.method if use_manifest_sync else WALK
        if use_manifest_sync and options.method == WALK:
            method = AUTO
        self._ssh_session = ssh_session
        self._client = ManifestSyncClient(
            sftp_client,
            remote_root,
            cache_manager.root_dir,
            jitter_max=manifest_sync_jitter,
            options=replace(options, method=method),
        )
        self._callbacks: list[ProgressCallback] = []
        self._observers: list[Observer] = []
        self._last: SyncReport | RunicornError | None = None
        self._progress = SyncProgress()
        self._guard = threading.Lock()
        self._syncing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._calling_back: threading.Thread | None = None

    def add_progress_callback(self, callback: ProgressCallback) -> None:
        """Have a function called after each file, in the thread that syncs."""
        self._callbacks.append(callback)

    def remove_progress_callback(self, callback: ProgressCallback) -> None:
        """Have it called no more."""
        self._callbacks.remove(callback)

    def add_observer(self, observer: Observer) -> None:
        """Have a function told of every `runicorn.remote_storage.report.Event` of the syncs and of the
        background sync, in the thread that syncs."""
        self._observers.append(observer)

    def remove_observer(self, observer: Observer) -> None:
        """Have it told no more."""
        self._observers.remove(observer)

    def get_progress(self) -> SyncProgress:
        """How far the service is; may be called from any thread."""
        with self._guard:
            return self._progress

    def sync_all(self) -> bool:
        """Sync once; a sync that is under way in the background is waited for.

        Returns:
            Whether everything is in place. When not, `get_progress` tells why: ``last_error``, or
            the files in ``last_stats["failed"]``.
        """
        with self._syncing:
            self._update(running=True, completed=0, total=0, current_file="", last_error="")
            try:
                report = self._client.sync_report(self._on_progress, observer=self._tell, cancel=self._stop)
            except RunicornError as error:
                self._last = error
                message = escape(str(error))
                self._update(running=False, last_error=message)
                if not isinstance(error, CancelledError):
                    log.error("sync failed: %s", message)  # noqa: TRY400 - one line for the user, no trace
                return False
            except BaseException:
                self._update(running=False, last_error="interrupted")
                raise
            self._last = report
            self._update(running=False, last_stats=report.as_dict())
            return not report.failed_count

    def start_background_sync(self, interval_seconds: float = 300.0) -> None:
        """Sync now and then every ``interval_seconds``, in a thread of its own.

        After a failure it tries again sooner than that, then ever more rarely, at least once a minute; it
        never gives up. Observers are told of what happens. The connection of a paramiko client that has ended
        cannot be made anew here: that is told again and again, until the program makes a new service.

        Raises:
            UsageError: the interval is not positive, or a background sync runs already.
        """
        if interval_seconds <= 0:
            raise UsageError("the interval of the background sync must be positive")
        with self._guard:
            if self._thread is not None and self._thread.is_alive():
                raise UsageError("the background sync runs already")
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._run, args=(interval_seconds,), name="runicorn-sync", daemon=True
            )
            self._thread.start()

    def stop_background_sync(self) -> None:
        """Stop the background sync; one that is under way ends as soon as it can.

        Called from a progress callback it returns at once, and the sync ends after it.

        Raises:
            RunicornError: it did not end within 30 seconds.
        """
        thread = self._thread
        if thread is None:
            return
        self._stop.set()
        if threading.current_thread() in (thread, self._calling_back):
            return
        thread.join(_STOP_TIMEOUT)
        if thread.is_alive():
            raise RunicornError("the background sync did not end in time")
        self._thread = None
        self._stop.clear()

    def close(self) -> None:
        """Stop the background sync, and give up the channel that was opened.

        Raises:
            RunicornError: the background sync did not end within 30 seconds.
        """
        self.stop_background_sync()
        self._client.close()

    def _run(self, interval: float) -> None:
        options = WatchOptions(interval, stretch=False, persistent=True)
        Watcher(_Background(self), options, self._tell_guarded).run(self._stop)
        self._stop.clear()

    def _look(self) -> SyncReport | None:
        """One sync of the background; raises what it failed with."""
        self._last = None
        try:
            self.sync_all()
        except Exception as error:
            self._take_unexpected(error)
            log.exception("the background sync met an unexpected error; it goes on")
        if isinstance(self._last, RunicornError):
            raise self._last
        return self._last

    def _take_unexpected(self, error: Exception) -> None:
        """Most likely a callback's: it must not end what the user asked to go on."""
        self._update(running=False, last_error=f"{type(error).__name__}: {escape(str(error))}")

    def _tell(self, event: Event) -> None:
        for observer in list(self._observers):
            observer(event)

    def _tell_guarded(self, event: Event) -> None:
        try:
            self._tell(event)
        except Exception as error:
            self._take_unexpected(error)
            log.exception("an observer of the background sync met an unexpected error")

    def _on_progress(self, completed: int, total: int, current_file: str) -> None:
        self._update(completed=completed, total=total, current_file=current_file)
        self._calling_back = threading.current_thread()
        try:
            for callback in list(self._callbacks):
                callback(completed, total, current_file)
        finally:
            self._calling_back = None

    def _update(self, **changes: Any) -> None:
        with self._guard:
            self._progress = replace(self._progress, **changes)


class _Background:
    """The session that the background sync watches. The channel belongs to the service's client, which opens
    and closes it, so that `MetadataSyncService.sync_all` can use it in between."""

    def __init__(self, service: MetadataSyncService) -> None:
        self._service = service

    @property
    def is_connected(self) -> bool:
        return self._service._client.is_connected

    @property
    def looked_at(self) -> float | None:
        last = self._service._last
        return last.generated_at if isinstance(last, SyncReport) else None

    def connect(self) -> None:
        service = self._service
        try:
            with service._syncing:
                service._client.connect()
        except RunicornError as error:
            service._update(last_error=escape(str(error)))
            raise
        except Exception as error:
            service._take_unexpected(error)
            log.exception("the background sync met an unexpected error; it goes on")
            raise RunicornError(service.get_progress().last_error) from error

    def look(self) -> SyncReport | None:
        return self._service._look()

    def disconnect(self) -> None:
        with self._service._syncing:
            self._service._client.close()

    def close(self) -> None:
        """The client is kept for the next sync."""
