"""One sync: down the ladder, from the journal over the manifest to a walk, until a rung holds.

Every rung gives the same mirror, each slower than the one above; the report tells which one it was, and
why the one above was left.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from runicorn.errors import (
    DamagedError,
    MirrorError,
    NoJournalError,
    NoManifestError,
    RunicornError,
    UnsupportedVersionError,
)
from runicorn.journal.frames import Place
from runicorn.journal.head import Head
from runicorn.manifest.model import Identity
from runicorn.manifest.rules import escape
from runicorn.remote_storage import rung
from runicorn.remote_storage.contact import note_contact, note_failure
from runicorn.remote_storage.context import SyncContext
from runicorn.remote_storage.diff import SyncPlan
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.journal_reader import JournalReader
from runicorn.remote_storage.journal_rung import JournalRung, ListingFirst
from runicorn.remote_storage.knowledge import Knowledge
from runicorn.remote_storage.listing_rung import ListingRung, base_identity, require_root
from runicorn.remote_storage.opening import OpenMirror, open_mirror, refuse_itself
from runicorn.remote_storage.options import AUTO, JOURNAL, MANIFEST, WALK, SyncOptions
from runicorn.remote_storage.published import Listing
from runicorn.remote_storage.report import Observer, SyncReport, ignore
from runicorn.remote_storage.state_file import is_damage, mapped
from runicorn.remote_storage.transport.base import Transport
from runicorn.remote_storage.workers import Workers

log = logging.getLogger(__name__)

FOLDERS_LOOKED_AT = 500
"""Run folders of the mirror that a sync compares with its records before it goes by them: more would make
its cost grow with the mirror; the next sync looks at the next ones."""

FOLDERS_LOOKED_AT_POLLING = 20
"""The same for a sync over a connection that stays open, which may come every second."""


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What `synchronize` gives.

    Attributes:
        report: the statistics.
        plan: what was planned; None when there was nothing new. The journal brings its changes without a
            plan: then it names only what was removed.
    """

    report: SyncReport
    plan: SyncPlan | None


def synchronize(  # noqa: PLR0913, PLR0917 - what a sync is made of
    transport: Transport,
    remote_root: str,
    mirror_root: Path,
    options: SyncOptions | None = None,
    observer: Observer = ignore,
    cancel: threading.Event | None = None,
    journal: JournalReader | None = None,
    workers: Workers | None = None,
) -> SyncResult:
    """Bring a mirror to the state of a root.

    Args:
        transport: the connection; it is not closed.
        remote_root: the root on the server.
        mirror_root: the folder of the mirror; made when it does not exist.
        options: how it is done.
        observer: is told of every step, in this thread.
        cancel: when it is set, the sync ends as soon as it can.
        journal: reads the journal of this root over this transport. Whoever syncs again over the same
            connection passes the same one each time, and closes it: then a sync without news takes one
            round trip.
        workers: processes that wait to help with the first sync of a mirror; the caller closes them. Without,
            they are started when they are worth it.

    Raises:
        RunicornError: one of its classes for each cause, see `runicorn.errors`. Files that
            failed one by one are no error: they are in the report.
    """
    options = options or SyncOptions()
    options.check()
    started, clock = time.time(), time.monotonic()
    with mapped_failures(), contextlib.ExitStack() as stack:
        mirror = open_mirror(stack, mirror_root, options)
        if journal is None:
            journal = JournalReader(transport, remote_root.rstrip("/"))
            stack.callback(_close, journal)
        way = Way(transport, remote_root, journal, workers)
        try:
            result = synchronize_open(mirror, way, options, observer, cancel)
        except RunicornError as error:
            note_failure(mirror.state, error)
            raise
        result.report.duration = time.monotonic() - clock
        if not options.dry_run:
            mirror.state.add_report(started, result.report.as_dict())
            note_contact(mirror.state, started, time.time(), result.report.generated_at)
        return result


class Way(NamedTuple):
    """How a root is reached.

    Attributes:
        transport: the connection.
        remote_root: the root on the server.
        journal: reads the journal of this root over this transport.
        workers: as of `synchronize`.
    """

    transport: Transport
    remote_root: str
    journal: JournalReader
    workers: Workers | None = None


def synchronize_open(
    mirror: OpenMirror,
    way: Way,
    options: SyncOptions,
    observer: Observer = ignore,
    cancel: threading.Event | None = None,
) -> SyncResult:
    """As `synchronize`, of a mirror that is open already; the sync is not recorded in its history.

    Raises:
        RunicornError, OSError: as of `synchronize`; see `mapped_failures`.
    """
    clock = time.monotonic()
    before = way.transport.traffic
    report = SyncReport(dry_run=options.dry_run)
    root = way.remote_root.rstrip("/")
    stop = cancel or threading.Event()
    if not options.dry_run:
        refuse_itself(mirror, way.transport, root)
    context = SyncContext(
        way.transport, root, mirror, options, observer, stop, Knowledge(mirror), report, way.workers
    )
    plan = _run_through_damage(_Ladder(context, way.journal), mirror, options)
    report.count_traffic(before, way.transport.traffic)
    report.duration = time.monotonic() - clock
    return SyncResult(report, plan)


