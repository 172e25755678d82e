"""Frames of the journal, written one behind the other as a stream of sections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

from runicorn.journal.codecs import Codec
from runicorn.journal.frames import Kind, Place, encode_frame
from runicorn.journal.sections import encode_files, encode_section

ENTRY_WEIGHT = 256
"""What an entry or a removed path weighs, beside its carried bytes."""

FRAME_DATA = 1024 * 1024
FRAME_JSON = 512 * 1024
"""Bytes of data, and of JSON, from which on a frame is written; one file more may be in it."""


class RunFields(NamedTuple):
    """The fields of a run that a section has."""

    folder: str
    status: str
    created_at: float
    updated_at: float

    def listed_by(self, line: dict[str, Any]) -> bool:
        """Whether a run of a manifest has the same fields."""
        return all(line.get(name) == value for name, value in self._asdict().items())


class Section:
    """What is said of one run in one frame.

    Attributes:
        json: bytes of its text.
        size: bytes of its data.
        count: number of entries and removed paths.
    """

    def __init__(self) -> None:
        self.json = 0
        self.size = 0
        self.count = 0
        self._changes: list[str] = []
        self._removed: list[str] = []
        self.data: list[bytes] = []

    def add(self, change: str, data: bytes | None) -> None:
        """Add a file, as `encode_change` gives it, and its carried bytes."""
        self._changes.append(change)
        self.count += 1
        self.json += len(change) + 2
        if data:
            self.data.append(data)
            self.size += len(data)

    def remove(self, inner: str) -> None:
        """Add a path within the run folder that is not listed any more."""
        self._removed.append(inner)
        self.count += 1
        self.json += len(json.dumps(inner)) + 2

    @property
    def empty(self) -> bool:
        """Whether it says nothing."""
        return not self.count

    def text(self, fields: RunFields) -> str:
        """Its JSON."""
        return encode_section(fields, self._changes, self._removed)


def is_full(*sizes: tuple[int, int]) -> bool:
    """Whether so much JSON and data (bytes) make a frame."""
    text = size = 0
    for each in sizes:
        text += each[0]
        size += each[1]
    return text >= FRAME_JSON or size >= FRAME_DATA


def codec_of(kind: Kind) -> Codec | None:
    """How a frame is stored: every Python can read the small ones, which lead from epoch to epoch."""
    return None if kind is Kind.FILES else Codec.ZLIB


class FrameWriter:
    """Writes frames to a stream.

    Args:
        stream: where to; what it holds already lies before ``place``.
        place: where the first frame is going to lie.
        weight: of the sections that it holds already.

    Attributes:
        place: behind the last frame that was written.
        json: bytes of the sections that wait.
        size: bytes of their data.
        weight: of all sections (section Compaction of the format).

    Raises:
        OSError: from every method that writes.
    """

    def __init__(self, stream: BinaryIO, place: Place, weight: int = 0) -> None:
        self._stream = stream
        self._sections: list[str] = []
        self._data: list[bytes] = []
        self.place = place
        self.json = 0
        self.size = 0
        self.weight = weight

    def put(self, kind: Kind, head: bytes, data: bytes = b"") -> None:
        """Write one frame."""
        frame, self.place = encode_frame(self.place, kind, head, data, codec_of(kind))
        self._stream.write(frame)

    def section(self, fields: RunFields, section: Section) -> None:
        """Take a section; it is written together with others."""
        text = section.text(fields)
        if is_full((self.json, self.size), (len(text), section.size)):
            self.flush()
        self._sections.append(text)
        self._data += section.data
        self.json += len(text)
        self.size += section.size
        self.weight += section.size + ENTRY_WEIGHT * section.count
        if is_full((self.json, self.size)):
            self.flush()

    def flush(self) -> None:
        """Write the sections that wait."""
        if self._sections:
            self.put(Kind.FILES, encode_files(self._sections), b"".join(self._data))
        self._sections.clear()
        self._data.clear()
        self.json = self.size = 0


def removals(inner: Sequence[str]) -> list[Section]:
    """Sections that remove many files, none larger than a frame should be."""
    sections = [Section()]
    for each in inner:
        if is_full((sections[-1].json, 0)):
            sections.append(Section())
        sections[-1].remove(each)
    return sections
