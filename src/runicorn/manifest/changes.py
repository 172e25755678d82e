"""One generation that looks only at what is known to have changed, and writes the journal and HEAD alone
(section A watching generator of the journal's format)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from runicorn.manifest.generation import Order, full_header
from runicorn.manifest.identity import identity_after
from runicorn.manifest.journal_writer import JournalWriter, Outcome
from runicorn.manifest.model import Header
from runicorn.manifest.scan import Found, Scanner, Scope
from runicorn.manifest.scan_limit import Limit, LimitLost
from runicorn.manifest.scan_output import DeltaOutput
from runicorn.manifest.scan_state import STATE_NAME, StateLost, Summary
from runicorn.manifest.standing import Standing


class Published(NamedTuple):
    """What such a generation published.

    Attributes:
        header: of the state that the journal now ends with.
        runs: number of runs that changed.
    """

    header: Header
    runs: int


def publish_changes(
    order: Order, limit: Limit | None, *, renew: bool, began: float | None = None
) -> Published:
    """Scan some folders and publish what changed in them, under the generator's lock.

    Args:
        order: what; its ``standing`` holds the last scan.
        limit: where something may have changed; None for anywhere.
        renew: whether HEAD is renewed also when nothing changed: it is known of the whole root.
        began: when the look at the whole root began that ends with this, by the monotonic clock; else None.

    Raises:
        LimitLost: only a whole generation can go on.
        PublishError: the root cannot be read; something else lies in the place of a file.
        OSError: the output cannot be written.
    """
    standing = order.standing
    if standing is None or standing.summary is None:
        raise LimitLost("nothing is known of the last scan")
    if standing.problems.count > len(standing.problems.reports):
        raise LimitLost("there are too many problems to keep")
    journal = JournalWriter(order.output, order.root, wanted=True, compact=False)
    journal.beat = order.hooks.beat
    previous, standing.summary = standing.summary, None
    journal.expected = previous.identity
    try:
        journal.open()
        if journal.identity != previous.identity:
            raise LimitLost("the journal has another state than the last scan")
        return _Changes(order, standing, journal, previous).publish(limit, renew=renew, began=began)
    except StateLost as error:
        raise LimitLost(str(error)) from error
    finally:
        journal.close()


class _Changes:
    def __init__(self, order: Order, standing: Standing, journal: JournalWriter, previous: Summary) -> None:
        self._order = order
        self._standing = standing
        self._journal = journal
        self._previous = previous
        self._state = DeltaOutput(order.output / STATE_NAME)
        self._sums = standing.sums
        self._count = len(standing)
        self._listed_otherwise = False

    def publish(self, limit: Limit | None, *, renew: bool, began: float | None) -> Published:
        looked_at = time.time()
        scanner = self._scanner(limit)
        for found in scanner.scan(self._standing.covered(limit)):
            self._order.hooks.beat()
            self._take(found)
        self._order.hooks.check()
        changed = self._listed_otherwise or self._previous.problems != scanner.problems.digest
        seen, unread = self._journal.seen, self._journal.unread
        identity = identity_after(self._previous.identity, (), changed=changed, journal=seen, unread=unread)
        summary = Summary(identity, scanner.problems.digest, self._count)
        header = replace(
            full_header(self._order, looked_at, scanner.problems, identity),
            total_experiments=self._count,
            total_files=self._sums.files,
            total_bytes=self._sums.size,
        )
        outcome = Outcome(header, self._previous.identity, scanner.revoked, self._sums, began)
        if renew or summary != self._previous or scanner.revoked:
            self._journal.publish(outcome, self._state, summary, self._previous)
        self._stand(scanner, summary)
        return Published(header, len(self._state.runs) if changed else 0)

    def _scanner(self, limit: Limit | None) -> Scanner:
        for_journal = self._journal.for_scan(capture=True)
        if for_journal.told != self._standing.audience:
            raise LimitLost("others may read the journal than before")
        reports = self._standing.problems.reports if limit is not None else []
        carried = [each for each in reports if limit is not None and not limit.covers(each[0])]
        return Scanner(
            self._order.root,
            self._order.racy_from,
            journal=for_journal,
            scope=Scope(limit, carried, self._order.hooks.entered, self._order.hooks.beat),
        )

    def _take(self, found: Found) -> None:
        now, old = found
        if now is old:
            return
        if old is not None:
            self._sums = self._sums.minus(old.sums)
            self._count -= 1
        if now is not None:
            self._sums = self._sums.plus(now.sums)
            self._count += 1
        self._listed_otherwise = self._listed_otherwise or now is None or old is None or now.line != old.line
        folder = now.folder if now is not None else old.folder if old is not None else ""
        self._state.runs[folder] = now

    def _stand(self, scanner: Scanner, summary: Summary) -> None:
        for folder, run in self._state.runs.items():
            if run is None:
                self._standing.drop(folder)
            else:
                self._standing.put(run)
        self._standing.problems = scanner.problems
        if self._journal.identity == summary.identity:
            self._standing.summary = summary
