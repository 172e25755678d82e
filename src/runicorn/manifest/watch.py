"""A generator that publishes on and on: what changed at once, the whole root every interval.

Where the system tells of changes (see `runicorn.manifest.notices`), the runs that it names are looked at and
published shortly after the first change. Everywhere the root is scanned again and again, at a pace that
follows from what a scan costs. The manifests are written at most once a minute.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runicorn.errors import GeneratorBusy, PublishError, RootGone, UsageError
from runicorn.manifest.generation import Hooks
from runicorn.manifest.generator import ManifestGenerator
from runicorn.manifest.generator_lock import LOCK_NAME
from runicorn.manifest.model import Header
from runicorn.manifest.notices import NoNoticesError, Notices
from runicorn.manifest.pace import Pace
from runicorn.manifest.presence import Presence
from runicorn.manifest.rules import escape
from runicorn.manifest.scan_delta import delta_size
from runicorn.manifest.scan_limit import Limit, LimitLost
from runicorn.manifest.scan_state import STATE_NAME
from runicorn.manifest.session import Session
from runicorn.manifest.standing import Standing
from runicorn.manifest.supervisor import Supervisor

LIVELY_S = 900.0
"""Without notices, runs that changed within this time (s) are looked at every second."""

_LIVELY_RUNS = 200
_MAX_DELTA = 16 * 1024 * 1024
_NOISE_S = 0.05
_PART_RUNS = 1000
_MOST_PARTS = 20
_AWAY_S = 1.0

_log = logging.getLogger("runicorn.manifest")


class WatchObserver:
    """Is told what a watching generator does; does nothing itself."""

    def said(self, text: str) -> None:
        """Something that a person should read, one line."""

    def published(self, header: Header) -> None:
        """A state was published, the same as before or a new one."""


class _Stopped(Exception):  # noqa: N818 - what was asked for
    """`stop` was called before the first generation had ended."""


class Watch:
    """Publishes one root until it is stopped.

    Args:
        remote_root: the folder that holds all runs.
        interval: seconds between two scans of the whole root; default 60, or 30 where the system does not
            tell of changes. Large roots are scanned less often, see `runicorn.manifest.pace`.
        debounce: seconds between the first change and its publication.
        longest: the same under constant writing, at most.
        lock_timeout: after how long it is said that another generator works on the same root, seconds.
        journal: whether a journal is kept; without it only manifests are written, once a minute.
        notices: whether to listen to what the system tells of changes.
        observer: is told what happens.

    Raises:
        UsageError: a number makes no sense.
    """

    def __init__(  # noqa: PLR0913 - each is an option of the command
        self,
        remote_root: Path,
        *,
        interval: float | None = None,
        debounce: float = 0.2,
        longest: float = 1.0,
        lock_timeout: float = 60.0,
        journal: bool = True,
        notices: bool = True,
        observer: WatchObserver | None = None,
    ) -> None:
        if interval is not None and not 0 < interval <= 86400:
            raise UsageError("the interval must be more than 0 and at most 86400 seconds")
        if not 0 <= debounce <= longest:
            raise UsageError("the debounce must be from 0 to its longest time")
        self._generator = ManifestGenerator(remote_root, lock_timeout=lock_timeout, journal=journal)
        self._root = self._generator.remote_root
        self._observer = observer or WatchObserver()
        self._wants_notices = notices
        self._notices: Notices | None = None
        self._pace = Pace(interval, debounce, longest)
        self._supervisor = Supervisor()
        self._standing = Standing()
        self._changed: set[str] = set()
        self._behind = False
        self._told = ""
        self._trouble = ""
        self._opening = False
        self._presence = Presence(self._root, self._generator.output_dir / LOCK_NAME)
        self._stopped = False
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)

    def stop(self) -> None:
        """Finish what is being published and end; may be called from a signal handler or another thread."""
        self._stopped = True
        with suppress(BlockingIOError):
            os.write(self._waker, b"s")

    def close(self) -> None:
        """Give handles back."""
        self._end_notices()
        for fd in (self._wake, self._waker):
            os.close(fd)

    def run(self) -> None:
        """Publish until `stop` is called.

        Raises:
            PublishError: the first generation failed: the root cannot be read or the output not be written.
        """
        first = True
        while not self._stopped:
            try:
                first = self._work(first=first)
            except _Stopped:
                break
            except GeneratorBusy as error:
                self._say(f"{error}: waiting until it has ended")
            except PublishError as error:
                if first:
                    raise
                self._tell_trouble(str(error))
            self._await_return()
        self._supervisor.stopping()

    # -- the root is there -----------------------------------------------------------------------

    def _work(self, *, first: bool) -> bool:
        """Publish until the root goes away or `stop` is called; False: what follows is not the first time."""
        self._standing = Standing()
        hooks = Hooks(self._entered, self._beat, self._presence.require)
        self._opening = True
        with self._generator.session(self._standing, hooks) as session:
            try:
                self._presence.begin(session.lock)
                self._begin_notices()
                self._publish_all(session)
                self._say_back(first=first)
                while not self._stopped:
                    self._turn(session)
                if self._behind:
                    self._attempt(session, self._publish_all)
            except RootGone as error:
                self._say(f"{error}: waiting until it is back")
            finally:
                self._end_notices()
        return False

    def _beat(self) -> None:
        """A generation gets on. The first one may read for hours: it is not waited for by who stops it."""
        self._supervisor.beat()
        if self._stopped and self._opening:
            raise _Stopped
        if self._notices is not None:
            self._notices.keep()

    def _say_back(self, *, first: bool) -> None:
        self._supervisor.ready()
        if not first:
            self._say(f"the root '{escape(str(self._root))}' is back")

    def _turn(self, session: Session) -> None:
        """Wait for the next thing to do, and do it."""
        self._wait(self._pace.due(changed=bool(self._changed)))
        if self._stopped:
            return
        self._supervisor.beat()
        self._presence.require()
        if self._pace.all_is_due():
            self._attempt(session, self._publish_all)
        elif self._pace.scan_is_due():
            self._attempt(session, self._scan_all)
        elif self._changed and self._pace.changes_are_due():
            self._attempt(session, self._publish_changed)
        elif self._pace.look_is_due():
            self._attempt(session, self._look_at_lively)
        elif self._pace.sign_is_due():
            self._attempt(session, self._give_sign)

    def _attempt(self, session: Session, what: Callable[[Session], None]) -> None:
        """What fails now may succeed later; but not without the root."""
        try:
            what(session)
        except LimitLost as error:
            _log.debug("the whole root is scanned: %s", error)
            self._pace.all_soon(hold=True)
        except RootGone:
            raise
        except PublishError as error:
            self._presence.require()
            self._tell_trouble(str(error))
            self._pace.failed()

    # -- generations -----------------------------------------------------------------------------

    def _publish_all(self, session: Session) -> None:
        with self._pace.measured_all():
            still = self._found_in_parts(session)
            if not still:
                self._listen()
                self._changed.clear()
            header, trouble = session.publish(still=still)
        self._behind = self._opening = False
        self._tell_trouble(trouble)
        self._pace.journal = self._standing.summary is not None
        self._after(header)

    def _found_in_parts(self, session: Session) -> bool:
        """Scan the whole root in parts, where that can be; whether nothing has to be scanned any more."""
        if self._opening or self._standing.summary is None:
            return False
        try:
            self._scan_parts(session)
        except LimitLost as error:
            _log.debug("the whole root is scanned at once: %s", error)
            return False
        return True

    def _scan_all(self, session: Session) -> None:
        with self._pace.measured_scan():
            self._scan_parts(session)

    def _scan_parts(self, session: Session) -> None:
        """However large the root: what changes meanwhile does not wait for the end. Who stops it neither."""
        began = time.monotonic()
        # Each part lists the folders above its runs again: the more parts, the more it costs.
        *parts, last = self._standing.spans(max(_PART_RUNS, len(self._standing) // _MOST_PARTS))
        for part in parts:
            if self._stopped:
                return
            self._publish_part(session, part, renew=False)
            self._listen()
            if self._changed:
                self._publish_changed(session)
        self._publish_part(session, last, renew=True, began=began)

    def _publish_changed(self, session: Session) -> None:
        self._listen()
        limit = Limit(self._changed)
        if limit.covers("") or delta_size(session.output / STATE_NAME) > _MAX_DELTA:
            raise LimitLost("the root itself changed, or the changes have become long")
        self._changed.clear()
        with self._pace.measured_changes():
            self._publish_part(session, limit, renew=False)

    def _look_at_lively(self, session: Session) -> None:
        since = time.time_ns() - int(LIVELY_S * 1e9)
        with self._pace.measured_look():
            self._publish_part(session, Limit(self._standing.newest(since, _LIVELY_RUNS)), renew=False)

    def _give_sign(self, session: Session) -> None:
        self._publish_part(session, Limit(()), renew=True)

    def _publish_part(
        self, session: Session, limit: Limit, *, renew: bool, began: float | None = None
    ) -> None:
        done = session.publish_changes(limit, renew=renew, began=began)
        self._behind = self._behind or done.runs > 0
        if renew or done.runs:
            self._pace.signed()
        _log.debug("revision %d: %d runs changed", done.header.identity.revision, done.runs)
        self._after(done.header)

    def _after(self, header: Header) -> None:
        if self._notices is not None and self._notices.failure:
            self._say(f"{self._notices.failure}: scanning instead")
            self._end_notices()
        self._supervisor.status(
            f"revision {header.identity.revision}, {header.total_experiments} runs,"
            f" {header.total_files} files, {header.problem_count} problems"
        )
        self._observer.published(header)

    # -- waiting ---------------------------------------------------------------------------------

    def _wait(self, due: float) -> None:
        """Until a moment of the monotonic clock, a change that belongs, or `stop`."""
        while not self._stopped:
            left = min(due - time.monotonic(), self._supervisor.period)
            if left <= 0:
                return
            told = self._is_told_within(left)
            self._supervisor.beat()
            if told:
                lost = self._listen()
                if self._changed:
                    self._pace.first_change()
                if self._changed or lost:
                    return
                self._pause()

    def _is_told_within(self, seconds: float) -> bool:
        """Wait for notices, when none was heard that waits for its publication, or for `stop`."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        notices = self._notices if not self._changed else None
        if notices is None:
            poll.poll(seconds * 1000 + 1)
            return False
        poll.register(notices.fileno(), select.POLLIN)
        ready = poll.poll(0 if notices.holds else seconds * 1000 + 1)
        return notices.holds or notices.fileno() in {fd for fd, _ in ready}

    def _pause(self) -> None:
        """Noise of files that do not belong is not to be followed write by write."""
        select.select([self._wake], [], [], _NOISE_S)

    def _listen(self) -> bool:
        """Take what was told; returns whether something of it was lost."""
        if self._notices is None:
            return False
        heard = self._notices.read(self._standing)
        self._changed |= heard.folders
        if heard.everything:
            _log.debug("inotify has lost events")
            self._pace.all_soon(hold=False)
        return heard.everything

    def _entered(self, fd: int, path: str) -> None:
        if self._notices is not None:
            self._notices.entered(fd, path)

    def _begin_notices(self) -> None:
        if not self._wants_notices:
            return
        try:
            self._notices = Notices(str(self._root))
            self._pace.listening = True
        except NoNoticesError as error:
            self._say(f"{error}: scanning instead")

    def _end_notices(self) -> None:
        if self._notices is not None:
            self._notices.close()
        self._notices = None
        self._pace.listening = False

    # -- the root is away ------------------------------------------------------------------------

    def _await_return(self) -> None:
        """Until the root is there."""
        while not self._stopped:
            select.select([self._wake], [], [], _AWAY_S)
            self._supervisor.beat()
            with suppress(OSError):
                if self._presence.is_back():
                    return

    def _tell_trouble(self, text: str) -> None:
        """Say why not all can be published, and when that has ended (empty text)."""
        if text:
            self._say(text)
        elif self._trouble:
            self._say("all is published again")
        self._trouble = text

    def _say(self, text: str) -> None:
        if text == self._told:
            return
        self._told = text
        self._supervisor.status(text)
        self._observer.said(text)
