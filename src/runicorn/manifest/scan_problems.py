"""Problems of a scan: counted all, kept some, so that no root can fill the memory with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from runicorn.manifest import rules
from runicorn.manifest.codec import MAX_LISTED_PROBLEMS, MAX_PROBLEM_TEXT
from runicorn.manifest.model import Problem, ProblemKind

_MAX_DENIED = 10_000
_NONE = int.from_bytes(hashlib.sha256().digest(), "big")

Report = tuple[str, ProblemKind, str, bool]
"""Path as the system gives it, kind, message, whether the generator lacks the rights."""


class Problems:
    """Collects problems in the order in which they are found.

    Attributes:
        listed: the first ones, as the manifest lists them.
        reports: the same, as they were reported.
        count: all of them.
        hides_files: whether one of them may hide files.
    """

    def __init__(self) -> None:
        self.listed: list[Problem] = []
        self.count = 0
        self.hides_files = False
        self._text = 0
        self._digest = _NONE
        self._held: list[Report] | None = None
        self._denied: set[str] = set()
        self._carried: frozenset[Report] = frozenset()
        self.reports: list[Report] = []

    @property
    def digest(self) -> str:
        """Differs when any problem differs, not when their order does (hex)."""
        return f"{self._digest:064x}"

    def carry(self, reports: Iterable[Report]) -> None:
        """Take what an earlier scan reported of what this one does not look at."""
        for each in reports:
            self.report(*each[:3], denied=each[3])
        self._carried = frozenset(self.reports)

    def report(self, path: str, kind: ProblemKind, message: str, *, denied: bool = False) -> None:
        """Take a problem.

        Args:
            path: relative to the root, as the system gives it.
            kind: what it is.
            message: one line, safe to show.
            denied: whether the generator lacks the rights.
        """
        report = (path, kind, message, denied)
        if self._held is not None:
            self._held.append(report)
            return
        if report in self._carried:
            return
        if denied and len(self._denied) < _MAX_DENIED:
            self._denied.add(path)
        problem = Problem(_shortened(rules.escape(path)), kind.value, message)
        self.count += 1
        self.hides_files = self.hides_files or kind.hides_files
        text = f"{problem.path}\n{problem.kind}\n{problem.message}\n".encode()
        self._digest = (self._digest + int.from_bytes(hashlib.sha256(text).digest(), "big")) % 2**256
        self._text += len(problem.path) + len(problem.message)
        if len(self.listed) < MAX_LISTED_PROBLEMS and self._text <= MAX_PROBLEM_TEXT:
            self.listed.append(problem)
            self.reports.append(report)

    def hold(self) -> None:
        """Keep what follows back until `release`."""
        self._held = []

    def release(self, *, drop: bool) -> None:
        """Take what was kept back, or forget it."""
        held, self._held = self._held or [], None
        for path, kind, message, denied in () if drop else held:
            self.report(path, kind, message, denied=denied)

    def hides_by_rights(self, path: str) -> bool:
        """Whether a path may be there and the generator may not read it any more."""
        if len(self._denied) == _MAX_DENIED:
            return True
        parts = path.split("/")
        return any("/".join(parts[:count]) in self._denied for count in range(1, len(parts) + 1))


def _shortened(path: str) -> str:
    """The path, or the nearest folder above it that is short enough: what is protected only grows."""
    while len(path) > rules.MAX_PATH_BYTES and "/" in path:
        path = path.rpartition("/")[0]
    return path[: rules.MAX_PATH_BYTES]
