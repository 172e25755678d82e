"""The client's memory of a mirror: what was synced, from which published state, and how it went.

SQLite in ``<mirror>/.runicorn/state.db``. It claims nothing that is not on disk: rows are committed
after the barrier that follows their files (law 2). A damaged database is put aside and built anew
by comparing what is there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from runicorn.errors import DiskFullError, MirrorError
from runicorn.manifest import rules
from runicorn.manifest.checks import MAX_TIME
from runicorn.manifest.digest import HASH_SIZE
from runicorn.manifest.model import Identity
from runicorn.remote_storage.known import Cursor, Known, Listed, LocalFile

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
HISTORY_KEPT = 200

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    folder TEXT NOT NULL, inner TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, hashes BLOB NOT NULL,
    listed_size INTEGER NOT NULL, listed_mtime REAL NOT NULL, listed_mtime_ns INTEGER,
    listed_digest TEXT, young_at REAL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (folder, inner)
) WITHOUT ROWID;
CREATE TABLE syncs (number INTEGER PRIMARY KEY, started REAL NOT NULL, report TEXT NOT NULL);
"""
_COLUMNS = """size, mtime_ns, inode, hashes, listed_size, listed_mtime, listed_mtime_ns,
    listed_digest, young_at, epoch"""


def _mapped(error: sqlite3.Error, path: Path) -> MirrorError:
    if "full" in str(error):
        return DiskFullError(f"cannot write {path}: {error}")
    return MirrorError(f"cannot use {path}: {error}")


class MirrorState:
    """The database of a mirror.

    Args:
        path: its file.

    Raises:
        MirrorError: it cannot be opened or made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with _sound():
                self._database = self._open()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise _mapped(error, path) from error
            self.start_anew(error)

    def start_anew(self, error: sqlite3.DatabaseError) -> None:
        """Put a damaged database aside and begin an empty one."""
        log.warning("the state of the mirror is damaged (%s); it is put aside and built anew", error)
        self.close()
        self._put_aside()
        try:
            self._database = self._open()
        except sqlite3.Error as again:
            raise _mapped(again, self.path) from again

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                database.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
                version = SCHEMA_VERSION
            _require_version(version)
            database.execute(f"SELECT folder, inner, {_COLUMNS} FROM files LIMIT 1").fetchone()  # noqa: S608
        except BaseException:
            database.close()
            raise
        return database

    def _put_aside(self) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.replace(part.with_name(f"{part.name}.damaged-{stamp}"))

    def __enter__(self) -> MirrorState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        if hasattr(self, "_database"):
            self._database.close()

    def _raise(self, error: sqlite3.Error) -> NoReturn:
        if isinstance(error, sqlite3.DatabaseError) and is_damage(error):
            raise error
        raise _mapped(error, self.path) from error

    # -- meta ------------------------------------------------------------------------------

    def _get(self, key: str) -> Any:
        with _sound():
            row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return None if row is None else json.loads(row[0])

    def _set(self, key: str, value: Any) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    @property
    def cursor(self) -> Cursor | None:
        """The published state that the mirror was brought to, or None."""
        raw = self._get("cursor")
        if raw is None:
            return None
        with _sound():
            identity, base = (Identity(*each) if each else None for each in (raw["identity"], raw["base"]))
            return Cursor(identity, raw["selection"], raw["generated_at"], base, raw["keeps_gone"])

    @property
    def lineage(self) -> tuple[str | None, int]:
        """The lineage of the current epoch and the number of that epoch; 0 before the first."""
        with _sound():
            lineage, epoch = self._get("lineage") or (None, 0)
            return lineage, int(epoch)

    def enter_lineage(self, lineage: str | None, source: str = "") -> int:
        """Take note of the lineage of what is synced now.

        Args:
            lineage: None when it is not known, after a walk.
            source: what tells one root from another when there is no lineage.

        Returns:
            The number of its epoch: files listed in another epoch are never removed. After a walk of
            a mirror that has a lineage, that is the lineage's epoch when the source is the same as
            the lineage's, and otherwise 0, an epoch of nobody.
        """
        known, epoch = self.lineage
        known_source = self._get("source") or ""
        if lineage is None and known is not None:
            return epoch if source and source == known_source else 0
        if epoch == 0 or known != lineage or (lineage is None and known_source != source):
            epoch += 1
        self._write([("lineage", (lineage, epoch)), ("source", source)])
        return epoch

    def _write(self, values: Iterable[tuple[str, Any]]) -> None:
        try:
            for key, value in values:
                self._set(key, value)
        except sqlite3.Error as error:
            self._raise(error)

    def move_cursor(self, cursor: Cursor) -> None:
        """Record the published state that the mirror has been brought to.

        Raises:
            MirrorError: the database cannot be written.
        """
        self._write(
            [
                (
                    "cursor",
                    asdict(cursor) | {"identity": _triple(cursor.identity), "base": _triple(cursor.base)},
                )
            ]
        )

    # -- files -----------------------------------------------------------------------------

    def run_files(self, folder: str) -> dict[str, Known]:
        """What is known of the files of a run, by their path within the run folder."""
        with _sound():
            rows = self._database.execute(
                f"SELECT inner, {_COLUMNS} FROM files WHERE folder = ?",  # noqa: S608 - constant text
                (folder,),
            )
            return {row[0]: _known(row[1:]) for row in rows}

    def folders(self) -> list[str]:
        """The run folders of which files are known."""
        return self._folders("SELECT DISTINCT folder FROM files")

    def _folders(self, query: str, *values: Any) -> list[str]:
        with _sound():
            found = [row[0] for row in self._database.execute(query, values)]
            if any(rules.unsafe_path(folder) for folder in found):
                raise ValueError("a folder that cannot be")
        return found

    def next_folders(self, most: int) -> list[str]:
        """Some run folders of which files are known, in rotation: each call goes on where the one
        before stopped, so that a small mirror comes whole each time and a large one in turns.

        Args:
            most: how many folders at most.
        """
        query = "SELECT DISTINCT folder FROM files WHERE folder > ? ORDER BY folder LIMIT ?"
        last = self._get("looked_at") or ""
        found = self._folders(query, last, most)
        if len(found) < most and last:
            rest = self._folders(query, "", most - len(found))
            found += [folder for folder in rest if folder <= last]
        return found

    def looked_at(self, folders: list[str]) -> None:
        """Take note that folders which `next_folders` gave have been looked at."""
        if folders:
            self._write([("looked_at", folders[-1])])

    def count(self) -> int:
        """How many files are known."""
        number: int = self._database.execute("SELECT count(*) FROM files").fetchone()[0]
        return number

    def record(self, rows: Iterable[tuple[str, str, Known]], removed: Iterable[tuple[str, str]] = ()) -> None:
        """Commit what is on disk now, all of it or nothing.

        Args:
            rows: run folder, path within it, and what is known of the file.
            removed: run folder and path within it of files that are gone.

        Raises:
            MirrorError: the database cannot be written.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    ((folder, inner, *_row(known)) for folder, inner, known in rows),
                )
                self._database.executemany("DELETE FROM files WHERE folder = ? AND inner = ?", removed)
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self._raise(error)

    # -- history ---------------------------------------------------------------------------

    def add_report(self, started: float, report: dict[str, Any]) -> None:
        """Remember how a sync went."""
        try:
            self._database.execute(
                "INSERT INTO syncs (started, report) VALUES (?, ?)", (started, json.dumps(report))
            )
            self._database.execute(
                "DELETE FROM syncs WHERE number <= (SELECT max(number) FROM syncs) - ?", (HISTORY_KEPT,)
            )
        except sqlite3.Error as error:
            self._raise(error)

    def reports(self) -> list[dict[str, Any]]:
        """How the last syncs went, the newest first."""
        rows = self._database.execute("SELECT report FROM syncs ORDER BY number DESC")
        return [json.loads(row[0]) for row in rows]


