"""One run folder -> what a manifest lists of it.

A run of which the system says the same as last time is not read at all. Else its files are taken one by one:
unchanged ones inherit their digests, the others are read. ``status.json`` comes before the logs: a log that
is looked at after the end of its run was written down is complete.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from runicorn.manifest import rules
from runicorn.manifest.checks import MAX_TIME
from runicorn.manifest.codec import MAX_RUN, encode_run
from runicorn.manifest.digest import HASH_SIZE, block_digest
from runicorn.manifest.model import FileEntry, ProblemKind, Run
from runicorn.manifest.scan_problems import Problems
from runicorn.manifest.scan_read import (
    VANISHED,
    KnownLog,
    Trouble,
    look,
    read_log,
    read_state_file,
    refuse_irregular,
)
from runicorn.manifest.scan_state import RunState, StateLost

MAX_STATUS = 64
_RACY = "?"
_SEPARATOR = "//"  # cannot be a part of a path
_MAX_TIME_NS = int(MAX_TIME) * 10**9
_STATE_NAMES = ("status.json", *(name for name in rules.STATE_PRIORITIES if name != "status.json"))
_ORDER = (*_STATE_NAMES, *rules.LOG_PRIORITIES)


class Walker(Protocol):
    """What a run needs of the scan that it is a part of.

    Attributes:
        problems: takes what cannot be listed.
        racy_from: files that changed at this time (ns) or later are read again next time.
        incremental: whether digests are inherited.
    """

    problems: Problems
    racy_from: int
    incremental: bool

    def count_read(self, size: int) -> None:
        """Note that a file was read, and how many bytes of it."""

    def enter(self, name: str, folder: int, path: str) -> int | None:
        """A handle on a folder in an open folder; None when it is gone or a problem."""

    def entries(self, fd: int, path: str) -> list[os.DirEntry[str]]:
        """What is in an open folder, by name without hidden names; nothing when it is a problem."""

    def is_folder(self, entry: os.DirEntry[str], path: str) -> bool | None:
        """Whether it is a folder; None when it was reported as one that may not be entered."""


class _Media(NamedTuple):
    inner: str
    name: str
    folder: int
    entry: os.DirEntry[str]


def _is_link(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink()
    except OSError:
        return False  # `is_folder` meets the same error and reports it


def _leads_to_folder(entry: os.DirEntry[str], folder: int) -> bool:
    try:
        return entry.is_symlink() and stat.S_ISDIR(os.stat(entry.name, dir_fd=folder).st_mode)
    except OSError:
        return False


def _media(walker: Walker, fd: int, folder: str, inner: str, depth: int = 0) -> Iterator[_Media]:
    """What takes the place of a file that belongs, in and below one media folder."""
    path = f"{folder}/{inner}"
    too_deep = False
    for entry in walker.entries(fd, path):
        name = entry.name
        folder_there = walker.is_folder(entry, f"{path}/{name}")
        if folder_there:
            too_deep = too_deep or depth == rules.MAX_FOLDER_DEPTH
            if depth < rules.MAX_FOLDER_DEPTH:
                yield from _media_folder(walker, (name, fd), folder, f"{inner}/{name}", depth + 1)
        elif folder_there is None or not rules.media_belongs(name):
            continue
        elif _leads_to_folder(entry, fd):
            walker.problems.report(f"{path}/{name}", ProblemKind.LINK, "a link is not followed")
        else:
            yield _Media(f"{inner}/{name}", name, fd, entry)
    if too_deep:
        walker.problems.report(path, ProblemKind.TOO_DEEP, "folders are nested too deep")


def _media_folder(
    walker: Walker, place: tuple[str, int], folder: str, inner: str, depth: int
) -> Iterator[_Media]:
    fd = walker.enter(*place, f"{folder}/{inner}")
    if fd is None:
        return
    try:
        yield from _media(walker, fd, folder, inner, depth)
    finally:
        os.close(fd)


def _stat_text(status: os.stat_result) -> str:
    return f"{status.st_size}/{status.st_mtime_ns}/{status.st_ctime_ns}/{status.st_ino}"


def _key_now(walker: Walker, fd: int, folder: str, names: dict[str, os.DirEntry[str]]) -> bytes | None:
    """The key of a run as it is now, made without reading; None when that does not work."""
    pieces = []
    try:
        for name in _ORDER:
            entry = names.get(name)
            if entry is not None:
                pieces.append(f"{name}//{_stat_text(entry.stat(follow_symlinks=False))}")
        media = names.get(rules.MEDIA_FOLDER)
        if media is not None and media.is_dir(follow_symlinks=False):
            for inner, _, _, entry in _media_folder(walker, ("media", fd), folder, "media", 0):
                pieces.append(f"{inner}//{_stat_text(entry.stat(follow_symlinks=False))}")
    except OSError:
        return None
    return _SEPARATOR.join(pieces).encode("utf-8", "surrogateescape")


def scan_run(
    walker: Walker, fd: int, folder: str, names: dict[str, os.DirEntry[str]], old: RunState | None
) -> RunState | None:
    """What a manifest lists of a run.

    Args:
        walker: the scan that it is a part of.
        fd: handle of the run folder, closed by the caller.
        folder: its path relative to the root.
        names: what the folder holds.
        old: what the last scan found there.

    Returns:
        The very object ``old`` when nothing changed; None when there is no run (any more).
    """
    media = names.get(rules.MEDIA_FOLDER)
    if media is not None and _is_link(media):
        walker.problems.report(f"{folder}/media", ProblemKind.LINK, "a link is not followed")
    if old is not None and walker.incremental:
        walker.problems.hold()
        same = _key_now(walker, fd, folder, names) == old.key
        walker.problems.release(drop=not same)
        if same:
            return old
    return _Reading(walker, fd, folder, old).scan(names)


class _Old:
    """What the last scan knew, file by file."""

    def __init__(self, old: RunState | None) -> None:
        self.stats: dict[str, str] = {}
        self.entries: dict[str, dict[str, Any]] = {}
        self.memory: dict[str, Any] = {}
        self.status = "unknown"
        if old is None:
            return
        try:
            pieces = old.key.decode().split(_SEPARATOR)
            self.stats = dict(zip(pieces[::2], pieces[1::2], strict=True))
            line = json.loads(old.line)
            start = len(old.folder) + 1
            self.entries = {each["path"][start:]: each for each in line["files"]}
            self.memory = json.loads(old.memory)
            self.status = line["status"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StateLost("a run makes no sense") from error

    def digests(self, inner: str, status: os.stat_result) -> dict[str, Any] | None:
        """The entry of a file that has not changed since it was read."""
        return self.entries.get(inner) if self.stats.get(inner) == _stat_text(status) else None

    def log(self, inner: str) -> tuple[bool, KnownLog] | None:
        """Whether a log was read from the start, and what is known of it."""
        try:
            whole, hashes = self.memory["logs"][inner]
            size, _, _, inode = self.stats[inner].rstrip(_RACY).split("/")
            packed = bytes.fromhex(hashes)
            blocks = [packed[at : at + HASH_SIZE] for at in range(0, len(packed), HASH_SIZE)]
            return bool(whole), KnownLog(int(inode), int(size), blocks)
        except KeyError:
            return None
        except (ValueError, TypeError) as error:
            raise StateLost("a log makes no sense") from error


def _fields(data: bytes | None) -> dict[str, Any]:
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

    def __init__(self, walker: Walker, fd: int, folder: str, old: RunState | None) -> None:
        self._walker = walker
        self._fd = fd
        self._folder = folder
        self._old = _Old(old if walker.incremental else None)
        self._pieces: list[str] = []
        self._files: list[FileEntry] = []
        self._logs: dict[str, list[Any]] = {}
        self._is_run = False
        self._status = "unknown"
        self._started: float | None = None
        self._created: float | None = None

    def scan(self, names: dict[str, os.DirEntry[str]]) -> RunState | None:
        for name in _STATE_NAMES:
            if name in names:
                self._guarded(name, name, self._fd)
        for name in rules.LOG_PRIORITIES:  # one that was made after the listing belongs too
            self._guarded(name, name, self._fd)
        media = names.get(rules.MEDIA_FOLDER)
        if media is not None and self._walker.is_folder(media, f"{self._folder}/media"):
            place = (rules.MEDIA_FOLDER, self._fd)
            for found in _media_folder(self._walker, place, self._folder, rules.MEDIA_FOLDER, 0):
                self._guarded(found.inner, found.name, found.folder)
        return self._state() if self._is_run and self._files else None

    def _guarded(self, inner: str, name: str, fd: int) -> None:
        """List one file, or report why not; a marker in trouble is a marker still."""
        path = f"{self._folder}/{inner}"
        reason = rules.unsafe_path(path)
        if reason:
            self._walker.problems.report(path, ProblemKind.UNSAFE_NAME, reason)
            return
        there = True
        try:
            there = self._take(inner, name, fd)
        except Trouble as trouble:
            self._walker.problems.report(path, trouble.kind, trouble.message)
        self._is_run = self._is_run or (there and inner in rules.RUN_MARKERS)

    def _take(self, inner: str, name: str, fd: int) -> bool:
        """List one file; False when there is none of that name."""
        try:
            status = look(name, fd)
        except OSError as error:
            if error.errno in VANISHED:
                return False
            raise Trouble.of(error) from error
        if stat.S_ISDIR(status.st_mode):
            return False
        refuse_irregular(status.st_mode)
        if inner in rules.LOG_PRIORITIES:
            return self._take_log(inner, status)
        return self._take_state(inner, (name, fd), status)

    def _take_state(self, inner: str, place: tuple[str, int], status: os.stat_result) -> bool:
        marker = inner in rules.RUN_MARKERS
        known = self._old.digests(inner, status)
        if known is not None:
            self._list(inner, status, sha256=known.get("sha256"))
            if marker:
                self._learn_again(inner)
            return True
        content = read_state_file(*place, keep=marker)
        if content is None:
            return False
        self._walker.count_read(content.status.st_size)
        self._list(inner, content.status, sha256=content.sha256)
        if marker:
            self._learn(inner, _fields(content.data))
        return True

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

    def _take_log(self, name: str, status: os.stat_result) -> bool:
        ended = rules.has_ended(self._status)
        known = self._old.log(name)
        entry = self._old.digests(name, status)
        if known is not None and entry is not None and (known[0] or not ended):
            self._logs[name] = self._old.memory["logs"][name]
            self._list(name, status, block_digest=entry.get("block_digest"), tail_hash=entry.get("tail_hash"))
            return True
        content = read_log(name, self._fd, known[1] if known is not None and not ended else None)
        if content is None:
            return False
        self._walker.count_read(content.read)
        self._logs[name] = [content.whole, b"".join(content.hashes).hex()]
        tail = content.hashes[-1].hex()
        self._list(name, content.status, block_digest=block_digest(content.hashes), tail_hash=tail)
        return True

    def _list(self, inner: str, status: os.stat_result, **digests: str | None) -> None:
        racy = max(status.st_mtime_ns, status.st_ctime_ns) >= self._walker.racy_from
        self._pieces.append(f"{inner}//{_stat_text(status)}{_RACY if racy else ''}")
        exact = min(max(status.st_mtime_ns, 0), _MAX_TIME_NS)
        self._files.append(
            FileEntry(
                path=f"{self._folder}/{inner}",
                size=status.st_size,
                mtime=exact / 1e9,
                priority=rules.FILE_PRIORITIES.get(inner, rules.MEDIA_PRIORITY),
                is_log="block_digest" in digests,
                mtime_ns=exact,
                sha256=digests.get("sha256"),
                block_digest=digests.get("block_digest"),
                tail_hash=digests.get("tail_hash"),
            )
        )

    def _state(self) -> RunState | None:
        times = [entry.mtime_ns or 0 for entry in self._files]
        created = self._created if self._created is not None else self._started
        project, name = rules.project_and_name(self._folder) or ("", "")
        run = Run(
            folder=self._folder,
            run_id=self._folder.rpartition("/")[2],
            project=project,
            name=name,
            status=self._status,
            created_at=min(times) / 1e9 if created is None else created,
            updated_at=max(times) / 1e9,
            files=tuple(self._files),
        )
        line = encode_run(run).encode("ascii")
        if len(line) > MAX_RUN:
            message = f"its entries take {len(line)} bytes, more than the {MAX_RUN} that clients read"
            self._walker.problems.report(self._folder, ProblemKind.TOO_LARGE, message)
            return None
        memory = {"created": self._created, "started": self._started, "logs": self._logs}
        state = RunState(
            self._folder,
            (len(self._files), sum(entry.size for entry in self._files), max(times)),
            _SEPARATOR.join(self._pieces).encode(),
            json.dumps(memory).encode(),
            line,
        )
        state.run = run
        return state
