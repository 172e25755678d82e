"""Comparing a mirror with what was published: every byte is read and hashed, nothing is written.

What was recorded of each file is the hash that was proven when it came; of a log the hashes of its blocks.
A sync may be at work meanwhile: what seems to differ is looked at again by the newest records.
"""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runicorn.manifest import rules
from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher
from runicorn.remote_storage.folders import statuses
from runicorn.remote_storage.known import Known
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.mirror_view import MirrorView

MISSING = "missing"
LINK = "link"
NOT_A_FILE = "not_a_file"
UNREADABLE = "unreadable"
SHORT = "short"
EXTRA = "extra"
CHANGED = "changed"
WANTED = "wanted"

_AT_ONCE = 1000
_PATIENCE = 20.0
_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Difference:
    """A file that is not as it was published.

    Attributes:
        folder: its run folder.
        inner: its path within that.
        kind: ``missing``, ``link`` (in its place or above it), ``not_a_file``, ``unreadable``, ``short``,
            ``extra`` (all that was published, and more bytes), ``changed`` (other content), or ``wanted``
            (listed, and not fetched yet).
        detail: one line for people, escaped.
        intact: bytes from the beginning that are as published.
    """

    folder: str
    inner: str
    kind: str
    detail: str
    intact: int = 0

    @property
    def path(self) -> str:
        """Path relative to the mirror; a remote name: escape it before it is shown."""
        return f"{self.folder}/{self.inner}"


@dataclass(slots=True)
class Checked:
    """What was compared so far.

    Attributes:
        files: how many files.
        size: bytes that were read.
        stop: is asked before each file; true ends the comparison.
    """

    files: int = 0
    size: int = 0
    stop: Callable[[], bool] = field(default=lambda: False)


class Verifier:
    """Compares a mirror with its records.

    Args:
        root: the folder of the mirror.
        checked: is kept up to date.

    Raises:
        MirrorError: there is no mirror, or its state cannot be read.
    """

    def __init__(self, root: Path, checked: Checked | None = None) -> None:
        self._root = root
        self.checked = checked or Checked()
        self._patience = _PATIENCE
        MirrorView(root).close()  # there is one

    def differences(self, only: Iterable[tuple[str, str]] | None = None) -> Iterator[Difference]:
        """The differences, one after the other.

        Args:
            only: run folder and path within it of the files to look at; all by default.

        Raises:
            MirrorError: the state cannot be read.
        """
        with Mirror(self._root, read_only=True) as tree:
            if only is not None:
                yield from self._of_some(tree, only)
                return
            yield from self._of_all(tree)
        yield from self._missing_yet()

    def is_complete(self) -> bool:
        """As of the mirror's records, see `MirrorView.is_complete`: what is not recorded cannot differ.

        Raises:
            MirrorError: the state cannot be read.
        """
        with MirrorView(self._root) as view:
            return view.is_complete

    def _of_all(self, tree: Mirror) -> Iterator[Difference]:
        after = ("", "")
        while rows := self._page(after):
            after = rows[-1][:2]
            for folder, inner, known in rows:
                if self.checked.stop():
                    return
                found = self._look(tree, folder, inner, known)
                if found is not None:
                    yield found

    def _of_some(self, tree: Mirror, only: Iterable[tuple[str, str]]) -> Iterator[Difference]:
        for folder, inner in only:
            if self.checked.stop():
                return
            with MirrorView(self._root) as view:
                known, is_wanted = view.file(folder, inner), view.wanted_file(folder, inner) is not None
            found = self._look(tree, folder, inner, known) if known is not None else None
            if found is not None:
                yield found
            elif is_wanted or known is None:
                yield Difference(folder, inner, WANTED, "it was not fetched")

    def _missing_yet(self) -> Iterator[Difference]:
        after = ("", "")
        while not self.checked.stop():
            with MirrorView(self._root) as view:
                page = view.wanted(_AT_ONCE, after)
                new = [each for each in page if view.file(*each) is None]
            for folder, inner in new:
                yield Difference(folder, inner, WANTED, "it is listed and was not fetched yet")
            if not page:
                break
            after = page[-1]
        with MirrorView(self._root) as view:
            failed = list(_failed(view))
        for folder, inner in failed:
            yield Difference(folder, inner, WANTED, "it failed in the last sync")

    def _page(self, after: tuple[str, str]) -> list[tuple[str, str, Known]]:
        with MirrorView(self._root) as view:
            return view.files(_AT_ONCE, after)

    def _look(self, tree: Mirror, folder: str, inner: str, known: Known) -> Difference | None:
        self.checked.files += 1
        while True:
            found = compare(tree, folder, inner, known, self.checked)
            if found is None:
                return None
            with MirrorView(self._root) as view:
                newest, is_busy = view.file(folder, inner), view.is_synced_now()
            if newest is None:
                return None  # removed meanwhile
            if newest == known:
                # A sync puts files in place first, and records them then.
                if not is_busy or self._patience <= 0:
                    return found
                self._patience -= _PAUSE
                time.sleep(_PAUSE)
            known = newest


