"""Looking at the state of a mirror without changing it, also while a sync works on it or nobody may write."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from runicorn.errors import MirrorError
from runicorn.manifest import rules
from runicorn.manifest.model import Problem, Run
from runicorn.remote_storage.contact import FAILURE_KEY, KEY, Contact, Failure
from runicorn.remote_storage.disk_errors import require_utf8_names
from runicorn.remote_storage.known import Cursor, Known
from runicorn.remote_storage.mirror import STATE_FOLDER
from runicorn.remote_storage.problems import KEY as PROBLEMS_KEY
from runicorn.remote_storage.problems import problems_of
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.source import Source
from runicorn.remote_storage.state_file import sound
from runicorn.remote_storage.state_rows import COLUMNS, SCHEMA_VERSION, cursor_of, known_of, wanted_of

STATE_FILE = "state.db"
LOCK_FILE = "sync.lock"


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a mirror.

    Attributes:
        runs: run folders of which files are known.
        files: files that are known.
        size: what they have on disk, bytes.
        gone: of the files, those that the server does not list any more.
        wanted: files that have to be fetched yet.
    """

    runs: int
    files: int
    size: int
    gone: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A sync of the history.

    Attributes:
        started: seconds since the epoch, by this machine's clock.
        report: its statistics, see docs/sync-json.md.
    """

    started: float
    report: dict[str, Any]


class MirrorView:
    """What is recorded of a mirror.

    Args:
        root: the folder of the mirror.

    Raises:
        MirrorError: there is no mirror, or its state cannot be read.
    """

    def __init__(self, root: Path) -> None:
        require_utf8_names()
        self.root = root
        self._path = root / STATE_FOLDER / STATE_FILE
        self._database = self._open()
        with self._readable(), sound():
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA_VERSION:
                raise ValueError(f"it has the unknown version {version}")

    def _open(self) -> sqlite3.Connection:
        path = os.path.abspath(self._path)
        if not os.path.isfile(path):
            shown = rules.escape(str(self.root))
            raise MirrorError(f"{shown} is no mirror: nothing was synced to it yet")
        # Without a log beside it nobody has it open, and SQLite may not leave files behind either.
        mode = "mode=ro" if os.path.exists(f"{path}-wal") else "immutable=1"
        uri = f"{Path(path).as_uri()}?{mode}"
        try:
            return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> MirrorError:
        return MirrorError(
            f"cannot read the state of the mirror: {error}",
            hint="the next sync builds it anew when it is damaged",
        )

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def __enter__(self) -> MirrorView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._readable(), sound():
            return self._database.execute(query, values).fetchall()

    def _value(self, key: str) -> Any:
        with self._readable(), sound():
            row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return None if row is None else json.loads(row[0])

    # -- of the whole mirror -------------------------------------------------------------------

    @property
    def cursor(self) -> Cursor | None:
        """The published state that it was brought to, or None.

        Raises:
            MirrorError: as of the class; so do all others below.
        """
        raw = self._value("cursor")
        with self._readable(), sound():
            return None if raw is None else cursor_of(raw)

    @property
    def is_complete(self) -> bool:
        """Whether a sync has come to its end: what the mirror lacks is recorded. Else one is at work, or was
        cut short, and files may be missing of which nothing is known here."""
        cursor = self.cursor
        return cursor.is_complete if cursor is not None else bool(self._rows("SELECT 1 FROM syncs LIMIT 1"))

    @property
    def contact(self) -> Contact | None:
        """The last look at the server that is recorded, or None."""
        return Contact.of(self._value(KEY))

    @property
    def lineage(self) -> tuple[str | None, int]:
        """Lineage and number of the mirror's epoch, see `MirrorState.lineage`."""
        raw = self._value("lineage") or (None, 0)
        with self._readable(), sound():
            lineage, epoch = raw
            return lineage, int(epoch)

    @property
    def source(self) -> Source | None:
        """Where it was synced from; None when that is not recorded, or is no SOURCE of the command line."""
        try:
            host, user, port, path = json.loads(self._value("source") or "")
        except (ValueError, TypeError):
            return None  # a program may tell its sources apart by any text
        texts = all(isinstance(each, str | None) for each in (host, user))
        if not texts or not isinstance(path, str) or not isinstance(port, int | None):
            return None
        return Source(path, host, user, port)

    @property
    def selection(self) -> Selection:
        """What was selected by the last sync that got to its end."""
        cursor = self.cursor
        if cursor is None or not cursor.selection:
            return Selection()
        with self._readable(), sound():
            projects, include, exclude, media = json.loads(cursor.selection)
            return Selection(tuple(projects), tuple(include), tuple(exclude), bool(media))

    def history(self) -> list[Sync]:
        """The last syncs that did something, the newest first."""
        rows = self._rows("SELECT started, report FROM syncs ORDER BY number DESC")
        with self._readable(), sound():
            return [Sync(float(started), dict(json.loads(report))) for started, report in rows]

    def totals(self) -> Totals:
        """Sums over the mirror."""
        query = "SELECT count(DISTINCT folder), count(*), total(size), total(gone = 1) FROM files"
        runs, files, size, gone = self._rows(query)[0]
        (wanted,) = self._rows("SELECT count(*) FROM wanted")[0]
        return Totals(runs, files, int(size), int(gone), wanted)

    def is_synced_now(self) -> bool:
        """Whether a sync works on it at this moment; False when that cannot be told."""
        import fcntl

        try:
            fd = os.open(self.root / STATE_FOLDER / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(fd)
        return False

    @property
    def failure(self) -> Failure | None:
        """The last sync that failed as a whole, or None."""
        return Failure.of(self._value(FAILURE_KEY))

    @property
    def problems(self) -> list[Problem]:
        """What the server could not list at the last news from it, as far as it named that."""
        return problems_of(self._value(PROBLEMS_KEY))

    # -- of files ------------------------------------------------------------------------------

    def files(self, most: int, after: tuple[str, str] = ("", "")) -> list[tuple[str, str, Known]]:
        """Run folder, path within it and what is known of files, in order.

        Args:
            most: how many at most.
            after: run folder and path of the last one of the call before.
        """
        rows = self._rows(
            f"SELECT folder, inner, {COLUMNS} FROM files WHERE (folder, inner) > (?, ?)"  # noqa: S608 - constant text
            " ORDER BY folder, inner LIMIT ?",
            *after,
            most,
        )
        with self._readable(), sound():
            if any(rules.unsafe_path(f"{row[0]}/{row[1]}") for row in rows):
                raise ValueError("a path that cannot be")
            return [(row[0], row[1], known_of(row[2:])) for row in rows]

    def file(self, folder: str, inner: str) -> Known | None:
        """What is known of one file, or None."""
        rows = self._rows(
            f"SELECT {COLUMNS} FROM files WHERE folder = ? AND inner = ?",  # noqa: S608 - constant text
            folder,
            inner,
        )
        with self._readable(), sound():
            return known_of(rows[0]) if rows else None

    def wanted(self, most: int, after: tuple[str, str] = ("", "")) -> list[tuple[str, str]]:
        """Run folder and path within it of files that have to be fetched yet, in order; as of `files`."""
        query = (
            "SELECT folder, inner FROM wanted WHERE (folder, inner) > (?, ?) ORDER BY folder, inner LIMIT ?"
        )
        return [(row[0], row[1]) for row in self._rows(query, *after, most)]

    def wanted_file(self, folder: str, inner: str) -> Run | None:
        """The run, with this file alone, when the file has to be fetched yet."""
        rows = self._rows("SELECT run FROM wanted WHERE folder = ? AND inner = ?", folder, inner)
        with self._readable(), sound():
            return wanted_of(rows[0][0]) if rows else None

    def knows_run(self, folder: str) -> bool:
        """Whether any file of a run is known."""
        return bool(self._rows("SELECT 1 FROM files WHERE folder = ? LIMIT 1", folder))

    def place_of(self, path: str) -> tuple[str, str] | None:
        """Run folder and path within it of a file of a run; None when it can be none.

        Args:
            path: relative to the mirror. Where several folders could be the run, it is one that is known.
        """
        parts, fitting = path.split("/"), []
        for count in range(1, len(parts)):
            folder, inner = "/".join(parts[:count]), "/".join(parts[count:])
            if rules.project_and_name(folder) is not None and rules.priority_in_run(inner) is not None:
                fitting.append((folder, inner))
        return next((each for each in fitting if self.knows_run(each[0])), fitting[0] if fitting else None)
