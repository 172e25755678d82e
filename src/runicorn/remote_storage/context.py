"""What all steps of one sync share."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from runicorn.errors import CancelledError, DiskFullError
from runicorn.remote_storage.knowledge import Knowledge
from runicorn.remote_storage.opening import OpenMirror
from runicorn.remote_storage.options import SyncOptions
from runicorn.remote_storage.report import Observer, SyncReport
from runicorn.remote_storage.transport.base import Transport
from runicorn.remote_storage.workers import Workers


@dataclass(frozen=True, slots=True)
class SyncContext:
    """One sync.

    Attributes:
        transport: the connection.
        remote_root: the root on the server, without a slash at its end.
        mirror: the mirror.
        options: how it is done.
        observe: is told of every step.
        cancel: when it is set, the sync ends as soon as it can.
        knowledge: what is known of the mirror's files.
        report: the statistics so far.
        workers: processes that wait to help with the base of the journal; None when none were started.
    """

    transport: Transport
    remote_root: str
    mirror: OpenMirror
    options: SyncOptions
    observe: Observer
    cancel: threading.Event
    knowledge: Knowledge
    report: SyncReport
    workers: Workers | None = None

    def require_space(self, size: int) -> None:
        """Stop here when the disk has no room for so many bytes; what is staged already counts.

        Raises:
            DiskFullError: it has none.
        """
        tree = self.mirror.tree
        needed, free = size - tree.staging.staged_bytes(), tree.free_bytes()
        if needed > free:
            raise DiskFullError(f"{needed} bytes have to be fetched, the mirror's disk has {free} free")

    def check(self) -> None:
        """Stop here when the sync was cancelled.

        Raises:
            CancelledError: it was.
        """
        if self.cancel.is_set():
            raise CancelledError("the sync was stopped")