def _failed(view: MirrorView) -> Iterator[tuple[str, str]]:
    """The files that failed in the last sync and are known in no other way: without the journal nothing else
    tells of them."""
    for sync in view.history()[:1]:
        for failed in sync.report.get("failed") or []:
            place = view.place_of(str(failed.get("path")))
            if place is not None and view.file(*place) is None and view.wanted_file(*place) is None:
                yield place


def compare(tree: Mirror, folder: str, inner: str, known: Known, checked: Checked) -> Difference | None:
    """Compare one file with what is known of it; None when it is as it was published.

    Args:
        tree: the mirror.
        folder: the run folder.
        inner: path within it.
        known: what is known.
        checked: bytes are counted there.
    """
    path = f"{folder}/{inner}"
    try:
        size = tree.signature(path).size
        kind, detail = _place(tree.fd, path)
        if kind:
            return Difference(folder, inner, kind, detail)
        hashes = list(_hashes(tree, path, known.local.size, inner in rules.LOG_PRIORITIES, checked))
    except OSError as error:
        kind, detail = _place(tree.fd, path)
        return Difference(folder, inner, kind or UNREADABLE, detail or str(error.strerror))
    intact = _intact(hashes, known, size, inner in rules.LOG_PRIORITIES)
    if size < known.local.size:
        detail = f"{size} of {known.local.size} bytes are there"
        return Difference(folder, inner, SHORT, detail, intact)
    if tuple(hashes) != known.hashes:
        return Difference(folder, inner, CHANGED, "its content is not what was published", intact)
    if size > known.local.size:
        more = size - known.local.size
        return Difference(folder, inner, EXTRA, f"{more} bytes follow what was published", known.local.size)
    return None


def _hashes(tree: Mirror, path: str, size: int, is_log: bool, checked: Checked) -> Iterator[bytes]:
    blocks, whole = BlockHasher(), hashlib.sha256()
    for chunk in tree.chunks(path, 0, size):
        checked.size += len(chunk)
        blocks.update(chunk) if is_log else whole.update(chunk)
    if is_log:
        yield from blocks.hashes()
    else:
        yield whole.digest()


def _intact(hashes: list[bytes], known: Known, size: int, is_log: bool) -> int:
    if not is_log:
        return 0
    same = 0
    for mine, published in zip(hashes, known.hashes, strict=False):
        if mine != published:
            break
        same += 1
    return min(same * BLOCK_SIZE, size, known.local.size)


def _place(root_fd: int, path: str) -> tuple[str, str]:
    """What keeps a path from being a regular file of the mirror; empty when nothing does."""
    try:
        for place, status in statuses(root_fd, path):
            if stat.S_ISLNK(status.st_mode):
                is_file = place == path
                return LINK, "a link lies in its place" if is_file else f"{rules.escape(place)} is a link"
            if place == path and not stat.S_ISREG(status.st_mode):
                return NOT_A_FILE, "no regular file lies in its place"
    except (FileNotFoundError, NotADirectoryError):
        return MISSING, "it is not there"
    except OSError as error:
        return UNREADABLE, str(error.strerror)
    return "", ""
