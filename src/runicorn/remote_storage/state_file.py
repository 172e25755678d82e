"""The file in which the state of a mirror lies: opening it, telling damage from other trouble."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from runicorn.errors import DiskFullError, MirrorError
from runicorn.remote_storage.state_rows import COLUMNS, SCHEMA, SCHEMA_VERSION

_TABLES = (
    (f"folder, inner, {COLUMNS}", "files"),
    ("key, value", "meta"),
    ("priority, age, folder, inner, run, taken", "wanted"),
    ("number, started, report", "syncs"),
)
"""What has to be there, by the columns that are used."""

_LONGEST = 500
"""Bytes of a path that every SQLite takes, names beside the database included."""

_CHUNK = 1024 * 1024

_INDEX = 64 * 1024
"""Bytes that the index of SQLite's log takes at most when it is made."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open a database, or make it.

    Raises:
        sqlite3.Error: it cannot be opened, or is of another form.
    """
    database = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            database.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
            version = SCHEMA_VERSION
        _require_version(version)
        for columns, table in _TABLES:
            database.execute(f"SELECT {columns} FROM {table} LIMIT 1").fetchone()  # noqa: S608 - constant text
    except BaseException:
        database.close()
        raise
    return database


def put_aside(path: Path) -> None:
    """Rename a damaged database, so that its name is free."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(part.with_name(f"{part.name}.damaged-{stamp}"))


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


def require_damage(error: sqlite3.DatabaseError, path: Path) -> None:
    """SQLite calls a page that the disk does not give damaged, too; only a database that can be read is.

    Args:
        error: what SQLite said.
        path: the database; this process has no connection to it.

    Raises:
        MirrorError: the disk failed, and the database may be whole.
    """
    if "malformed" not in str(error):
        return
    try:
        for suffix in ("", "-wal"):
            _read_through(path.with_name(path.name + suffix))
    except OSError as failure:
        raise MirrorError(f"cannot read {path}: {failure.strerror}", path=str(path)) from failure
    if _is_whole(path):
        raise MirrorError(f"cannot read {path}: the disk failed for a moment") from error


def _read_through(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        offset = 0
        while data := os.pread(fd, _CHUNK, offset):
            offset += len(data)
    finally:
        os.close(fd)


def _is_whole(path: Path) -> bool:
    """Whether SQLite finds nothing wrong in a database."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as database:
            return database.execute("PRAGMA integrity_check(1)").fetchall() == [("ok",)]
    except sqlite3.DatabaseError as error:
        return not is_damage(error)


def mapped(error: sqlite3.Error, path: Path) -> MirrorError:
    """What trouble with a database means for a sync."""
    if "full" in str(error) or ("disk I/O" in str(error) and _has_no_room(path)):
        return DiskFullError(f"cannot write {path}: {error}")
    length = len(os.fsencode(path.absolute()))
    if "unable to open" in str(error) and length > _LONGEST:
        return MirrorError(
            f"the path of the mirror is too long for SQLite: {path} has {length} bytes",
            hint=f"use a mirror whose path is shorter; all is well up to {_LONGEST - 20} bytes",
        )
    return MirrorError(f"cannot use {path}: {error}")


def _has_no_room(path: Path) -> bool:
    """SQLite calls it an error of the disk when there is no room for the index of its log."""
    try:
        status = os.statvfs(path.parent)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < _INDEX


@contextlib.contextmanager
def sound() -> Iterator[None]:
    """What a damaged database gives may be anything; that it is damaged is what counts."""
    try:
        yield
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise sqlite3.DatabaseError("it holds nonsense") from error


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of what is written in the block, or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
