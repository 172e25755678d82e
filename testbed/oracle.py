"""Decides whether a mirror keeps laws 1 to 4, by what its root has ever been. No code is the product's.

    oracle = Oracle(history)
    oracle.published(document)              # each manifest, as JSON, when it is published
    faults = oracle.faults(mirror)          # after each sync, whole or cut short
    lacking = oracle.complete(mirror, root)

Each look is compared with the look before: a log grows in place, a file goes only with leave. So an oracle
that looks after each sync sees most. What somebody else does to the mirror it has to be told.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from testbed.epochs import Epoch
from testbed.history import History, is_log, says_ended
from testbed.mirror_records import STATE, Records, Row, read_records
from testbed.publications import Entry, Publication, entry_of, identity_of
from testbed.selected import selected_files

BLOCK = 1024 * 1024
PAGE = os.sysconf("SC_PAGE_SIZE")
OWN_FOLDER = ".runicorn"


class _Log(NamedTuple):
    held: FileIO  # as long as it is open, no other file gets its inode
    inode: int
    size: int
    digest: bytes
    generations: frozenset[int]


@dataclass
class _Look:
    """What a mirror was when it was last looked at.

    Attributes:
        files: SHA-256 of each file.
        logs: of the logs, what tells whether they have grown.
        records: what the client had recorded.
        others: what somebody else left, by path: the SHA-256, or None for a file that was taken away.
        removed: files that went with leave.
    """

    files: dict[str, str] = field(default_factory=dict)
    logs: dict[str, _Log] = field(default_factory=dict)
    records: Records = field(default_factory=Records)
    others: dict[str, str | None] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        weakref.finalize(self, _forget, self.logs)


def _forget(logs: dict[str, _Log]) -> None:
    while logs:
        logs.popitem()[1].held.close()


class Oracle:
    """Decides by a history.

    Args:
        history: what the files of the root have ever held, and when they went.
        patience: seconds to wait for a publication that another thread is about to tell of.

    Attributes:
        torn_ends: how many logs ended within a record after the end of their run, as they may.
        publications: the states that it was told of, in that order.
        torn_pages: how many ended within a record at the end of a page, where a kill stopped a write.
        untold: how many files were not as in the root, and looked so.
    """

    def __init__(self, history: History, *, patience: float = 0.0) -> None:
        self.history = history
        self.torn_ends = 0
        self.torn_pages = 0
        self.untold = 0
        self._patience = patience
        self._changed = threading.Condition()
        self.publications: list[Publication] = []
        self._ended: set[str] = set()
        self._epochs: dict[Path, Epoch] = {}
        self._looks: dict[Path, _Look] = {}

    def close(self) -> None:
        """Forget all mirrors. It holds each of their logs open until then, or until it is collected."""
        for look in self._looks.values():
            _forget(look.logs)
        self._looks.clear()

    # -- what it is told -------------------------------------------------------------------------

    def published(self, document: Mapping[str, Any]) -> None:
        """Take note of a manifest that was published, as JSON."""
        before = self.publications[-1].runs if self.publications else {}
        runs: dict[str, Mapping[str, Entry]] = {}
        for run in document["experiments"]:
            ended = says_ended(json.dumps({"status": run["status"]}).encode())
            if ended:
                self._ended.add(run["folder"])
            files = {each["path"]: entry_of(each, ended) for each in run["files"]}
            same = before.get(run["folder"])
            runs[run["folder"]] = same if same == files else files
        is_full = document["manifest_type"] == "full"
        self.add(Publication(identity_of(document), is_full, document.get("complete") is True, runs))

    def published_in(self, journal: Path) -> None:
        """Take note of all that a journal has published since the last call; the current HEAD tells nothing
        that its frames do not."""
        for path in sorted(journal.glob("*.journal")):
            epoch = self._epochs.setdefault(path, Epoch(path))
            for document in epoch.commits():
                self.published(document)

    def add(self, publication: Publication) -> None:
        """Take note of a published state; it may be known already."""
        with self._changed:
            if self._find(publication.identity, is_full=publication.is_full) is None:
                self.publications.append(publication)
                self._changed.notify_all()

    def somebody_did(self, mirror: Path, *paths: str) -> None:
        """Somebody else has just put these files into the mirror, changed them, or taken them away.

        Until the client has brought a whole version in place of one, it has to stay as it is now.
        """
        look = self._look_at(mirror)
        for path in paths:
            if path == STATE:
                look.records = Records()
                continue
            content = _read(mirror / path)
            look.others[path] = None if content is None else sha256(content).hexdigest()
            if path in look.logs:
                look.logs.pop(path).held.close()
            look.files.pop(path, None)

    def recorded(self, mirror: Path) -> set[str]:
        """The files that the client had recorded as synced at the last look."""
        return set(self._look_at(mirror).records.rows)

    # -- what it decides -------------------------------------------------------------------------

    def faults(
        self,
        mirror: Path,
        *,
        deletes: bool = False,
        force: bool = False,
        undisturbed: bool = False,
    ) -> list[str]:
        """What breaks a law in a mirror, one line each; empty when all four hold.

        Args:
            mirror: the mirror. When it does not exist, nothing is wrong with it.
            deletes: whether the syncs since the last look had leave to delete,
            force: and the second leave, to delete more than half.
            undisturbed: whether the last sync came to its end: then nothing is half done.
        """
        before = self._look_at(mirror)
        if not mirror.exists():
            return [f"law 4: {path}: it went with the whole mirror" for path in sorted(before.files)]
        records, found = self._records(mirror)
        contents = dict(_contents(mirror))
        for path, content in contents.items():
            if path.rpartition("/")[2] == "status.json" and says_ended(content):
                self._ended.add(path.rpartition("/")[0])
        found += self._law_4(before, contents, deletes=deletes, force=force)
        found += self._laws_1_and_3(before, mirror, contents, records)
        found += self._law_2(before, mirror, contents, records, undisturbed=undisturbed)
        self._remember(before, mirror, contents, records)
        return sorted(found)

    def complete(
        self, mirror: Path, root: Path, *, deletes: bool = False, by_walk: bool = False
    ) -> list[str]:
        """In what a mirror differs from the root as it is now, one line each.

        Args:
            mirror: the mirror.
            root: the root, which must not change meanwhile.
            deletes: whether the mirror has to lack what the root lacks.
            by_walk: whether nothing but sizes and whole seconds told the client what has changed: then a
                content of the same size and second is let pass.

        What no client can tell by what it learns is let pass, and counted as `untold`.
        """
        wanted, found = selected_files(root), dict(_contents(mirror)) if mirror.exists() else {}
        differ = []
        for path, content in wanted.items():
            if path not in found:
                differ.append(f"{path}: it is in the root and not in the mirror")
            elif self._is_current(path, found[path], content, wanted):
                continue
            elif by_walk and self._looks_alike(path, mirror, root):
                self.untold += 1
            else:
                differ.append(f"{path}: {_shown(found[path])} in place of {_shown(content)}")
        others = self._look_at(mirror).others
        extra = sorted(set(found) - set(wanted) - set(others)) if deletes else []
        return sorted(differ) + [f"{path}: it is in the mirror and not in the root" for path in extra]

    def _looks_alike(self, path: str, mirror: Path, root: Path) -> bool:
        """Whether a walk takes a file for the one that was copied: a copy has the time of that, or is known
        to have got it since."""
        copy, status = (mirror / path).stat(), (root / path).stat()
        least = 0 if is_log(path) else status.st_size
        row = self._look_at(mirror).records.rows.get(path)
        seconds = {int(copy.st_mtime), row.second if row is not None else 0}
        return int(status.st_mtime) in seconds and least <= copy.st_size <= status.st_size

    def fault(self, path: str, content: bytes) -> str | None:
        """What is wrong with `content` as a copy of one file, by laws 1 and 3; None when nothing is."""
        fault = self.history.fault(path, content)
        if fault is None:
            return None
        number = 3 if is_log(path) else 1
        if number == 3 and self.history.is_prefix(path, content) and self._has_ended(path):
            # The writer lets a run that has ended go on; at its end half a record may be taken over.
            self.torn_ends += 1
            return None
        return f"law {number}: {path}: {fault.removeprefix(path).strip()}"

    # -- laws 1 and 3 ----------------------------------------------------------------------------

    def _laws_1_and_3(
        self,
        before: _Look,
        mirror: Path,
        contents: Mapping[str, bytes],
        records: Records,
    ) -> Iterator[str]:
        for path, content in contents.items():
            if before.others.get(path) == sha256(content).hexdigest():
                continue
            fault = self.fault(path, content)
            if fault and self._is_torn_by_a_kill(path, content, records):
                self.torn_pages += 1
            elif fault:
                yield fault
                continue
            if path in before.logs:
                yield from self._growth(path, before.logs[path], mirror, content)

    def _is_torn_by_a_kill(self, path: str, content: bytes, records: Records) -> bool:
        """A kill within one write leaves the pages that were written, and nothing of it is recorded."""
        row = records.rows.get(path)
        at_a_page = is_log(path) and len(content) % PAGE == 0 and self.history.is_prefix(path, content)
        return at_a_page and (row is None or row.size < len(content))

    def _growth(self, path: str, before: _Log, mirror: Path, content: bytes) -> Iterator[str]:
        if (mirror / path).stat().st_ino == before.inode:
            if sha256(content[: before.size]).digest() != before.digest or len(content) < before.size:
                sizes = f"from {before.size} to {len(content)} bytes"
                yield f"law 3: {path}: it changed in place otherwise than by growing, {sizes}"
            return
        now = self._generations_of(path, content)
        if len(before.generations | now) <= 1:
            yield f"law 3: {path}: it took another inode, and is of the same generation"

    def _generations_of(self, path: str, content: bytes) -> frozenset[int]:
        every = enumerate(self.history.generations(path))
        return frozenset(number for number, whole in every if whole.startswith(content))

    def _has_ended(self, path: str) -> bool:
        run = path.rpartition("/")[0]
        return run in self._ended or self.history.has_ended(run)

    # -- law 2 -----------------------------------------------------------------------------------

    def _records(self, mirror: Path) -> tuple[Records, list[str]]:
        try:
            return read_records(mirror / STATE), []
        except (sqlite3.DatabaseError, ValueError) as error:
            return Records(), [f"law 2: {STATE}: {error}"]

    def _law_2(
        self,
        before: _Look,
        mirror: Path,
        contents: Mapping[str, bytes],
        records: Records,
        *,
        undisturbed: bool,
    ) -> Iterator[str]:
        for path, row in records.rows.items():
            if path not in contents:
                # What is recorded as not listed any more is about to be removed, or was by whom a kill ended.
                if path not in before.others and path not in before.removed and not row.is_gone:
                    yield f"law 2: {path}: it is recorded as synced, and is not there"
                continue
            reason = self._wrong_row(path, row, mirror, contents[path])
            is_others = before.others.get(path) == sha256(contents[path]).hexdigest()
            if reason is None or is_others:
                continue
            if undisturbed or not reason.startswith("it is not as it was recorded"):
                yield f"law 2: {path}: {reason}"
        yield from self._claims(before, contents, records)

    def _wrong_row(self, path: str, row: Row, mirror: Path, content: bytes) -> str | None:
        status = (mirror / path).stat()
        if (status.st_size, status.st_mtime_ns, status.st_ino) == row[:3]:
            return None if row.hashes == _hashes(path, content) else "its record has other hashes"
        # Put in place and not recorded yet: the record tells of a version before.
        if not self._was_ever(path, row):
            return "its record has hashes that it never had"
        return f"it is not as it was recorded ({status.st_size} bytes for {row.size})"

    def _was_ever(self, path: str, row: Row) -> bool:
        if not is_log(path):
            return row.hashes.hex() in self.history.versions(path)
        wholes = (whole[: row.size] for whole in self.history.generations(path) if len(whole) >= row.size)
        return any(_hashes(path, whole) == row.hashes for whole in wholes)

    def _claims(self, before: _Look, contents: Mapping[str, bytes], records: Records) -> Iterator[str]:
        """What the cursor's state lists is there, as it was then or later, or known to be undone."""
        if not self.publications or records.cursor.get("selection"):
            return
        runs: dict[str, Mapping[str, Entry]] = {}
        top, base = records.cursor.get("identity"), records.cursor.get("base")
        layers = [(base or top, True)] if base in (None, top) else [(base, True), (top, False)]
        for identity, full in layers:
            if identity is None:
                continue
            publication = self._publication(tuple(identity), is_full=full)
            if publication is None:
                yield f"law 2: {STATE}: the cursor names {identity}, which was never published"
                return
            runs.update(publication.runs)  # an active manifest lays whole runs over the full one
        for path, entry in (each for files in runs.values() for each in files.items()):
            if path in records.wanted or path in before.others or path in before.removed:
                continue
            if path not in contents:
                yield f"law 2: {path}: the cursor's revision {records.revision} lists it, and it is not there"
            elif not self._holds(path, entry, contents[path]):
                yield f"law 2: {path}: it is older than the cursor's revision {records.revision} lists it"

    def _find(self, identity: tuple[Any, ...], *, is_full: bool) -> Publication | None:
        fits = (each for each in self.publications if each.identity == identity and each.is_full == is_full)
        return next(fits, None)

    def _publication(self, identity: tuple[Any, ...], *, is_full: bool) -> Publication | None:
        with self._changed:
            self._changed.wait_for(lambda: self._find(identity, is_full=is_full) is not None, self._patience)
            return self._find(identity, is_full=is_full)

    def _holds(self, path: str, entry: Entry, content: bytes) -> bool:
        """Whether a content is what was listed, or came later."""
        if entry.digest is None:
            return True
        if not is_log(path):
            versions, now = self.history.versions(path), sha256(content).hexdigest()
            return entry.digest in versions and now in versions[versions.index(entry.digest) :]
        generations = self.history.generations(path)
        for number, whole in enumerate(generations):
            start = whole[: entry.size]
            if len(start) == entry.size and sha256(_hashes(path, start)).hexdigest() == entry.digest:
                least = entry.size if entry.ended else start.rfind(b"\n") + 1
                is_same = whole.startswith(content) and len(content) >= least
                return is_same or any(each.startswith(content) for each in generations[number + 1 :])
        return False

    # -- law 4 -----------------------------------------------------------------------------------

    def _law_4(
        self, before: _Look, contents: Mapping[str, bytes], *, deletes: bool, force: bool
    ) -> Iterator[str]:
        for path, digest in before.others.items():
            if digest is not None and path not in contents:
                yield f"law 4: {path}: somebody else had put it there or changed it, and it is gone"
        first = bool(before.records.cursor.get("began_empty"))
        gone = [path for path in sorted(before.files) if path not in contents]
        for path in gone:
            # What lies in a mirror within its first base, and is nobody else's, the client has brought.
            reason = self._why_not_to_go(path, before.records, leave=deletes or first, brought=first)
            if reason:
                yield f"law 4: {path}: it is gone, but {reason}"
            else:
                before.removed.add(path)
        held = len(before.records.rows)
        if 2 * len(gone) > held and not first and not force:
            yield f"law 4: {gone[0]}: it is gone with {len(gone)} of {held} files, without a second leave"

    def _why_not_to_go(self, path: str, records: Records, *, leave: bool, brought: bool) -> str:
        if not leave:
            return "nobody gave leave to delete"
        if path not in records.rows and not brought:
            return "the client had not synced it"
        if not self.history.was_removed(path):
            return "it never went from the root"
        revision, lineage = records.revision, (records.cursor.get("identity") or [None])[0]

        def fits() -> bool:
            # Without any publication, a client goes by the folders alone.
            return not self.publications or any(
                each.complete and each.is_full and not each.lists(path)
                for each in reversed(self.publications)
                if each.identity[1] >= revision and lineage in (None, each.identity[0])
            )

        with self._changed:
            known = self._changed.wait_for(fits, self._patience)
        return "" if known else f"no complete state since revision {revision} lacks it"

    # -- remembering -----------------------------------------------------------------------------

    def _look_at(self, mirror: Path) -> _Look:
        return self._looks.setdefault(mirror, _Look())

    def _remember(self, look: _Look, mirror: Path, contents: Mapping[str, bytes], records: Records) -> None:
        look.files, look.records = {}, records
        _forget(look.logs)
        look.removed -= set(contents)
        for path, content in contents.items():
            digest = sha256(content)
            if path in look.others and look.others[path] == digest.hexdigest():
                continue
            look.others.pop(path, None)
            look.files[path] = digest.hexdigest()
            if is_log(path):
                held = (mirror / path).open("rb", buffering=0)
                inode, generations = os.fstat(held.fileno()).st_ino, self._generations_of(path, content)
                look.logs[path] = _Log(held, inode, len(content), digest.digest(), generations)

    def _is_current(self, path: str, found: bytes, content: bytes, root: Mapping[str, bytes]) -> bool:
        if not is_log(path) or found == content:
            return found == content
        ends_now = says_ended(root.get(f"{path.rpartition('/')[0]}/status.json", b""))
        least = len(content) if ends_now else content.rfind(b"\n") + 1
        # A log that was taken whole when its run had ended keeps its end when the run goes on.
        most = len(content) if self._has_ended(path) else least
        return content.startswith(found) and least <= len(found) <= most


def _hashes(path: str, content: bytes) -> bytes:
    """The hashes that a record of this content holds."""
    if not is_log(path):
        return sha256(content).digest()
    starts = range(0, max(1, len(content)), BLOCK)
    return b"".join(sha256(content[at : at + BLOCK]).digest() for at in starts)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else None
    except FileNotFoundError:
        return None


def _contents(mirror: Path) -> Iterator[tuple[str, bytes]]:
    """All regular files of a mirror, but for the client's own."""
    for folder, folders, names in os.walk(mirror):
        if Path(folder) == mirror and OWN_FOLDER in folders:
            folders.remove(OWN_FOLDER)
        for name in names:
            path = Path(folder, name)
            content = _read(path)
            if content is not None:
                yield path.relative_to(mirror).as_posix(), content


def _shown(content: bytes) -> str:
    return f"{len(content)} bytes that end with {content[-20:]!r}"
