"""What one look at an open epoch gives. Pure."""

from __future__ import annotations

from typing import NamedTuple

from runicorn.errors import DamagedError, UnsafeError
from runicorn.journal.frames import FrameReader, Kind, Place


class Poll(NamedTuple):
    """What one look at an open epoch gave.

    Attributes:
        size: bytes of the epoch now.
        looked_at: when the generator last looked, whole seconds since the epoch (of Unix).
        committed: the place behind the last commit, or the seal after it, that came along; the client's own
            place when none did.
        is_all: whether all came along that is behind the client's place.
    """

    size: int
    looked_at: int
    committed: Place
    is_all: bool


_SET_BACK = 60.0
"""Seconds: between the append to a journal and its stamp it has a time that is a little too late."""


def newest_look(stamp: int, known: float | None) -> float:
    """When the generator last looked, by the stamp of its journal, which holds whole seconds.

    Args:
        stamp: seconds of the server's clock.
        known: what was known before, by the same clock; a clock that went back since counts from where it is.
    """
    if known is None or stamp < known - _SET_BACK:
        return float(stamp)
    return max(float(stamp), known)


def last_commit(place: Place, data: bytes) -> Place:
    """The place behind the last commit or seal in the bytes behind a place; only HEAD could tell of what
    follows whether it is damaged, or what a killed generator left."""
    reader, end = FrameReader(place), place
    reader.feed(data)
    try:
        for frame in reader.frames():
            if frame.kind in (Kind.COMMIT, Kind.SEAL):
                end = frame.end
    except (DamagedError, UnsafeError):
        pass
    return end
