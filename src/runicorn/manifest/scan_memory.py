"""What a scan remembers of a run, file by file, for the next one.

The *key* names each file with what the system said about it, and in front the audience of the journal. The
*memory* is JSON with what was learned by reading.
"""

from __future__ import annotations

import json
import os
from typing import Any

from runicorn.manifest.digest import HASH_SIZE
from runicorn.manifest.model import FileEntry
from runicorn.manifest.scan_log import Boundary, KnownLog, LogContent
from runicorn.manifest.scan_state import RunState, StateLost

SEPARATOR = "//"
"""Cannot be a part of a path."""

_RACY = "?"
_HIDDEN = "!"
_MARKS = _RACY + _HIDDEN
_AUDIENCE = "."


def audience_piece(text: str) -> str:
    """The first piece of a key."""
    return f"{_AUDIENCE}{SEPARATOR}{text}"


def key_piece(inner: str, status: os.stat_result, *, reached: bool, racy: bool = False) -> str:
    """The piece of a key for one file.

    Args:
        inner: path within the run folder.
        status: what the system says about it.
        reached: whether the audience can search the folders above it.
        racy: whether it may change again without a visible trace.
    """
    marks = ("" if reached else _HIDDEN) + (_RACY if racy else "")
    return f"{inner}{SEPARATOR}{_stat_text(status)}{marks}"


def _stat_text(status: os.stat_result) -> str:
    return f"{status.st_size}/{status.st_mtime_ns}/{status.st_ctime_ns}/{status.st_ino}"


def log_memory(content: LogContent, *, whole: bool) -> list[Any]:
    """What is remembered of a log.

    Args:
        content: the log.
        whole: whether nothing of it needs to be read when its run ends.
    """
    hashes = b"".join(content.hashes).hex()
    return [whole, hashes, content.boundary.offset, content.boundary.digest]


class OldRun:
    """What the last scan knew of a run.

    Args:
        old: the run, if it was there.
        inherit: whether digests are inherited.

    Attributes:
        entries: its entries by path within the run folder, as they were listed.
        memory: see `runicorn.manifest.scan_run`.
        line: the run as it was listed; empty when it was not there.

    Raises:
        StateLost: the run makes no sense.
    """

    def __init__(self, old: RunState | None, *, inherit: bool = True) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.memory: dict[str, Any] = {}
        self.line: dict[str, Any] = {}
        self._stats: dict[str, str] = {}
        self._inherit = inherit
        self._private: frozenset[str] = frozenset()
        if old is None:
            return
        try:
            pieces = old.key.decode().split(SEPARATOR)
            self._stats = dict(zip(pieces[::2], pieces[1::2], strict=True))
            self.line = json.loads(old.line)
            start = len(old.folder) + 1
            self.entries = {each["path"][start:]: each for each in self.line["files"]}
            self.memory = json.loads(old.memory)
            self._private = frozenset(self.memory.get("private", ()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StateLost("a run makes no sense") from error

    @property
    def status(self) -> str:
        """Its status."""
        return str(self.line.get("status", "unknown"))

    @property
    def audience(self) -> str | None:
        """Who could read the journal, as `Audience.text`."""
        return self._stats.get(_AUDIENCE)

    def shown(self, inner: str) -> bool:
        """Whether the audience could read a file that was listed."""
        if inner not in self.entries or inner in self._private:
            return False
        return _HIDDEN not in self._stats.get(inner, _HIDDEN)

    def private(self, inner: str) -> bool:
        """Whether the audience could not read a file because of its own rights."""
        return inner in self._private

    def digests(self, inner: str, status: os.stat_result) -> dict[str, Any] | None:
        """The entry of a file that has not changed since it was read; None when none is to be inherited."""
        if not self._inherit:
            return None
        known = self._stats.get(inner, "").rstrip(_HIDDEN) == _stat_text(status)
        return self.entries.get(inner) if known else None

    def log(self, inner: str) -> tuple[bool, KnownLog] | None:
        """Whether a log needs no more reading when its run ends, and what is known of it.

        Raises:
            StateLost: that makes no sense.
        """
        try:
            whole, hashes, offset, digest = self.memory["logs"][inner]
            size, _, _, inode = self._stats[inner].rstrip(_MARKS).split("/")
            packed = bytes.fromhex(hashes)
            blocks = [packed[at : at + HASH_SIZE] for at in range(0, len(packed), HASH_SIZE)]
            boundary = Boundary(int(offset), str(digest))
            return bool(whole), KnownLog(int(inode), int(size), blocks, boundary)
        except KeyError:
            return None
        except (ValueError, TypeError) as error:
            raise StateLost("a log makes no sense") from error

    def lists(self, inner: str, entry: FileEntry) -> bool:
        """Whether a file was listed in the same way."""
        raw = self.entries.get(inner)
        return raw is not None and (
            raw["size"] == entry.size
            and raw.get("mtime_ns") == entry.mtime_ns
            and raw.get("sha256") == entry.sha256
            and raw.get("block_digest") == entry.block_digest
        )

    def has_content(self, inner: str, entry: FileEntry) -> bool:
        """Whether a file had the same content."""
        raw = self.entries.get(inner, {})
        return (
            entry.digest is not None and raw.get("block_digest" if entry.is_log else "sha256") == entry.digest
        )


def private_names(private: list[str]) -> dict[str, list[str]]:
    """What the memory holds of the files that the audience may not read; normally nothing."""
    return {"private": private} if private else {}
