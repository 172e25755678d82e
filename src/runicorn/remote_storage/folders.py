"""Open folders of the mirror's tree, reached from its root by handles that follow no link (law 5).

On a file system that takes some names for the same although they differ, a name that is there in another
spelling is somebody else's: it is no part of the paths that are asked for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections import OrderedDict
from collections.abc import Callable, Iterator

from runicorn.remote_storage.collisions import folded

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_MAX_OPEN = 128
_SHARE_OPEN = 4
"""Of the descriptors that a process may have, at most one in so many stays open for a folder."""
_MAX_LISTED = 16


class SpelledOtherwise(OSError):  # noqa: N818 - like FileExistsError, which it is a kind of
    """A name is there in another spelling, which the file system takes for the same.

    Attributes:
        other: the spelling that is there.
    """

    def __init__(self, other: str) -> None:
        super().__init__(errno.EEXIST, "the names look the same to this disk")
        self.other = other


class Folders:
    """Opens folders, and keeps the last ones open for the next use.

    Args:
        root_fd: the open root; it is not closed here.
        folds: tells whether the file system takes some names for the same although they differ.
    """

    def __init__(self, root_fd: int, folds: Callable[[], bool]) -> None:
        self._root_fd = root_fd
        self._folds = folds
        self._open: OrderedDict[str, int] = OrderedDict()
        self._most_open = _most_open()
        self._listed: OrderedDict[str, dict[str, set[str]]] = OrderedDict()
        self._changed: set[str] = set()

    def fd(self, folder: str, *, create: bool = False) -> int:
        """An open folder, by its path below the root; it stays open for a while.

        Raises:
            OSError: it does not exist, or a link or file is in its place.
        """
        if not folder:
            return self._root_fd
        fd = self._open.get(folder)
        if fd is not None:
            self._open.move_to_end(folder)
            return fd
        parent, _, name = folder.rpartition("/")
        parent_fd = self.fd(parent, create=create)
        self.require_own(parent, name)
        fd, is_new = _enter(name, parent_fd, create=create)
        if is_new:
            self._changed.add(parent)
        self.made(parent, name)
        self._open[folder] = fd
        if len(self._open) > self._most_open:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def require_own(self, folder: str, name: str) -> None:
        """Make sure that a name is not there in another spelling.

        Args:
            folder: an existing folder, by its path.
            name: a name in it.

        Raises:
            SpelledOtherwise: it is.
            OSError: the folder cannot be read.
        """
        if not self._folds():
            return
        there = self._names(folder).get(folded(name), set())
        if there and name not in there:
            raise SpelledOtherwise(f"{folder}/{min(there)}" if folder else min(there))

    def changed(self, folder: str) -> None:
        """Take note of a name that came to a folder, or went from it."""
        self._changed.add(folder)

    def removed(self, folder: str) -> None:
        """Take note of a folder that was removed."""
        self._changed.discard(folder)
        self._changed.add(folder.rpartition("/")[0])

    def take_changed(self) -> list[str]:
        """The folders in which names came or went since the last call."""
        taken, self._changed = self._changed, set()
        return sorted(taken)

    def made(self, folder: str, name: str) -> None:
        """Take note of a name that is in a folder now."""
        listed = self._listed.get(folder)
        if listed is not None:
            listed.setdefault(folded(name), set()).add(name)

    def _names(self, folder: str) -> dict[str, set[str]]:
        listed = self._listed.get(folder)
        if listed is None:
            listed = {}
            for name in os.listdir(self.fd(folder)):
                listed.setdefault(folded(name), set()).add(name)
            self._listed[folder] = listed
        self._listed.move_to_end(folder)
        if len(self._listed) > _MAX_LISTED:
            self._listed.popitem(last=False)
        return listed

    def forget(self, folder: str) -> None:
        """Close a folder, and all below it, that may have been removed."""
        self._listed.clear()
        for known in [name for name in self._open if name == folder or name.startswith(folder + "/")]:
            os.close(self._open.pop(known))

    def forget_all(self) -> None:
        """Close all folders but the root."""
        self._listed.clear()
        while self._open:
            os.close(self._open.popitem()[1])


def statuses(root_fd: int, path: str) -> Iterator[tuple[str, os.stat_result]]:
    """What the system says of each part of a path and of the file at its end, folder by folder: as a whole it
    may be longer than the system takes.

    Args:
        root_fd: the open root.
        path: relative to it; no link in it is followed.

    Yields:
        The path so far, and its status.

    Raises:
        OSError: a part does not exist, or is no folder.
    """
    parts, fd = path.split("/"), root_fd
    try:
        for number, name in enumerate(parts, 1):
            yield "/".join(parts[:number]), os.stat(name, dir_fd=fd, follow_symlinks=False)
            if number < len(parts):
                above, fd = fd, os.open(name, FOLDER_FLAGS, dir_fd=fd)
                if above != root_fd:
                    os.close(above)
    finally:
        if fd != root_fd:
            os.close(fd)


def _most_open() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_OPEN if soft < 0 else min(_MAX_OPEN, max(2, soft // _SHARE_OPEN))


def _enter(name: str, parent: int, *, create: bool) -> tuple[int, bool]:
    """The open folder, and whether it was made."""
    try:
        return os.open(name, FOLDER_FLAGS, dir_fd=parent), False
    except FileNotFoundError:
        if not create:
            raise
    with contextlib.suppress(FileExistsError):  # another program may be faster
        os.mkdir(name, dir_fd=parent)
    return os.open(name, FOLDER_FLAGS, dir_fd=parent), True
