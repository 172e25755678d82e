"""One sync: choose the way to learn what the root holds, plan, transfer, remove, record.

All ways share the plan, the transfer and the putting in place; they differ in how the listing is
learned. The cursor moves last, and only when nothing is left undone (law 2).
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runicorn.errors import (
    CancelledError,
    DamagedError,
    DiskFullError,
    MirrorError,
    NoManifestError,
    NoSuchRootError,
    RequestError,
)
from runicorn.manifest.model import Run
from runicorn.manifest.rules import escape
from runicorn.remote_storage.collisions import NameClaims
from runicorn.remote_storage.diff import Note, SyncPlan, Transfer, plan_run
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.knowledge import Knowledge
from runicorn.remote_storage.known import Cursor, Listed
from runicorn.remote_storage.opening import OpenMirror, open_mirror
from runicorn.remote_storage.options import MANIFEST, WALK, SyncOptions
from runicorn.remote_storage.published import Listing, read_published
from runicorn.remote_storage.removal import find_gone, reason_to_keep, remove_gone
from runicorn.remote_storage.report import ListingRead, Observer, SyncReport, TransferStarted, ignore
from runicorn.remote_storage.state import is_damage
from runicorn.remote_storage.transfer import Transferer
from runicorn.remote_storage.transport.base import Job, Stat, Transport
from runicorn.remote_storage.walk import Walker

log = logging.getLogger(__name__)

FOLDERS_LOOKED_AT = 2000
"""Run folders of the mirror that a sync without news compares with its records: more would make its
cost grow with the mirror; the next sync looks at the next ones."""

_STATUS_FILE = "status.json"
_MAX_STATUS = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What `synchronize` gives.

    Attributes:
        report: the statistics.
        plan: what was planned; None when there was nothing new.
    """

    report: SyncReport
    plan: SyncPlan | None


def synchronize(
    transport: Transport,
    remote_root: str,
    mirror_root: Path,
    options: SyncOptions | None = None,
    observer: Observer = ignore,
    cancel: threading.Event | None = None,
) -> SyncResult:
    """Bring a mirror to the state of a root.

    Args:
        transport: the connection; it is not closed.
        remote_root: the root on the server.
        mirror_root: the folder of the mirror; made when it does not exist.
        options: how it is done.
        observer: is told of every step, in this thread.
        cancel: when it is set, the sync ends as soon as it can.

    Raises:
        RunicornError: one of its classes for each cause, see `runicorn.errors`. Files that
            failed one by one are no error: they are in the report.
    """
    options = options or SyncOptions()
    options.check()
    started = time.time()
    clock = time.monotonic()
    before = transport.traffic
    with _mapped_failures(), contextlib.ExitStack() as stack:
        mirror = open_mirror(stack, mirror_root, options)
        stop = cancel or threading.Event()
        sync = _Sync(transport, remote_root.rstrip("/"), mirror, options, observer, stop)
        plan = _run_through_damage(sync, mirror, options)
        report = sync.report
        report.count_traffic(before, transport.traffic)
        report.duration = time.monotonic() - clock
        if not options.dry_run:
            mirror.state.add_report(started, report.as_dict())
        return SyncResult(report, plan)


@contextlib.contextmanager
def _mapped_failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise mirror_error(error) from error


def _run_through_damage(sync: _Sync, mirror: OpenMirror, options: SyncOptions) -> SyncPlan | None:
    try:
        return sync.run()
    except sqlite3.DatabaseError as error:
        if not is_damage(error) or options.dry_run:
            raise MirrorError(f"cannot use the state of the mirror: {error}") from error
        mirror.state.start_anew(error)
        return sync.run()


