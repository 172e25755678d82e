"""Collects what a scan finds changed as frames of the journal, with the bytes that the scan read anyway.

The frames lie in a file without a name until their revision is sure; their chain goes on from the journal's
end, so that they are copied as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from runicorn._files import close_scratch, scratch_file
from runicorn.journal.frames import Place
from runicorn.journal.sections import encode_change
from runicorn.manifest.frame_writer import FrameWriter, RunFields, Section, is_full, removals
from runicorn.manifest.model import FileEntry
from runicorn.manifest.scan_memory import OldRun
from runicorn.manifest.scan_state import RunState, StateLost


class Capture:
    """The frames of one revision.

    Args:
        folder: where the file without a name is made.
        place: the journal's end.

    Raises:
        OSError: from every method that writes.
    """

    def __init__(self, folder: Path, place: Place) -> None:
        self._folder = folder
        self._start = place
        self._stream: BinaryIO | None = None
        self._writer: FrameWriter | None = None

    def writer(self) -> FrameWriter:
        """What the sections go to."""
        if self._writer is None:
            self._stream = scratch_file(self._folder)
            self._writer = FrameWriter(self._stream, self._start)
        return self._writer

    def part(self, fields: Callable[[], RunFields]) -> Part:
        """What collects the changes of one run, whose fields a function tells as far as they are known."""
        return Part(self, fields)

    def gone(self, old: RunState) -> None:
        """Take a run that is not listed any more."""
        known = OldRun(old)
        try:
            fields = RunFields(*(known.line[name] for name in RunFields._fields))
        except KeyError as error:
            raise StateLost("a run makes no sense") from error
        for section in removals(list(known.entries)):
            self.writer().section(fields, section)

    def roll_back(self, place: Place, weight: int) -> None:
        """Forget the frames behind a place, up to which they had a weight, and all sections that wait."""
        assert self._stream is not None  # noqa: S101 - there are frames
        self._stream.seek(place.offset - self._start.offset)
        self._stream.truncate()
        self._writer = FrameWriter(self._stream, place, weight)

    def end(self) -> tuple[BinaryIO | None, Place, int]:
        """All frames at their beginning (None when there are none), the place behind them, their weight."""
        if self._writer is None or self._stream is None:
            return None, self._start, 0
        self._writer.flush()
        self._stream.seek(0)
        return self._stream, self._writer.place, self._writer.weight

    def close(self) -> None:
        """Give the file back."""
        close_scratch(self._stream)


class Part:
    """The changes of one run."""

    def __init__(self, capture: Capture, fields: Callable[[], RunFields]) -> None:
        self._capture = capture
        self._fields = fields
        self._section = Section()
        self._before: tuple[Place, int] | None = None

    def take(
        self, entry: FileEntry, inner: str, data: bytes | None, start: int = 0, digest: str = ""
    ) -> None:
        """Add a file that is listed in another way.

        Args:
            entry: how it is listed now.
            inner: its path within the run folder.
            data: the bytes to carry; None lists it only.
            start: offset within a log of the first one.
            digest: of the log up to the last one, when that is not all of it.

        Raises:
            OSError: the frames cannot be written.
        """
        size = None if data is None else len(data)
        self._section.add(encode_change(entry, inner, size, start, digest), data)
        writer = self._capture.writer()
        if not is_full((writer.json, writer.size), (self._section.json, self._section.size)):
            return
        if self._before is None:
            writer.flush()
            self._before = writer.place, writer.weight
        if is_full((self._section.json, self._section.size)):
            writer.section(self._fields(), self._section)
            writer.flush()
            self._section = Section()

    def drop(self) -> None:
        """The run is not listed: nothing of it stays."""
        if self._before is not None:
            self._capture.roll_back(*self._before)

    def end(self, gone: Sequence[str], old: dict[str, Any]) -> None:
        """The run is complete.

        Args:
            gone: paths within the run folder that are not listed any more.
            old: the run as it was listed; empty when it is new.

        Raises:
            OSError: the frames cannot be written.
        """
        fields = self._fields()
        if self._section.empty and self._before is None and not gone and fields.listed_by(old):
            return
        writer = self._capture.writer()
        sections = [self._section] if not self._section.empty or not gone else []
        for section in [*sections, *(removals(gone) if gone else ())]:
            writer.section(fields, section)
