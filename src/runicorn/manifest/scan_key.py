"""The files of a run folder, and the key that tells whether any of them may have changed; nothing is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from runicorn.manifest import rules
from runicorn.manifest.capture import Capture
from runicorn.manifest.model import ProblemKind
from runicorn.manifest.rights import Audience
from runicorn.manifest.scan_memory import SEPARATOR, audience_piece, key_piece
from runicorn.manifest.scan_problems import Problems

STATE_NAMES = ("status.json", *(name for name in rules.STATE_PRIORITIES if name != "status.json"))
ORDER = (*STATE_NAMES, *rules.LOG_PRIORITIES)


class Walker(Protocol):
    """What a run needs of the scan that it is a part of.

    Attributes:
        problems: takes what cannot be listed.
        racy_from: files that changed at this time (ns) or later are read again next time.
        incremental: whether digests are inherited.
        audience: who may read the journal.
        capture: collects what changed, for the journal.
        revoked: whether a file became readable by fewer people.
        beat: called again and again while a file is read.
    """

    problems: Problems
    racy_from: int
    incremental: bool
    audience: Audience
    capture: Capture | None
    revoked: bool
    beat: Callable[[], None]

    def count_read(self, size: int) -> None:
        """Note that a file was read, and how many bytes of it."""

    def enter(self, name: str, folder: int, path: str) -> int | None:
        """A handle on a folder in an open folder; None when it is gone or a problem."""

    def entries(self, fd: int, path: str) -> list[os.DirEntry[str]]:
        """What is in an open folder, by name without hidden names; nothing when it is a problem."""

    def may_search(self, fd: int) -> bool:
        """Whether who may read the journal may search an open folder."""

    def is_folder(self, entry: os.DirEntry[str], path: str) -> bool | None:
        """Whether it is a folder; None when it was reported as one that may not be entered."""


class Place(NamedTuple):
    """A run folder that was found.

    Attributes:
        fd: handle of it.
        folder: its path relative to the root.
        names: what it holds.
        reached: whether who may read the journal may search it and the folders above it.
    """

    fd: int
    folder: str
    names: dict[str, os.DirEntry[str]]
    reached: bool


class RunFile(NamedTuple):
    """The place of a file in a run.

    Attributes:
        inner: path within the run folder.
        name: its name.
        folder: handle of its folder.
        reached: whether who may read the journal may search all folders above it.
        entry: the same file, as its folder lists it.
    """

    inner: str
    name: str
    folder: int
    reached: bool
    entry: os.DirEntry[str] | None = None


def is_link(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link."""
    try:
        return entry.is_symlink()
    except OSError:
        return False  # `is_folder` meets the same error and reports it


def _leads_to_folder(entry: os.DirEntry[str], folder: int) -> bool:
    try:
        return entry.is_symlink() and stat.S_ISDIR(os.stat(entry.name, dir_fd=folder).st_mode)
    except OSError:
        return False


class _Within(NamedTuple):
    folder: str
    inner: str
    depth: int
    reached: bool

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.inner}"


def _media(walker: Walker, fd: int, at: _Within) -> Iterator[RunFile]:
    """What takes the place of a file that belongs, in and below one media folder."""
    too_deep = False
    for entry in walker.entries(fd, at.path):
        name = entry.name
        inner = f"{at.inner}/{name}"
        folder_there = walker.is_folder(entry, f"{at.folder}/{inner}")
        if folder_there:
            too_deep = too_deep or at.depth == rules.MAX_FOLDER_DEPTH
            if at.depth < rules.MAX_FOLDER_DEPTH:
                below = at._replace(inner=inner, depth=at.depth + 1)
                yield from _media_folder(walker, (name, fd), below)
        elif folder_there is None or not rules.media_belongs(name):
            continue
        elif _leads_to_folder(entry, fd):
            walker.problems.report(f"{at.folder}/{inner}", ProblemKind.LINK, "a link is not followed")
        else:
            yield RunFile(inner, name, fd, at.reached, entry)
    if too_deep:
        walker.problems.report(at.path, ProblemKind.TOO_DEEP, "folders are nested too deep")


def _media_folder(walker: Walker, place: tuple[str, int], at: _Within) -> Iterator[RunFile]:
    fd = walker.enter(*place, at.path)
    if fd is None:
        return
    try:
        yield from _media(walker, fd, at._replace(reached=at.reached and walker.may_search(fd)))
    finally:
        os.close(fd)


def media_of(walker: Walker, run: Place) -> Iterator[RunFile]:
    """What takes the place of a file that belongs, in the media of a run."""
    at = _Within(run.folder, rules.MEDIA_FOLDER, 0, run.reached)
    return _media_folder(walker, (rules.MEDIA_FOLDER, run.fd), at)


def key_now(walker: Walker, run: Place) -> bytes | None:
    """The key of a run as it is now, made without reading; None when that does not work."""
    pieces = [audience_piece(walker.audience.text)]
    try:
        for name in ORDER:
            entry = run.names.get(name)
            if entry is not None:
                pieces.append(key_piece(name, entry.stat(follow_symlinks=False), reached=run.reached))
        media = run.names.get(rules.MEDIA_FOLDER)
        if media is not None and media.is_dir(follow_symlinks=False):
            for each in media_of(walker, run):
                assert each.entry is not None  # noqa: S101 - media are found by listing folders
                status = each.entry.stat(follow_symlinks=False)
                pieces.append(key_piece(each.inner, status, reached=each.reached))
    except OSError:
        return None
    return SEPARATOR.join(pieces).encode("utf-8", "surrogateescape")
