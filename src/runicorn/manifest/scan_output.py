"""Writing the next scan state, and putting it in the place of the one before."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import BinaryIO

from runicorn._files import close_scratch, fsync_folder, new_file, scratch_file
from runicorn.manifest.model import Identity
from runicorn.manifest.own_files import require_own
from runicorn.manifest.scan_delta import append_record, drop_delta, has_delta
from runicorn.manifest.scan_reader import kept_runs, stored_identity
from runicorn.manifest.scan_state import FORM, NEXT_NAME, RunState, Summary, Sums, encode_summary

_CHUNK = 256 * 1024
_LEVEL = 1


class StateWriter:
    """Writes a state file as a stream.

    Args:
        stream: where to.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
        self._put(FORM)

    def _put(self, text: bytes) -> None:
        packed = self._packer.compress(text)
        if packed:
            self._stream.write(packed)

    def put(self, state: RunState) -> None:
        """Add the next run."""
        self._put(state.encoded())

    def end(self, summary: Summary) -> None:
        """Add the summary; nothing may follow."""
        self._put(encode_summary(summary))
        self._stream.write(self._packer.flush())


class StateOutput:
    """The next scan state; nothing is written as long as only `keep` is called.

    Args:
        path: the state file.

    Attributes:
        runs: number of runs taken.
        sums: their numbers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._writer: StateWriter | None = None
        self._next: Path | None = None
        self.runs = 0
        self.sums = Sums(0, 0, 0)

    def keep(self, state: RunState) -> None:
        """Take the next run, which is as in the state on disk."""
        if self._writer is not None:
            self._writer.put(state)
        self._count(state)

    def put(self, state: RunState) -> None:
        """Take the next run, which is new or different."""
        self._started().put(state)
        self._count(state)

    def _count(self, state: RunState) -> None:
        self.runs += 1
        self.sums = self.sums.plus(state.sums)

    def start(self) -> None:
        """Write from now on, beginning with what was kept so far."""
        self._started()

    def _started(self) -> StateWriter:
        if self._writer is None:
            self._stream = scratch_file(self._path.parent)
            self._writer = StateWriter(self._stream)
            for state in kept_runs(self._path, self.runs):
                self._writer.put(state)
        return self._writer

    def prepare(self, summary: Summary, previous: Summary | None) -> Path:
        """Write the state beside the one that is there, when it differs.

        Returns:
            The file that holds the state of this scan.

        Raises:
            OSError: it cannot be written.
        """
        if self._writer is None and summary == previous and not has_delta(self._path):
            return self._path
        self._started().end(summary)
        assert self._stream is not None  # noqa: S101 - just started
        self._stream.seek(0)
        self._next = self._path.with_name(NEXT_NAME)
        with new_file(self._next) as out:
            while data := self._stream.read(_CHUNK):
                out.write(data)
        return self._next

    def adopt(self) -> None:
        """What was prepared takes its place.

        Raises:
            OSError: it cannot.
        """
        if self._next is not None:
            adopt_next(self._path)
            drop_delta(self._path)

    def close(self) -> None:
        """Give the scratch file back."""
        close_scratch(self._stream)


class DeltaOutput:
    """The next scan state, as a record of what differs from the one on disk.

    Args:
        path: the state file.

    Attributes:
        runs: the new states by run folder; None for a run that is gone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.runs: dict[str, RunState | None] = {}

    def prepare(self, summary: Summary, previous: Summary | None) -> Path:
        """Append the record, when there is anything new.

        Returns:
            The state file: with its records it holds the state of this scan.

        Raises:
            OSError: it cannot be written.
        """
        if previous is not None and summary != previous:
            first = not has_delta(self._path)
            append_record(self._path, previous.identity, self.runs, summary, first=first)
        return self._path

    def adopt(self) -> None:
        """Nothing is left to do: the commit of the journal makes the record count."""


def prepared_identity(path: Path) -> Identity | None:
    """The identity of a prepared state that is whole.

    Args:
        path: the state file.
    """
    return stored_identity(path.with_name(NEXT_NAME))


def adopt_next(path: Path) -> None:
    """A prepared state takes the place of a state file.

    Raises:
        OSError: it cannot.
    """
    os.replace(path.with_name(NEXT_NAME), path)
    fsync_folder(path.parent)


def drop_next(path: Path) -> None:
    """Remove a prepared state, if there is one.

    Raises:
        OSError: it cannot be removed.
    """
    if require_own(path.with_name(NEXT_NAME)):
        os.unlink(path.with_name(NEXT_NAME))
