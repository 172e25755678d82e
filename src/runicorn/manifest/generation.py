"""One generation: scan, identity, scan state, journal, manifest, in the order of the format."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from runicorn._version import __version__
from runicorn.errors import PublishError
from runicorn.manifest.identity import identity_after, identity_without_state
from runicorn.manifest.journal_writer import JournalWriter, Outcome
from runicorn.manifest.model import Header, Identity, ManifestType, Run
from runicorn.manifest.publish import Body, standard_name, stored_headers, write_manifest
from runicorn.manifest.rules import escape
from runicorn.manifest.scan import ForJournal, Found, Scanner, Scope
from runicorn.manifest.scan_output import StateOutput
from runicorn.manifest.scan_problems import Problems
from runicorn.manifest.scan_reader import StateReader
from runicorn.manifest.scan_state import STATE_NAME, RunState, StateLost, Summary
from runicorn.manifest.standing import Standing

_log = logging.getLogger("runicorn.manifest")


def _hostname() -> str:
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return escape(name)[:255]


def _nothing() -> None:
    pass


class Hooks(NamedTuple):
    """Whom a generation tells how it gets on.

    Attributes:
        entered: see `runicorn.manifest.scan.Scope`.
        beat: called again and again while it gets on.
        check: called when the scan has ended, before anything is written; what it raises ends the generation.
    """

    entered: Callable[[int, str], None] | None = None
    beat: Callable[[], None] = _nothing
    check: Callable[[], None] = _nothing


class Order(NamedTuple):
    """What is to be generated.

    Attributes:
        root: the folder that holds all runs, without links.
        shown_root: the same as it was named.
        output: where manifests, state and journal lie.
        manifest_type: what the manifest lists.
        target: where it is put.
        racy_from: files that changed at this time (ns) or later are read again next time.
        active_window: seconds, see `runicorn.manifest.generator.ManifestGenerator`.
        incremental: whether files that have not changed inherit their digests unread.
        journal: whether a journal is kept.
        compact: whether it is begun anew.
        standing: takes what was found, for `runicorn.manifest.changes`; None when nobody wants it.
        hooks: whom to tell.
        still: whether ``standing`` is what there is, so that nothing has to be looked at.
    """

    root: str
    shown_root: str
    output: Path
    manifest_type: ManifestType
    target: Path
    racy_from: int
    active_window: int
    incremental: bool
    journal: bool
    compact: bool
    standing: Standing | None = None
    hooks: Hooks = Hooks()
    still: bool = False


def publish(order: Order, runs: list[Run] | None) -> tuple[Header, str]:
    """Scan and publish, under the generator's lock.

    Args:
        order: what.
        runs: takes the runs that the manifest lists; None when they are not wanted.

    Returns:
        The header, and why no journal was kept although it was wanted (else empty).

    Raises:
        PublishError: the root cannot be read; something else lies in the place of a file.
        OSError: the output cannot be written.
    """
    journal = JournalWriter(order.output, order.root, wanted=order.journal, compact=order.compact)
    journal.beat = order.hooks.beat
    known = None
    if order.standing is not None:
        known, order.standing.summary = order.standing.summary, None
    try:
        journal.open()
        order = order._replace(still=order.still and known is not None and journal.identity == known.identity)
        try:
            header = _Generation(order, journal, runs, StateReader(order.output / STATE_NAME)).run()
        except StateLost as error:
            _log.info("no scan state (%s): everything is read", error)
            if runs is not None:
                runs.clear()
            header = _without_state(order._replace(still=False), journal, runs)
        return header, journal.trouble
    finally:
        journal.close()


def _without_state(order: Order, journal: JournalWriter, runs: list[Run] | None) -> Header:
    """A generation that reads everything; what it has written itself it has to be able to read."""
    try:
        return _Generation(order, journal, runs, None).run()
    except StateLost as error:
        raise PublishError(f"cannot read the scan state that was just written: {error}") from error


def full_header(order: Order, looked_at: float, problems: Problems, identity: Identity) -> Header:
    """The header of a full manifest, but for its sums.

    Args:
        order: what was to be generated.
        looked_at: when the scan began, seconds since the epoch.
        problems: what it could not list.
        identity: what the state is called.
    """
    return Header(
        manifest_type=ManifestType.FULL,
        identity=identity,
        generated_at=looked_at,
        server_hostname=_hostname(),
        remote_root=escape(order.shown_root)[:4096],
        total_experiments=0,
        total_files=0,
        total_bytes=0,
        complete=not problems.hides_files,
        problems=tuple(problems.listed),
        problem_count=problems.count,
        generator=f"runicorn {__version__}",
    )


class _Still:
    """In the place of a scanner, when nothing has to be looked at."""

    revoked = False
    files_read = bytes_read = 0

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def scan(self, previous: Iterable[RunState]) -> Iterator[Found]:
        return (Found(each, each) for each in previous)


class _Generation:
    """One generation, under the lock."""

    def __init__(
        self, order: Order, journal: JournalWriter, runs: list[Run] | None, reader: StateReader | None
    ) -> None:
        self._order = order
        self._journal = journal
        self._runs = runs
        self._reader = reader
        self._folder = order.output
        self._body = Body(self._folder / STATE_NAME, self._listed)
        self._state = StateOutput(self._folder / STATE_NAME)
        self._changed = False
        self._found: set[str] = set()
        self._looked_at = time.time()
        self._started = time.monotonic()
        window = order.active_window * 10**9
        self._since = time.time_ns() - window if order.manifest_type is ManifestType.ACTIVE else 0

    def run(self) -> Header:
        for_journal = self._journal.for_scan(capture=self._reader is not None)
        scanner = self._scanner(for_journal)
        try:
            previous = self._reader.runs() if self._reader is not None else iter(())
            for found in scanner.scan(previous):
                self._order.hooks.beat()
                self._take(found)
            self._body.end()
            self._log_scan(scanner, time.monotonic() - self._started)
            self._order.hooks.check()
            header = self._install(scanner)
            self._stand(scanner, for_journal, header)
            return header
        finally:
            self._body.close()
            self._state.close()

    def _scanner(self, for_journal: ForJournal) -> Scanner | _Still:
        order = self._order
        if order.still and order.standing is not None:
            return _Still(order.standing.problems)
        return Scanner(
            order.root,
            order.racy_from,
            incremental=order.incremental,
            journal=for_journal,
            scope=Scope(entered=order.hooks.entered, beat=order.hooks.beat),
        )

    def _log_scan(self, scanner: Scanner | _Still, duration: float) -> None:
        if not _log.isEnabledFor(logging.DEBUG):
            return
        _log.debug("scanned %d runs in %.3f s", self._state.runs, duration)
        _log.debug("read %d files, %d bytes", scanner.files_read, scanner.bytes_read)
        _log.debug("inherited %d files", self._state.sums.files - scanner.files_read)
        for problem in scanner.problems.listed:
            _log.debug("problem: %s: %s: %s", problem.path, problem.kind, problem.message)

    def _stand(self, scanner: Scanner | _Still, for_journal: ForJournal, header: Header) -> None:
        """Leave what was found to the scans that look only at what changed."""
        standing = self._order.standing
        if standing is None:
            return
        if not self._order.still:
            standing.keep_only(self._found)
            standing.problems = scanner.problems
            standing.audience = for_journal.told
        if self._journal.identity == header.identity:
            standing.summary = Summary(header.identity, scanner.problems.digest, len(standing))

    def _listed(self, state: RunState) -> bool:
        return state.sums.newest_ns >= self._since

    def _take(self, found: Found) -> None:
        now, old = found
        if now is None:
            self._changed = True
            self._state.start()
            self._body.start()
            return
        if self._order.standing is not None and not self._order.still:
            self._order.standing.put(now)
            self._found.add(now.folder)
        if now is old:
            self._state.keep(now)
            self._body.keep(now)
        else:
            self._take_other(now, old)
        if self._runs is not None and self._listed(now):
            self._runs.append(now.listed())

    def _take_other(self, now: RunState, old: RunState | None) -> None:
        if old is not None and now.encoded() == old.encoded():
            self._state.keep(now)
        else:
            self._state.put(now)
        if old is not None and now.line == old.line:
            self._body.keep(now)
        else:
            self._changed = True
            self._body.put(now)

    def _install(self, scanner: Scanner | _Still) -> Header:
        problems = scanner.problems
        previous = self._reader.summary if self._reader is not None else None
        if self._order.still and (previous is None or previous.identity != self._journal.identity):
            raise StateLost("it has another state than the journal")
        identity = self._identity(previous, problems)
        old = previous.identity if previous is not None else None
        outcome = Outcome(
            self._full_header(identity, problems), old, scanner.revoked, self._state.sums, self._took()
        )
        summary = Summary(identity, problems.digest, self._state.runs)
        self._journal.publish(outcome, self._state, summary, previous)
        self._journal.log(outcome)
        header = self._header(identity, problems)
        target = self._order.target
        write_manifest(target, header, self._body.streams(target, (identity, old)))
        return header

    def _took(self) -> float | None:
        return None if self._order.still else self._started

    def _identity(self, previous: Summary | None, problems: Problems) -> Identity:
        stored = stored_headers(self._folder)
        if previous is None:
            return identity_without_state(
                stored,
                lambda header: self._lists_the_same(header, problems),
                self._journal.seen,
                self._journal.unread,
            )
        changed = self._changed or previous.problems != problems.digest
        return identity_after(
            previous.identity,
            stored,
            changed=changed,
            journal=self._journal.seen,
            unread=self._journal.unread,
        )

    def _lists_the_same(self, stored: Header, problems: Problems) -> bool:
        both_full = stored.manifest_type is self._order.manifest_type is ManifestType.FULL
        return (
            both_full
            and stored.problems == tuple(problems.listed)
            and stored.problem_count == problems.count == len(problems.listed)
            and self._body.equals(self._folder / standard_name(ManifestType.FULL))
        )

    def _header(self, identity: Identity, problems: Problems) -> Header:
        header = self._full_header(identity, problems)
        if self._order.manifest_type is ManifestType.FULL:
            return header
        return replace(
            header,
            manifest_type=self._order.manifest_type,
            total_experiments=self._body.runs,
            total_files=self._body.files,
            total_bytes=self._body.size,
            active_window=self._order.active_window,
        )

    def _full_header(self, identity: Identity, problems: Problems) -> Header:
        told = full_header(self._order, self._looked_at, problems, identity)
        sums = self._state.sums
        return replace(
            told, total_experiments=self._state.runs, total_files=sums.files, total_bytes=sums.size
        )
