"""Problems of a scan: counted all, kept some, so that no root can fill the memory with them."""

from __future__ import annotations

import hashlib

from runicorn.manifest import rules
from runicorn.manifest.codec import MAX_LISTED_PROBLEMS
from runicorn.manifest.model import Problem, ProblemKind


class Problems:
    """Collects problems in the order in which they are found.

    Attributes:
        listed: the first ones, as the manifest lists them.
        count: all of them.
        hides_files: whether one of them may hide files.
    """

    def __init__(self) -> None:
        self.listed: list[Problem] = []
        self.count = 0
        self.hides_files = False
        self._digest = hashlib.sha256()
        self._held: list[tuple[str, ProblemKind, str]] | None = None

    @property
    def digest(self) -> str:
        """Differs when any problem differs (hex)."""
        return self._digest.hexdigest()

    def report(self, path: str, kind: ProblemKind, message: str) -> None:
        """Take a problem.

        Args:
            path: relative to the root, as the system gives it.
            kind: what it is.
            message: one line, safe to show.
        """
        if self._held is not None:
            self._held.append((path, kind, message))
            return
        problem = Problem(rules.escape(path), kind.value, message)
        self.count += 1
        self.hides_files = self.hides_files or kind.hides_files
        self._digest.update(f"{problem.path}\n{problem.kind}\n{problem.message}\n".encode())
        if len(self.listed) < MAX_LISTED_PROBLEMS:
            self.listed.append(problem)

    def hold(self) -> None:
        """Keep what follows back until `release`."""
        self._held = []

    def release(self, *, drop: bool) -> None:
        """Take what was kept back, or forget it."""
        held, self._held = self._held or [], None
        for each in () if drop else held:
            self.report(*each)
