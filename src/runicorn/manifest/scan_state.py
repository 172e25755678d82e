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
from typing import Any, NamedTuple

from runicorn.manifest import rules
from runicorn.manifest.model import FileEntry, Identity, Run

STATE_NAME = "scan_state.gz"
NEXT_NAME = STATE_NAME + ".next"
"""The scan state of a revision that does not exist yet."""

FORM = b"runicorn scan state 2\n"


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

    def minus(self, other: Sums) -> Sums:
        """The numbers without those of a part; the newest time stays."""
        rest = Sums(*(one - less for one, less in zip(self, other, strict=True)))
        return rest._replace(newest_ns=self.newest_ns)

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


def decode_summary(line: bytes | None) -> Summary:
    """The summary of a line.

    Raises:
        StateLost: it makes no sense.
    """
    try:
        raw = json.loads(line or b"")
        identity = Identity(str(raw["lineage"]), int(raw["revision"]), str(raw["snapshot_id"]))
        summary = Summary(identity, str(raw["problems"]), int(raw["runs"]))
    except (ValueError, TypeError, KeyError) as error:
        raise StateLost("its last line makes no sense") from error
    return summary


def encode_summary(summary: Summary) -> bytes:
    """The line of a summary."""
    identity = summary.identity
    fields = {
        "lineage": identity.lineage,
        "revision": identity.revision,
        "snapshot_id": identity.snapshot_id,
        "problems": summary.problems,
        "runs": summary.runs,
    }
    return json.dumps(fields).encode() + b"\n"
