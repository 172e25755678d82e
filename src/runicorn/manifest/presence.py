"""Whether a root is still the one at which work began: it may be the place of a mount."""

from __future__ import annotations

import os
from pathlib import Path

from runicorn.errors import RootGone
from runicorn.manifest.rules import escape


def _place_of(path: str | int) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


class Presence:
    """A root with the generator's own folder in it.

    Args:
        root: the folder that holds all runs.
        lock: path of the generator's lock.
    """

    def __init__(self, root: Path, lock: Path) -> None:
        self._root = str(root)
        self._lock = str(lock)
        self._known: tuple[tuple[int, int], tuple[int, int]] | None = None

    def begin(self, lock: int) -> None:
        """Know root and lock from now on, the latter by its handle.

        Raises:
            OSError: the root is not there.
        """
        self._known = _place_of(self._root), _place_of(lock)

    def require(self) -> None:
        """Nothing may be published of a root that is not the one it was.

        Raises:
            RootGone: it is not.
        """
        try:
            if (_place_of(self._root), _place_of(self._lock)) == self._known:
                return
        except OSError:
            pass  # whatever is wrong, it is not there
        message = f"the root '{escape(self._root)}', or the generator's folder in it, has gone away"
        raise RootGone(message, path=self._root)

    def is_back(self) -> bool:
        """Whether there is a root again: the same one, or one with the generator's own folder in it, which an
        empty place of a mount lacks.

        Raises:
            OSError: it cannot be looked at.
        """
        if self._known is not None and _place_of(self._root) == self._known[0]:
            return True
        return os.path.exists(self._lock)
