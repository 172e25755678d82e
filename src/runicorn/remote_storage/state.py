"""The client's memory of a mirror: what was synced, from which published state, and how it went.

SQLite in ``<mirror>/.runicorn/state.db``. It claims nothing that is not on disk: rows are committed
after the barrier that follows their files (law 2). A damaged database is put aside and built anew
by comparing what is there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

from runicorn.manifest import rules
from runicorn.manifest.model import FileEntry, Run
from runicorn.remote_storage.known import Cursor, Known, LocalFile, Wanted
from runicorn.remote_storage.state_database import StateDatabase
from runicorn.remote_storage.state_file import sound, transaction
from runicorn.remote_storage.state_rows import (
    COLUMNS,
    cursor_of,
    cursor_text,
    known_of,
    row_of,
    wanted_of,
    wanted_row,
)

ANY = "-"
"""No snapshot."""

_AT_ONCE = 500


class MirrorState(StateDatabase):
    """The database of a mirror.

    Args:
        path: its file.

    Raises:
        MirrorError: it cannot be opened or made.
    """

    # -- of the whole mirror -----------------------------------------------------------------

    @property
    def cursor(self) -> Cursor | None:
        """The published state that the mirror was brought to, or None."""
        raw = self._get("cursor")
        if raw is None:
            return None
        with sound():
            return cursor_of(raw)

    @property
    def lineage(self) -> tuple[str | None, int]:
        """The lineage of the current epoch and the number of that epoch; 0 before the first."""
        with sound():
            lineage, epoch = self._get("lineage") or (None, 0)
            return lineage, int(epoch)

    def enter_lineage(self, lineage: str | None, source: str = "", *, anew: bool = False) -> int:
        """Take note of the lineage of what is synced now.

        Args:
            lineage: None when it is not known, after a walk.
            source: what tells one root from another when there is no lineage.
            anew: whether a new epoch begins in any case.

        Returns:
            The number of its epoch: files listed in another epoch are never removed. After a walk of
            a mirror that has a lineage, that is the lineage's epoch when the source is the same as
            the lineage's, and otherwise 0, an epoch of nobody.
        """
        known, epoch = self.lineage
        known_source = self._get("source") or ""
        if lineage is None and known is not None:
            return epoch if source and source == known_source else 0
        if anew or epoch == 0 or known != lineage or (lineage is None and known_source != source):
            epoch += 1
        self._write([("lineage", (lineage, epoch)), ("source", source)])
        return epoch

    def move_cursor(self, cursor: Cursor) -> None:
        """Record the published state that the mirror has been brought to.

        Raises:
            MirrorError: the database cannot be written.
        """
        self._write([("cursor", cursor_text(cursor))])

    # -- files -----------------------------------------------------------------------------

    def run_files(self, folder: str) -> dict[str, Known]:
        """What is known of the files of a run, by their path within the run folder."""
        with sound():
            rows = self._database.execute(
                f"SELECT inner, {COLUMNS} FROM files WHERE folder = ?",  # noqa: S608 - constant text
                (folder,),
            )
            return {row[0]: known_of(row[1:]) for row in rows}

    def local_files(self, folder: str) -> dict[str, LocalFile]:
        """What the listed files of a run looked like when they were recorded, by their path within it."""
        with sound():
            rows = self._database.execute(
                "SELECT inner, size, mtime_ns, inode FROM files WHERE folder = ? AND gone = 0", (folder,)
            )
            return {inner: LocalFile(size, mtime_ns, inode % 2**64) for inner, size, mtime_ns, inode in rows}

    def folders(self) -> list[str]:
        """The run folders of which files are known."""
        return self._folders("SELECT DISTINCT folder FROM files")

    def _folders(self, query: str, *values: Any) -> list[str]:
        with sound():
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

    def known(self, folder: str, inners: Sequence[str]) -> dict[str, Known]:
        """What is known of some files of a run, by their path within the run folder."""
        found: dict[str, Known] = {}
        with sound():
            for start in range(0, len(inners), _AT_ONCE):
                some = inners[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                rows = self._database.execute(
                    f"SELECT inner, {COLUMNS} FROM files WHERE folder = ? AND inner IN ({marks})",  # noqa: S608 - constant text
                    (folder, *some),
                )
                found.update((row[0], known_of(row[1:])) for row in rows)
        return found

    def totals(self) -> tuple[int, int]:
        """How many files are known that are listed, and the sum of their listed sizes, bytes."""
        query = "SELECT count(*), coalesce(sum(listed_size), 0) FROM files WHERE gone = 0"
        files, size = self._database.execute(query).fetchone()
        return int(files), int(size)

    def listed_count(self) -> int:
        """How many files the last published state lists, as far as that is known here: those that are in the
        mirror, and those that have to be fetched."""
        query = (
            "SELECT (SELECT count(*) FROM files WHERE gone = 0)"
            " + (SELECT count(*) FROM wanted LEFT JOIN files USING (folder, inner)"
            " WHERE files.gone IS NULL OR files.gone != 0)"
        )
        return int(self._database.execute(query).fetchone()[0])

    def is_empty(self) -> bool:
        """Whether no file is known."""
        return self._database.execute("SELECT 1 FROM files LIMIT 1").fetchone() is None

    def record(
        self,
        rows: Iterable[tuple[str, str, Known]],
        removed: Iterable[tuple[str, str]] = (),
        *,
        gone: Iterable[tuple[str, str]] = (),
        wanted: Iterable[tuple[Run, FileEntry]] = (),
        taken: Iterable[tuple[Run, FileEntry, str]] = (),
        cursor: Cursor | None = None,
    ) -> None:
        """Commit what is on disk now, all of it or nothing.

        Args:
            rows: run folder, path within it, and what is known of the file; it is not wanted any more. What
                a walk lists is taken for published when the last published state lists it, or none is known.
            removed: run folder and path within it of files that are not in the mirror any more.
            gone: of files that the server does not list any more. They come before ``rows``.
            wanted: files that have to be fetched; the cursor need not wait for them.
            taken: files that were fetched with other content than is listed, and the snapshot that lists
                it so: they are looked at again with the next one.
            cursor: where the mirror is after that.

        Raises:
            MirrorError: the database cannot be written.
        """
        try:
            with transaction(self._database):
                self._mark_gone(list(gone))
                self._put_rows(list(rows))
                self._database.executemany("DELETE FROM files WHERE folder = ? AND inner = ?", removed)
                self._put_wanted([wanted_row(run, entry) for run, entry in wanted])
                self._put_wanted([wanted_row(*each) for each in taken])
                if cursor is not None:
                    self._set("cursor", cursor_text(cursor))
        except sqlite3.Error as error:
            self._raise(error)

    def _mark_gone(self, gone: list[tuple[str, str]]) -> None:
        self._database.executemany("UPDATE files SET gone = 1 WHERE folder = ? AND inner = ?", gone)
        self._database.executemany("DELETE FROM wanted WHERE folder = ? AND inner = ?", gone)

    def _put_rows(self, rows: list[tuple[str, str, Known]]) -> None:
        if any(known.unpublished for _, _, known in rows):
            rows = self._tell_published(rows)
        self._insert([(folder, inner, *row_of(known)) for folder, inner, known in rows])
        if not self.wants_nothing():
            keys = [(folder, inner) for folder, inner, _ in rows]
            self._database.executemany("DELETE FROM wanted WHERE folder = ? AND inner = ?", keys)

    def _tell_published(self, rows: list[tuple[str, str, Known]]) -> list[tuple[str, str, Known]]:
        is_published = self.lineage[0] is not None
        told = []
        for folder, inner, known in rows:
            unpublished = known.unpublished and is_published and not self._is_listed(folder, inner)
            told.append((folder, inner, replace(known, unpublished=unpublished)))
        return told

    def _is_listed(self, folder: str, inner: str) -> bool:
        query = (
            "SELECT 1 FROM files WHERE folder = :folder AND inner = :inner AND gone = 0"
            " UNION ALL SELECT 1 FROM wanted WHERE folder = :folder AND inner = :inner LIMIT 1"
        )
        values = {"folder": folder, "inner": inner}
        return self._database.execute(query, values).fetchone() is not None

    def _insert(self, rows: list[tuple[Any, ...]]) -> None:
        rows.sort(key=itemgetter(0, 1))  # neighbours in the table are written one after the other
        self._database.executemany(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
        )

    def record_base(
        self, rows: Iterable[tuple[Any, ...]], wanted: list[tuple[Any, ...]], cursor: Cursor
    ) -> None:
        """Commit a part of a base in a mirror that was empty before it.

        Args:
            rows: run folder, path within it and the columns of each file that is on disk.
            wanted: rows of the files that have to be fetched.
            cursor: where the mirror is after that.

        Raises:
            MirrorError: the database cannot be written.
        """
        try:
            with transaction(self._database):
                self._insert(list(rows))
                self._put_wanted(wanted)
                self._set("cursor", cursor_text(cursor))
        except sqlite3.Error as error:
            self._raise(error)

    def _put_wanted(self, wanted: list[tuple[Any, ...]]) -> None:
        self._database.executemany("INSERT OR REPLACE INTO wanted VALUES (?, ?, ?, ?, ?, ?)", wanted)
        keys = [row[2:4] for row in wanted]
        self._database.executemany("UPDATE files SET gone = 0 WHERE folder = ? AND inner = ?", keys)

    # -- files that are not listed any more, and files that have to be fetched ---------------

    def begin_base(self, cursor: Cursor) -> None:
        """Begin with a base: every published file is gone until `record` is given its row again.

        Args:
            cursor: the beginning of the base. It comes with the marks, all or nothing: with another
                cursor they would tell of deletions.
        """
        try:
            with transaction(self._database):
                self._database.execute("UPDATE files SET gone = 1 WHERE gone = 0")
                self._database.execute("DELETE FROM wanted")
                self._set("cursor", cursor_text(cursor))
        except sqlite3.Error as error:
            self._raise(error)

    def gone(self, most: int = -1, after: tuple[str, str] = ("", "")) -> list[tuple[str, str, Known]]:
        """Run folder, path within it and what is known of files that the server lists no more, in order.

        Args:
            most: how many at most; all by default.
            after: run folder and path of the last one of the call before.
        """
        with sound():
            rows = self._database.execute(
                f"SELECT folder, inner, {COLUMNS} FROM files"  # noqa: S608 - constant text
                " WHERE gone = 1 AND (folder, inner) > (?, ?) ORDER BY folder, inner LIMIT ?",
                (*after, most),
            ).fetchall()
            if any(rules.unsafe_path(f"{row[0]}/{row[1]}") for row in rows):
                raise ValueError("a path that cannot be")
            return [(row[0], row[1], known_of(row[2:])) for row in rows]

    def unpublished(self, most: int = -1) -> list[tuple[str, str]]:
        """Run folder and path within it of files that a walk brought and no published state has told of.

        Args:
            most: how many at most; all by default.
        """
        with sound():
            query = "SELECT folder, inner FROM files WHERE gone = 2 LIMIT ?"
            rows: list[tuple[str, str]] = self._database.execute(query, (most,)).fetchall()
            if any(rules.unsafe_path(f"{folder}/{inner}") for folder, inner in rows):
                raise ValueError("a path that cannot be")
            return rows

    def wants_nothing(self, snapshot: str = ANY) -> bool:
        """Whether no file has to be fetched.

        Args:
            snapshot: of which files that were taken otherwise do not count; by default all count.
        """
        row = self._database.execute("SELECT 1 FROM wanted WHERE taken != ? LIMIT 1", (snapshot,)).fetchone()
        return row is None

    def is_wanted(self, folder: str, inner: str) -> bool:
        """Whether a file has to be fetched."""
        query = "SELECT 1 FROM wanted WHERE folder = ? AND inner = ?"
        return self._database.execute(query, (folder, inner)).fetchone() is not None

    def wanted(
        self, most: int, snapshot: str = ANY, after: tuple[int, float, str, str] | None = None
    ) -> list[Wanted]:
        """Files that have to be fetched, most useful first.

        Args:
            most: how many at most.
            snapshot: as of `wants_nothing`.
            after: key of the last one of the call before.
        """
        with sound():
            rows = self._database.execute(
                "SELECT priority, age, folder, inner, run FROM wanted"
                " WHERE taken != ? AND (priority, age, folder, inner) > (?, ?, ?, ?)"
                " ORDER BY priority, age, folder, inner LIMIT ?",
                (snapshot, *(after or (-1, 0.0, "", "")), most),
            )
            return [Wanted(row[:4], wanted_of(row[4])) for row in rows]

    def forget_wanted(self, snapshot: str = ANY) -> None:
        """Take all files from those to be fetched, but for those that do not count for a snapshot."""
        try:
            self._database.execute("DELETE FROM wanted WHERE taken != ?", (snapshot,))
        except sqlite3.Error as error:
            self._raise(error)
