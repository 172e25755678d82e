"""Walks a root and yields its runs in order of run folder, merged with what the last scan knew.

Every folder is reached through the handle of the one above it, and no link is followed below the root. What
cannot be listed becomes a problem; only a root that cannot be read at all is an error.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from runicorn.errors import PublishError
from runicorn.manifest import rules
from runicorn.manifest.capture import Capture
from runicorn.manifest.model import ProblemKind
from runicorn.manifest.own_files import require_handles
from runicorn.manifest.rights import ALONE, SEARCH, Audience
from runicorn.manifest.scan_key import Place
from runicorn.manifest.scan_limit import Limit, LimitLost
from runicorn.manifest.scan_problems import Problems, Report
from runicorn.manifest.scan_read import DENIED, OPEN_FOLDER, OPEN_ROOT, look, no_beat
from runicorn.manifest.scan_run import gone_by_rights, scan_run
from runicorn.manifest.scan_state import RunState

_CAN_WALK = os.open in os.supports_dir_fd and os.scandir in os.supports_fd


class Found(NamedTuple):
    """A run folder that is there now, was there last time, or both; the same object when nothing changed."""

    now: RunState | None
    old: RunState | None


class ForJournal(NamedTuple):
    """What a scan has to know of the journal.

    Attributes:
        audience: who may read it.
        reached: whether they can search the folders above the root's content.
        capture: collects what changed; None when a fresh base is going to be written, or none.
    """

    audience: Audience = ALONE
    reached: bool = True
    capture: Capture | None = None

    @property
    def told(self) -> tuple[str, bool]:
        """Differs when another scan looks at the rights of the runs for others."""
        return self.audience.text, self.reached


NO_JOURNAL = ForJournal()


class Scope(NamedTuple):
    """What a scan looks at, and who is told of it.

    Attributes:
        limit: where something may have changed; None looks at all of the root.
        carried: problems that an earlier scan reported elsewhere.
        entered: called with handle and path of each folder before what it holds is looked at.
        beat: called again and again while a file is read.
    """

    limit: Limit | None = None
    carried: Sequence[Report] = ()
    entered: Callable[[int, str], None] | None = None
    beat: Callable[[], None] = no_beat


EVERYTHING = Scope()


def _in_order(name: str) -> str:
    """Sorting names by this sorts the paths of everything below them."""
    return name + "/"


class Scanner:
    """One pass over a root.

    Args:
        root: the folder that holds all runs; may itself be a link.
        racy_from: files that changed at this time (ns) or later are read again next time.
        incremental: whether unchanged files inherit what the last scan knew.
        journal: for whom the journal is written and what collects its frames.
        scope: what is looked at.

    Attributes:
        problems: what could not be listed; complete when the pass has ended.
        files_read: number of files that were read.
        bytes_read: bytes that were read.
        revoked: whether a file became readable by fewer people than those who may read the journal.
        beat: as in the scope.

    Raises:
        PublishError: the root is missing, is no folder or cannot be read, or there are too many open files.
    """

    def __init__(
        self,
        root: str,
        racy_from: int,
        *,
        incremental: bool = True,
        journal: ForJournal = NO_JOURNAL,
        scope: Scope = EVERYTHING,
    ) -> None:
        if not _CAN_WALK:
            raise PublishError("this system cannot walk folders safely")
        self.problems = Problems()
        self.problems.carry(scope.carried)
        self.files_read = 0
        self.bytes_read = 0
        self.racy_from = racy_from
        self.incremental = incremental
        self.audience = journal.audience
        self.capture = journal.capture
        self.revoked = False
        self._reached = [journal.reached]
        self._limit = scope.limit
        self._entered = scope.entered
        self.beat = scope.beat
        self._real_root = os.path.realpath(root)
        try:
            self._root = os.open(self._real_root, OPEN_ROOT)
        except OSError as error:
            require_handles(error, self._real_root)
            raise PublishError(f"cannot read the root: {error.strerror}") from error

    def scan(self, previous: Iterable[RunState]) -> Iterator[Found]:
        """The runs in order of run folder; the root's handle is closed at the end.

        Args:
            previous: the runs of the last scan that are within the limit, in the same order.

        Raises:
            PublishError: the root cannot be read.
            LimitLost: the scan has a limit, and something is in its way.
            StateLost: from ``previous``, also in the middle.
        """
        try:
            yield from self._merged(iter(previous))
        finally:
            os.close(self._root)

    def _merged(self, previous: Iterator[RunState]) -> Iterator[Found]:
        if self._entered is not None:
            self._entered(self._root, "")
        old = next(previous, None)
        for fd, folder, names in self._run_folders():
            if self._limit is not None and not self._limit.covers(folder):
                raise LimitLost(f"'{folder}' has become a run")
            while old is not None and _in_order(old.folder) < _in_order(folder):
                yield self._gone(old)
                old = next(previous, None)
            met = None
            if old is not None and old.folder == folder:
                met, old = old, next(previous, None)
            now = scan_run(self, Place(fd, folder, names, self._reached[-1]), met)
            if now is not None:
                yield Found(now, met)
            elif met is not None:
                yield self._gone(met)
        while old is not None:
            yield self._gone(old)
            old = next(previous, None)

    def _gone(self, old: RunState) -> Found:
        self.revoked = self.revoked or gone_by_rights(self, old)
        if self.capture is not None:
            self.capture.gone(old)
        return Found(None, old)

    def _run_folders(self) -> Iterator[tuple[int, str, dict[str, os.DirEntry[str]]]]:
        try:
            with os.scandir(self._root) as listing:
                top = sorted((entry for entry in listing if not rules.is_hidden(entry.name)), key=_name_of)
        except OSError as error:
            require_handles(error, self._real_root)
            raise PublishError(f"cannot read the root: {error.strerror}") from error
        for name in self._subfolders(top, self._root, ""):
            with self._inside(name, self._root, name) as fd:
                if fd is None:
                    continue
                if name == rules.RUNS_FOLDER:
                    yield from self._path_layout(fd, name, self.entries(fd, name), 1)
                else:
                    yield from self._project(fd, name)

    @contextmanager
    def _inside(self, name: str, folder: int, path: str) -> Iterator[int | None]:
        """As `enter`; the handle is closed at the end."""
        fd = self.enter(name, folder, path)
        if fd is None:
            yield None
            return
        try:
            self._reached.append(self._reached[-1] and self.may_search(fd))
            yield fd
            self._reached.pop()
        finally:
            os.close(fd)

    def may_search(self, fd: int) -> bool:
        """Whether who may read the journal may search an open folder."""
        return self.audience.alone or self.audience.has(SEARCH, os.fstat(fd), fd)

    def _project(self, project: int, path: str) -> Iterator[tuple[int, str, dict[str, os.DirEntry[str]]]]:
        for name in self._subfolders(self.entries(project, path), project, path):
            with self._inside(name, project, f"{path}/{name}") as fd:
                if fd is None:
                    continue
                below = f"{path}/{name}/{rules.RUNS_FOLDER}"
                with self._inside(rules.RUNS_FOLDER, fd, below) as runs:
                    if runs is not None:
                        yield from self._runs(runs, below)

    def _runs(self, runs: int, path: str) -> Iterator[tuple[int, str, dict[str, os.DirEntry[str]]]]:
        for name in self._subfolders(self.entries(runs, path), runs, path):
            with self._inside(name, runs, f"{path}/{name}") as fd:
                if fd is None:
                    continue
                entries = self.entries(fd, f"{path}/{name}")
                if _holds_run(entries):
                    yield fd, f"{path}/{name}", {entry.name: entry for entry in entries}

    def _path_layout(
        self, folder: int, path: str, entries: list[os.DirEntry[str]], parts: int
    ) -> Iterator[tuple[int, str, dict[str, os.DirEntry[str]]]]:
        names = self._subfolders(entries, folder, path)
        if names and parts == rules.MAX_FOLDER_DEPTH + 2:
            self.problems.report(path, ProblemKind.TOO_DEEP, "folders are nested too deep")
            return
        for name in names:
            inner = f"{path}/{name}"
            with self._inside(name, folder, inner) as fd:
                if fd is None:
                    continue
                below = self.entries(fd, inner)
                if _holds_run(below):
                    yield fd, inner, {entry.name: entry for entry in below}
                else:
                    yield from self._path_layout(fd, inner, below, parts + 1)

    def _subfolders(self, entries: list[os.DirEntry[str]], folder: int, path: str) -> list[str]:
        """The names of the folders to enter, in order; reports what cannot be entered."""
        names = []
        for entry in entries:
            inner = f"{path}/{entry.name}" if path else entry.name
            if self._limit is not None and not self._limit.reaches(inner):
                continue
            if self._is_link(entry, inner):
                if self._limit is not None and not self._limit.covers(inner):
                    raise LimitLost(f"'{inner}' has become a link")
                self.judge_link(entry.name, folder, inner)
            elif self.is_folder(entry, inner):
                names.append(entry.name)
        names.sort(key=_in_order)
        return names

    def _is_link(self, entry: os.DirEntry[str], path: str) -> bool:
        try:
            return entry.is_symlink()
        except OSError as error:
            self._report_error(path, error)
            return False

    def is_folder(self, entry: os.DirEntry[str], path: str) -> bool | None:
        """Whether it is a folder; None when it was reported as one that may not be entered."""
        try:
            if not entry.is_dir(follow_symlinks=False):
                return False
        except OSError as error:
            self._report_error(path, error)
            return None
        reason = rules.unsafe_name(entry.name)
        if reason is None:
            return True
        self.problems.report(path, ProblemKind.UNSAFE_NAME, reason)
        return None

    def count_read(self, size: int) -> None:
        """Note that a file was read, and how many bytes of it."""
        self.files_read += 1
        self.bytes_read += size

    def enter(self, name: str, folder: int, path: str) -> int | None:
        """A handle on a folder in an open folder; None when it is gone or a problem."""
        try:
            fd = os.open(name, OPEN_FOLDER, dir_fd=folder)
        except OSError as error:
            require_handles(error, path)
            self._require_covered(path, error)
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                self._judge_swapped(name, folder, path)
            elif error.errno != errno.ENOENT:
                self._report_error(path, error)
            return None
        if self._entered is not None:
            self._entered(fd, path)
        return fd

    def _require_covered(self, path: str, error: OSError) -> None:
        """What is wrong above the limit is a matter of all that lies there."""
        if error.errno != errno.ENOENT and self._limit is not None and not self._limit.covers(path):
            raise LimitLost(f"'{path}': {error.strerror}")

    def entries(self, fd: int, path: str) -> list[os.DirEntry[str]]:
        """What is in an open folder, by name without hidden names; nothing when it is a problem."""
        try:
            with os.scandir(fd) as listing:
                found = [entry for entry in listing if not rules.is_hidden(entry.name)]
        except OSError as error:
            require_handles(error, path)
            self._require_covered(path, error)
            if error.errno != errno.ENOENT:
                self._report_error(path, error)
            return []
        found.sort(key=_name_of)
        return found

    def _judge_swapped(self, name: str, folder: int, path: str) -> None:
        """What was listed as a folder is none any more: a link counts, the rest has vanished."""
        try:
            if stat.S_ISLNK(look(name, folder).st_mode):
                self.judge_link(name, folder, path)
        except FileNotFoundError:
            return
        except OSError as error:
            self._report_error(path, error)

    def judge_link(self, name: str, folder: int, path: str) -> None:
        """Report a link in the place of a folder that leads out of the root."""
        try:
            if not stat.S_ISDIR(os.stat(name, dir_fd=folder).st_mode):
                return
        except OSError:
            pass  # it may lead to a disk that is not there now
        target = os.path.realpath(f"{self._real_root}/{path}")
        if os.path.commonpath((target, self._real_root)) != self._real_root:
            self.problems.report(path, ProblemKind.LINK, "a link that leads out of the root is not followed")
        elif not os.path.isdir(target) or not rules.may_lead_to_runs(
            os.path.relpath(target, self._real_root)
        ):
            self.problems.report(
                path, ProblemKind.LINK, "a link is not followed, and its target is not listed"
            )

    def _report_error(self, path: str, error: OSError) -> None:
        text = os.strerror(error.errno) if error.errno else "cannot be read"
        self.problems.report(path, ProblemKind.UNREADABLE, text, denied=error.errno in DENIED)


def _name_of(entry: os.DirEntry[str]) -> str:
    return entry.name


def _holds_run(entries: list[os.DirEntry[str]]) -> bool:
    return any(entry.name in rules.RUN_MARKERS and not _is_dir(entry) for entry in entries)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
