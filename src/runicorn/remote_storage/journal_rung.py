"""The top rung: go on in the journal from the cursor's place, or begin with its base."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace

from runicorn.errors import DamagedError, DiskFullError, NoJournalError, UnsafeError
from runicorn.journal.frames import Kind, Place, StoredFrame, beginning
from runicorn.journal.head import Head
from runicorn.manifest.model import Header, Problem
from runicorn.remote_storage import rung
from runicorn.remote_storage.base_install import BaseInstaller
from runicorn.remote_storage.context import SyncContext
from runicorn.remote_storage.diff import Note, SyncPlan, Transfer, decide
from runicorn.remote_storage.journal_reader import JournalReader
from runicorn.remote_storage.known import Cursor
from runicorn.remote_storage.options import JOURNAL
from runicorn.remote_storage.poll import Poll, newest_look
from runicorn.remote_storage.problems import note_problems
from runicorn.remote_storage.removal import Evidence, gone_from_server, settle_marked
from runicorn.remote_storage.replay import Replay
from runicorn.remote_storage.report import BytesReceived, ListingRead, TransferStarted
from runicorn.remote_storage.state import ANY
from runicorn.remote_storage.transfer import Transferer
from runicorn.remote_storage.workers import WORTH_BYTES, Workers, most_workers

_WANTED_AT_ONCE = 2000


class ListingFirst(Exception):  # noqa: N818 - leads to another order of steps
    """It pays to read the manifest first, and to see there how much is selected."""


class JournalRung:
    """One sync by the journal.

    Args:
        context: the sync.
        reader: reads the journal.
        is_intact: whether other programs left the mirror alone, as far as that was looked at.

    Attributes:
        held: how many files the mirror held before this sync, when they have been counted.
    """

    def __init__(self, context: SyncContext, reader: JournalReader, *, is_intact: bool) -> None:
        self._context = context
        self._reader = reader
        self._state = context.mirror.state
        self._options = context.options
        self._insists = context.options.method == JOURNAL
        self._is_intact = is_intact
        self._evidence: Evidence | None = None
        self._problems: tuple[Problem, ...] = ()
        self._is_news = False
        self._came_along = False
        self._came: set[tuple[str, str]] = set()
        self._has_crossed = False
        self.held: int | None = None
        cursor = self._state.cursor
        self._last = cursor.identity if cursor is not None else None

    def run(self, *, listing_read: bool = False) -> SyncPlan | None:
        """All steps; gives what was removed, or None when there was nothing new.

        Args:
            listing_read: whether the manifest has been read, and the journal is still the better way.

        Raises:
            NoJournalError: the journal does not lead on from here, or is not the better way.
            DamagedError: it does not fit together. What was proven before is in place.
            ListingFirst: see there.
            RunicornError: everything else.
        """
        self._context.report.method = JOURNAL
        cursor, reason = self._usable_cursor()
        if cursor is None or cursor.place is None:
            begins = self._options.selection.is_everything and self._is_new()
            head = self._reader.look(None, begins=begins)
            return self._begin(head, reason, listing_read=listing_read)
        poll = self._reader.poll(cursor.place) if cursor.identity is not None else None
        if poll is not None:
            return self._go_on_polled(cursor, cursor.place, poll)
        return self._go_on_from(cursor, cursor.place)

    def _usable_cursor(self) -> tuple[Cursor | None, str]:
        """The cursor when the mirror can go on from there, else why it cannot."""
        cursor = self._state.cursor
        if cursor is None or cursor.place is None:
            return None, "the mirror is at no place of the journal yet"
        if cursor.selection != self._options.selection.key:
            return None, "another part of the root is selected than before"
        if not self._is_intact:
            return None, "files of the mirror were changed by another program"
        # The place of a mirror that has an active manifest on top is that of the full one below it.
        return replace(cursor, identity=cursor.base or cursor.identity, base=None), ""

    # -- ways to the end of the journal ----------------------------------------------------

    def _go_on_from(self, cursor: Cursor, place: Place) -> SyncPlan | None:
        head = self._reader.look(place)
        reason = ""
        if self._state.lineage[0] != head.identity.lineage:
            reason = "the root has another history than the mirror"
        elif not self._reader.has_open(place.epoch):
            reason = "the mirror's epoch of the journal is not there any more"
        if reason:
            return self._begin(head, reason, listing_read=False)
        if not self._insists:
            reason = rung.reason_to_leave(head, place, self._options.selection)
        if reason:
            raise NoJournalError(reason)
        return self._go_on(head, cursor, place)

    def _begin(self, head: Head, reason: str, *, listing_read: bool) -> SyncPlan | None:
        """Begin with the base: a mirror that is empty, or a user who insists."""
        is_new = self._is_new()
        if not is_new and not self._insists:
            raise NoJournalError(reason)
        if not self._insists and not listing_read and rung.asks_for_listing(head, self._options.selection):
            raise ListingFirst
        if is_new and self._options.selection.is_everything:
            self._require_space(head)
        place = beginning(head.epoch)
        cursor = Cursor(None, self._options.selection.key, head.generated_at, place=place, began_empty=is_new)
        self._state.enter_lineage(head.identity.lineage, self._options.source)
        self._state.begin_base(cursor)
        return self._go_on(head, cursor, place, is_new=is_new)

    def _is_new(self) -> bool:
        return self._state.is_empty() and self._context.mirror.tree.is_empty()

    def _require_space(self, head: Head) -> None:
        """HEAD's sum is a number that nothing proves; the manifest's is that of its entries."""
        try:
            self._context.require_space(head.total_bytes)
        except DiskFullError as error:
            if self._insists:
                raise
            raise NoJournalError("the mirror's disk has no room for what the journal's HEAD tells") from error

    def _is_ahead(self, head: Head, cursor: Cursor, place: Place) -> bool:
        """Whether the mirror has read by a poll what HEAD, which is written last, does not tell yet."""
        if cursor.identity is None or place == head.end:
            return False
        if place.epoch != head.epoch:
            newer = cursor.identity.revision >= head.identity.revision
            if not newer or self._reader.is_sealed_at(place):
                return False
            return self._reader.leads_on(head, place.epoch, self._context.cancel)
        newer = cursor.identity.revision > head.identity.revision and place.offset > head.end.offset
        return newer and self._reader.size(place.epoch) >= place.offset

    def _go_on(self, head: Head, cursor: Cursor, place: Place, *, is_new: bool = False) -> SyncPlan | None:
        if self._is_ahead(head, cursor, place):
            self._announce(0)
            return self._conclude(cursor)
        self._take_head(head)
        if place == head.end and cursor.identity != head.identity:
            raise DamagedError("the journal's HEAD gives this place another state than the mirror has")
        if place != head.end:
            files = head.total_files if is_new and self._options.selection.is_everything else 0
            self._announce(rung.base_bytes(head, place, self._options.selection), files)
            frames = self._reader.frames(
                place,
                head,
                media=self._options.selection.media,
                cancel=self._context.cancel,
                received=self._received,
            )
            replay = self._replay(cursor, head.identity.lineage, head if is_new else None)
            self._apply(replay, frames)
            if replay.identity != head.identity or replay.place != head.end:
                raise DamagedError("the journal ends at another state than its HEAD tells")
            self._came_along = cursor.began_empty
            if cursor.identity is None or place.epoch != head.epoch:
                self._has_crossed = True
            cursor = replay.cursor()
        if self._has_crossed:
            self._require_all(head)
        return self._conclude(replace(cursor, generated_at=head.generated_at))

    def _require_all(self, head: Head) -> None:
        """Within an epoch the chain tells a mirror that missed something; behind a base or a seal the number
        of files has to."""
        if not self._options.selection.is_everything or self._state.listed_count() == head.total_files:
            return
        self._state.move_cursor(Cursor(None, self._options.selection.key, None, forgot=True))
        raise DamagedError("the journal tells of another number of files than its HEAD")

    def _replay(self, cursor: Cursor, lineage: str | None, base_of: Head | None = None) -> Replay:
        """Args: base_of: HEAD of the base that an empty mirror begins with."""
        if self._options.delete:
            self.count_held()  # before anything is applied
        replay = Replay(self._context, self._state.lineage[1], cursor, lineage)
        replay.came = self._came
        if base_of is not None and cursor.place is not None:
            workers = self._context.workers
            if workers is None:
                size = rung.base_bytes(base_of, cursor.place, self._options.selection)
                workers = Workers(most_workers() if size >= WORTH_BYTES else 0)
            replay.base = BaseInstaller(self._context, self._state.lineage[1], cursor, cursor.place, workers)
        return replay

    def _go_on_polled(self, cursor: Cursor, place: Place, poll: Poll) -> SyncPlan | None:
        """Go on in an epoch that is open, without HEAD."""
        looked_at = newest_look(poll.looked_at, cursor.generated_at)
        if poll.size == place.offset:
            self._announce(0)
            self._context.report.total_experiments, self._context.report.problem_count = self._reader.told
            return self._conclude(replace(cursor, generated_at=looked_at))
        if poll.committed == place or not poll.is_all:
            # What nobody has committed must not be applied. Or the path leads to another file by now.
            self._reader.forget()
            return self._go_on_from(cursor, place)
        self._announce(poll.committed.offset - place.offset)
        replay = self._replay(cursor, self._state.lineage[0])
        cancel = self._context.cancel
        self._apply(replay, self._reader.tail(place, poll.committed, cancel=cancel, received=self._received))
        cursor = replay.cursor()
        if replay.place.epoch == place.epoch:
            looked_at = max(looked_at, cursor.generated_at or 0.0)
            return self._conclude(replace(cursor, generated_at=looked_at))
        self._state.move_cursor(cursor)
        self._has_crossed = True
        return self._go_on_from(cursor, replay.place)

    def _apply(self, replay: Replay, frames: Generator[StoredFrame, None, None]) -> None:
        with closing(replay):
            try:
                with closing(frames):
                    for frame in frames:
                        replay.take(frame)
                        if frame.kind is Kind.COMMIT and replay.header is not None:
                            self._take_commit(replay.header)
                replay.flush()
            except UnsafeError:
                replay.discard()
                raise
            except BaseException:
                replay.give_up()
                raise

    def _received(self, count: int) -> None:
        self._context.observe(BytesReceived(count))

    def _announce(self, total_bytes: int, files: int = 0) -> None:
        self._context.observe(ListingRead(JOURNAL, ""))
        self._context.observe(TransferStarted(files, total_bytes))

    def count_held(self) -> int:
        """How many files the mirror held before this sync; counted when it is asked for the first time."""
        if self.held is None:
            self.held = self._state.count()
        return self.held

    # -- what the server says of itself ------------------------------------------------------

    def _take_head(self, head: Head) -> None:
        report = self._context.report
        self._reader.told = report.total_experiments, report.problem_count = (
            head.total_experiments,
            head.problem_count,
        )
        report.total_files, report.total_bytes = head.total_files, head.total_bytes
        if self._evidence is not None and self._evidence.identity == head.identity:
            return  # the commit of the same state tells more
        self._evidence = Evidence(
            identity=head.identity,
            is_full=True,
            complete=head.complete,
            total_experiments=head.total_experiments,
            problem_count=head.problem_count,
        )

    def _take_commit(self, header: Header) -> None:
        report = self._context.report
        self._reader.told = report.total_experiments, report.problem_count = (
            header.total_experiments,
            header.problem_count,
        )
        report.total_files, report.total_bytes = header.total_files, header.total_bytes
        self._evidence = Evidence.of_commit(header)
        self._problems = header.problems
        self._is_news = True

    # -- the end -------------------------------------------------------------------------------

    def _conclude(self, cursor: Cursor) -> SyncPlan | None:
        report, state, is_news = self._context.report, self._state, self._is_news
        report.generated_at = cursor.generated_at
        if cursor.identity is not None:
            report.manifest_revision = cursor.identity.revision
            report.lineage = cursor.identity.lineage
        snapshot = cursor.identity.snapshot_id if cursor.identity is not None else ANY
        wants = not state.wants_nothing(snapshot)
        if wants:
            self._fetch_wanted(state.lineage[1], snapshot)
        if is_news:
            note_problems(state, self._problems)
        plan = SyncPlan()
        keeps_gone = cursor.keeps_gone
        if is_news and cursor.identity != self._last:
            self._mark_unpublished()
        if self._evidence is not None and (is_news or self._options.delete):
            came = None if self._came_along else self._came
            settle_marked(self._context, self._evidence, self._last, self.count_held, came)
            keeps_gone = report.gone_count > 0
        if is_news and not self._options.selection.is_everything:
            report.total_files, report.total_bytes = state.totals()
        state.move_cursor(replace(cursor, keeps_gone=keeps_gone))
        if is_news or wants or report.removed_count:
            return plan
        report.skipped, report.reason = True, "no changes"
        report.total_files = report.total_bytes = 0
        return None

    def _mark_unpublished(self) -> None:
        """Take what a walk brought, no revision has listed, and the server has no more, for removed."""
        wants = self._options.selection.wants_known
        keys = gone_from_server(self._context, (key for key in self._state.unpublished() if wants(*key)))
        if keys:
            self._state.record((), gone=keys)

    def _fetch_wanted(self, epoch: int, snapshot: str) -> None:
        """Fetch by range what the journal only lists, and what could not be applied."""
        after = None
        while wanted := self._state.wanted(_WANTED_AT_ONCE, snapshot, after):
            after = wanted[-1].key
            transfers: list[Transfer] = []
            for each in wanted:
                run, (entry,) = each.run, each.run.files
                known = self._context.knowledge.of_entries(run, run.files)
                inner = entry.path[len(run.folder) + 1 :]
                action = decide(run, entry, known.get(inner))
                if action is None or isinstance(action, Note):
                    self._state.record([(run.folder, inner, known[inner].listed_as(entry, epoch))])
                else:
                    transfers.append(action)
            if transfers:
                total = sum(transfer.bytes_expected for transfer in transfers)
                self._context.observe(TransferStarted(len(transfers), total))
                self._context.require_space(total)
                Transferer(self._context).run(transfers, epoch, snapshot)
