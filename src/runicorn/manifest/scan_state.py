"""The generator's memory of the last scan: ``scan_state.gz``.

A gzip stream of lines: one that names the form, one per run in order of run folder, one with the identity
and the sums. It is read and written as a stream, so that its size does not matter. No other program reads
it; what is not understood is treated as lost, which costs one full reading of the root.

A line holds, between tabs: run folder, the sums (see `Sums`), the *key* (what the system said about each
file), the *memory* (JSON: what a next scan needs besides) and the run as the manifest lists it. None of them
can hold a tab: names with control characters are never listed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from runicorn._files import fsync_folder, new_file, scratch_file
from runicorn.manifest import rules
from runicorn.manifest.model import FileEntry, Identity, Run
from runicorn.manifest.own_files import open_own, require_own

STATE_NAME = "scan_state.gz"
NEXT_NAME = STATE_NAME + ".next"
"""The scan state of a revision that does not exist yet."""

_FORM = b"runicorn scan state 2\n"
_CHUNK = 256 * 1024
_LEVEL = 1


class StateLost(Exception):  # noqa: N818 - the generator goes on without it
    """The scan state is torn or of another form."""


class Sums(NamedTuple):
    """Numbers of a run.

    Attributes:
        files: number of entries.
        size: sum of their sizes, bytes.
        newest_ns: time of the newest file, nanoseconds.
        carriable: bytes that a base of the journal carries.
        large: number of files that are too large for that.
        private: number of files that not everybody may read who may read the journal.
    """

    files: int
    size: int
    newest_ns: int
    carriable: int = 0
    large: int = 0
    private: int = 0

    def plus(self, other: Sums) -> Sums:
        """The numbers of two together."""
        newest = max(self.newest_ns, other.newest_ns)
        return Sums(*(one + more for one, more in zip(self, other, strict=True)))._replace(newest_ns=newest)


class RunState:
    """One run: what the last scan found, and what the next one needs.

    Attributes:
        folder: the run folder, relative to the root.
        sums: its numbers.
        key: what the system said about each file; equal keys mean an unchanged run.
        memory: JSON, see `runicorn.manifest.scan_run`.
        line: the run as the manifest lists it, JSON.
        run: the same run as an object, when it was built anyway.
    """

    __slots__ = ("folder", "key", "line", "memory", "run", "sums")

    def __init__(self, folder: str, sums: Sums, key: bytes, memory: bytes, line: bytes) -> None:
        self.folder = folder
        self.sums = sums
        self.key = key
        self.memory = memory
        self.line = line
        self.run: Run | None = None

    def encoded(self) -> bytes:
        """The line of the state file."""
        sums = b" ".join(b"%d" % each for each in self.sums)
        return b"\t".join((self.folder.encode(), sums, self.key, self.memory, self.line)) + b"\n"

    @classmethod
    def decoded(cls, text: bytes) -> RunState:
        """The run of a line without its newline.

        Raises:
            StateLost: the line makes no sense.
        """
        try:
            folder, sums, key, memory, line = text.split(b"\t")
            return cls(folder.decode(), Sums(*map(int, sums.split(b" "))), key, memory, line)
        except (ValueError, TypeError) as error:
            raise StateLost("a line makes no sense") from error

    def listed(self) -> Run:
        """The run as an object."""
        return self.run or run_of(json.loads(self.line))


_shared: dict[str, str] = {}


def _share(text: str) -> str:
    """One object for equal texts that return in many runs."""
    if len(_shared) > 10_000:
        _shared.clear()
    return _shared.setdefault(text, text)


def run_of(raw: dict[str, Any]) -> Run:
    """A run from a line that this program wrote itself, without the checks of a reader."""
    start = len(raw["folder"]) + 1
    files = tuple(
        FileEntry(
            each["path"],
            each["size"],
            each["mtime"],
            each["priority"],
            each["path"][start:] in rules.LOG_PRIORITIES,
            each.get("mtime_ns"),
            each.get("sha256"),
            each.get("block_digest"),
            each.get("tail_hash"),
        )
        for each in raw["files"]
    )
    return Run(
        raw["folder"],
        raw["run_id"],
        _share(raw["project"]),
        _share(raw["name"]),
        _share(raw["status"]),
        raw["created_at"],
        raw["updated_at"],
        files,
    )


class Summary(NamedTuple):
    """What the last scan found as a whole.

    Attributes:
        identity: under which it was published; the lineage is known.
        problems: digest of all problems (hex).
        runs: number of runs.
    """

    identity: Identity
    problems: str
    runs: int


class StateReader:
    """One pass over a state file.

    Args:
        path: the state file.

    Attributes:
        summary: known after `runs` has ended.

    Raises:
        StateLost: it is missing, torn or of another form.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.summary: Summary | None = None

    def runs(self) -> Iterator[RunState]:
        """The runs in order of run folder.

        Raises:
            StateLost: also after some runs, when what follows them is torn.
        """
        lines = _lines(self._path)
        if next(lines, None) != _FORM.rstrip(b"\n"):
            raise StateLost("it has another form")
        count = 0
        held = next(lines, None)
        for line in lines:
            if held is not None:
                yield RunState.decoded(held)
                count += 1
            held = line
        self.summary = _decode_summary(held, count)