def _close(journal: JournalReader) -> None:
    with contextlib.suppress(RunicornError):  # the connection may have ended
        journal.close()


@contextlib.contextmanager
def mapped_failures() -> Iterator[None]:
    """What the disk refuses, as an error of this program.

    Raises:
        MirrorError: an OSError, or an error of the state, came out of the block.
    """
    try:
        yield
    except OSError as error:
        raise mirror_error(error) from error
    except sqlite3.Error as error:
        raise mapped(error, Path("the state of the mirror")) from error


def _run_through_damage(ladder: _Ladder, mirror: OpenMirror, options: SyncOptions) -> SyncPlan | None:
    try:
        return ladder.run()
    except sqlite3.DatabaseError as error:
        if not is_damage(error) or options.dry_run:
            raise MirrorError(f"cannot use the state of the mirror: {error}") from error
        mirror.state.start_anew(error)
        return ladder.run()


class _Ladder:
    """The rungs of one sync."""

    def __init__(self, context: SyncContext, journal: JournalReader) -> None:
        self._context = context
        self._journal = journal
        self._method = context.options.method

    def run(self) -> SyncPlan | None:
        """Down the ladder until a rung holds."""
        is_intact = self._is_intact()
        listing_rung = ListingRung(self._context, is_intact=is_intact)
        listing: Listing | None = None
        if self._method in (AUTO, JOURNAL) and not self._context.options.dry_run:
            journal_rung = JournalRung(self._context, self._journal, is_intact=is_intact)
            try:
                try:
                    return journal_rung.run()
                except ListingFirst:
                    listing = self._listing_if_cheaper(listing_rung)
                if listing is None:
                    return journal_rung.run(listing_read=True)
            except (NoJournalError, DamagedError) as error:
                if self._journal.head is not None and _is_damage(error):
                    listing_rung.distrust()
                listing_rung.held = journal_rung.held
                listing_rung.published = None if self._journal.head is None else self._journal.head.identity
                self._leave(error)
        if listing is None:
            listing = listing_rung.learn()
        plan = listing_rung.bring(listing)
        listing_rung.conclude(listing, plan, self._place_of(listing))
        return plan

    def _is_intact(self) -> bool:
        """Whether other programs left the mirror alone, as far as a look of bounded cost can tell."""
        if self._method == WALK:
            return True
        state, knowledge = self._context.mirror.state, self._context.knowledge
        most = FOLDERS_LOOKED_AT_POLLING if self._journal.is_open else FOLDERS_LOOKED_AT
        folders = state.next_folders(most)
        selects = self._context.options.selection.wants_known
        intact = all(knowledge.is_as_recorded(folder, selects) for folder in folders)
        if intact and not self._context.options.dry_run:
            state.looked_at(folders)
        return intact

    def _leave(self, error: RunicornError) -> None:
        """Go one rung down, or give up when the user insists on the journal."""
        if self._method == JOURNAL:
            require_root(self._context)
            raise error
        self._journal.forget()
        self._context.report.leave(escape(str(error)))
        level = logging.INFO if isinstance(error, NoJournalError) else logging.WARNING
        log.log(level, "not by the journal: %s", self._context.report.fallback_reason)

    def _listing_if_cheaper(self, listing_rung: ListingRung) -> Listing | None:
        """The published listing, when what is selected of it costs less than the journal."""
        head = self._journal.head
        try:
            listing = listing_rung.read_manifest()
        except (NoManifestError, DamagedError) as error:
            log.info("the journal is read although only a part is selected: %s", error)
            return None
        reason = rung.reason_for_listing(head, listing, self._context.options.selection) if head else ""
        if not reason:
            return None
        self._context.report.leave(reason)
        return listing

    def _place_of(self, listing: Listing) -> Place | None:
        """Where the journal has the state of a listing, so that the next sync goes on there."""
        identity = base_identity(listing)
        if identity is None or self._context.options.dry_run:
            return None
        if self._method == MANIFEST and listing.unchanged:
            cursor = self._context.mirror.state.cursor
            return cursor.place if cursor is not None else None
        if self._journal.head is None:
            return None
        place = _place_in(self._journal.head, identity)
        if place is None:
            # The manifest may be newer than the HEAD that was read before it.
            with contextlib.suppress(NoJournalError, DamagedError):
                place = _place_in(self._journal.look(None), identity)
        return place


def _is_damage(error: RunicornError) -> bool:
    return isinstance(error, DamagedError) and not isinstance(error, UnsupportedVersionError)


def _place_in(head: Head, identity: Identity) -> Place | None:
    if head.identity == identity:
        return head.end
    if head.manifest is not None and head.manifest.identity == identity:
        return head.manifest.place
    return None
