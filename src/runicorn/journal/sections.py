"""What the frames of the journal say: sections of runs, commits, seals (section Payloads). Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from runicorn.errors import DamagedError, UnsafeError
from runicorn.journal.frames import Frame, Place
from runicorn.journal.head import (
    FORMAT_VERSION,
    epoch_name,
    field,
    of_the_journal,
    place_of,
    require_version,
)
from runicorn.manifest import checks, rules
from runicorn.manifest.codec import encode_entry, header_fields
from runicorn.manifest.model import FileEntry, Header, Identity, ManifestType, Problem, Run

MAX_CARRIED = 4 * 1024**2
"""Bytes of one file in one frame that a reader takes."""

MAX_PATHS = 32 * 1024**2
"""Bytes of the run folders of all entries of a frame: its JSON names each folder only once. No frame with
less than 1 MiB of JSON comes to that."""

MAX_PROBLEMS = 100
MAX_PROBLEM_TEXT = 64 * 1024
"""Problems of a commit, and bytes of their text."""


class Carried(NamedTuple):
    """Bytes of a file.

    Attributes:
        start: offset within the file of the first one.
        data: the bytes.
        digest: of the file's first ``start + len(data)`` bytes (hex): SHA-256 of a state file, block digest
            of a log.
    """

    start: int
    data: memoryview
    digest: str

    @property
    def end(self) -> int:
        """Offset within the file behind the last byte."""
        return self.start + len(self.data)


class Change(NamedTuple):
    """A file that is new or listed differently.

    Attributes:
        entry: how it is listed now.
        carried: its new bytes, when the journal has them.
    """

    entry: FileEntry
    carried: Carried | None


@dataclass(frozen=True, slots=True)
class Section:
    """What changed in one run.

    Attributes:
        run: the run; its files are those that changed.
        changes: the same files.
        removed: paths within the run folder of files that are not listed any more.
    """

    run: Run
    changes: tuple[Change, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seal:
    """The end of an epoch.

    Attributes:
        identity: the state of the commit before it.
        place: where the next epoch has that state.
    """

    identity: Identity
    place: Place


# -- writing -----------------------------------------------------------------------------------


def encode_begin(epoch: str, lineage: str, created_at: float) -> bytes:
    """The JSON of the first frame of an epoch."""
    fields = {"format_version": FORMAT_VERSION, "epoch": epoch, "lineage": lineage, "created_at": created_at}
    return json.dumps(fields).encode("ascii")


def encode_change(
    entry: FileEntry, inner: str, size: int | None = None, start: int = 0, digest: str = ""
) -> str:
    """One entry of a section as JSON.

    Args:
        entry: how the file is listed.
        inner: its path within the run folder.
        size: carried bytes; None when it is only listed.
        start: offset within a log of the first one.
        digest: of the log's first ``start + size`` bytes, when these are not all of it.
    """
    text = encode_entry(entry, inner)
    if size is None:
        return text
    extra = f', "data": {size}'
    if entry.is_log:
        extra += f', "from": {start}' + (f', "digest": "{digest}"' if digest else "")
    return f"{text[:-1]}{extra}}}"


def encode_section(
    run: tuple[str, str, float, float], changes: Sequence[str], removed: Sequence[str] = ()
) -> str:
    """One section as JSON.

    Args:
        run: folder, status, time of creation and of the newest file (seconds since the epoch).
        changes: as `encode_change` gives them.
        removed: paths within the run folder.
    """
    folder, status, created_at, updated_at = run
    gone = f', "removed": {json.dumps(list(removed))}' if removed else ""
    return (
        f'{{"folder": {json.dumps(folder)}, "status": {json.dumps(status)}, "created_at": {created_at!r}, '
        f'"updated_at": {updated_at!r}, "files": [{", ".join(changes)}]{gone}}}'
    )


def encode_files(sections: Sequence[str]) -> bytes:
    """The JSON of a files frame."""
    return f'{{"runs": [{", ".join(sections)}]}}'.encode("ascii")


def encode_commit(header: Header) -> bytes:
    """The JSON of a commit."""
    shown: list[Problem] = []
    left = MAX_PROBLEM_TEXT
    for problem in header.problems[:MAX_PROBLEMS]:
        left -= len(problem.path) + len(problem.kind) + len(problem.message)
        if left < 0:
            break
        shown.append(problem)
    count = max(header.problem_count, len(header.problems))
    fields = header_fields(replace(header, problems=tuple(shown), problem_count=count, active_window=None))
    del fields["manifest_type"]
    return json.dumps(fields).encode("ascii")


def encode_seal(seal: Seal) -> bytes:
    """The JSON of a seal."""
    fields = {
        "epoch": seal.place.epoch,
        "offset": seal.place.offset,
        "chain": seal.place.chain.hex(),
        "revision": seal.identity.revision,
        "snapshot_id": seal.identity.snapshot_id,
    }
    return json.dumps(fields).encode("ascii")


# -- reading -----------------------------------------------------------------------------------


def decode_begin(frame: Frame) -> tuple[str, str]:
    """Epoch and lineage that the first frame tells.

    Raises:
        DamagedError: it makes no sense; `UnsupportedVersionError` for an unknown major version.
        UnsafeError: a value is out of bounds.
    """
    with of_the_journal():
        require_version(frame.head)
        checks.seconds(field(frame.head, "created_at"), "created_at")
        lineage = checks.text(field(frame.head, "lineage"), "lineage", 64, 1)
        return epoch_name(field(frame.head, "epoch")), lineage


def decode_commit(frame: Frame) -> Header:
    """The state that a commit ends at.

    Raises:
        DamagedError: it makes no sense.
        UnsafeError: a value is out of bounds.
    """
    with of_the_journal():
        header = checks.header({**frame.head, "manifest_type": ManifestType.FULL.value})
        if header.identity.lineage is None:
            raise DamagedError("a commit of the journal lacks the lineage")
        if len(header.problems) > MAX_PROBLEMS:
            raise UnsafeError(f"a commit of the journal lists more than {MAX_PROBLEMS} problems")
        return header


def decode_seal(frame: Frame, lineage: str | None) -> Seal:
    """Where a seal leads.

    Raises:
        DamagedError: it makes no sense.
        UnsafeError: a value is out of bounds.
    """
    with of_the_journal():
        revision = checks.integer(field(frame.head, "revision"), "revision", 1, checks.MAX_REVISION)
        snapshot = checks.text(field(frame.head, "snapshot_id"), "snapshot_id", 64, 1)
        return Seal(Identity(lineage, revision, snapshot), place_of(frame.head))


def decode_files(frame: Frame) -> Iterator[Section]:
    """The sections of a files frame. All of it is checked before the first one is given.

    Raises:
        DamagedError: it makes no sense.
        UnsafeError: it would harm.
    """
    with of_the_journal():
        runs = field(frame.head, "runs")
        if type(runs) is not list:
            raise DamagedError("the field 'runs' of the journal is not a list")
        taken = _Data(frame.data)
        sections = [_section(raw, taken) for raw in runs]
        if taken.left:
            raise DamagedError("a frame of the journal has bytes that belong to no file")
    return iter(sections)


class _Data:
    """Hands out the data of a frame in the order of the entries, and keeps count."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0
        self._spelled = 0

    def spell(self, folder: str, times: int) -> None:
        """Count the bytes that whole paths take more than those in the JSON."""
        self._spelled += len(folder.encode()) * times
        if self._spelled > MAX_PATHS:
            raise UnsafeError(f"a frame of the journal names paths of more than {MAX_PATHS} bytes")

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise DamagedError("a frame of the journal has fewer bytes than its files")
        self._at += size
        return self._data[self._at - size : self._at]


