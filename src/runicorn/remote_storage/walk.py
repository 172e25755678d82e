"""Learning what a root holds by listing its folders, when nothing is published.

All folders of one level are listed at once; the same rules as in the generator's scan decide what
belongs, so that both ways give the same listing (but for digests, which only the server can make).
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast

from runicorn.errors import NoSuchRootError, RequestError, UnsafeError
from runicorn.manifest import rules
from runicorn.manifest.checks import MAX_INTEGER, MAX_TIME
from runicorn.manifest.model import FileEntry, Problem, ProblemKind, Run
from runicorn.remote_storage.published import Listing
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.transport.base import (
    Attributes,
    Close,
    DirectoryEntry,
    Handle,
    Job,
    OpenDir,
    ReadDir,
    Transport,
)

MAX_ENTRIES = 10_000_000
"""Names that a walk reads before it takes the server for a hostile one."""

MAX_TEXT = 128 * 1024**2
"""Characters of all names that a walk reads; 100,000 runs have a fifth of it, and it holds them in memory."""

UNKNOWN_STATUS = "unknown"

YOUNG = 2.0
"""Seconds before the newest change in a listing within which a file is looked at again next time."""

YOUNG_TREE = 86400.0
"""Seconds after which a tree without changes is taken for settled, if both clocks roughly agree."""

_LONGEST_FOLDER = 4096 - 1 - 1 - 255
"""Bytes of a folder's path on the server up to which sftp-server names all that is in it. It leaves out, and
says nothing, what has a longer path than the system takes."""

_NO_SUCH_FILE = 2
_READS_AT_ONCE = 2

Folders: TypeAlias = dict[str, list[DirectoryEntry]]


@dataclass(slots=True)
class _Found:
    """A run folder and its files so far."""

    folder: str
    files: list[FileEntry] = field(default_factory=list)
    has_media: bool = False


class Walker:
    """One walk of a root.

    Args:
        transport: the connection.
        remote_root: the root on the server, without a slash at its end.
        selection: what is not selected is not listed either, where that saves a request.
        check: is called now and then; what it raises ends the walk.
    """

    def __init__(
        self,
        transport: Transport,
        remote_root: str,
        selection: Selection,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._transport = transport
        self._check = check
        self._root = remote_root
        self._selection = selection
        self._runs: list[_Found] = []
        self._problems: list[tuple[str, ProblemKind]] = []
        self._links: list[str] = []
        self._names = self._text = 0
        self._lists_itself = False

    def walk(self) -> Listing:
        """List the root.

        Raises:
            NoSuchRootError: there is no such folder.
            UnsafeError: the server lists more than any root holds.
            TransportError: the connection failed.
        """
        top = self._list([""])
        if "" not in top:
            raise NoSuchRootError(f"there is no folder {rules.escape(self._root)} at the source")
        projects = self._subfolders("", top[""])
        if rules.RUNS_FOLDER in projects:
            projects.remove(rules.RUNS_FOLDER)
            self._walk_paths()
        self._walk_projects([name for name in projects if self._selection.wants_project(name)])
        self._walk_media()
        return self._listing()

    # -- listing ---------------------------------------------------------------------------

    def _list(self, folders: Iterable[str]) -> Folders:
        listed: Folders = {}
        self._transport.run(self._list_job(folder, listed) for folder in folders)
        return listed

    def _list_job(self, folder: str, listed: Folders) -> Job:
        self._check()
        (handle,) = yield [OpenDir(f"{self._root}/{folder}" if folder else self._root or "/")]
        if isinstance(handle, RequestError):
            self._refused(folder, handle)
            return
        opened = cast(Handle, handle)
        names: dict[str, DirectoryEntry] = {}
        while True:
            self._check()
            answers = yield [ReadDir(opened)] * _READS_AT_ONCE
            for answer in answers:
                if isinstance(answer, RequestError):
                    self._refused(folder, answer)
                    yield [Close(opened)]
                    return
                batch = cast(tuple[DirectoryEntry, ...], answer)
                self._count(batch)
                names.update((entry.name, entry) for entry in batch)
            if not answers[-1]:
                break
        yield [Close(opened)]
        self._lists_itself = self._lists_itself or "." in names
        if not names and self._lists_itself:
            # OpenSSH leaves out what it may not look at, `.` among it: the folder only looks empty.
            self._hidden(folder)
        if len(os.fsencode(f"{self._root}/{folder}")) > _LONGEST_FOLDER:
            self._problems.append((rules.escape(folder), ProblemKind.TOO_DEEP))
        listed[folder] = [entry for entry in names.values() if self._has_kind(folder, entry)]

    def _count(self, batch: tuple[DirectoryEntry, ...]) -> None:
        self._names += len(batch)
        self._text += sum(len(entry.name) for entry in batch)
        if self._names > MAX_ENTRIES:
            raise UnsafeError(f"the server lists more than {MAX_ENTRIES} names")
        if self._text > MAX_TEXT:
            raise UnsafeError(f"the server lists names of more than {MAX_TEXT} characters")

    def _refused(self, folder: str, error: RequestError) -> None:
        if folder:
            # Also one that is not there any more: it was listed a moment ago, and may come back.
            self._hidden(folder)
        elif error.code != _NO_SUCH_FILE:
            raise error

    def _hidden(self, path: str) -> None:
        self._problems.append((rules.escape(path), ProblemKind.UNREADABLE))

    def _has_kind(self, folder: str, entry: DirectoryEntry) -> bool:
        if entry.attributes.mode is not None:
            return True
        if not rules.is_hidden(entry.name):
            self._hidden(_joined(folder, entry.name))
        return False

    def _safe(self, folder: str, entry: DirectoryEntry) -> bool:
        if entry.name in (".", "..") or rules.is_hidden(entry.name):
            return False
        if rules.unsafe_name(entry.name) is None:
            return True
        self._problems.append((rules.escape(f"{folder}/{entry.name}"), ProblemKind.UNSAFE_NAME))
        return False

    def _subfolders(self, folder: str, entries: Iterable[DirectoryEntry]) -> list[str]:
        found = []
        for entry in entries:
            path = _joined(folder, entry.name)
            kind = stat.S_IFMT(entry.attributes.mode or 0)
            if kind == stat.S_IFLNK:
                # It may lead anywhere or to a disk that is not there: what was below it is not gone.
                self._links.append(rules.escape(path))
            elif kind == stat.S_IFDIR and self._safe(folder, entry):
                found.append(path)
        return sorted(found)

    # -- layouts ---------------------------------------------------------------------------

    def _walk_projects(self, projects: list[str]) -> None:
        inside = self._below(self._below(projects))
        runs = (folder for folder in inside if folder.endswith(f"/{rules.RUNS_FOLDER}"))
        for folder, entries in self._list(self._below(runs)).items():
            self._take_run(folder, entries)

    def _below(self, folders: Iterable[str]) -> list[str]:
        listed = self._list(folders)
        return [inner for folder, entries in listed.items() for inner in self._subfolders(folder, entries)]

    def _walk_paths(self) -> None:
        level = [rules.RUNS_FOLDER]
        for depth in range(rules.MAX_FOLDER_DEPTH + 2):
            deeper: list[str] = []
            for folder, entries in self._list(level).items():
                if depth == 0 or not self._take_run(folder, entries):
                    deeper.extend(self._subfolders(folder, entries))
            if depth == 0:
                # Below `runs`, a folder is a project, or a run of the project with the empty name.
                deeper = [each for each in deeper if self._may_hold(each)]
            level = deeper
            if not level:
                return
        self._problems.extend((rules.escape(folder), ProblemKind.TOO_DEEP) for folder in level)

    def _may_hold(self, folder: str) -> bool:
        return self._selection.wants_project(folder.split("/")[1]) or self._selection.wants_project("")

    # -- files -----------------------------------------------------------------------------

    def _take_run(self, folder: str, entries: list[DirectoryEntry]) -> bool:
        if not any(_is_marker(entry) for entry in entries):
            return False
        found = _Found(folder)
        for entry in entries:
            if entry.name in rules.FILE_PRIORITIES:
                self._take_file(found, entry.name, entry)
            elif entry.name == rules.MEDIA_FOLDER:
                self._take_media_folder(found, entry)
        self._runs.append(found)
        return True

    def _take_media_folder(self, found: _Found, entry: DirectoryEntry) -> None:
        mode = entry.attributes.mode or 0
        found.has_media = stat.S_ISDIR(mode)
        if stat.S_ISLNK(mode):
            self._problems.append((rules.escape(f"{found.folder}/{entry.name}"), ProblemKind.LINK))

    def _take_file(self, found: _Found, inner: str, entry: DirectoryEntry) -> None:
        path = f"{found.folder}/{inner}"
        mode = entry.attributes.mode or 0
        if not stat.S_ISREG(mode):
            kind = ProblemKind.LINK if stat.S_ISLNK(mode) else ProblemKind.SPECIAL
            self._problems.append((rules.escape(path), kind))
            return
        reason = rules.unsafe_path(path)
        if reason:
            self._problems.append((rules.escape(path), ProblemKind.UNSAFE_NAME))
            return
        made = _entry(path, inner, entry.attributes)
        if made is None:
            self._problems.append((rules.escape(path), ProblemKind.UNREADABLE))
        else:
            found.files.append(made)

    def _walk_media(self) -> None:
        if not self._selection.media:
            return
        level = {f"{run.folder}/{rules.MEDIA_FOLDER}": run for run in self._runs if run.has_media}
        for _ in range(rules.MAX_FOLDER_DEPTH + 1):
            deeper: dict[str, _Found] = {}
            for folder, entries in self._list(level).items():
                deeper.update(self._take_media(level[folder], folder, entries))
            level = deeper
            if not level:
                return
        self._problems.extend((rules.escape(folder), ProblemKind.TOO_DEEP) for folder in level)

    def _take_media(self, run: _Found, folder: str, entries: list[DirectoryEntry]) -> dict[str, _Found]:
        deeper = {}
        for entry in entries:
            mode = entry.attributes.mode or 0
            if stat.S_ISDIR(mode):
                if self._safe(folder, entry):
                    deeper[f"{folder}/{entry.name}"] = run
            elif rules.media_belongs(entry.name) and self._safe(folder, entry):
                self._take_file(run, f"{folder[len(run.folder) + 1 :]}/{entry.name}", entry)
        return deeper

    # -- result ----------------------------------------------------------------------------

    def _listing(self) -> Listing:
        young = _young_from([entry.mtime for run in self._runs for entry in run.files])
        runs = [run for run in (_run(found, young) for found in self._runs) if run is not None]
        return Listing(
            header=None,
            identity=None,
            generated_at=None,
            runs=runs,
            complete=not any(kind.hides_files for _, kind in self._problems),
            problem_paths=frozenset([*(path for path, _ in self._problems), *self._links]),
            problems=tuple(Problem(path, kind.value, "") for path, kind in self._problems),
            problem_count=len(self._problems),
            total_experiments=len(runs),
        )


def _is_marker(entry: DirectoryEntry) -> bool:
    """Whether it makes its folder a run. A marker in trouble, such as a link, is a marker still, as it is for
    the generator: else the other files of the run would seem gone."""
    return entry.name in rules.RUN_MARKERS and not stat.S_ISDIR(entry.attributes.mode or 0)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _entry(path: str, inner: str, attributes: Attributes) -> FileEntry | None:
    size, mtime = attributes.size, attributes.mtime
    priority = rules.priority_in_run(inner)
    if size is None or mtime is None or priority is None or size > MAX_INTEGER or mtime > MAX_TIME:
        return None
    return FileEntry(path, size, float(mtime), priority, is_log=inner in rules.LOG_PRIORITIES)


def _young_from(times: list[float]) -> float:
    """From which time on a file may change again without a trace: SFTP tells whole seconds only."""
    newest = max(times, default=0.0)
    return newest - YOUNG if newest > time.time() - YOUNG_TREE else math.inf


def _run(found: _Found, young: float) -> Run | None:
    names = rules.project_and_name(found.folder)
    if not found.files or names is None:
        return None
    times = [entry.mtime for entry in found.files]
    return Run(
        folder=found.folder,
        run_id=found.folder.rsplit("/", 1)[-1],
        project=names[0],
        name=names[1],
        status=UNKNOWN_STATUS,
        created_at=min(times),
        updated_at=max(times),
        files=tuple(
            replace(entry, settled=entry.mtime < young)
            for entry in sorted(found.files, key=lambda entry: entry.path)
        ),
    )
