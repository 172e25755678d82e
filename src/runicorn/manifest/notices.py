"""What the system tells of changes below a root: inotify, through ``inotify_simple`` where that is installed.

A folder is watched from before the moment when a scan looks at what it holds; so nothing can change unseen.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from runicorn.manifest import rules
from runicorn.manifest.standing import Standing

_LIMITS = {
    errno.ENOSPC: "the limit of inotify (sysctl fs.inotify.max_user_watches) is reached",
    errno.EMFILE: "the limit of inotify (sysctl fs.inotify.max_user_instances) is reached",
}

_SHARED = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs",
        "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs2", "gpfs", "lustre",
        "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3",
        "smbfs", "vboxsf", "virtiofs", "wekafs",
    }
)  # fmt: skip
"""File systems that other machines write to as well: the system tells only of what this one writes."""


_OCTAL = re.compile(r"\\([0-7]{3})")
_KEEP_S = 0.01


class NoNoticesError(Exception):
    """The system does not tell of changes; the message says why."""


class Heard(NamedTuple):
    """What the system has told.

    Attributes:
        folders: where something changed that belongs; an empty path stands for the root.
        everything: whether more was told than could be kept: anything may have changed.
    """

    folders: set[str]
    everything: bool


def shared_file_system(path: str, mounts: Iterable[str]) -> str | None:
    """The kind of the file system that a path is on, when other machines write to it as well.

    Args:
        path: absolute, without links.
        mounts: the lines of ``/proc/self/mountinfo``.
    """
    best, kind = "", ""
    for line in mounts:
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4] if before.count(" ") >= 5 else ""
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), point)
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if point and inside and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind if kind in _SHARED else None


def _require_local(root: str) -> None:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            kind = shared_file_system(os.path.realpath(root), mounts)
    except OSError:
        return
    if kind is not None:
        raise NoNoticesError(f"the root is on {kind}: the system does not tell what other machines write")


class Notices:
    """Watches the folders that scans enter.

    Args:
        root: the folder that holds all runs.

    Attributes:
        failure: why it is of no use any more; empty as long as it is.

    Raises:
        NoNoticesError: the system does not tell of changes.
    """

    def __init__(self, root: str) -> None:
        _require_local(root)
        try:
            import inotify_simple
        except ImportError:
            message = "the package inotify-simple is not installed (it comes with the extra 'watch')"
            raise NoNoticesError(message) from None
        self._flags = inotify_simple.flags
        self._mask = self._wanted()
        self._paths: dict[int, str] = {}
        self._kept: dict[tuple[int, int, str], Any] = {}
        self._next_keep = 0.0
        self.failure = ""
        try:
            self._inotify = inotify_simple.INotify()
        except OSError as error:
            raise NoNoticesError(_reason(error)) from error

    def _wanted(self) -> int:
        flags = self._flags
        names = "MODIFY ATTRIB CREATE DELETE MOVED_FROM MOVED_TO ONLYDIR EXCL_UNLINK"
        return sum(int(getattr(flags, name)) for name in names.split())

    def fileno(self) -> int:
        """The handle that becomes readable when there is something to read."""
        return int(self._inotify.fileno())

    def close(self) -> None:
        """Watch nothing any more."""
        self._inotify.close()

    def entered(self, fd: int, path: str) -> None:
        """Watch a folder from now on.

        Args:
            fd: handle of it.
            path: its path relative to the root.
        """
        if self.failure:
            return
        try:
            self._paths[self._inotify.add_watch(f"/proc/self/fd/{fd}", self._mask)] = path
        except OSError as error:
            self.failure = _reason(error)

    @property
    def holds(self) -> bool:
        """Whether `keep` has taken over something that was not read yet: the handle does not tell of it."""
        return bool(self._kept)

    def keep(self) -> None:
        """Take over what was told, for the next `read`: the system's queue is short, a scan may be long."""
        now = time.monotonic()
        if now >= self._next_keep:
            self._take_over()
            self._next_keep = now + _KEEP_S

    def _take_over(self) -> None:
        for event in self._inotify.read(timeout=0):
            self._kept[event.wd, event.mask, event.name] = event

    def read(self, standing: Standing) -> Heard:
        """What was told since the last time.

        Args:
            standing: knows which folders are runs.
        """
        folders: set[str] = set()
        everything = False
        self._take_over()
        kept, self._kept = self._kept, {}
        for event in kept.values():
            everything = everything or bool(event.mask & self._flags.Q_OVERFLOW)
            path = self._paths.get(event.wd)
            if event.mask & self._flags.IGNORED:
                self._paths.pop(event.wd, None)
            elif path is not None:
                found = self._place(event, path, standing)
                folders |= {found} if found is not None else set()
        return Heard(folders, everything)

    def _place(self, event: Any, path: str, standing: Standing) -> str | None:
        """The folder that has to be looked at; None when nothing that belongs has changed."""
        name, is_folder = event.name, bool(event.mask & self._flags.ISDIR)
        if not name:
            return path if event.mask & self._flags.ATTRIB else None
        if rules.is_hidden(name):
            return None
        run = standing.run_of(path)
        if run is not None:
            return run if _belongs(run, path, name, is_folder=is_folder) else None
        if name in rules.RUN_MARKERS and not is_folder:
            return path
        only_content = event.mask & (self._flags.MODIFY | self._flags.ATTRIB)
        if only_content and not is_folder:
            return None
        return f"{path}/{name}" if path else name


def _belongs(run: str, path: str, name: str, *, is_folder: bool) -> bool:
    if path == run:
        return name in rules.FILE_PRIORITIES or name == rules.MEDIA_FOLDER
    return is_folder or rules.media_belongs(name)


def _reason(error: OSError) -> str:
    return _LIMITS.get(error.errno or 0, f"inotify: {error.strerror}")
