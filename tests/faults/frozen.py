"""A folder as it was: with the same bytes, times and inodes."""

from __future__ import annotations

import os
from pathlib import Path


class Frozen:
    """A folder as it is now, which it can be again: with the same bytes, times and inodes.

    A file that is replaced comes back by its second name; one that was written in place is written back.

    Args:
        folder: the folder.
        store: a new folder for the second names.
        without: name of a folder in it that is left alone.
    """

    def __init__(self, folder: Path, store: Path, without: str = "") -> None:
        self._folder = folder
        self._without = without
        self._store = store
        self._folders = {"."}
        self._files: dict[str, tuple[Path, os.stat_result, bytes]] = {}
        self._links: dict[str, Path] = {}
        store.mkdir(parents=True)
        for path in all_below(folder, without):
            name = os.path.relpath(path, folder)
            if path.is_dir():
                self._folders.add(name)
                continue
            if path.is_symlink():
                self._links[name] = path.readlink()
                continue
            kept = store / str(len(self._files))
            kept.hardlink_to(path)
            self._files[name] = (kept, path.stat(), path.read_bytes())

    def restore(self) -> None:
        """Make it so again."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in all_below(self._folder, self._without):
            self._remove_unless_kept(path)
        for name in sorted(self._folders):
            (self._folder / name).mkdir(exist_ok=True)
        for name, target in self._links.items():
            (self._folder / name).symlink_to(target)
        for name, (kept, status, content) in self._files.items():
            path = self._folder / name
            if not path.exists():
                path.hardlink_to(kept)
            if path.read_bytes() != content:
                path.write_bytes(content)
            if path.stat().st_mtime_ns != status.st_mtime_ns:
                os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _remove_unless_kept(self, path: Path) -> None:
        name = os.path.relpath(path, self._folder)
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            if name not in self._folders:
                path.rmdir()
        elif name not in self._files or path.stat().st_ino != self._files[name][1].st_ino:
            path.unlink()


def all_below(folder: Path, without: str = "") -> list[Path]:
    """Files and folders, what lies in a folder before the folder."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        if without in folders:
            folders.remove(without)
        found += [Path(parent, name) for name in folders + files]
    return found[::-1]
