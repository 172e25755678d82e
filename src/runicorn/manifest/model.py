"""The values of a manifest: what docs/manifest-format.md names, without any I/O.

Values that come from outside are checked by `runicorn.manifest.codec` before they are built.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from runicorn.manifest import rules


class ManifestType(str, Enum):
    """What a manifest lists.

    Attributes:
        FULL: all runs.
        ACTIVE: those that changed lately.
    """

    FULL = "full"
    ACTIVE = "active"


class ProblemKind(str, Enum):
    """Why something could not be listed (section Problems of the format)."""

    UNREADABLE = "unreadable"
    CHANGING = "changing"
    TOO_DEEP = "too_deep"
    TOO_LARGE = "too_large"
    UNSAFE_NAME = "unsafe_name"
    LINK = "link"
    SPECIAL = "special"

    @property
    def hides_files(self) -> bool:
        """Whether files may exist that are not listed because of it."""
        return self in (
            ProblemKind.UNREADABLE,
            ProblemKind.CHANGING,
            ProblemKind.TOO_DEEP,
            ProblemKind.TOO_LARGE,
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the root that could not be listed.

    Attributes:
        path: relative to the root, escaped for display.
        kind: one of `ProblemKind`, or a kind that a newer generator knows.
        message: one line, escaped for display.
    """

    path: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a run.

    Attributes:
        path: relative to the root, ``/`` between parts.
        size: bytes.
        mtime: time of last change, seconds since the epoch.
        priority: lower is fetched earlier.
        is_log: whether the file only grows.
        mtime_ns: the same time in nanoseconds, when it is known exactly.
        sha256: hex digest of a state file.
        block_digest: hex digest over the block hashes of a log.
        tail_hash: hex digest of the last block of a log.
        settled: whether size and time tell its content; false when it may change again without a
            trace, which only a listing made by walking knows.
    """

    path: str
    size: int
    mtime: float
    priority: int
    is_log: bool = False
    mtime_ns: int | None = None
    sha256: str | None = None
    block_digest: str | None = None
    tail_hash: str | None = None
    settled: bool = True

    @property
    def digest(self) -> str | None:
        """The digest that the file's content is checked against, if there is one."""
        return self.block_digest if self.is_log else self.sha256

    @property
    def time_ns(self) -> int:
        """The time of last change, nanoseconds since the epoch, as exactly as it is known."""
        return self.mtime_ns if self.mtime_ns is not None else int(self.mtime * 10**9)


@dataclass(frozen=True, slots=True)
class Run:
    """One training run (an *experiment* in the format's field names).

    Attributes:
        folder: the run folder, relative to the root.
        run_id: the last part of ``folder``.
        project: first part of the run's path.
        name: the rest of the run's path.
        status: as ``status.json`` tells it.
        created_at: seconds since the epoch.
        updated_at: time of the newest file, seconds since the epoch.
        files: at least one entry.
    """

    folder: str
    run_id: str
    project: str
    name: str
    status: str
    created_at: float
    updated_at: float
    files: tuple[FileEntry, ...]

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be written, so that a last line without newline is complete."""
        return rules.has_ended(self.status)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which published state this is (section Identity of the format).

    Attributes:
        lineage: UUID of the root's history; None when the generator tells none.
        revision: grows by one whenever something changed.
        snapshot_id: UUID of the published state.
    """

    lineage: str | None
    revision: int
    snapshot_id: str


@dataclass(frozen=True, slots=True)
class Header:
    """Everything of a manifest but its runs.

    Attributes:
        manifest_type: full or active.
        identity: lineage, revision and snapshot.
        generated_at: when the server looked, seconds since the epoch.
        server_hostname: for display only.
        remote_root: for display only.
        total_experiments: number of runs.
        total_files: number of entries.
        total_bytes: sum of the sizes, bytes.
        complete: whether no problem hides a file.
        problems: those that are listed.
        problem_count: all of them.
        active_window: seconds, of an active manifest only.
        format_version: ``MAJOR.MINOR``.
        generator: program and version, for display only.
    """

    manifest_type: ManifestType
    identity: Identity
    generated_at: float
    server_hostname: str
    remote_root: str
    total_experiments: int
    total_files: int
    total_bytes: int
    complete: bool = False
    problems: tuple[Problem, ...] = ()
    problem_count: int = 0
    active_window: int | None = None
    format_version: str = "1.0"
    generator: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A header and its runs.

    Attributes:
        header: everything but the runs.
        experiments: the runs, in order of their folders.
    """

    header: Header
    experiments: tuple[Run, ...] = field(repr=False)

    @property
    def manifest_type(self) -> ManifestType:
        """Full or active."""
        return self.header.manifest_type

    @property
    def revision(self) -> int:
        """Grows by one whenever something changed."""
        return self.header.identity.revision

    @property
    def snapshot_id(self) -> str:
        """UUID of the published state."""
        return self.header.identity.snapshot_id

    @property
    def lineage(self) -> str | None:
        """UUID of the root's history."""
        return self.header.identity.lineage

    @property
    def generated_at(self) -> float:
        """When the server looked, seconds since the epoch."""
        return self.header.generated_at

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What could not be listed."""
        return self.header.problems

    @property
    def complete(self) -> bool:
        """Whether no problem hides a file."""
        return self.header.complete

    @property
    def total_experiments(self) -> int:
        """Number of runs."""
        return self.header.total_experiments

    @property
    def total_files(self) -> int:
        """Number of entries."""
        return self.header.total_files

    @property
    def total_bytes(self) -> int:
        """Sum of all sizes, bytes."""
        return self.header.total_bytes
