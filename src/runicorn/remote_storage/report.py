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


Event: TypeAlias = ListingRead | TransferStarted | BytesReceived | FileDone | FileFailed
Observer: TypeAlias = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """An observer that looks away."""


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
