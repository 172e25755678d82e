"""How the state of a mirror lies in its database: schema, and rows <-> values. What a damaged database gives
may be anything; a value is made of it only when it makes sense."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from runicorn.errors import DamagedError, UnsafeError
from runicorn.journal.frames import Place
from runicorn.manifest import checks
from runicorn.manifest.checks import MAX_TIME
from runicorn.manifest.codec import encode_run
from runicorn.manifest.digest import HASH_SIZE
from runicorn.manifest.model import FileEntry, Identity, Run
from runicorn.remote_storage.known import Cursor, Known, Listed, LocalFile

SCHEMA_VERSION = 3

LISTED, GONE, UNPUBLISHED = range(3)
"""Values of the column ``gone``."""

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    folder TEXT NOT NULL, inner TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, hashes BLOB NOT NULL,
    listed_size INTEGER NOT NULL, listed_mtime REAL NOT NULL, listed_mtime_ns INTEGER,
    listed_digest TEXT, young_at REAL,
    epoch INTEGER NOT NULL, gone INTEGER NOT NULL,
    PRIMARY KEY (folder, inner)
) WITHOUT ROWID;
CREATE INDEX gone_files ON files (folder, inner) WHERE gone = 1;
CREATE INDEX unpublished_files ON files (folder, inner) WHERE gone = 2;
CREATE TABLE wanted (
    priority INTEGER NOT NULL, age REAL NOT NULL,
    folder TEXT NOT NULL, inner TEXT NOT NULL, run TEXT NOT NULL, taken TEXT NOT NULL,
    PRIMARY KEY (folder, inner)
) WITHOUT ROWID;
CREATE INDEX wanted_in_order ON wanted (priority, age, folder, inner);
CREATE TABLE syncs (number INTEGER PRIMARY KEY, started REAL NOT NULL, report TEXT NOT NULL);
"""

COLUMNS = """size, mtime_ns, inode, hashes, listed_size, listed_mtime, listed_mtime_ns,
    listed_digest, young_at, epoch, gone"""

_ROW_TYPES = {
    (int, int, int, bytes, int, float, time_type, digest_type, young_type, int, int)
    for time_type in (int, type(None))
    for digest_type in (str, type(None))
    for young_type in (float, type(None))
}


def known_of(row: tuple[Any, ...]) -> Known:
    """The file that the columns `COLUMNS` tell of.

    Raises:
        ValueError: they make no sense.
    """
    if tuple(map(type, row)) not in _ROW_TYPES or not 0 <= row[5] <= MAX_TIME:
        raise ValueError("a row of other types")
    size, mtime_ns, inode, hashes, *listed, epoch, gone = row
    return Known(
        local=LocalFile(size, mtime_ns, inode % 2**64),
        hashes=tuple(hashes[at : at + HASH_SIZE] for at in range(0, len(hashes), HASH_SIZE)),
        listed=Listed(*listed),
        epoch=epoch,
        gone=gone == GONE,
        unpublished=gone == UNPUBLISHED,
    )


def row_of(known: Known) -> tuple[Any, ...]:
    """The columns `COLUMNS` of a file."""
    listed = known.listed
    if listed is None:
        raise ValueError("only what was listed is recorded")
    return (
        *_local_columns(known.local),
        b"".join(known.hashes),
        listed.size,
        listed.mtime,
        listed.mtime_ns,
        listed.digest,
        listed.young_at,
        known.epoch,
        UNPUBLISHED if known.unpublished else GONE if known.gone else LISTED,
    )


def new_row(local: LocalFile, hashes: Sequence[bytes], entry: FileEntry, epoch: int) -> tuple[Any, ...]:
    """The columns `COLUMNS` of a file that came as a settled entry lists it."""
    return (
        *_local_columns(local),
        b"".join(hashes),
        entry.size,
        entry.mtime,
        entry.mtime_ns,
        entry.digest,
        None,
        epoch,
        LISTED,
    )


def _local_columns(local: LocalFile) -> tuple[int, int, int]:
    size, mtime_ns, inode = local
    # SQLite's integers are signed; the bit pattern is all that is compared.
    return size, mtime_ns, inode if inode < 2**63 else inode - 2**64


def wanted_row(run: Run, entry: FileEntry, taken: str = "") -> tuple[Any, ...]:
    """The columns of ``wanted`` for a file that has to be fetched.

    Args:
        run: its run.
        entry: how it is listed.
        taken: snapshot at which it was fetched with other content than is listed.
    """
    single = Run(
        run.folder, run.run_id, run.project, run.name, run.status, run.created_at, run.updated_at, (entry,)
    )
    inner = entry.path[len(run.folder) + 1 :]
    return entry.priority, -run.updated_at, run.folder, inner, encode_run(single), taken


def wanted_of(text: object) -> Run:
    """The run, with one file, of the column ``run`` of ``wanted``.

    Raises:
        ValueError: it makes no sense.
    """
    try:
        return checks.run(json.loads(text if type(text) is str else ""))
    except (DamagedError, UnsafeError) as error:
        raise ValueError(str(error)) from error


def cursor_text(cursor: Cursor) -> dict[str, Any]:
    """A cursor as plain values."""
    place = cursor.place
    return asdict(cursor) | {
        "identity": _triple(cursor.identity),
        "base": _triple(cursor.base),
        "place": None if place is None else (place.epoch, place.offset, place.chain.hex()),
    }


def cursor_of(raw: Any) -> Cursor:
    """The cursor of such values.

    Raises:
        ValueError, TypeError, KeyError: they make no sense.
    """
    identity, base = (Identity(*each) if each else None for each in (raw["identity"], raw["base"]))
    place = None
    if raw["place"] is not None:
        epoch, offset, chain = raw["place"]
        place = Place(str(epoch), int(offset), bytes.fromhex(chain))
    return Cursor(
        identity,
        raw["selection"],
        raw["generated_at"],
        base,
        raw["keeps_gone"],
        place,
        raw["began_empty"],
        forgot=raw.get("forgot", False) is True,
    )


def _triple(identity: Identity | None) -> tuple[str | None, int, str] | None:
    return (identity.lineage, identity.revision, identity.snapshot_id) if identity else None
