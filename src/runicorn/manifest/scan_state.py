"""The generator's memory of the last scan: ``scan_state.gz``.

A gzip stream of lines: one that names the form, one per run in order of run folder, one with the identity
and the sums. It is read and written as a stream, so that its size does not matter. No other program reads
it; what is not understood is treated as lost, which costs one full reading of the root.

A line holds, between tabs: run folder, number of files, bytes, time of the newest file (ns), the *key* (what
the system said about each file), the *memory* (JSON: what a next scan needs besides) and the run as the
manifest lists it. None of them can hold a tab: names with control characters are never listed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from runicorn._files import replace_file, scratch_file
from runicorn.manifest import rules
from runicorn.manifest.model import FileEntry, Identity, Run

STATE_NAME = "scan_state.gz"
_FORM = b"runicorn scan state 1\n"
_CHUNK = 256 * 1024
_LEVEL = 1


class StateLost(Exception):  # noqa: N818 - the generator goes on without it
    """The scan state is torn or of another form."""


class RunState:
    """One run: what the last scan found, and what the next one needs.

    Attributes:
        folder: the run folder, relative to the root.
        files: number of entries.
        size: sum of their sizes, bytes.
        newest_ns: time of the newest file, nanoseconds.
        key: what the system said about each file; equal keys mean an unchanged run.
        memory: JSON, see `runicorn.manifest.scan_run`.
        line: the run as the manifest lists it, JSON.
        run: the same run as an object, when it was built anyway.
    """

    __slots__ = ("files", "folder", "key", "line", "memory", "newest_ns", "run", "size")

    def __init__(
        self, folder: str, sums: tuple[int, int, int], key: bytes, memory: bytes, line: bytes
    ) -> None:
        self.folder = folder
        self.files, self.size, self.newest_ns = sums
        self.key = key
        self.memory = memory
        self.line = line
        self.run: Run | None = None

    def encoded(self) -> bytes:
        """The line of the state file."""
        sums = b"%d\t%d\t%d" % (self.files, self.size, self.newest_ns)
        return b"\t".join((self.folder.encode(), sums, self.key, self.memory, self.line)) + b"\n"

    @classmethod
    def decoded(cls, text: bytes) -> RunState:
        """The run of a line without its newline.

        Raises:
            StateLost: the line makes no sense.
        """
        try:
            folder, files, size, newest, key, memory, line = text.split(b"\t")
            return cls(folder.decode(), (int(files), int(size), int(newest)), key, memory, line)
        except ValueError as error:
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
        with path.open("rb") as stream:
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
        files: number of their files.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._writer: StateWriter | None = None
        self.runs = 0
        self.files = 0

    def keep(self, state: RunState) -> None:
        """Take the next run, which is as in the state on disk."""
        if self._writer is not None:
            self._writer.put(state)
        self.runs += 1
        self.files += state.files

    def put(self, state: RunState) -> None:
        """Take the next run, which is new or different."""
        self._started().put(state)
        self.runs += 1
        self.files += state.files

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

    def install(self, summary: Summary, previous: Summary | None) -> None:
        """Put the state in place when it differs from what is there.

        Raises:
            OSError: it cannot be written.
        """
        if self._writer is None and summary == previous:
            return
        self._started().end(summary)
        assert self._stream is not None  # noqa: S101 - just started
        self._stream.seek(0)
        with replace_file(self._path) as out:
            while data := self._stream.read(_CHUNK):
                out.write(data)

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
