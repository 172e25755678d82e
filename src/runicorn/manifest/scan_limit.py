"""Which part of a root a scan looks at, when it is known where something changed."""

from __future__ import annotations

from collections.abc import Iterable


class LimitLost(Exception):  # noqa: N818 - the caller scans the whole root instead
    """A limited scan met something that only a scan of the whole root can judge."""


class Limit:
    """The folders that a scan looks at, with all that is below them.

    Args:
        folders: their paths relative to the root.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = frozenset(folders)
        self._above = frozenset(above for folder in self._folders for above in _above(folder))

    @property
    def folders(self) -> list[str]:
        """The folders in order; none of them is below another."""
        return sorted(each for each in self._folders if not any(up in self._folders for up in _above(each)))

    def covers(self, path: str) -> bool:
        """Whether a path is one of the folders or below one."""
        return path in self._folders or any(above in self._folders for above in _above(path))

    def reaches(self, path: str) -> bool:
        """Whether the scan has to enter a folder: it is looked at, or leads to one that is."""
        return path in self._above or self.covers(path)


class Span(Limit):
    """A part of the root, in order of run folders: spans that follow each other make up the whole.

    Args:
        start: the first run folder with a slash behind it; empty for the beginning.
        end: the first one of the next part, likewise; None for the end.
    """

    def __init__(self, start: str, end: str | None) -> None:
        super().__init__(())
        self.start = start
        self.end = end

    def covers(self, path: str) -> bool:
        """Whether a path belongs to the part."""
        key = path + "/"
        return self.start <= key and (self.end is None or key < self.end)

    def reaches(self, path: str) -> bool:
        """Whether the scan has to enter a folder: it is in the part, or the part begins below it."""
        return self.covers(path) or self.start.startswith(path + "/")


def _above(path: str) -> Iterable[str]:
    """The folders above a path, without the root."""
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))
