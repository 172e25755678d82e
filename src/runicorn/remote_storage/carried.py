"""Bytes that the journal carries of a file, before anything is made of them. Pure."""

from __future__ import annotations

import hashlib

from runicorn.errors import DamagedError
from runicorn.journal.sections import Carried
from runicorn.manifest.digest import BlockHasher, block_digest
from runicorn.manifest.model import FileEntry, Run
from runicorn.manifest.rules import escape

FIRST_USE = 1
"""Priority of status and meta files: in a base they are in place before the rest is waited for."""

_NEWLINE = ord("\n")


def ends_whole(run: Run, carried: Carried) -> bool:
    """Whether carried bytes of a log leave no half record behind, or of a run that goes on no more."""
    return run.has_ended or not carried.data or carried.data[-1] == _NEWLINE


def proven(entry: FileEntry, carried: Carried) -> tuple[tuple[bytes, ...], BlockHasher | None]:
    """The hashes of a file of which all bytes are carried; of a log also the hasher behind its last byte.

    Raises:
        DamagedError: the bytes do not fit their digest.
    """
    if not entry.is_log:
        digest = hashlib.sha256(carried.data)
        if digest.hexdigest() != carried.digest:
            raise _not_as_listed(entry)
        return (digest.digest(),), None
    hasher = BlockHasher()
    hasher.update(carried.data)
    hashes = tuple(hasher.hashes())
    if block_digest(hashes) != carried.digest:
        raise _not_as_listed(entry)
    return hashes, hasher


def _not_as_listed(entry: FileEntry) -> DamagedError:
    return DamagedError(
        f"the bytes that the journal carries of '{escape(entry.path)}' are not the listed ones"
    )