def _lines(path: Path) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)
    rest = b""
    try:
        with os.fdopen(open_own(path), "rb") as stream:
            while data := stream.read(_CHUNK):
                lines = (rest + unpacker.decompress(data)).split(b"\n")
                rest = lines.pop()
                yield from lines
    except (OSError, zlib.error) as error:
        raise StateLost(str(error)) from error
    if not unpacker.eof or unpacker.unused_data or rest:
        raise StateLost("it is torn")


def _decode_summary(line: bytes | None, count: int) -> Summary:
    try:
        raw = json.loads(line or b"")
        identity = Identity(str(raw["lineage"]), int(raw["revision"]), str(raw["snapshot_id"]))
        summary = Summary(identity, str(raw["problems"]), int(raw["runs"]))
    except (ValueError, TypeError, KeyError) as error:
        raise StateLost("its last line makes no sense") from error
    if summary.runs != count:
        raise StateLost("it lacks runs")
    return summary


def _encode_summary(summary: Summary) -> bytes:
    identity = summary.identity
    fields = {
        "lineage": identity.lineage,
        "revision": identity.revision,
        "snapshot_id": identity.snapshot_id,
        "problems": summary.problems,
        "runs": summary.runs,
    }
    return json.dumps(fields).encode() + b"\n"


class StateWriter:
    """Writes a state file as a stream.

    Args:
        stream: where to.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
        self._put(_FORM)

    def _put(self, text: bytes) -> None:
        packed = self._packer.compress(text)
        if packed:
            self._stream.write(packed)

    def put(self, state: RunState) -> None:
        """Add the next run."""
        self._put(state.encoded())

    def end(self, summary: Summary) -> None:
        """Add the summary; nothing may follow."""
        self._put(_encode_summary(summary))
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
        if self._writer is None and summary == previous:
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

    def close(self) -> None:
        """Give the scratch file back."""
        if self._stream is not None:
            self._stream.close()


def kept_runs(path: Path, count: int) -> Iterator[RunState]:
    """The first ``count`` runs of a state file that was read to there before.

    Raises:
        StateLost: there are fewer.
    """
    if count == 0:
        return
    for taken, state in enumerate(StateReader(path).runs(), 1):
        yield state
        if taken == count:
            return
    raise StateLost("it has changed meanwhile")


def prepared_identity(path: Path) -> Identity | None:
    """The identity of a prepared state that is whole.

    Args:
        path: the state file.
    """
    reader = StateReader(path.with_name(NEXT_NAME))
    try:
        for _ in reader.runs():
            pass
    except StateLost:
        return None
    return reader.summary.identity if reader.summary is not None else None


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
