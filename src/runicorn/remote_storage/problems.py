"""What the server could not list at the last news from it, kept with the mirror: `explain` names it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runicorn.manifest import rules
from runicorn.manifest.model import Problem
from runicorn.remote_storage.state import MirrorState

KEY = "problems"
"""Under which `MirrorState.remember` keeps them."""

_MOST = 1000
_LONGEST = 1000


def note_problems(state: MirrorState, problems: Iterable[Problem]) -> None:
    """Record what could not be listed, in place of what was recorded before.

    Args:
        state: of the mirror.
        problems: paths, kinds and messages of a server, escaped; of very many only the first are kept.

    Raises:
        MirrorError: the database cannot be written.
    """
    rows = [[each.path[:_LONGEST], each.kind[:_LONGEST], each.message[:_LONGEST]] for each in problems]
    if rows or state.recall(KEY):
        state.remember(KEY, rows[:_MOST])


def problems_of(raw: Any) -> list[Problem]:
    """The problems of what `note_problems` recorded; none when it makes no sense."""
    if not isinstance(raw, list):
        return []
    rows = [row for row in raw if isinstance(row, list) and list(map(type, row)) == [str, str, str]]
    return [Problem(*row) for row in rows]


def problem_at(problems: Iterable[Problem], path: str) -> Problem | None:
    """The problem that was met at a path, or at the nearest folder above it that has one; None without.

    Args:
        problems: as recorded.
        path: relative to the root, as it is.
    """
    by_path = {each.path: each for each in problems}
    parts = path.split("/")
    for count in range(len(parts), 0, -1):
        found = by_path.get(rules.escape("/".join(parts[:count])))
        if found is not None:
            return found
    return by_path.get("") or by_path.get(".")
