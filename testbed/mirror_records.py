"""What a client has recorded of its mirror, by the database that it leaves. No code is the product's."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

STATE = ".runicorn/state.db"


class Row(NamedTuple):
    """What the client has recorded of a file; the second is that of the server's file."""

    size: int
    mtime_ns: int
    inode: int
    hashes: bytes
    is_gone: bool = False
    second: int = 0


@dataclass(frozen=True)
class Records:
    """What the client has recorded.

    Attributes:
        rows: of the files, by path.
        wanted: paths that it knows to be undone.
        cursor: the published state that it claims, as it is recorded.
    """

    rows: Mapping[str, Row] = field(default_factory=dict)
    wanted: frozenset[str] = frozenset()
    cursor: Mapping[str, Any] = field(default_factory=dict)

    @property
    def revision(self) -> int:
        """The revision that it claims; 0 when it claims none."""
        known = [each[1] for each in (self.cursor.get("identity"), self.cursor.get("base")) if each]
        return min(known, default=0)


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """A copy of a database: opening it makes whole what a kill has left, which is the client's to do."""
    with tempfile.TemporaryDirectory(prefix="oracle-") as folder:
        for suffix in ("", "-wal", "-journal"):
            part = database.with_name(database.name + suffix)
            if part.exists():
                shutil.copy(part, Path(folder, part.name))
        with closing(sqlite3.connect(Path(folder, database.name))) as connection:
            yield connection


def read_records(database: Path) -> Records:
    """What a database holds; nothing when there is none.

    Raises:
        sqlite3.DatabaseError, ValueError: it is damaged.
    """
    if not database.exists():
        return Records()
    with _opened(database) as state:
        (check,) = state.execute("PRAGMA integrity_check").fetchone()
        if check != "ok":
            raise ValueError(f"it is damaged: {check}")
        if not state.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone():
            return Records()
        found = state.execute(
            "SELECT folder, inner, size, mtime_ns, inode, hashes, gone, listed_mtime FROM files"
        ).fetchall()
        rows = {
            f"{folder}/{inner}": Row(size, mtime_ns, inode % 2**64, hashes, bool(gone), int(second or 0))
            for folder, inner, size, mtime_ns, inode, hashes, gone, second in found
        }
        wanted = state.execute("SELECT folder || '/' || inner FROM wanted").fetchall()
        cursor = state.execute("SELECT value FROM meta WHERE key = 'cursor'").fetchone()
    return Records(rows, frozenset(path for (path,) in wanted), (cursor and json.loads(cursor[0])) or {})
