"""The mirror's folder for staged files: new ones, interrupted downloads, and what earlier syncs left."""

from __future__ import annotations

import contextlib
import os
import secrets
import time

from runicorn.manifest import rules
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.known import LocalFile
from runicorn.remote_storage.staging import FILE_FLAGS, StagedFile, discard_folder, stage_file

STAGING = f"{rules.ARTEFACT_FOLDER}/staging"
"""Where it lies in the mirror."""

_PARTIAL_SUFFIX = ".partial"
_PARTIAL_LIFE = 7 * 86400.0


class StagingFolder:
    """Makes and finds staged files.

    Args:
        fd: the open folder; `close` closes it.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._stem, self._staged = secrets.token_hex(8), 0

    def close(self) -> None:
        """Close the folder. What it has staged, and a signal kept from being given up, goes with it."""
        with contextlib.suppress(OSError):  # the next sync sweeps it
            for name in os.listdir(self.fd) if self._staged else ():
                if name.startswith(f"{self._stem}-"):
                    os.unlink(name, dir_fd=self.fd)
        os.close(self.fd)

    def stage(self, key: str | None = None) -> StagedFile:
        """A new staged file.

        Args:
            key: a name under which an interrupted download is found again; None for a
                file that is not worth it.
        """
        if key is None:
            name, flags = self._new_name(), os.O_EXCL
        else:
            name, flags = key + _PARTIAL_SUFFIX, 0
        fd = os.open(name, os.O_RDWR | os.O_CREAT | flags | FILE_FLAGS, 0o666, dir_fd=self.fd)
        staged = StagedFile(self.fd, name)
        try:
            os.close(fd)
        except OSError:
            staged.discard()
            raise
        return staged

    def _new_name(self) -> str:
        self._staged += 1
        return f"{self._stem}-{self._staged}"

    def stage_whole(
        self, data: memoryview, mtime_ns: int, name: str | None = None
    ) -> tuple[StagedFile, LocalFile]:
        """A staged file that is complete, and what it will look like in the mirror.

        Args:
            data: its content.
            mtime_ns: its time of last change, nanoseconds since the epoch.
            name: of the staged file; by default one of its own.
        """
        name = name or self._new_name()
        return self.staged(name), stage_file(self.fd, name, data, mtime_ns)

    def staged(self, name: str) -> StagedFile:
        """A staged file that is there, by its name."""
        return StagedFile(self.fd, name)

    def staged_bytes(self) -> int:
        """Bytes of interrupted downloads that can be gone on with."""
        with os.scandir(self.fd) as entries:
            return sum(each.stat(follow_symlinks=False).st_size for each in entries if each.is_file())

    def sweep(self) -> None:
        """Remove what earlier syncs left, but for partial files that can still be gone on with.

        Raises:
            MirrorError: something cannot be removed.
        """
        oldest = time.time() - _PARTIAL_LIFE
        with os.scandir(self.fd) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if entry.name.endswith(_PARTIAL_SUFFIX) and status.st_mtime >= oldest:
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        discard_folder(self.fd, entry.name)
                    else:
                        os.unlink(entry.name, dir_fd=self.fd)
                except OSError as error:
                    raise mirror_error(error, f"{STAGING}/{entry.name}") from error

    def takes_names_for_the_same(self) -> bool:
        """Whether the file system takes names for the same that differ by case or form of accents."""
        staged, _ = self.stage_whole(memoryview(b""), 0, secrets.token_hex(6) + "-\u00e9")
        stem = staged.name[:-1]
        try:
            return any(self._exists(stem + other) for other in ("\u00c9", "e\u0301"))
        finally:
            staged.discard()

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True
