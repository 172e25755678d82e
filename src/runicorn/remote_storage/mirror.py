"""The mirror's tree: the only code that writes below it.

Everything is done through open folders and follows no link (law 5). A state file is staged in
``.runicorn/staging``, and takes its name by a rename; a log grows in place by writes that end at
record boundaries, so that not even a killed process leaves half a record (laws 1 and 3).
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from runicorn.errors import DiskFullError, MirrorError
from runicorn.manifest import rules
from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher
from runicorn.remote_storage.disk_errors import NO_ROOM, mirror_error, require_utf8_names
from runicorn.remote_storage.folders import FOLDER_FLAGS, Folders, SpelledOtherwise
from runicorn.remote_storage.known import LocalFile
from runicorn.remote_storage.records import append_records
from runicorn.remote_storage.staging import FILE_FLAGS, StagedFile, signature_of
from runicorn.remote_storage.staging_folder import STAGING, StagingFolder

STATE_FOLDER = rules.ARTEFACT_FOLDER

_CHUNK = 1024 * 1024


class Mirror:
    """A client's copy of a root.

    Args:
        root: its folder; made when it does not exist.
        read_only: whether nothing is going to be written, not even its state folder.

    Raises:
        MirrorError: the folder cannot be made or used.
    """

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self.root = root
        self._staging: StagingFolder | None = None
        require_utf8_names()
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileExistsError as error:
            raise MirrorError(f"the mirror {root} is not a folder") from error
        except OSError as error:
            raise _unusable(error, f"cannot use the mirror {root}") from error
        self._folds: bool | None = None
        self._folders = Folders(self.fd, self.folds)
        if read_only:
            return
        try:
            self._staging = StagingFolder(os.dup(self._folders.fd(STAGING, create=True)))
        except OSError as error:
            self._folders.forget_all()
            os.close(self.fd)
            raise _unusable(error, f"cannot write in the mirror {root}") from error

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all folders."""
        self._folders.forget_all()
        if self.fd >= 0:
            if self._staging is not None:
                self._staging.close()
            os.close(self.fd)
            self.fd = -1

    @property
    def staging(self) -> StagingFolder:
        """Its folder for staged files, when it was not opened to be read only."""
        assert self._staging is not None  # noqa: S101 - who only reads stages nothing
        return self._staging

    # -- folders ---------------------------------------------------------------------------

    def folds(self) -> bool:
        """As `StagingFolder.takes_names_for_the_same`, found out once."""
        if self._folds is None and self._staging is not None:
            self._folds = self._staging.takes_names_for_the_same()
        return bool(self._folds)

    def folder_fd(self, folder: str) -> int:
        """An open folder of the mirror, kept open for the next use.

        Raises:
            OSError: it does not exist, or a link or file is in its place.
        """
        return self._folders.fd(folder)

    def take_changed(self) -> list[Callable[[], int]]:
        """What opens the folders in which names came or went since the last call, for the next barrier: a
        file is only on disk with all folders that lead to it."""
        return [functools.partial(self.folder_fd, each) for each in self._folders.take_changed()]

    def list_run(self, folder: str) -> dict[str, LocalFile]:
        """The regular files of a run in the mirror, by their path within the run folder."""
        found: dict[str, LocalFile] = {}
        parent, _, name = folder.rpartition("/")
        try:
            fd = os.open(name, FOLDER_FLAGS, dir_fd=self._folders.fd(parent))
        except OSError:
            return found
        try:
            self._list_folder(fd, "", found)
        finally:
            os.close(fd)
        return found

    def _list_folder(self, fd: int, prefix: str, found: dict[str, LocalFile]) -> None:
        with os.scandir(fd) as entries:
            names = list(entries)
        for entry in names:
            inner = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if prefix or entry.name == rules.MEDIA_FOLDER:
                    self._list_inner(fd, entry.name, inner + "/", found)
            elif entry.is_file(follow_symlinks=False):
                try:
                    found[inner] = signature_of(entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue

    def _list_inner(self, parent: int, name: str, prefix: str, found: dict[str, LocalFile]) -> None:
        try:
            fd = os.open(name, FOLDER_FLAGS, dir_fd=parent)
        except OSError:
            return
        try:
            self._list_folder(fd, prefix, found)
        finally:
            os.close(fd)

    def is_empty(self) -> bool:
        """Whether nothing but the state folder lies in it."""
        with os.scandir(self.fd) as entries:
            return all(entry.name == STATE_FOLDER for entry in entries)

    # -- reading ---------------------------------------------------------------------------

    def open_file(self, path: str, flags: int = os.O_RDONLY) -> int:
        """A file of the mirror, opened through its folder; no link is followed.

        Raises:
            OSError: it does not exist or is not a regular file.
        """
        folder, _, name = path.rpartition("/")
        folder_fd = self._folders.fd(folder)
        self._folders.require_own(folder, name)
        fd = os.open(name, flags | FILE_FLAGS, dir_fd=folder_fd)
        try:
            _require_regular(os.fstat(fd))
        except OSError:
            os.close(fd)
            raise
        return fd

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a file of the mirror; fewer at its end."""
        fd = self.open_file(path)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def chunks(self, path: str, offset: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of a file of the mirror from ``offset`` to ``end``."""
        fd = self.open_file(path)
        try:
            while end is None or offset < end:
                data = os.pread(fd, _CHUNK if end is None else min(_CHUNK, end - offset), offset)
                if not data:
                    return
                yield data
                offset += len(data)
        finally:
            os.close(fd)

    def signature(self, path: str) -> LocalFile:
        """What a file of the mirror looks like now."""
        folder, _, name = path.rpartition("/")
        folder_fd = self._folders.fd(folder)
        self._folders.require_own(folder, name)
        return signature_of(os.stat(name, dir_fd=folder_fd, follow_symlinks=False))

    def prefix_hasher(self, path: str, size: int, full_hashes: list[bytes]) -> BlockHasher:
        """A hasher that has taken the first ``size`` bytes of a log, of which only the last block
        is read.

        Args:
            path: the log.
            size: bytes.
            full_hashes: the hashes of its full blocks.
        """
        full = full_hashes[: size // BLOCK_SIZE]
        hasher = BlockHasher(full)
        for chunk in self.chunks(path, len(full) * BLOCK_SIZE, size):
            hasher.update(chunk)
        return hasher

    # -- writing ---------------------------------------------------------------------------

    def require_plain(self, path: str) -> None:
        """Make sure that a path holds a regular file or nothing, before it is opened by its name.

        Raises:
            MirrorError: a link or something else lies there.
        """
        try:
            mode = os.stat(self.root / path, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise mirror_error(error, path) from error
        if not stat.S_ISREG(mode):
            raise MirrorError(f"{rules.escape(path)} in the mirror is a link or no file", path=path)

    def install(self, staged: StagedFile, path: str) -> None:
        """Give a staged file its name in the mirror.

        Raises:
            MirrorError: something is in the way.
        """
        folder, _, name = path.rpartition("/")
        try:
            try:
                self._rename(staged, folder, name)
            except FileNotFoundError:
                # A folder that was held open has been removed meanwhile.
                self._folders.forget_all()
                self._rename(staged, folder, name)
        except OSError as error:
            staged.discard()
            raise mirror_error(error, path) from error

    def _rename(self, staged: StagedFile, folder: str, name: str) -> None:
        fd = self._folders.fd(folder, create=True)
        self._folders.require_own(folder, name)
        os.rename(staged.name, name, src_dir_fd=self.staging.fd, dst_dir_fd=fd)
        self._folders.made(folder, name)
        self._folders.changed(folder)

    def append(self, path: str, expected: LocalFile, data: Iterator[bytes]) -> int:
        """Let a log grow in place, on the same inode.

        Args:
            path: the log.
            expected: what it must look like before.
            data: the new bytes, in order.

        Returns:
            An open file descriptor of the log; the caller closes it.

        Raises:
            MirrorError: the log is not what was expected, or cannot be written.
        """
        try:
            fd = self.open_file(path, os.O_RDWR)
        except OSError as error:
            raise mirror_error(error, path) from error
        try:
            _require_same(path, signature_of(os.fstat(fd)), expected)
            append_records(fd, expected.size, data)
        except OSError as error:
            os.close(fd)
            raise mirror_error(error, path) from error
        except BaseException:
            os.close(fd)
            raise
        return fd

    def remove(self, path: str) -> bool:
        """Remove a file, and the folders that it leaves empty.

        Returns:
            Whether it was there.

        Raises:
            MirrorError: it cannot be removed.
        """
        folder, _, name = path.rpartition("/")
        try:
            self._folders.require_own(folder, name)
            os.unlink(name, dir_fd=self.folder_fd(folder))
        except (FileNotFoundError, NotADirectoryError, SpelledOtherwise):
            return False
        except OSError as error:
            raise mirror_error(error, path) from error
        self._folders.changed(folder)
        while folder:
            self._folders.forget(folder)
            parent, _, name = folder.rpartition("/")
            try:
                os.rmdir(name, dir_fd=self.folder_fd(parent))
            except OSError:
                break  # not empty: something else lives there
            self._folders.removed(folder)
            folder = parent
        return True

    def free_bytes(self) -> int:
        """Bytes that this user can still write."""
        status = os.fstatvfs(self.fd)
        return status.f_bavail * status.f_frsize


def _unusable(error: OSError, what: str) -> MirrorError:
    kind = DiskFullError if error.errno in NO_ROOM else MirrorError
    return kind(f"{what}: {error.strerror}")


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EISDIR, "not a regular file")


def _require_same(path: str, now: LocalFile, expected: LocalFile) -> None:
    if (now.size, now.inode) != (expected.size, expected.inode):
        raise MirrorError(f"{rules.escape(path)} was changed by another program meanwhile", path=path)
