"""Following the frames of an epoch's file, to learn up to where it is whole."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from runicorn.errors import DamagedError, UnsafeError, UnsupportedVersionError
from runicorn.journal.frames import FRAME_HEADER, MAX_PAYLOAD, Frame, FrameReader, Kind, Place, beginning
from runicorn.journal.head import Media
from runicorn.journal.sections import Seal, decode_begin, decode_commit, decode_files, decode_seal
from runicorn.manifest.frame_writer import ENTRY_WEIGHT
from runicorn.manifest.model import Header, Identity
from runicorn.manifest.rules import MEDIA_PRIORITY

_CHUNK = 1024 * 1024
_FIXED = struct.Struct(">2sx1sBxxxI")


@dataclass
class Followed:
    """What lies in an epoch behind some place, as far as it is whole.

    Attributes:
        end: the place behind the last commit, or the seal that follows it.
        commits: the states and the places behind their commits, in order.
        seal: the last frame, when it is a seal.
        base: the place behind the base's commit, when it was read.
        media: where the media of the base lie, when it was read.
        base_bytes: bytes that the base carries, when it was read.
        header: of the last commit.
        weight: of the files frames up to the end.
        unread: number of commits behind the end that this Python cannot expand; at least one when there is
            any such frame.
    """

    end: Place
    commits: dict[Identity, Place] = field(default_factory=dict)
    seal: Seal | None = None
    base: Place | None = None
    media: Media | None = None
    base_bytes: int = 0
    header: Header | None = None
    weight: int = 0
    unread: int = 0

    @property
    def identity(self) -> Identity | None:
        """The state of the last commit."""
        return next(reversed(self.commits), None)


def follow(fd: int, place: Place) -> Followed:
    """Read frames from a place on; what does not fit is the end.

    Args:
        fd: handle of the epoch's file.
        place: its beginning, or a place behind a commit.

    Raises:
        OSError: it cannot be read.
    """
    walk = _Walk(place)
    try:
        for frame in _frames(fd, place):
            walk.take(frame)
    except UnsupportedVersionError:
        walk.found.unread = max(1, _commits(fd, walk.found.end))
    except (DamagedError, UnsafeError):
        pass  # what is there was never committed
    return walk.found


def _commits(fd: int, place: Place) -> int:
    """Number of commits from a place on, by headers and chain alone; those of any version."""
    at, chain, count = place.offset, place.chain, 0
    while len(header := os.pread(fd, FRAME_HEADER, at)) == FRAME_HEADER:
        letters, newline, kind, size = _FIXED.unpack_from(header)
        if (letters, newline) != (b"RJ", b"\n") or size > MAX_PAYLOAD:
            break
        stored = os.pread(fd, size, at + FRAME_HEADER)
        chain = hashlib.sha256(chain + header[:16] + stored).digest()
        if chain != header[16:]:
            break
        count += kind == Kind.COMMIT
        at += FRAME_HEADER + size
    return count


def _frames(fd: int, place: Place) -> Iterator[Frame]:
    reader = FrameReader(place)
    at = place.offset
    while data := os.pread(fd, _CHUNK, at):
        at += len(data)
        reader.feed(data)
        yield from reader.frames()


class _Walk:
    """Takes one frame after the other, in the order that the format allows."""

    def __init__(self, place: Place) -> None:
        self.found = Followed(place)
        self._epoch = place.epoch
        self._lineage: str | None = None
        self._in_base = place == beginning(place.epoch)
        self._last = Kind.BEGIN if self._in_base else Kind.COMMIT
        self._media: int | None = None
        self._before: Place = place
        self._weight = 0

    def take(self, frame: Frame) -> None:
        """Take the next frame.

        Raises:
            DamagedError: it does not belong here, or makes no sense.
            UnsafeError: a value is out of bounds.
        """
        first = self._before.offset == 0
        sealed = self.found.seal is not None
        if (
            sealed
            or first != (frame.kind is Kind.BEGIN)
            or (frame.kind is Kind.SEAL and self._last is not Kind.COMMIT)
        ):
            raise DamagedError("a frame of the journal stands where it must not")
        if frame.kind is Kind.BEGIN:
            epoch, self._lineage = decode_begin(frame)
            if epoch != self._epoch:
                raise DamagedError("the journal has the beginning of another epoch")
        elif frame.kind is Kind.FILES:
            self._weight += _weight(frame)
            self._note_base(frame)
        elif frame.kind is Kind.COMMIT:
            self._commit(frame)
        else:
            self.found.seal = decode_seal(frame, self._lineage)
            self.found.end = frame.end
        self._last = frame.kind
        self._before = frame.end

    def _note_base(self, frame: Frame) -> None:
        if not self._in_base:
            return
        self.found.base_bytes += len(frame.data)
        first = next((change for section in decode_files(frame) for change in section.changes), None)
        if self._media is None and first is not None and first.entry.priority == MEDIA_PRIORITY:
            self._media = self._before.offset

    def _commit(self, frame: Frame) -> None:
        header = decode_commit(frame)
        if self._lineage is not None and header.identity.lineage != self._lineage:
            raise DamagedError("the journal has a commit of another lineage")
        self._lineage = header.identity.lineage
        if self._in_base:
            self._in_base = False
            self.found.base = frame.end
            begin = self._before.offset if self._media is None else self._media
            self.found.media = Media(begin, self._before)
        self.found.commits[header.identity] = frame.end
        self.found.header = header
        self.found.weight = self._weight
        self.found.end = frame.end


def _weight(frame: Frame) -> int:
    """What a files frame weighs; nobody has checked its JSON."""
    runs = frame.head.get("runs")
    sections = [each for each in runs if type(each) is dict] if type(runs) is list else []
    lists = (section.get(name) for section in sections for name in ("files", "removed"))
    return len(frame.data) + ENTRY_WEIGHT * sum(len(each) for each in lists if type(each) is list)


def last_seal(epoch: str, tail: bytes) -> Seal | None:
    """The seal that an epoch ends with, if it does.

    Args:
        epoch: its name.
        tail: its last bytes, with the whole commit before the seal.
    """
    at = tail.rfind(_start_of(Kind.SEAL))
    commit = at
    while commit > 0:
        commit = tail.rfind(_start_of(Kind.COMMIT), 0, commit)
        if (
            commit >= 0
            and commit + FRAME_HEADER + int.from_bytes(tail[commit + 8 : commit + 12], "big") == at
        ):
            break
    if commit < 0 or at <= 0:
        return None
    reader = FrameReader(Place(epoch, 0, tail[commit + 16 : commit + FRAME_HEADER]))
    reader.feed(tail[at:])
    try:
        frames = list(reader.frames())
        return decode_seal(frames[0], None) if len(frames) == 1 and not reader.held else None
    except (DamagedError, UnsafeError):
        return None


def _start_of(kind: Kind) -> bytes:
    return b"RJ\x01\n" + bytes([kind])
