"""The lower rungs: learn a listing of the root (manifest or walk), plan, transfer, remove, record.

Both share the plan, the transfer and the putting in place; they differ in how the listing is learned.
The cursor moves last, and only when nothing is left undone (law 2).
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace

from runicorn.errors import DamagedError, NoManifestError, NoSuchRootError, RequestError
from runicorn.journal.frames import Place
from runicorn.manifest.model import Identity, Run
from runicorn.manifest.rules import escape
from runicorn.remote_storage.collisions import NameClaims
from runicorn.remote_storage.context import SyncContext
from runicorn.remote_storage.diff import Gone, Note, SyncPlan, plan_run
from runicorn.remote_storage.known import Cursor
from runicorn.remote_storage.options import MANIFEST, WALK
from runicorn.remote_storage.problems import note_problems
from runicorn.remote_storage.published import Listing, read_published
from runicorn.remote_storage.removal import Evidence, find_gone, settle_gone
from runicorn.remote_storage.report import ListingRead, TransferStarted
from runicorn.remote_storage.state import ANY
from runicorn.remote_storage.transfer import Transferer
from runicorn.remote_storage.transport.base import Job, Stat
from runicorn.remote_storage.walk import Walker

log = logging.getLogger(__name__)

_STATUS_FILE = "status.json"
_MAX_STATUS = 1024 * 1024


class ListingRung:
    """One sync by a listing.

    Args:
        context: the sync.
        is_intact: whether other programs left the mirror alone, as far as that was looked at.

    Attributes:
        held: how many files the mirror held before this sync, when the rung above has counted them.
        published: the state that the journal's HEAD tells, when it was read.
    """

    def __init__(self, context: SyncContext, *, is_intact: bool) -> None:
        self._context = context
        self._mirror, self._state = context.mirror.tree, context.mirror.state
        self._options = context.options
        self._is_intact = is_intact
        self._tried: set[str] = set()
        self._refused: set[str] = set()
        self.held: int | None = None
        self.published: Identity | None = None
        self._is_doubtful = False
        self._snapshot = ""
        self._unlisted: list[Gone] = []
        self.report = context.report

    # -- learning what there is ------------------------------------------------------------

    def read_manifest(self) -> Listing:
        """The listing that is published; without runs when it is the state of the cursor.

        Raises:
            NoManifestError, DamagedError, UnsafeError, TransportError: as of `read_published`.
        """
        self.report.method = MANIFEST
        context, cursor = self._context, self._state.cursor
        if cursor is None or not self._is_current(cursor):
            return read_published(context.transport, context.remote_root)
        return read_published(context.transport, context.remote_root, cursor.identity, cursor.base)

    def distrust(self) -> None:
        """Compare all that is listed, also when it is the state of the cursor: what brought the mirror there
        has turned out not to fit together, or not to be the history of the root any more."""
        self._is_intact = False
        self._is_doubtful = True

    def learn(self) -> Listing:
        """The listing by the best way that works.

        Raises:
            RunicornError: there is none.
        """
        if self._options.method != WALK:
            try:
                return self.read_manifest()
            except (NoManifestError, DamagedError) as error:
                if self._options.method == MANIFEST:
                    require_root(self._context)
                    raise
                self.report.leave(escape(str(error)))
                log.warning("walking the server's folders: %s", self.report.fallback_reason)
        self.report.method = WALK
        context = self._context
        walker = Walker(context.transport, context.remote_root or "/", self._options.selection, context.check)
        return walker.walk()

    def _is_current(self, cursor: Cursor) -> bool:
        """Whether nothing is left to do when the server publishes what the cursor names."""
        if cursor.selection != self._options.selection.key or (cursor.keeps_gone and self._options.delete):
            return False
        snapshot = cursor.identity.snapshot_id if cursor.identity is not None else ANY
        return self._is_intact and self._state.wants_nothing(snapshot)

    # -- all steps -------------------------------------------------------------------------

    def bring(self, listing: Listing) -> SyncPlan | None:
        """Bring the mirror to the state of a listing; None when there was nothing new."""
        report = self.report
        report.manifest_revision = listing.identity.revision if listing.identity else None
        report.lineage = listing.identity.lineage if listing.identity else None
        report.generated_at = listing.generated_at
        report.problem_count = listing.problem_count
        report.total_experiments = listing.total_experiments
        self._context.observe(ListingRead(report.method, report.fallback_reason))
        if listing.unchanged:
            report.skipped, report.reason = True, "no changes"
            return None
        if not self._options.dry_run:
            note_problems(self._state, listing.problems)
        self._snapshot = listing.identity.snapshot_id if listing.identity is not None else ""
        epoch = self._epoch(listing)
        held = self.held if self.held is not None else self._state.count()
        plan = SyncPlan()
        self._refuse_collisions(listing)
        if report.method == WALK:
            self._is_not_empty_any_more()
            self._sync_statuses(listing, epoch)
        self._plan_runs(listing, plan, epoch)
        self._carry_out(plan, epoch)
        self._unlisted = plan.gone
        plan.gone = settle_gone(self._context, Evidence.of_listing(listing), plan.gone, epoch, held)
        return plan

    def conclude(self, listing: Listing, plan: SyncPlan | None, place: Place | None) -> None:
        """Move the cursor, when nothing is left undone.

        Args:
            listing: the listing.
            plan: what was planned; None when there was nothing new.
            place: where the journal has the state of the listing, when that is known.
        """
        undone = self.report.failed_count + self.report.vanished_count
        if self._options.dry_run or undone:
            return
        if listing.identity is None and self._state.lineage[0] is not None:
            self._end_what_was_begun()
            return
        kept = self.report.gone_count > 0 or (listing.unchanged and self._kept_before())
        cursor = Cursor(
            listing.identity,
            self._options.selection.key,
            listing.generated_at,
            listing.base,
            keeps_gone=kept,
            place=place,
        )
        if plan is None:
            self._state.move_cursor(cursor)
            return
        # The journal tells of a deletion once: what it told before the place is known from here.
        self._state.forget_wanted(listing.identity.snapshot_id if listing.identity is not None else ANY)
        gone = [(each.folder, each.inner) for each in self._unlisted]
        self._state.record((), gone=gone, cursor=cursor)

    def _end_what_was_begun(self) -> None:
        """A walk leaves the cursor at a state of the lineage, from which the journal leads on. Where none was
        reached, the walk is what has come to its end."""
        cursor = self._state.cursor
        if cursor is not None and not cursor.is_complete:
            self._state.move_cursor(Cursor(None, self._options.selection.key, None))

    def _kept_before(self) -> bool:
        cursor = self._state.cursor
        return cursor is not None and cursor.keeps_gone

    def _epoch(self, listing: Listing) -> int:
        if self._options.dry_run:
            return self._state.lineage[1]
        identity = base_identity(listing)
        lineage = identity.lineage if identity is not None else None
        # What only a lost future of the root listed was not removed from it: it stays in the epoch before.
        anew = identity is not None and (self._is_doubtful or self._was_put_back(identity))
        return self._state.enter_lineage(lineage, self._options.source, anew=anew)

    def _is_not_empty_any_more(self) -> None:
        """What a walk brings into a mirror within its first base is not of the base: it needs leave to go."""
        cursor = self._state.cursor
        if cursor is not None and cursor.began_empty and not self._options.dry_run:
            self._state.move_cursor(replace(cursor, began_empty=False))

    def _was_put_back(self, listed: Identity) -> bool:
        """Whether the root is at a state before the mirror's, as when it was restored from a backup."""
        cursor, head = self._state.cursor, self.published
        last = None if cursor is None else cursor.base or cursor.identity
        if last is None or last.lineage is None or last.lineage != listed.lineage:
            return False
        if head is not None and head.lineage == last.lineage and head.revision >= last.revision:
            return False  # its manifests lag behind its journal
        return listed.revision < last.revision or (listed.revision == last.revision and listed != last)

    # -- planning --------------------------------------------------------------------------

    def _refuse_collisions(self, listing: Listing) -> None:
        """Fail what this disk cannot hold beside another file, before anything is written in its place."""
        if self._options.dry_run or not self._mirror.folds():
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
        cursor = self._state.cursor
        last = cursor.identity if cursor is not None else None
        plan.gone = find_gone(self._context, listing, last)
        self.report.total_files = plan.listed_files
        self.report.total_bytes = plan.listed_bytes

    def _plan_run(self, run: Run, plan: SyncPlan, epoch: int) -> None:
        wants, refused = self._options.selection.wants, self._refused
        entries = [entry for entry in run.files if wants(run, entry) and entry.path not in refused]
        if not entries:
            return
        self._context.check()
        plan.listed_files += len(entries)
        plan.listed_bytes += sum(entry.size for entry in entries)
        known = self._context.knowledge.of_run(run, entries)
        planned = set()
        for action in plan_run(run, entries, known, time.time()):
            planned.add(action.entry.path)
            if isinstance(action, Note):
                plan.notes.append(action)
            elif action.entry.path not in self._tried:
                plan.transfers.append(action)
        start = len(run.folder) + 1
        for entry in entries:
            row = known.get(entry.path[start:])
            if row is None or entry.path in planned:
                continue
            is_news = row.gone or (row.unpublished and self._snapshot)
            if is_news or (epoch and row.epoch != epoch):
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
            self._context.observe(TransferStarted(len(plan.transfers), plan.total_bytes))
        if self._options.dry_run:
            return
        self._context.require_space(sum(transfer.bytes_expected for transfer in plan.transfers))
        self._note(plan.notes, epoch)
        if plan.transfers:
            Transferer(self._context).run(plan.transfers, epoch, self._snapshot)

    def _note(self, notes: list[Note], epoch: int) -> None:
        is_walk = not self._snapshot
        self._state.record(
            (
                note.run.folder,
                note.entry.path[len(note.run.folder) + 1 :],
                note.known.listed_as(note.entry, epoch or note.known.epoch, unpublished=is_walk),
            )
            for note in notes
        )


def base_identity(listing: Listing) -> Identity | None:
    """The state of which a listing tells all: of the full manifest, when an active one was laid over it."""
    return listing.base or listing.identity


def require_root(context: SyncContext) -> None:
    """Raise NoSuchRootError when the root does not exist."""
    context.transport.run(iter([_require_root(context.remote_root or "/")]))


def _require_root(remote_root: str) -> Job:
    (answer,) = yield [Stat(remote_root)]
    if isinstance(answer, RequestError):
        raise NoSuchRootError(f"there is no folder {escape(remote_root)} at the source") from answer
