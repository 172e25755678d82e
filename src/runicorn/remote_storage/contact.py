"""When a mirror was last compared with its server, and what tells the age of what was published then.

The server's clock is compared with itself alone, and so is this machine's. What was published is at least as
old as the time since it was first seen; and at most as the time since something older was still there.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

from runicorn.errors import CancelledError, RunicornError
from runicorn.manifest.rules import escape
from runicorn.remote_storage.state import MirrorState

KEY = "contact"
"""Under which `MirrorState.remember` keeps it."""

FAILURE_KEY = "failure"


@dataclass(frozen=True, slots=True)
class Contact:
    """The last look at a server that went well. All times but the second are of this machine's clock.

    Attributes:
        at: when it was, seconds since the epoch.
        looked_at: when the server had last looked, seconds since the epoch by its own clock; None after a
            walk.
        seen_at: when that was first seen here.
        older_at: when something older was last seen here; None when it never was.
    """

    at: float
    looked_at: float | None
    seen_at: float
    older_at: float | None

    @classmethod
    def of(cls, raw: Any) -> Contact | None:
        """The contact of the values that `note_contact` recorded; None when they make no sense."""
        if not isinstance(raw, list) or len(raw) != 4:
            return None
        at, looked_at, seen_at, older_at = raw
        numbers = [each for each in raw if each is not None]
        if at is None or seen_at is None or not all(isinstance(each, int | float) for each in numbers):
            return None
        return cls(at, looked_at, seen_at, older_at)

    def then(self, began: float, ended: float, looked_at: float | None) -> Contact:
        """The next one.

        Args:
            began: when the next look began, seconds since the epoch by this machine's clock.
            ended: when it ended.
            looked_at: what it saw.
        """
        if looked_at is not None and looked_at == self.looked_at:
            return Contact(began, looked_at, min(self.seen_at, ended), _not_after(self.older_at, began))
        return Contact(began, looked_at, ended, self._older(began))

    def _older(self, began: float) -> float | None:
        return _not_after(self.at, began) if self.looked_at is not None else None


def _not_after(moment: float | None, now: float) -> float | None:
    """A time of this machine's clock; None when that was set back since and tells nothing of it any more."""
    return moment if moment is not None and moment <= now else None


NEVER = Contact(0.0, None, 0.0, None)
"""Before the first look."""


def note_contact(state: MirrorState, began: float, ended: float, looked_at: float | None) -> None:
    """Record a look at the server that went well.

    Args:
        state: of the mirror.
        began: when it began, seconds since the epoch.
        ended: when it ended.
        looked_at: when the server had last looked, by its clock.

    Raises:
        MirrorError: the database cannot be written.
    """
    put_contact(state, (contact_of(state) or NEVER).then(began, ended, looked_at))


def put_contact(state: MirrorState, contact: Contact) -> None:
    """Record a look that was put together elsewhere.

    Raises:
        MirrorError: the database cannot be written.
    """
    state.remember(KEY, [contact.at, contact.looked_at, contact.seen_at, contact.older_at])


def contact_of(state: MirrorState) -> Contact | None:
    """The last look that was recorded, or None."""
    return Contact.of(state.recall(KEY))


@dataclass(frozen=True, slots=True)
class Failure:
    """A sync that failed as a whole.

    Attributes:
        at: when, seconds since the epoch by this machine's clock.
        error: one line, escaped.
        exit_code: what a command ended with.
    """

    at: float
    error: str
    exit_code: int

    @classmethod
    def of(cls, raw: Any) -> Failure | None:
        """The failure of the values that `note_failure` recorded; None when they make no sense."""
        if not isinstance(raw, list) or list(map(type, raw)) != [float, str, int]:
            return None
        return cls(*raw)


def note_failure(state: MirrorState, error: RunicornError) -> None:
    """Record that a sync failed, unless the user stopped it. What failed it may keep it from being recorded:
    the error itself is what counts then."""
    if isinstance(error, CancelledError):
        return
    with contextlib.suppress(RunicornError, sqlite3.Error):
        state.remember(FAILURE_KEY, [time.time(), escape(str(error)), error.exit_code])
