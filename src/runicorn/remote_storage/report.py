"""What a sync tells: events while it runs, a report at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from runicorn.remote_storage.transport.base import Traffic


@dataclass(frozen=True, slots=True)
class ListingRead:
    """It is known what the server holds.

    Attributes:
        method: ``journal``, ``manifest`` or ``walk``.
        fallback_reason: why the method above was left, or an empty string.
    """

    method: str
    fallback_reason: str


@dataclass(frozen=True, slots=True)
class TransferStarted:
    """It is known what has to be fetched.

    Attributes:
        files: number of files; 0 when it is not known, as with the news of the journal.
        total_bytes: bytes to receive.
    """

    files: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class BytesReceived:
    """File content has come.

    Attributes:
        count: bytes.
    """

    count: int


@dataclass(frozen=True, slots=True)
class FileDone:
    """A file is in place.

    Attributes:
        path: relative to the root; a remote name: escape it before it is shown.
        size: bytes that it was expected to need.
    """

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileFailed:
    """A file could not be fetched and is tried again, or given up for this sync.

    Attributes:
        path: relative to the root; a remote name: escape it before it is shown.
        error: one line, escaped.
        final: whether it is given up.
    """

    path: str
    error: str
    final: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that is not as listed after this sync.

    Attributes:
        path: relative to the root; a remote name: escape it before it is shown.
        error: one line, escaped.
    """

    path: str
    error: str


@dataclass(slots=True)
class SyncReport:
    """How a sync went; `as_dict` gives the documented statistics.

    Attributes:
        skipped: whether there was nothing to do.
        reason: why it was skipped, or an empty string.
        method: ``journal``, ``manifest`` or ``walk``.
        fallback_reason: why the method above was left, or an empty string.
        files_synced: files brought up to date.
        full_count: of them those fetched whole.
        incremental_count: of them the logs that were appended to.
        failed_count: files that are not as listed; the next sync tries them again.
        vanished_count: listed files that the server deleted meanwhile.
        removed_count: files removed from the mirror.
        gone_count: files of the mirror that the server does not list any more, and that are kept.
        kept_reason: why they are kept, or an empty string.
        problem_count: what the server could not list.
        bytes_downloaded: file content received, bytes.
        requests: requests sent.
        bytes_received: everything received from the server, bytes.
        duration: seconds.
        total_experiments: runs that the server lists.
        total_files: files that the server lists and that are selected.
        total_bytes: sum of their sizes, bytes.
        manifest_revision: revision of the manifest, or None after a walk.
        lineage: lineage of the manifest, or None.
        generated_at: when the server looked, seconds since the epoch; None after a walk.
        dry_run: whether nothing was written.
        failed: the files that failed.
    """

    skipped: bool = False
    reason: str = ""
    method: str = ""
    fallback_reason: str = ""
    files_synced: int = 0
    full_count: int = 0
    incremental_count: int = 0
    failed_count: int = 0
    vanished_count: int = 0
    removed_count: int = 0
    gone_count: int = 0
    kept_reason: str = ""
    problem_count: int = 0
    bytes_downloaded: int = 0
    requests: int = 0
    bytes_received: int = 0
    duration: float = 0.0
    total_experiments: int = 0
    total_files: int = 0
    total_bytes: int = 0
    manifest_revision: int | None = None
    lineage: str | None = None
    generated_at: float | None = None
    dry_run: bool = False
    failed: list[Failure] = field(default_factory=list)

    def leave(self, reason: str) -> None:
        """Take note of why a rung was left; one line, escaped."""
        self.fallback_reason = f"{self.fallback_reason}; {reason}" if self.fallback_reason else reason

    def fail(self, path: str, error: str) -> None:
        """Take note of a file that failed; ``error`` is one line, escaped."""
        self.failed_count += 1
        self.failed.append(Failure(path, error))

    def count_traffic(self, before: Traffic, after: Traffic) -> None:
        """Set what the connection has done between two moments."""
        self.requests = after.requests - before.requests
        self.bytes_received = after.received - before.received

    def as_dict(self) -> dict[str, Any]:
        """The statistics as plain values, ready for JSON."""
        return asdict(self)


# -- what a watch tells besides, see `runicorn.remote_storage.watch` ----------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The server was reached, for the first time or again.

    Attributes:
        away: seconds since the connection was lost; None the first time.
    """

    away: float | None


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The connection ended; another one is made.

    Attributes:
        error: one line, escaped.
        retry_in: seconds until then; 0 = at once.
    """

    error: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class SyncFinished:
    """A sync of a watch ended; looks that found nothing new are not told.

    Attributes:
        report: how it went.
    """

    report: SyncReport


@dataclass(frozen=True, slots=True)
class SyncFailed:
    """A sync of a watch failed for a reason that may pass, other than the connection.

    Attributes:
        error: one line, escaped.
        exit_code: what a command would end with.
        retry_in: seconds until the next one.
    """

    error: str
    exit_code: int
    retry_in: float


@dataclass(frozen=True, slots=True)
class PublicationStale:
    """The server has published nothing for longer than it used to: its generator may be dead.

    Attributes:
        unchanged: seconds, by this machine's steady clock, since the server's time of its last look was seen
            to change.
        usual: the longest time between two of its looks that was seen before, seconds by the server's clock;
            None when no two were seen.
    """

    unchanged: float
    usual: float | None


@dataclass(frozen=True, slots=True)
class PublicationFresh:
    """After `PublicationStale`: the server publishes again."""


SyncEvent: TypeAlias = ListingRead | TransferStarted | BytesReceived | FileDone | FileFailed
"""What happens during a sync."""
WatchEvent: TypeAlias = (
    Connected | ConnectionLost | SyncFinished | SyncFailed | PublicationStale | PublicationFresh
)
"""What happens around it."""
Event: TypeAlias = SyncEvent | WatchEvent
"""Anything that an observer is told."""
Observer: TypeAlias = Callable[[Event], None]
"""Is called with each event, in the thread that syncs."""


def ignore(_event: Event) -> None:
    """An observer that looks away."""
