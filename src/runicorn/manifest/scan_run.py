"""One run folder -> what a manifest lists of it.

A run of which the system says the same as last time is not read at all. Else its files are taken one by one:
unchanged ones inherit their digests, the others are read. ``status.json`` comes before the logs: a log that
is looked at after the end of its run was written down is complete.
"""

from __future__ import annotations

import json
import os
import stat
from itertools import chain
from typing import Any

from runicorn.manifest import rules
from runicorn.manifest.checks import MAX_TIME
from runicorn.manifest.codec import MAX_RUN, encode_run
from runicorn.manifest.digest import block_digest
from runicorn.manifest.frame_writer import RunFields
from runicorn.manifest.model import FileEntry, ProblemKind, Run
from runicorn.manifest.own_files import require_handles
from runicorn.manifest.rights import READ
from runicorn.manifest.scan_key import STATE_NAMES, Place, RunFile, Walker, is_link, key_now, media_of
from runicorn.manifest.scan_log import Wanted, read_log
from runicorn.manifest.scan_memory import (
    SEPARATOR,
    OldRun,
    audience_piece,
    key_piece,
    log_memory,
    private_names,
)
from runicorn.manifest.scan_read import (
    CARRY_LIMIT,
    VANISHED,
    Trouble,
    Unsettled,
    look,
    opened,
    read_state_file,
    refuse_irregular,
)
from runicorn.manifest.scan_state import RunState, Sums

MAX_STATUS = 64
_MAX_TIME_NS = int(MAX_TIME) * 10**9


def scan_run(walker: Walker, run: Place, old: RunState | None) -> RunState | None:
    """What a manifest lists of a run.

    Args:
        walker: the scan that it is a part of.
        run: the run folder; the caller closes its handle.
        old: what the last scan found there.

    Returns:
        The very object ``old`` when nothing changed; None when there is no run (any more).
    """
    media = run.names.get(rules.MEDIA_FOLDER)
    if media is not None and is_link(media):
        walker.problems.report(f"{run.folder}/media", ProblemKind.LINK, "a link is not followed")
    if old is not None and walker.incremental:
        walker.problems.hold()
        same = key_now(walker, run) == old.key
        walker.problems.release(drop=not same)
        if same:
            return old
    return _Reading(walker, run, old).scan()


def gone_by_rights(walker: Walker, old: RunState) -> bool:
    """Whether a run that is not there any more may be hidden by rights, and was carried."""
    known = OldRun(old)
    return any(
        known.shown(inner) and walker.problems.hides_by_rights(f"{old.folder}/{inner}")
        for inner in known.entries
    )


def _object(data: bytes | None) -> dict[str, Any]:
    """The object in a JSON file; empty when it is none."""
    try:
        parsed = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return parsed if type(parsed) is dict else {}


def _time(value: object) -> float | None:
    """A time in seconds when it is one within the bounds (NaN is not)."""
    if type(value) is not float and type(value) is not int:
        return None
    return float(value) if 0 <= value <= MAX_TIME else None


