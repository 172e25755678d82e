"""Frames of the journal: header, chain, payload (section Frames of the format). Pure."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from runicorn.errors import DamagedError, UnsafeError, UnsupportedVersionError
from runicorn.journal.codecs import Codec, compress, expand

MAX_PAYLOAD = 8 * 1024**2
"""Bytes of a payload, stored or expanded."""

MAX_JSON = 4 * 1024**2
"""Bytes of the JSON of a payload."""

MAX_OFFSET = 2**53 - 1
FOLDER = "journal"
"""Name of the journal's folder beside the manifests."""

CURRENT = "CURRENT"
"""Name of the link to the current epoch's file."""

FRAME_HEADER = 48
"""Bytes in front of a payload."""

_MAGIC = b"RJ\x01\n"
_FIXED = struct.Struct(">4sBBHII")
_LENGTH = struct.Struct(">I")
_SEED = b"runicorn journal 1\n"

is_epoch = re.compile("[0-9a-f]{32}").fullmatch
"""Whether a text is the name of an epoch."""


class Kind(IntEnum):
    """What a frame is."""

    BEGIN = 1
    FILES = 2
    COMMIT = 3
    SEAL = 4


@dataclass(frozen=True, slots=True)
class Place:
    """A place between two frames.

    Attributes:
        epoch: name of the epoch.
        offset: bytes before it.
        chain: chain of the frame before it, 32 bytes.
    """

    epoch: str
    offset: int
    chain: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame that was proven.

    Attributes:
        kind: what it is.
        head: its JSON, an object that nobody has checked.
        data: the bytes behind it.
        end: the place behind the frame.
    """

    kind: Kind
    head: dict[str, Any]
    data: memoryview
    end: Place


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """One frame whose chain was proven, as it lies in the journal.

    Attributes:
        kind: what it is.
        codec: number of the codec of its payload, which this Python may lack.
        stored: its payload.
        size: bytes of the payload after decoding.
        end: the place behind the frame.
    """

    kind: Kind
    codec: int
    stored: bytes
    size: int
    end: Place

    def open(self) -> Frame:
        """Decode its payload.

        Raises:
            DamagedError: it makes no sense; `UnsupportedVersionError` for a codec that this Python lacks.
            UnsafeError: a bound is exceeded.
        """
        head, data = _split(expand(self.codec, self.stored, self.size))
        if data and self.kind != Kind.FILES:
            raise DamagedError("a frame of the journal has data where none can be")
        return Frame(self.kind, head, data, self.end)


def file_name(epoch: str) -> str:
    """The file of an epoch."""
    return f"{epoch}.journal"


def beginning(epoch: str) -> Place:
    """The place before the first frame of an epoch."""
    return Place(epoch, 0, hashlib.sha256(_SEED + epoch.encode("ascii") + b"\n").digest())


def encode_frame(
    at: Place, kind: Kind, head: bytes, data: bytes = b"", codec: Codec | None = None
) -> tuple[bytes, Place]:
    """One frame, and the place behind it.

    Args:
        at: the place where it is going to lie.
        kind: what it is.
        head: its JSON, at most `MAX_JSON` bytes.
        data: the bytes behind it.
        codec: how it is stored; by default the best that this Python has.
    """
    payload = _LENGTH.pack(len(head)) + head + data
    if len(head) > MAX_JSON or len(payload) > MAX_PAYLOAD:
        raise ValueError("a frame beyond the bounds of the format")
    used, stored = compress(payload, codec)
    fixed = _FIXED.pack(_MAGIC, kind, used, 0, len(stored), len(payload))
    chain = _chain(at.chain, fixed, stored)
    frame = b"".join((fixed, chain, stored))
    return frame, Place(at.epoch, at.offset + len(frame), chain)


def _chain(before: bytes, fixed: bytes, stored: bytes) -> bytes:
    digest = hashlib.sha256(before)
    digest.update(fixed)
    digest.update(stored)
    return digest.digest()


class FrameReader:
    """Frames out of the bytes of an epoch, as they come.

    Args:
        place: where the first byte comes from.

    Attributes:
        place: behind the last frame that was given.
        held: bytes that are part of a frame which is not complete.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._parts: list[memoryview] = []
        self.held = 0

    @property
    def wanted(self) -> int:
        """Bytes that are missing of the frame that has begun, as far as that is known."""
        if self.held < FRAME_HEADER:
            return FRAME_HEADER - self.held
        return FRAME_HEADER + int(_FIXED.unpack_from(self._bytes(0, FRAME_HEADER))[4]) - self.held

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the epoch."""
        if data:
            self._parts.append(memoryview(data))
            self.held += len(data)

    def _bytes(self, start: int, end: int) -> bytes:
        """What is held between two places; large frames are copied by this alone."""
        pieces = []
        for part in self._parts:
            if end <= 0:
                break
            pieces.append(part[max(0, start) : end])
            start, end = start - len(part), end - len(part)
        return b"".join(pieces)

    def _drop(self, size: int) -> None:
        self.held -= size
        whole = 0
        for part in self._parts:
            if len(part) > size:
                break
            size -= len(part)
            whole += 1
        del self._parts[:whole]
        if size:
            self._parts[0] = self._parts[0][size:]

    def frames(self) -> Iterator[Frame]:
        """The frames that are complete by now.

        Raises:
            DamagedError: what is there is no frame that belongs here; `UnsupportedVersionError` when it is of
                another major version or an unknown codec.
        """
        while (stored := self._next()) is not None:
            frame = stored.open()
            self._pass(stored)
            yield frame

    def stored_frames(self) -> Iterator[StoredFrame]:
        """The same without their payloads decoded, for somebody else to do that.

        Raises:
            DamagedError: as of `frames`, but for the payloads.
        """
        while (stored := self._next()) is not None:
            self._pass(stored)
            yield stored

    def _next(self) -> StoredFrame | None:
        if self.held < FRAME_HEADER:
            return None
        header = self._bytes(0, FRAME_HEADER)
        magic, kind, codec, zero, stored_size, size = _FIXED.unpack_from(header)
        _require_header(magic, kind, zero, max(stored_size, size))
        end = FRAME_HEADER + stored_size
        if self.held < end:
            return None
        stored = self._bytes(FRAME_HEADER, end)
        fixed, chain = header[: _FIXED.size], header[_FIXED.size :]
        if _chain(self.place.chain, fixed, stored) != chain:
            raise DamagedError(f"the journal is damaged at byte {self.place.offset}: its chain does not fit")
        place = Place(self.place.epoch, self.place.offset + end, chain)
        return StoredFrame(Kind(kind), codec, stored, size, place)

    def _pass(self, frame: StoredFrame) -> None:
        self._drop(frame.end.offset - self.place.offset)
        self.place = frame.end


def _require_header(magic: bytes, kind: int, zero: int, largest: int) -> None:
    if magic[:2] == _MAGIC[:2] and magic[2] != _MAGIC[2] and magic[3] == _MAGIC[3]:
        message = f"the journal has the format {magic[2]}.x, this program reads {_MAGIC[2]}.x"
        raise UnsupportedVersionError(message)
    if magic != _MAGIC or zero or kind not in list(Kind):
        raise DamagedError("the journal is damaged: no frame begins where one should")
    if largest > MAX_PAYLOAD:
        raise DamagedError(
            f"the journal is damaged: a frame of {largest} bytes, at most {MAX_PAYLOAD} are read"
        )


def _split(payload: bytes) -> tuple[dict[str, Any], memoryview]:
    if len(payload) < _LENGTH.size:
        raise DamagedError("a frame of the journal has no JSON")
    (length,) = _LENGTH.unpack_from(payload)
    end = _LENGTH.size + length
    if length > MAX_JSON:
        raise UnsafeError(f"a frame of the journal has {length} bytes of JSON; at most {MAX_JSON} are read")
    if end > len(payload):
        raise DamagedError("the JSON of a frame of the journal is longer than the frame")
    return parse_object(payload[_LENGTH.size : end]), memoryview(payload)[end:]


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DamagedError: it is none.
    """
    try:
        head = json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedError("the JSON of the journal does not parse") from error
    if type(head) is not dict:
        raise DamagedError("the JSON of the journal is not an object")
    return head
