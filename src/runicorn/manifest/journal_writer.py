"""What a generation does with the journal, in the order that the format prescribes (section Write order)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, Protocol

from runicorn._files import replace_file
from runicorn.journal.frames import Kind, beginning, encode_frame, file_name
from runicorn.journal.head import Head, Published
from runicorn.journal.sections import Seal, encode_begin, encode_commit, encode_seal
from runicorn.manifest.base import write_base
from runicorn.manifest.capture import Capture
from runicorn.manifest.frame_writer import ENTRY_WEIGHT, FrameWriter, codec_of
from runicorn.manifest.identity import random_name
from runicorn.manifest.journal_store import JournalStore, State
from runicorn.manifest.model import Header, Identity, ManifestType
from runicorn.manifest.own_files import LACKS_RIGHTS, LACKS_ROOM
from runicorn.manifest.publish import gz_path, standard_name, stored_header
from runicorn.manifest.rights import Audience, root_is_open
from runicorn.manifest.rules import escape
from runicorn.manifest.scan import ForJournal
from runicorn.manifest.scan_delta import has_delta, settle_delta
from runicorn.manifest.scan_output import adopt_next, drop_next, prepared_identity
from runicorn.manifest.scan_reader import StateReader, stored_identity
from runicorn.manifest.scan_state import STATE_NAME, RunState, Summary, Sums

GRACE = 24 * 3600.0
"""How long a sealed epoch stays, seconds."""

SMALL_EPOCH = 1024 * 1024
"""Bytes up to which an epoch is never left for its length."""

_log = logging.getLogger("runicorn.manifest")


class Outcome(NamedTuple):
    """What a scan has found, for the journal.

    Attributes:
        header: of the full manifest of that state.
        known: the identity that the scan state had; None when that was lost.
        revoked: whether a file became readable by fewer people.
        sums: of all runs.
        started: when the generation began, by the monotonic clock, seconds; None when it looked at a part of
            the root only: then HEAD goes on telling how long the last whole one took.
    """

    header: Header
    known: Identity | None
    revoked: bool
    sums: Sums
    started: float | None


class ScanOutput(Protocol):
    """How the next scan state gets on disk: `StateOutput`, `DeltaOutput`."""

    def prepare(self, summary: Summary, previous: Summary | None) -> Path:
        """Write it, without that it counts; returns the file that holds it."""

    def adopt(self) -> None:
        """Make it count."""


class JournalWriter:
    """The journal of one generation, under the generator's lock.

    Args:
        output: the output folder.
        root: the root, without links.
        wanted: whether a journal is kept; one that is there is removed otherwise.
        compact: whether to begin a new epoch in any case.

    Attributes:
        seen: states that were given a place in the journal.
        unread: number of states after these that cannot be read.
        trouble: why no journal is kept although it is wanted; empty otherwise.
        beat: called again and again while a base is written.
        expected: the state that this process itself left journal and scan state in; None when it did not.

    Raises:
        OSError: from every method.
        PublishError: see `JournalStore`.
    """

    def __init__(self, output: Path, root: str, *, wanted: bool, compact: bool) -> None:
        self._output = output
        self._root = root
        self._wanted = wanted
        self._compact = compact
        self._store = JournalStore(output)
        self._capture: Capture | None = None
        self._audience: Audience | None = None
        self._changed_meanwhile = 0
        self.seen: list[Identity] = []
        self.unread = 0
        self.trouble = ""
        self.beat: Callable[[], None] = lambda: None
        self.expected: Identity | None = None

    @property
    def identity(self) -> Identity | None:
        """The state that the journal ends with; None when there is none to go on with."""
        return self._store.state.identity if self._store.state is not None else None

    def close(self) -> None:
        """Give files back."""
        self._end_capture()
        self._store.close()

    def open(self) -> None:
        """Make whole what the last generator may have left."""
        try:
            self._open()
        except OSError as error:
            if error.errno not in LACKS_RIGHTS:
                raise
            self._go_without(error)
            drop_next(self._output / STATE_NAME)
        self._settle()

    def _settle(self) -> None:
        """Of the changes to the scan state those count that were committed."""
        path = self._output / STATE_NAME
        if not has_delta(path) or (self.expected is not None and self.identity == self.expected):
            return
        last = settle_delta(path, stored_identity(path), self.identity)
        if last is not None and self.identity is None:
            self.seen.append(last)  # it may have been in the journal that is lost

    def _go_without(self, error: OSError) -> None:
        """No journal can be kept: then nothing may be left that looks like one."""
        if self._store.drop_head():
            self.unread += 1
        self._store.give_up(str(error))
        if self._wanted:
            name = escape(str(error.filename or self._store.folder))
            self.trouble = f"no journal is kept, clients work from the manifest: '{name}': {error.strerror}"
        self._wanted = False

    def _open(self) -> None:
        state_path = self._output / STATE_NAME
        if self._wanted or self._store.exists():
            self._audience = self._store.make()
            self._store.open()
            self.seen, self.unread = self._store.seen, self._store.unread
            if self._wanted and not self._audience.known:
                _log.warning(
                    "files made in '%s' get an access control list that cannot be removed: the journal"
                    " carries no content",
                    self._store.folder,
                )
        journal = self._store.state
        prepared = prepared_identity(state_path)
        if journal is not None and prepared == journal.identity:
            adopt_next(state_path)
        elif journal is None and prepared is not None:
            self.seen.append(prepared)  # it may have been in the journal that is lost
        drop_next(state_path)
        if not self._wanted:
            if self._store.exists():
                self._store.remove()
        elif (
            journal is not None and self._audience is not None and not self._store.readable_by(self._audience)
        ):
            self._store.give_up("others may read it than those who may read a new one")

    def for_scan(self, *, capture: bool) -> ForJournal:
        """What the scan has to know.

        Args:
            capture: whether the scan knows what was there before.
        """
        if not self._wanted or self._audience is None:
            return ForJournal()
        self._end_capture()
        journal = self._store.state
        if journal is not None and capture:
            self._capture = Capture(self._output, journal.end)
        return ForJournal(
            self._audience, root_is_open(self._audience, self._root, self._store.folder), self._capture
        )

    def _end_capture(self) -> None:
        if self._capture is not None:
            self._capture.close()
        self._capture = None

    # -- steps 2 to 6 ----------------------------------------------------------------------------

    def publish(
        self, outcome: Outcome, state: ScanOutput, summary: Summary, previous: Summary | None
    ) -> None:
        """Put scan state and journal in place."""
        if not self._wanted:
            state.prepare(summary, previous)
            state.adopt()
            return
        goes_on = self._goes_on(outcome)
        if outcome.revoked:
            _log.info("a file that the journal carries may be read by fewer people: the journal begins anew")
            self._store.begin_anew()
        path = state.prepare(summary, previous)
        if goes_on:
            if self._store.state is not None and self._store.state.identity != summary.identity:
                self._append(outcome.header)
            state.adopt()
            self._leave_if_due(outcome)
        else:
            new = self._first_epoch(outcome, path)
            self._store.begin_anew(*([new.end.epoch] if new is not None else []))
            state.adopt()
            if new is None:
                return
            self._store.enter(new)
        self._put_head(outcome)

    def _goes_on(self, outcome: Outcome) -> bool:
        journal = self._store.state
        if journal is None:
            _log.info("a new journal begins: %s", self._store.trouble)
            return False
        same_line = journal.identity.lineage == outcome.header.identity.lineage
        if self._capture is None or outcome.known != journal.identity or not same_line:
            _log.info("a new journal begins: the old one has another state than the scan state")
            return False
        return not outcome.revoked

    def _append(self, header: Header) -> None:
        journal = self._store.state
        if journal is None or self._capture is None:
            return
        frames, place, weight = self._capture.end()
        commit, end = encode_frame(place, Kind.COMMIT, encode_commit(header), codec=codec_of(Kind.COMMIT))
        self._store.append(*([frames] if frames is not None else []), commit)
        journal.end, journal.identity = end, header.identity
        journal.places[header.identity] = end
        if journal.written is not None:
            journal.written += weight

    def _leave_if_due(self, outcome: Outcome) -> None:
        journal = self._store.state
        if journal is None or not (self._compact or _is_long(journal, outcome.sums)):
            return
        try:
            new = self._new_epoch(outcome, self._output / STATE_NAME)
            seal = Seal(outcome.header.identity, new.base)
            frame, _ = encode_frame(journal.end, Kind.SEAL, encode_seal(seal), codec=codec_of(Kind.SEAL))
            self._store.append(frame)
        except OSError as error:
            if error.errno not in (*LACKS_ROOM, *LACKS_RIGHTS) or not self._store.is_at_end():
                raise
            _log.warning("the journal grows on: no new epoch can be written: %s", error.strerror)
            return
        new.places = journal.places | new.places
        self._store.enter(new)

    def _first_epoch(self, outcome: Outcome, scan_state: Path) -> State | None:
        try:
            return self._new_epoch(outcome, scan_state)
        except OSError as error:
            if error.errno not in (*LACKS_ROOM, *LACKS_RIGHTS):
                raise
            self._go_without(error)
            return None

    def _new_epoch(self, outcome: Outcome, scan_state: Path) -> State:
        assert self._audience is not None  # noqa: S101 - known since the journal was opened
        header = outcome.header
        epoch = random_name()
        with replace_file(self._store.folder / file_name(epoch)) as stream:
            writer = FrameWriter(stream, beginning(epoch))
            lineage = header.identity.lineage or ""
            writer.put(Kind.BEGIN, encode_begin(epoch, lineage, header.generated_at))
            runs = StateReader(scan_state).runs()
            base = write_base(writer, self._root, self._beating(runs), self._audience, self._output)
            writer.put(Kind.COMMIT, encode_commit(header))
        self._changed_meanwhile = base.changed
        place = writer.place
        places = {header.identity: place}
        carriable = outcome.sums.carriable
        return State(place, header.identity, place, base.media, carriable, places, written=writer.weight)

    def _beating(self, runs: Iterable[RunState]) -> Iterator[RunState]:
        for run in runs:
            self.beat()
            yield run

    def _put_head(self, outcome: Outcome) -> None:
        journal = self._store.state
        assert journal is not None  # noqa: S101 - appended to or made anew
        kept = list(
            takewhile(lambda each: each == journal.end.epoch or not self._is_old(each), self._store.kept())
        )
        header = outcome.header
        head = Head(
            identity=journal.identity,
            generated_at=header.generated_at,
            end=journal.end,
            base=journal.base,
            base_bytes=journal.base_bytes,
            media=journal.media,
            total_experiments=header.total_experiments,
            total_files=header.total_files,
            total_bytes=header.total_bytes,
            complete=header.complete,
            problem_count=header.problem_count,
            manifest=self._published(journal, kept),
            written=journal.written,
            duration=self._duration(outcome.started),
        )
        self._store.put_head(head)
        self._store.remove_except(kept)

    def _duration(self, started: float | None) -> float | None:
        return self._store.duration if started is None else round(time.monotonic() - started, 3)

    def _is_old(self, epoch: str) -> bool:
        return self._store.age(epoch, time.time()) > GRACE

    def _published(self, journal: State, kept: list[str]) -> Published | None:
        path = gz_path(self._output / standard_name(ManifestType.FULL))
        header = stored_header(path)
        place = journal.places.get(header.identity) if header is not None else None
        if header is None or place is None or place.epoch not in kept:
            return None
        return Published(header.identity, place, path.stat().st_size)

    def log(self, outcome: Outcome) -> None:
        """Tell what the journal costs."""
        journal = self._store.state
        if journal is None or not self._wanted or not _log.isEnabledFor(logging.DEBUG):
            return
        total = sum(self._store.size(each) for each in self._store.epochs())
        size = outcome.header.total_bytes
        end, base = journal.end.offset, journal.base.offset
        _log.debug("journal: epoch %s, %d bytes, %d of them base", journal.end.epoch, end, base)
        _log.debug("journal: %d bytes in all epochs, %.2f per byte of runs", total, total / max(1, size))
        left = (outcome.sums.private, outcome.sums.large, self._changed_meanwhile)
        _log.debug(
            "journal: not carried: %d files for their rights, %d too large, %d changed meanwhile", *left
        )


def _is_long(journal: State, sums: Sums) -> bool:
    if journal.written is None:
        return True
    fresh = sums.carriable + ENTRY_WEIGHT * sums.files
    return journal.end.offset > SMALL_EPOCH and journal.written > 2 * fresh