class _Reading:
    """Takes the files of one run, one by one."""

    def __init__(self, walker: Walker, run: Place, old: RunState | None) -> None:
        self._walker = walker
        self._run = run
        self._fd = run.fd
        self._folder = run.folder
        self._old = OldRun(old, inherit=walker.incremental)
        self._part = walker.capture.part(self._fields) if walker.capture is not None else None
        self._pieces = [audience_piece(walker.audience.text)]
        self._files: list[FileEntry] = []
        self._logs: dict[str, list[Any]] = {}
        self._private: list[str] = []
        self._hidden: set[str] = set()
        self._carriable = self._large = 0
        self._is_run = False
        self._status = "unknown"
        self._started: float | None = None
        self._created: float | None = None

    def scan(self) -> RunState | None:
        for name in STATE_NAMES:
            if name in self._run.names:
                self._guarded(RunFile(name, name, self._fd, self._run.reached))
        for name in rules.LOG_PRIORITIES:  # one that was made after the listing belongs too
            self._guarded(RunFile(name, name, self._fd, self._run.reached))
        media = self._run.names.get(rules.MEDIA_FOLDER)
        if media is not None and self._walker.is_folder(media, f"{self._folder}/media"):
            for found in media_of(self._walker, self._run):
                self._guarded(found)
        state = self._state() if self._is_run and self._files else None
        self._end(state)
        return state

    def _guarded(self, file: RunFile) -> None:
        """List one file, or report why not; a marker in trouble is a marker still."""
        path = f"{self._folder}/{file.inner}"
        reason = rules.unsafe_path(path)
        if reason:
            self._walker.problems.report(path, ProblemKind.UNSAFE_NAME, reason)
            return
        there = True
        try:
            there = self._take(file)
        except Trouble as trouble:
            self._walker.problems.report(path, trouble.kind, trouble.message, denied=trouble.denied)
        self._is_run = self._is_run or (there and file.inner in rules.RUN_MARKERS)

    def _take(self, file: RunFile) -> bool:
        """List one file; False when there is none of that name."""
        try:
            status = look(file.name, file.folder)
        except OSError as error:
            if error.errno in VANISHED:
                return False
            raise Trouble.of(error, file.inner) from error
        if stat.S_ISDIR(status.st_mode):
            return False
        refuse_irregular(status.st_mode)
        if file.inner in rules.LOG_PRIORITIES:
            return self._take_log(file, status)
        return self._take_state(file, status)

    def _take_state(self, file: RunFile, status: os.stat_result) -> bool:
        inner = file.inner
        marker = inner in rules.RUN_MARKERS
        known = self._old.digests(inner, status)
        if known is not None:
            self._list(file, status, self._still_shown(file), sha256=known.get("sha256"))
            if marker:
                self._learn_again(inner)
            return True
        keep = marker or self._part is not None
        audience = self._walker.audience
        content = read_state_file(
            file.name, file.folder, keep=keep, audience=audience, beat=self._walker.beat
        )
        if content is None:
            return False
        self._walker.count_read(content.status.st_size)
        if marker:
            self._learn(inner, _object(content.data))
        entry = self._list(file, content.status, content.shown, sha256=content.sha256)
        if self._part is not None and not self._old.lists(inner, entry):
            wanted = inner not in self._hidden and not self._old.has_content(inner, entry)
            self._part.take(entry, inner, content.data if wanted else None)
        return True

    def _still_shown(self, file: RunFile) -> bool:
        """Whether the audience may read an unchanged file, by its own rights."""
        audience = self._walker.audience
        if audience.alone:
            return True
        if self._old.audience == audience.text:
            return not self._old.private(file.inner)
        try:
            fd, status = opened(file.name, file.folder)
        except OSError as error:
            require_handles(error, file.inner)
            return False
        except (Trouble, Unsettled):
            return False
        try:
            return audience.has(READ, status, fd)
        finally:
            os.close(fd)

    def _learn(self, inner: str, fields: dict[str, Any]) -> None:
        if inner == "meta.json":
            self._created = _time(fields.get("created_at"))
            return
        self._started = _time(fields.get("started_at"))
        told = fields.get("status")
        self._status = told[:MAX_STATUS] if type(told) is str else "unknown"

    def _learn_again(self, inner: str) -> None:
        if inner == "meta.json":
            self._created = _time(self._old.memory.get("created"))
        else:
            self._started = _time(self._old.memory.get("started"))
            self._status = self._old.status

    def _take_log(self, file: RunFile, status: os.stat_result) -> bool:
        ended = rules.has_ended(self._status)
        whole, known = self._old.log(file.inner) or (False, None)
        entry = self._old.digests(file.inner, status)
        if known is None or entry is None or (ended and not (whole and known.boundary.offset == known.size)):
            trusting = self._walker.incremental and not ended
            walker, keep = self._walker, self._part is not None
            return self._read_log(file, Wanted(known, trusting, ended, keep, walker.audience, walker.beat))
        memory = self._old.memory["logs"][file.inner]
        # Of a run that goes on, the log may end within a record: it is looked at again when the run ends.
        self._logs[file.inner] = [whole and (ended or not self._had_ended()), *memory[1:]]
        digests = {each: entry.get(each) for each in ("block_digest", "tail_hash")}
        self._list(file, status, self._still_shown(file), known.boundary.offset, **digests)
        return True

    def _had_ended(self) -> bool:
        return rules.has_ended(self._old.status)

    def _read_log(self, file: RunFile, wanted: Wanted) -> bool:
        inner = file.inner
        content = read_log(file.name, file.folder, wanted)
        if content is None:
            return False
        self._walker.count_read(content.read)
        self._logs[inner] = log_memory(content, whole=content.whole and (wanted.ended or not content.torn))
        end, digest = content.boundary
        hashes = {"block_digest": block_digest(content.hashes), "tail_hash": content.hashes[-1].hex()}
        entry = self._list(file, content.status, content.shown, end, **hashes)
        moved = wanted.known is None or wanted.known.boundary != content.boundary
        # While the run went on, clients have withheld the record that its end makes whole.
        ends = wanted.ended and content.torn and not self._had_ended()
        if self._part is not None and (moved or ends or not self._old.lists(inner, entry)):
            new = moved or not self._old.has_content(inner, entry)
            data = content.data if new and inner not in self._hidden else None
            self._part.take(entry, inner, data, content.start, digest if end < entry.size else "")
        return True

    def _list(
        self,
        file: RunFile,
        status: os.stat_result,
        shown: bool,
        boundary: int | None = None,
        **digests: str | None,
    ) -> FileEntry:
        racy = max(status.st_mtime_ns, status.st_ctime_ns) >= self._walker.racy_from
        self._pieces.append(key_piece(file.inner, status, reached=file.reached, racy=racy))
        if not shown:
            self._private.append(file.inner)
        size = status.st_size if boundary is None else boundary
        if not (shown and file.reached):
            self._hidden.add(file.inner)
        elif size <= CARRY_LIMIT:
            self._carriable += size
        else:
            self._large += 1
        exact = min(max(status.st_mtime_ns, 0), _MAX_TIME_NS)
        entry = FileEntry(
            path=f"{self._folder}/{file.inner}",
            size=status.st_size,
            mtime=exact / 1e9,
            priority=rules.FILE_PRIORITIES.get(file.inner, rules.MEDIA_PRIORITY),
            is_log="block_digest" in digests,
            mtime_ns=exact,
            sha256=digests.get("sha256"),
            block_digest=digests.get("block_digest"),
            tail_hash=digests.get("tail_hash"),
        )
        self._files.append(entry)
        return entry

    def _state(self) -> RunState | None:
        _, status, created_at, updated_at = self._fields()
        project, name = rules.project_and_name(self._folder) or ("", "")
        run = Run(
            folder=self._folder,
            run_id=self._folder.rpartition("/")[2],
            project=project,
            name=name,
            status=status,
            created_at=created_at,
            updated_at=updated_at,
            files=tuple(self._files),
        )
        line = encode_run(run).encode("ascii")
        if len(line) > MAX_RUN:
            message = f"its entries take {len(line)} bytes, more than the {MAX_RUN} that clients read"
            self._walker.problems.report(self._folder, ProblemKind.TOO_LARGE, message)
            return None
        memory: dict[str, Any] = {"created": self._created, "started": self._started, "logs": self._logs}
        memory |= private_names(self._private)
        size = sum(entry.size for entry in self._files)
        newest = max(entry.mtime_ns or 0 for entry in self._files)
        state = RunState(
            self._folder,
            Sums(len(self._files), size, newest, self._carriable, self._large, len(self._hidden)),
            SEPARATOR.join(self._pieces).encode(),
            json.dumps(memory).encode(),
            line,
        )
        state.run = run
        return state

    def _end(self, state: RunState | None) -> None:
        """Close what was collected for the journal."""
        if state is None:
            if self._part is not None:
                self._part.drop()
            return
        now = {entry.path[len(self._folder) + 1 :] for entry in self._files}
        gone = [inner for inner in self._old.entries if inner not in now]
        if not self._walker.revoked:
            hidden = (inner for inner in self._hidden if self._old.shown(inner))
            lost = (inner for inner in gone if self._old.shown(inner) and self._denied(inner))
            self._walker.revoked = any(True for _ in chain(hidden, lost))
        if self._part is not None:
            self._part.end(gone, self._old.line)

    def _fields(self) -> RunFields:
        """The fields of the run, as far as they are known."""
        times = [entry.mtime_ns or 0 for entry in self._files] or [0]
        created = self._created if self._created is not None else self._started
        created = min(times) / 1e9 if created is None else created
        return RunFields(self._folder, self._status, created, max(times) / 1e9)

    def _denied(self, inner: str) -> bool:
        return self._walker.problems.hides_by_rights(f"{self._folder}/{inner}")
