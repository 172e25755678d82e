"""How a sync is done."""

from __future__ import annotations

from dataclasses import dataclass, field

from runicorn.errors import UsageError
from runicorn.remote_storage.selection import Selection

JOURNAL = "journal"
MANIFEST = "manifest"
WALK = "walk"
AUTO = "auto"
METHODS = (AUTO, JOURNAL, MANIFEST, WALK)


@dataclass(frozen=True)
class SyncOptions:
    """How a sync is done.

    Attributes:
        method: ``auto`` (the best way that works), ``journal``, ``manifest`` or ``walk`` (that one or none).
        selection: what is synced.
        delete: whether files that the server removed are removed here (law 4).
        force_delete: leave to remove more than half of the mirror.
        source: what tells this root from every other one: host, port and path. Without it nothing is
            removed on account of a walk, which has no lineage to go by.
        dry_run: plan only; nothing is written.
        lock_timeout: how long to wait for another sync of the same mirror, seconds.
    """

    method: str = AUTO
    selection: Selection = field(default_factory=Selection)
    delete: bool = False
    force_delete: bool = False
    source: str = ""
    dry_run: bool = False
    lock_timeout: float = 5.0

    def check(self) -> None:
        """Refuse what means nothing.

        Raises:
            UsageError: a value is out of bounds.
        """
        if self.method not in METHODS:
            raise UsageError(f"there is no method {self.method!r}; it is one of {', '.join(METHODS)}")
        if self.method == JOURNAL and self.dry_run:
            raise UsageError("a dry run cannot go by the journal", hint="use --method manifest")
        if self.lock_timeout < 0:
            raise UsageError("the time to wait for the mirror cannot be negative")
        if self.force_delete and not self.delete:
            raise UsageError("--force-delete needs --delete")
        self.selection.check()