class _Sync:
    """The steps of one sync."""

    def __init__(
        self,
        transport: Transport,
        remote_root: str,
        mirror: OpenMirror,
        options: SyncOptions,
        observer: Observer,
        cancel: threading.Event,
    ) -> None:
        self._transport = transport
        self._remote_root = remote_root
        self._place = mirror
        self._mirror = mirror.tree
        self._state = mirror.state
        self._options = options
        self._observe = observer
        self._cancel = cancel
        self._knowledge = Knowledge(mirror)
        self._tried: set[str] = set()
        self._refused: set[str] = set()
        self.report = SyncReport(dry_run=options.dry_run)

    def run(self) -> SyncPlan | None:
        """All steps, in their order."""
        listing = self._learn()
        report = self.report
        report.manifest_revision = listing.identity.revision if listing.identity else None
        report.lineage = listing.identity.lineage if listing.identity else None
        report.generated_at = listing.generated_at
        report.problem_count = listing.problem_count
        report.total_experiments = listing.total_experiments
        self._observe(ListingRead(report.method, report.fallback_reason))
        if listing.unchanged:
            report.skipped, report.reason = True, "no changes"
            self._move_cursor(listing)
            return None
        epoch = self._epoch(listing)
        plan = SyncPlan(held_files=self._state.count())
        self._refuse_collisions(listing)
        if report.method == WALK:
            self._sync_statuses(listing, epoch)
        self._plan_runs(listing, plan, epoch)
        self._carry_out(plan, epoch)
        self._remove(listing, plan, epoch)
        self._conclude(listing)
        return plan

    # -- learning what there is ------------------------------------------------------------

    def _learn(self) -> Listing:
        method = self._options.method
        if method != WALK:
            try:
                self.report.method = MANIFEST
                return self._read_manifest()
            except (NoManifestError, DamagedError) as error:
                if method == MANIFEST:
                    self._transport.run(iter([_require_root(self._remote_root or "/")]))
                    raise
                self.report.fallback_reason = escape(str(error))
                log.warning("walking the server's folders: %s", self.report.fallback_reason)
        self.report.method = WALK
        selection = self._options.selection
        return Walker(self._transport, self._remote_root or "/", selection, self._check).walk()

    def _check(self) -> None:
        if self._cancel.is_set():
            raise CancelledError("the sync was stopped")

    def _read_manifest(self) -> Listing:
        cursor = self._state.cursor
        if cursor is None or not self._is_current(cursor):
            return read_published(self._transport, self._remote_root)
        return read_published(self._transport, self._remote_root, cursor.identity, cursor.base)

    def _is_current(self, cursor: Cursor) -> bool:
        """Whether nothing is left to do when the server publishes what the cursor names."""
        if cursor.selection != self._options.selection.key or (cursor.keeps_gone and self._options.delete):
            return False
        return self._is_intact()

    def _is_intact(self) -> bool:
        """Whether other programs left the mirror alone, as far as a look of bounded cost can tell."""
        folders = self._state.next_folders(FOLDERS_LOOKED_AT)
        intact = all(self._knowledge.is_as_recorded(folder) for folder in folders)
        if intact and not self._options.dry_run:
            self._state.looked_at(folders)
        return intact

    def _epoch(self, listing: Listing) -> int:
        if self._options.dry_run:
            return self._state.lineage[1]
        lineage = listing.identity.lineage if listing.identity is not None else None
        return self._state.enter_lineage(lineage, self._options.source)

    # -- planning --------------------------------------------------------------------------

    def _refuse_collisions(self, listing: Listing) -> None:
        """Fail what this disk cannot hold beside another file, before anything is written in its place."""
        if self._options.dry_run or not self._mirror.takes_names_for_the_same():
            return
        claims, wants = NameClaims(), self._options.selection.wants
        for entry in (entry for run in listing.runs for entry in run.files if wants(run, entry)):
            first = claims.claim(entry.path)
            if first is not None:
                self._refused.add(entry.path)
                reason = f"this disk cannot hold it beside {escape(first)}: the names look the same to it"
                self.report.fail(entry.path, reason)

    def _plan_runs(self, listing: Listing, plan: SyncPlan, epoch: int) -> None:
        for run in listing.runs:
            self._plan_run(run, plan, epoch)
        plan.put_in_order()
        plan.gone = find_gone(self._state, listing, self._options.selection)
        self.report.total_files = plan.listed_files
        self.report.total_bytes = plan.listed_bytes

    def _plan_run(self, run: Run, plan: SyncPlan, epoch: int) -> None:
        wants, refused = self._options.selection.wants, self._refused
        entries = [entry for entry in run.files if wants(run, entry) and entry.path not in refused]
        if not entries:
            return
        self._check()
        plan.listed_files += len(entries)
        plan.listed_bytes += sum(entry.size for entry in entries)
        known = self._knowledge.of_run(run, entries)
        planned = set()
        for action in plan_run(run, entries, known, time.time()):
            planned.add(action.entry.path)
            if isinstance(action, Note):
                plan.notes.append(action)
            elif action.entry.path not in self._tried:
                plan.transfers.append(action)
        if epoch == 0:
            return
        start = len(run.folder) + 1
        for entry in entries:
            row = known.get(entry.path[start:])
            if row is not None and row.epoch != epoch and entry.path not in planned:
                plan.notes.append(Note(run, entry, row))

    def _sync_statuses(self, listing: Listing, epoch: int) -> None:
        """A walk learns from the status files which runs have ended; logs are planned after that."""
        if not self._options.dry_run:
            plan = SyncPlan()
            for run in listing.runs:
                statuses = tuple(entry for entry in run.files if entry.path.endswith("/" + _STATUS_FILE))
                if statuses:
                    self._plan_run(replace(run, files=statuses), plan, epoch)
            plan.put_in_order()
            self._carry_out(plan, epoch, announce=False)
            self._tried = {transfer.entry.path for transfer in plan.transfers}
        listing.runs = [replace(run, status=self._local_status(run)) for run in listing.runs]

    def _local_status(self, run: Run) -> str:
        try:
            raw = json.loads(self._mirror.read_range(f"{run.folder}/{_STATUS_FILE}", 0, _MAX_STATUS))
        except (OSError, ValueError, RecursionError):
            return run.status
        status = raw.get("status") if isinstance(raw, dict) else None
        return status if isinstance(status, str) else run.status

    # -- effects ---------------------------------------------------------------------------

    def _carry_out(self, plan: SyncPlan, epoch: int, *, announce: bool = True) -> None:
        if announce:
            self._observe(TransferStarted(len(plan.transfers), plan.total_bytes))
        if self._options.dry_run:
            return
        self._require_space(plan.transfers)
        self._note(plan.notes, epoch)
        if not plan.transfers:
            return
        fetching = Transferer(
            self._transport, self._remote_root, self._place, self._observe, self.report, self._cancel
        )
        fetching.run(plan.transfers, epoch)

    def _require_space(self, transfers: Sequence[Transfer]) -> None:
        needed = sum(transfer.bytes_expected for transfer in transfers) - self._mirror.staged_bytes()
        free = self._mirror.free_bytes()
        if needed > free:
            raise DiskFullError(f"{needed} bytes have to be fetched, the mirror's disk has {free} free")

    def _note(self, notes: list[Note], epoch: int) -> None:
        self._state.record(
            (
                note.run.folder,
                note.entry.path[len(note.run.folder) + 1 :],
                replace(note.known, listed=Listed.of(note.entry), epoch=epoch or note.known.epoch),
            )
            for note in notes
        )

    def _remove(self, listing: Listing, plan: SyncPlan, epoch: int) -> None:
        if not plan.gone:
            return
        reason = "not asked to delete"
        if self._options.delete:
            reason = reason_to_keep(self._state, listing, plan, self._options)
        if reason:
            self.report.gone_count, self.report.kept_reason = len(plan.gone), reason
            return
        sure = [each for each in plan.gone if not listing.has_problem_at(each.path)]
        if len(sure) < len(plan.gone):
            self.report.gone_count = len(plan.gone) - len(sure)
            self.report.kept_reason = "the server met a problem in their place"
        plan.gone = sure
        if not self._options.dry_run:
            remove_gone(self._mirror, self._state, plan.gone, epoch, self.report)

    def _conclude(self, listing: Listing) -> None:
        if self._options.dry_run:
            return
        undone = self.report.failed_count + self.report.vanished_count
        if undone or (listing.identity is None and self._state.lineage[0] is not None):
            return
        self._move_cursor(listing)

    def _move_cursor(self, listing: Listing) -> None:
        if not self._options.dry_run:
            kept = self.report.gone_count > 0 or (listing.unchanged and self._kept_before())
            cursor = Cursor(
                listing.identity,
                self._options.selection.key,
                listing.generated_at,
                listing.base,
                keeps_gone=kept,
            )
            self._state.move_cursor(cursor)

    def _kept_before(self) -> bool:
        cursor = self._state.cursor
        return cursor is not None and cursor.keeps_gone


def _require_root(remote_root: str) -> Job:
    (answer,) = yield [Stat(remote_root)]
    if isinstance(answer, RequestError):
        raise NoSuchRootError(f"there is no folder {escape(remote_root)} at the source") from answer
