"""What is remembered of the mirror's files, and of the state that the mirror was brought to. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import NamedTuple

from runicorn.journal.frames import Place
from runicorn.manifest.model import FileEntry, Identity, Run


class LocalFile(NamedTuple):
    """What tells whether a file of the mirror is still the one that was written.

    Attributes:
        size: bytes.
        mtime_ns: nanoseconds since the epoch.
        inode: number of the file within its file system.
    """

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Listed:
    """How a listing described a file.

    Attributes:
        size: bytes.
        mtime: seconds since the epoch.
        mtime_ns: nanoseconds, when the listing knew them.
        digest: hex digest, when the listing had one.
        young_at: by this machine's clock (seconds since the epoch) when it was recorded although it
            could change again without a trace; None when size and time tell its content.
    """

    size: int
    mtime: float
    mtime_ns: int | None
    digest: str | None
    young_at: float | None = None

    @classmethod
    def of(cls, entry: FileEntry) -> Listed:
        """The description that an entry gives."""
        young_at = None if entry.settled else time.time()
        return cls(entry.size, entry.mtime, entry.mtime_ns, entry.digest, young_at)

    def same_as(self, other: Listed) -> bool:
        """Whether both describe the same content, as far as both know."""
        if self.size != other.size:
            return False
        if self.digest is not None and other.digest is not None and self.digest != other.digest:
            return False
        if self.mtime_ns is not None and other.mtime_ns is not None:
            return self.mtime_ns == other.mtime_ns
        return int(self.mtime) == int(other.mtime)


@dataclass(frozen=True, slots=True)
class Known:
    """A file of the mirror whose content is known.

    Attributes:
        local: what the file looks like on disk.
        hashes: SHA-256 of a state file; of a log the hashes of all its blocks.
        listed: how the listing described it that it was synced from, or None when it was only
            found on disk.
        epoch: in which epoch of the mirror it was last listed; 0 when it never was.
        extends: of a log that is longer than the listing says: whether it begins with what is
            listed. None when that was not looked at.
        gone: whether the server did not list it any more when that was last told.
        unpublished: whether a walk brought it that was the first to list it, or to list it again, and no
            newer published state has told of it since. To be recorded: whether a walk lists it.
    """

    local: LocalFile
    hashes: tuple[bytes, ...]
    listed: Listed | None
    epoch: int = 0
    extends: bool | None = None
    gone: bool = False
    unpublished: bool = False

    def listed_as(self, entry: FileEntry, epoch: int, *, unpublished: bool = False) -> Known:
        """The same content, as an entry lists it in an epoch of the mirror."""
        listed = Listed.of(entry)
        return replace(self, listed=listed, epoch=epoch, gone=False, unpublished=unpublished)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Which published state a mirror has been brought to.

    Attributes:
        identity: lineage, revision and snapshot; None after a walk.
        selection: key of the selection that it was brought there with.
        generated_at: when the server looked, seconds since the epoch.
        base: the full manifest below it, when an active one was laid over it.
        keeps_gone: whether the mirror still holds files that the server removed.
        place: where the journal has the same state; None when that is not known. With a place and
            without an identity the base of the journal has been read up to there.
        began_empty: whether the mirror was empty before that base.
        forgot: whether something that was known of the mirror was given up, and not compared since.
    """

    identity: Identity | None
    selection: str
    generated_at: float | None
    base: Identity | None = None
    keeps_gone: bool = False
    place: Place | None = None
    began_empty: bool = False
    forgot: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether a sync has come to its end there: what the mirror lacks is known."""
        return not self.forgot and (self.identity is not None or self.place is None)


class Wanted(NamedTuple):
    """A file that has to be fetched.

    Attributes:
        key: its place in the order of `MirrorState.wanted`.
        run: its run, with this file alone.
    """

    key: tuple[int, float, str, str]
    run: Run
