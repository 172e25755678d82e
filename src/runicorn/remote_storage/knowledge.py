"""What is known of the mirror's files: the state where it still fits the disk, the disk where not.

A file that the state does not know, or that another program changed, is read again instead of being
downloaded again. Reading the mirror writes nothing, so a dry run sees the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterable

from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher, block_digest
from runicorn.manifest.model import FileEntry, Run
from runicorn.remote_storage.known import Known, LocalFile
from runicorn.remote_storage.opening import OpenMirror


class Knowledge:
    """Looks up what is known of a run's files.

    Args:
        mirror: the mirror.
    """

    def __init__(self, mirror: OpenMirror) -> None:
        self._mirror = mirror.tree
        self._state = mirror.state

    def of_run(self, run: Run, entries: Iterable[FileEntry]) -> dict[str, Known]:
        """The files of a run that are in the mirror, by their path within the run folder.

        Args:
            run: the run.
            entries: the listed files that matter. One that cannot be read is left out, as if it
                were not there.
        """
        recorded = self._state.run_files(run.folder)
        found = self._mirror.list_run(run.folder)
        start = len(run.folder) + 1
        known: dict[str, Known] = {}
        for entry in entries:
            inner = entry.path[start:]
            local = found.get(inner)
            if local is None:
                continue
            with contextlib.suppress(OSError):
                row = recorded.get(inner)
                if row is None or row.local != local:
                    row = self._examine(entry, local)
                if row is not None:
                    known[inner] = self._compare_prefix(entry, row)
        return known

    def of_entries(self, run: Run, entries: Iterable[FileEntry]) -> dict[str, Known]:
        """As `of_run`, at a cost that follows the number of entries, not of the run's files."""
        start = len(run.folder) + 1
        found: dict[str, tuple[FileEntry, LocalFile]] = {}
        for entry in entries:
            with contextlib.suppress(OSError):
                local = self._mirror.signature(entry.path)
                found[entry.path[start:]] = (entry, local)
        recorded = self._state.known(run.folder, list(found)) if found else {}
        known: dict[str, Known] = {}
        for inner, (entry, local) in found.items():
            with contextlib.suppress(OSError):
                row = recorded.get(inner)
                if row is None or row.local != local:
                    row = self._examine(entry, local)
                if row is not None:
                    known[inner] = self._compare_prefix(entry, row)
        return known

    def is_as_recorded(self, folder: str, selects: Callable[[str, str], bool]) -> bool:
        """Whether every file of a run that was synced is on disk as it was left.

        Args:
            folder: the run folder.
            selects: whether a file matters, by run folder and path within it.
        """
        recorded = self._state.local_files(folder)
        found = self._mirror.list_run(folder)
        return all(
            found.get(inner) == local or not selects(folder, inner) for inner, local in recorded.items()
        )

    def _examine(self, entry: FileEntry, local: LocalFile) -> Known | None:
        if entry.is_log:
            hasher = BlockHasher()
            for chunk in self._mirror.chunks(entry.path, 0, local.size):
                hasher.update(chunk)
            return Known(local, tuple(hasher.hashes()), None) if hasher.size == local.size else None
        if local.size != entry.size:
            return None
        digest = hashlib.sha256()
        for chunk in self._mirror.chunks(entry.path):
            digest.update(chunk)
        return Known(local, (digest.digest(),), None)

    def _compare_prefix(self, entry: FileEntry, known: Known) -> Known:
        if not entry.is_log or entry.block_digest is None or known.local.size <= entry.size:
            return known
        full = list(known.hashes[: known.local.size // BLOCK_SIZE])
        hasher = self._mirror.prefix_hasher(entry.path, entry.size, full)
        return dataclasses.replace(known, extends=block_digest(hasher.hashes()) == entry.block_digest)
