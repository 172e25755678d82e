"""What has to be done so that a mirror shows what a listing says. Pure: no I/O (law: plan, then apply)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from runicorn.manifest.digest import BLOCK_SIZE, block_digest
from runicorn.manifest.model import FileEntry, Run
from runicorn.remote_storage.known import Known, Listed

YOUNG = 2.0
"""Seconds that have to lie between two looks at a file whose time is told in whole seconds."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring a whole file and put it in place.

    Attributes:
        run: the run that it belongs to.
        entry: how the listing describes it.
        reason: why, for display.
        held: bytes from the first one on that the file in the mirror has already, as long as the server's
            still begins so.
        later: the log in the mirror, which may be of a later state than is listed: it stays, or grows, if
            what the server has now begins with it.
    """

    run: Run
    entry: FileEntry
    reason: str
    held: int = 0
    later: Known | None = None

    @property
    def bytes_expected(self) -> int:
        """Bytes that have to be received."""
        return self.entry.size - self.held


@dataclass(frozen=True, slots=True)
class Append:
    """Download what a log has grown by, prove that the local prefix is the server's, append."""

    run: Run
    entry: FileEntry
    known: Known

    @property
    def bytes_expected(self) -> int:
        """Bytes that have to be received."""
        return max(0, self.entry.size - self.known.local.size)


@dataclass(frozen=True, slots=True)
class Note:
    """The mirror holds the content already; only the listing's description of it is new."""

    run: Run
    entry: FileEntry
    known: Known


@dataclass(frozen=True, slots=True)
class Gone:
    """A file that was synced from this root and is not listed any more."""

    folder: str
    inner: str
    known: Known

    @property
    def path(self) -> str:
        """Path relative to the mirror."""
        return f"{self.folder}/{self.inner}"


Transfer = Fetch | Append
Action = Fetch | Append | Note