def _require_version(version: int) -> None:
    if version != SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"it has the unknown version {version}")


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is bad, so that trying again cannot help."""
    if not isinstance(error, sqlite3.OperationalError):
        return True
    return any(
        sign in str(error) for sign in ("malformed", "no such table", "no such column", "already exists")
    )


def _triple(identity: Identity | None) -> tuple[str | None, int, str] | None:
    return (identity.lineage, identity.revision, identity.snapshot_id) if identity else None


@contextlib.contextmanager
def _sound() -> Iterator[None]:
    """What a damaged database gives may be anything; that it is damaged is what counts."""
    try:
        yield
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise sqlite3.DatabaseError("it holds nonsense") from error


_ROW_TYPES = {
    (int, int, int, bytes, int, float, time_type, digest_type, young_type, int)
    for time_type in (int, type(None))
    for digest_type in (str, type(None))
    for young_type in (float, type(None))
}


def _known(row: tuple[Any, ...]) -> Known:
    if tuple(map(type, row)) not in _ROW_TYPES or not 0 <= row[5] <= MAX_TIME:
        raise ValueError("a row of other types")
    (
        size,
        mtime_ns,
        inode,
        hashes,
        listed_size,
        listed_mtime,
        listed_mtime_ns,
        listed_digest,
        young_at,
        epoch,
    ) = row
    return Known(
        local=LocalFile(size, mtime_ns, inode % 2**64),
        hashes=tuple(hashes[at : at + HASH_SIZE] for at in range(0, len(hashes), HASH_SIZE)),
        listed=Listed(listed_size, listed_mtime, listed_mtime_ns, listed_digest, young_at),
        epoch=epoch,
    )


def _row(known: Known) -> tuple[Any, ...]:
    local, listed = known.local, known.listed
    if listed is None:
        raise ValueError("only what was listed is recorded")
    return (
        local.size,
        local.mtime_ns,
        # SQLite's integers are signed; the bit pattern is all that is compared.
        local.inode if local.inode < 2**63 else local.inode - 2**64,
        b"".join(known.hashes),
        listed.size,
        listed.mtime,
        listed.mtime_ns,
        listed.digest,
        listed.young_at,
        known.epoch,
    )
