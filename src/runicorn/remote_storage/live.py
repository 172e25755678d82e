"""A mirror and a connection that stay open between syncs, so that a look without news costs next to nothing.

While nothing is new, a look is one READ and one STAT of the journal's open file: no folder is read and
nothing is written. The mirror is under its lock all the time, so that nobody else changes its state.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from runicorn.errors import MirrorError, MirrorGoneError, RunicornError
from runicorn.journal.frames import Place
from runicorn.remote_storage.clock import Clock
from runicorn.remote_storage.contact import NEVER, contact_of, note_failure, put_contact
from runicorn.remote_storage.journal_reader import JournalReader
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.opening import OpenMirror, open_mirror
from runicorn.remote_storage.options import JOURNAL, SyncOptions
from runicorn.remote_storage.poll import newest_look
from runicorn.remote_storage.report import Observer, SyncReport, ignore
from runicorn.remote_storage.state import MirrorState
from runicorn.remote_storage.sync import Way, mapped_failures, synchronize_open
from runicorn.remote_storage.transport.base import Transport

FULL_LOOK = 60.0
"""Seconds after which a look is a whole sync although nothing is new: it looks at some folders of the mirror,
tries what failed again, and records that the server was reached."""


class KeptMirror:
    """A mirror that stays open, under its lock, for several syncs.

    Args:
        root: the folder of the mirror; made when it does not exist.
        options: how the syncs are done.

    Raises:
        MirrorBusyError: another sync works on it.
        MirrorError: it cannot be used.
    """

    def __init__(self, root: Path, options: SyncOptions) -> None:
        self._root = root
        with contextlib.ExitStack() as stack:
            opened = open_mirror(stack, root, options)
            self.state: MirrorState = opened.state
            self._identity = self._now_there()
            self._stack = stack.pop_all()

    def _now_there(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.state.path, follow_symlinks=False)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    @property
    def is_in_place(self) -> bool:
        """Whether the path still leads to what is open; the user may have moved or removed the mirror."""
        return self._identity is not None and self._identity == self._now_there()

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenMirror]:
        """The mirror for one sync; its folders are opened anew, as other programs may have moved them."""
        with Mirror(self._root) as tree:
            yield OpenMirror(tree, self.state)
        self._identity = self._now_there()  # a damaged state is put aside by the sync

    def close(self) -> None:
        """Close everything, and give up the lock."""
        self._stack.close()


class LiveSession:
    """Brings one mirror to the state of one root, again and again. It belongs to one thread.

    Args:
        connect: makes a connection, logged in; what it raises, `look` raises.
        remote_root: the root on the server.
        mirror_root: the folder of the mirror.
        options: how it is done; no dry run.
        observer: is told of every step of a sync.
        cancel: when it is set, a sync ends as soon as it can.
        clock: the clocks.

    Raises:
        UsageError: an option means nothing.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a sync is made of
        self,
        connect: Callable[[], Transport],
        remote_root: str,
        mirror_root: Path,
        options: SyncOptions | None = None,
        observer: Observer = ignore,
        cancel: threading.Event | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._connect = connect
        self._remote_root = remote_root
        self._mirror_root = mirror_root
        self._options = options or SyncOptions()
        self._options.check()
        self._observe = observer
        self._cancel = cancel or threading.Event()
        self._clock = clock or Clock()
        self._mirror: KeptMirror | None = None
        self._way: Way | None = None
        self._still: Place | None = None
        self._full_at = 0.0
        self._contact = NEVER

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as that is known."""
        return self._way is not None

    @property
    def looked_at(self) -> float | None:
        """When the server had last looked at the last look from here, seconds of its clock."""
        return self._contact.looked_at

    def connect(self) -> None:
        """Open the mirror and connect, unless that is done; `look` does it by itself.

        Raises:
            RunicornError: one of its classes for each cause.
        """
        with self._noted():
            self._opened()
            self._connected()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            with mapped_failures():
                yield
        except RunicornError as error:
            if type(error) is MirrorError and self._is_mirror_gone(error):
                raise MirrorGoneError("the mirror was moved or removed while it was worked on") from error
            if self._mirror is not None:
                note_failure(self._mirror.state, error)
            raise

    def _is_mirror_gone(self, error: MirrorError) -> bool:
        if self._mirror is not None:
            return not self._mirror.is_in_place
        return isinstance(error.__cause__, FileNotFoundError)  # while it was opened

    def look(self) -> SyncReport | None:
        """Look for news, and bring them.

        Returns:
            How the sync went; None when one look at the journal showed that nothing is new.

        Raises:
            RunicornError: one of its classes for each cause.
        """
        began = self._clock.wall()
        with self._noted():
            mirror = self._opened()
            way = self._connected()
            before = way.transport.traffic
            if self._is_still(way, began):
                return None
            report = self._sync(mirror, way, began)
            report.count_traffic(before, way.transport.traffic)
            return report

    def _is_still(self, way: Way, began: float) -> bool:
        """Whether one look at the journal shows that nothing is new."""
        if self._still is None or self._clock.monotonic() - self._full_at >= FULL_LOOK:
            return False
        poll = way.journal.peek(self._still)
        if poll is None or poll.size != self._still.offset:
            return False
        looked_at = newest_look(poll.looked_at, self._contact.looked_at)
        self._contact = self._contact.then(began, self._clock.wall(), looked_at)
        return True

    def _opened(self) -> KeptMirror:
        if self._mirror is not None and not self._mirror.is_in_place:
            self._close_mirror()
        if self._mirror is None:
            self._mirror = KeptMirror(self._mirror_root, self._options)
            self._contact = contact_of(self._mirror.state) or NEVER
        return self._mirror

    def _connected(self) -> Way:
        if self._way is None:
            transport = self._connect()
            journal = JournalReader(transport, self._remote_root.rstrip("/"))
            self._way = Way(transport, self._remote_root, journal)
        return self._way

    def _sync(self, mirror: KeptMirror, way: Way, began: float) -> SyncReport:
        self._still = None
        with mirror.opened() as opened:
            report = synchronize_open(opened, way, self._options, self._observe, self._cancel).report
        state = mirror.state
        if not report.skipped:
            state.add_report(began, report.as_dict())
        self._contact = self._contact.then(began, self._clock.wall(), report.generated_at)
        put_contact(state, self._contact)
        self._still = _place_after(state, way.journal, report)
        self._full_at = self._clock.monotonic()
        return report

    def disconnect(self) -> None:
        """Give up the connection; the next look makes another one. May be called from another thread, whose
        look then ends with an error."""
        way, self._way = self._way, None
        self._still = None
        if way is not None:
            way.transport.close()

    def close(self) -> None:
        """Give up connection and mirror; may be called again."""
        self.disconnect()
        self._close_mirror()

    def _close_mirror(self) -> None:
        mirror, self._mirror = self._mirror, None
        self._still = None
        if mirror is None:
            return
        try:
            if self._contact != NEVER and mirror.is_in_place:
                put_contact(mirror.state, self._contact)
        finally:
            mirror.close()


def _place_after(state: MirrorState, journal: JournalReader, report: SyncReport) -> Place | None:
    """The place behind which a poll has to find something before another sync is worth it. What failed is
    tried again by the next full look."""
    cursor = state.cursor
    if report.method != JOURNAL or cursor is None or cursor.identity is None or cursor.place is None:
        return None
    return cursor.place if journal.has_open(cursor.place.epoch) else None