def _section(raw: object, data: _Data) -> Section:
    if type(raw) is not dict:
        raise DamagedError("a section of the journal is not an object")
    folder = checks.run_folder(field(raw, "folder"))
    files = field(raw, "files")
    if type(files) is not list or not all(type(each) is dict for each in files):
        raise DamagedError(f"the section '{rules.escape(folder)}' of the journal has no list of files")
    data.spell(folder, len(files))
    run = _run(raw, folder, files)
    removed = _removed(raw.get("removed", []), folder)
    changes = tuple(
        Change(entry, _carried(each, entry, data)) for each, entry in zip(files, run.files, strict=True)
    )
    return Section(run, changes, removed)


def _run(raw: dict[str, Any], folder: str, files: list[dict[str, Any]]) -> Run:
    project, name = rules.project_and_name(folder) or ("", "")
    run_id = folder.rpartition("/")[2]
    if files:
        entries = [{**each, "path": f"{folder}/{checks.text(field(each, 'path'), 'path')}"} for each in files]
        return checks.run({**raw, "run_id": run_id, "project": project, "name": name, "files": entries})
    return Run(
        folder=folder,
        run_id=run_id,
        project=project,
        name=name,
        status=checks.text(field(raw, "status"), "status", 64),
        created_at=checks.seconds(field(raw, "created_at"), "created_at"),
        updated_at=checks.seconds(field(raw, "updated_at"), "updated_at"),
        files=(),
    )


def _removed(raw: object, folder: str) -> tuple[str, ...]:
    if type(raw) is not list:
        raise DamagedError("the field 'removed' of the journal is not a list")
    longest = rules.MAX_PATH_BYTES - len(folder.encode()) - 1
    for inner in raw:
        # The folder was checked before: whole paths would be checked again for each of very many.
        name = checks.text(inner, "removed")
        if rules.unsafe_path(name) or rules.priority_in_run(name) is None or len(name.encode()) > longest:
            shown = rules.escape(f"{folder}/{name}"[:200])
            raise UnsafeError(
                f"the journal removes '{shown}', which is no file of a run", path=f"{folder}/{name}"
            )
    return tuple(raw)


def _carried(raw: dict[str, Any], entry: FileEntry, data: _Data) -> Carried | None:
    if "data" not in raw:
        return None
    size = checks.integer(raw["data"], "data", 0, MAX_CARRIED)
    if entry.digest is None:
        raise DamagedError(
            f"the journal carries '{rules.escape(entry.path)}' without a digest", path=entry.path
        )
    if not entry.is_log:
        if size != entry.size:
            raise DamagedError("the journal carries another number of bytes than it lists", path=entry.path)
        return Carried(0, data.take(size), entry.digest)
    start = checks.integer(field(raw, "from"), "from")
    end = start + size
    if end > entry.size:
        raise DamagedError("the journal carries more of a log than it lists", path=entry.path)
    digest = entry.digest if end == entry.size else checks.digest(raw, "digest")
    if digest is None:
        raise DamagedError("the journal carries a part of a log without a digest", path=entry.path)
    return Carried(start, data.take(size), digest)
