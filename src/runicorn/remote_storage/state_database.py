"""The database of a mirror as a whole: its file, values under keys, and the history of its syncs."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from runicorn.remote_storage.state_file import (
    is_damage,
    mapped,
    open_database,
    put_aside,
    require_damage,
    sound,
)

log = logging.getLogger(__name__)

HISTORY_KEPT = 200

_StateT = TypeVar("_StateT", bound="StateDatabase")


class StateDatabase:
    """An open database.

    Args:
        path: its file.

    Raises:
        MirrorError: it cannot be opened or made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with sound():
                self._database = open_database(self.path)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise mapped(error, path) from error
            self.start_anew(error)

    def start_anew(self, error: sqlite3.DatabaseError) -> None:
        """Put a damaged database aside and begin an empty one.

        Args:
            error: what tells that it is damaged.

        Raises:
            MirrorError: it is not, the disk failed; or there cannot be another one. It is closed then.
        """
        self.close()
        require_damage(error, self.path)
        log.warning("the state of the mirror is damaged (%s); it is put aside and built anew", error)
        put_aside(self.path)
        try:
            self._database = open_database(self.path)
        except sqlite3.Error as again:
            raise mapped(again, self.path) from again

    def __enter__(self: _StateT) -> _StateT:
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
        raise mapped(error, self.path) from error

    # -- meta ------------------------------------------------------------------------------

    def _get(self, key: str) -> Any:
        with sound():
            row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return None if row is None else json.loads(row[0])

    def _set(self, key: str, value: Any) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def _write(self, values: Iterable[tuple[str, Any]]) -> None:
        try:
            for key, value in values:
                self._set(key, value)
        except sqlite3.Error as error:
            self._raise(error)

    def remember(self, key: str, value: Any) -> None:
        """Take note of a value that belongs to the whole mirror, and that JSON can hold.

        Raises:
            MirrorError: the database cannot be written.
        """
        self._write([(key, value)])

    def recall(self, key: str) -> Any:
        """What `remember` was given last, or None."""
        return self._get(key)

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