@dataclass(slots=True)
class SyncPlan:
    """All that a sync is going to do.

    Attributes:
        transfers: downloads, in the order in which they are done.
        notes: descriptions to take over, without a download.
        gone: files that the listing does not name any more.
        listed_files: how many selected files the listing names.
        listed_bytes: sum of their sizes, bytes.
    """

    transfers: list[Transfer] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    listed_files: int = 0
    listed_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Bytes that the transfers are going to receive."""
        return sum(transfer.bytes_expected for transfer in self.transfers)

    def put_in_order(self) -> None:
        """Status and meta first, the newest runs first, media last."""
        self.transfers.sort(key=lambda each: (each.entry.priority, -each.run.updated_at, each.entry.path))


def decide(run: Run, entry: FileEntry, known: Known | None, now: float = 0.0) -> Action | None:
    """What has to be done for one file.

    Args:
        run: the run that it belongs to.
        entry: how the listing describes it.
        known: the file in the mirror, or None when there is none.
        now: this machine's clock, seconds since the epoch.

    Returns:
        None when nothing has to be done.
    """
    if known is None:
        return Fetch(run, entry, "new")
    if entry.is_log:
        return _decide_log(run, entry, known, now)
    same = known.listed is not None and known.listed.same_as(Listed.of(entry))
    if entry.sha256 is not None:
        same_content = known.hashes == (bytes.fromhex(entry.sha256),)
        return _keep(run, entry, known, same) if same_content else Fetch(run, entry, "changed")
    # Without a digest, size and time are all there is to go by (see the format, Digests).
    if same and _may_have_changed(entry, known):
        return Fetch(run, _older(entry, known, now), "may have changed")
    if same or (known.listed is None and _looks_like(entry, known)):
        return _keep(run, entry, known, same)
    return Fetch(run, entry, "changed")


def _keep(run: Run, entry: FileEntry, known: Known, same: bool) -> Note | None:
    listed = known.listed
    return None if same and listed is not None and _is_as_exact(listed, entry) else Note(run, entry, known)


def _may_have_changed(entry: FileEntry, known: Known) -> bool:
    """Whether size and time, all that is listed, do not prove that a file is still the one that was brought:
    it was young then; or it is now, and a listing that knew its digest or its exact time told of it last."""
    listed = known.listed
    if listed is None:
        return False
    knew_more = listed.digest is not None or listed.mtime_ns is not None
    return listed.young_at is not None or (not entry.settled and knew_more)


def _older(entry: FileEntry, known: Known, now: float) -> FileEntry:
    """The entry of a young file that is looked at again: settled when enough time lies between."""
    young_at = known.listed.young_at if known.listed is not None else None
    if young_at is None or not now - young_at >= YOUNG:
        return replace(entry, settled=False)
    return replace(entry, settled=True)


def _is_as_exact(listed: Listed, entry: FileEntry) -> bool:
    return (listed.digest is not None or entry.digest is None) and (
        listed.mtime_ns is not None or entry.mtime_ns is None
    )


def _looks_like(entry: FileEntry, known: Known) -> bool:
    return known.local.size == entry.size and known.local.mtime_ns // 10**9 == int(entry.mtime)


def _looks_like_log(entry: FileEntry, known: Known) -> bool:
    return known.listed is None and entry.block_digest is None and _looks_like(entry, known)


def _decide_log(run: Run, entry: FileEntry, known: Known, now: float) -> Action | None:
    held, listed = known.local.size, known.listed
    # What was brought without a digest may be anything of that size and time.
    is_told = listed is not None and (entry.block_digest is None or listed.digest is not None)
    if listed is not None and is_told and listed.same_as(Listed.of(entry)) and held <= entry.size:
        if entry.block_digest is None and _may_have_changed(entry, known):
            return Append(run, _older(entry, known, now), known)
        if held < entry.size and run.has_ended:
            return Append(run, entry, known)
        return _keep(run, entry, known, same=True)
    return _decide_other_log(run, entry, known)


def _decide_other_log(run: Run, entry: FileEntry, known: Known) -> Action:
    held = known.local.size
    is_all = held == entry.size and block_digest(known.hashes) == entry.block_digest
    if is_all or _looks_like_log(entry, known):
        return Note(run, entry, known)
    if held <= entry.size and may_be_prefix(entry, known):
        return Append(run, entry, known)
    if held > entry.size and known.extends:
        # It was cut, or has grown since the listing; no clock tells which.
        return Fetch(run, entry, "longer than listed", held=entry.size, later=known)
    return Fetch(run, entry, "rewritten", later=known)


def may_be_later(known: Known) -> bool:
    """Whether a log of the mirror may be of a later state than one that a manifest or the journal tells of: a
    walk brought it, it is longer than was listed last, or it is not as it was recorded (after a kill)."""
    listed = known.listed
    return listed is None or listed.digest is None or known.local.size > listed.size


def may_be_prefix(entry: FileEntry, known: Known) -> bool:
    """Whether the full blocks of the local log are those of the listed one, as far as that shows
    before anything is fetched (section Digests of the format)."""
    full = known.local.size // BLOCK_SIZE
    last = max(0, entry.size - 1) // BLOCK_SIZE
    if entry.block_digest is None:
        return True
    if known.local.size == entry.size:
        return block_digest(known.hashes) == entry.block_digest
    if entry.tail_hash is None or full != last:
        return True
    hashes = b"".join(known.hashes[:full]) + bytes.fromhex(entry.tail_hash)
    return hashlib.sha256(hashes).hexdigest() == entry.block_digest


def plan_run(
    run: Run, entries: Iterable[FileEntry], known: Mapping[str, Known], now: float = 0.0
) -> Iterator[Action]:
    """What has to be done for the selected files of one run.

    Args:
        run: the run.
        entries: those of its files that are selected.
        known: the files of the run in the mirror, by their path within the run folder.
        now: this machine's clock, seconds since the epoch.
    """
    start = len(run.folder) + 1
    for entry in entries:
        action = decide(run, entry, known.get(entry.path[start:]), now)
        if action is not None:
            yield action
