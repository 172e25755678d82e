"""Which runs and files the user wants."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from runicorn.errors import UsageError
from runicorn.manifest import rules

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

    from runicorn.manifest.model import FileEntry, Run

_STAR = r"\[\^/\]\*"
_ONE = r"\\.|\[\^/\](?!\*)|\[(?:\w-\w|[\w.])+\]|[^\\()\[\]?*+{}|^$/.]"
_STAR_BEFORE_STAR = re.compile(f"{_STAR}((?:{_ONE})*)(?={_STAR})", re.DOTALL | re.ASCII)
"""A `*` as a regular expression, with what stands for one character each, and never for a slash, up to the
next `*`."""


@dataclass(frozen=True)
class Selection:
    """What is synced of a root; nothing set means everything.

    Attributes:
        projects: names of projects; a file of another project is not selected.
        include: patterns as in ``.gitignore``, of which one must match.
        exclude: patterns as in ``.gitignore``, of which none may match.
        media: whether files below ``media`` are selected.
    """

    projects: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    media: bool = True

    @cached_property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return self == Selection()

    @property
    def key(self) -> str:
        """A text that is equal for equal selections."""
        if self.is_everything:
            return ""
        return json.dumps([self.projects, self.include, self.exclude, self.media])

    @cached_property
    def _include(self) -> GitIgnoreSpec | None:
        return _patterns(self.include)

    @cached_property
    def _exclude(self) -> GitIgnoreSpec | None:
        return _patterns(self.exclude)

    def check(self) -> None:
        """Refuse patterns that mean nothing.

        Raises:
            UsageError: a pattern cannot be read.
        """
        if self._include or self._exclude:
            self.wants_path("a")

    def wants_project(self, project: str) -> bool:
        """Whether any file of a project can be selected."""
        return not self.projects or project in self.projects

    def wants_path(self, path: str) -> bool:
        """Whether the patterns select a path."""
        if self._include is not None and not self._include.match_file(path):
            return False
        return self._exclude is None or not self._exclude.match_file(path)

    def wants(self, run: Run, entry: FileEntry) -> bool:
        """Whether a file of a run is selected."""
        if self.is_everything:
            return True
        if not self.wants_project(run.project):
            return False
        if not self.media and entry.path.startswith(f"{run.folder}/{rules.MEDIA_FOLDER}/"):
            return False
        return self.wants_path(entry.path)

    def wants_known(self, folder: str, inner: str) -> bool:
        """Whether a file of the mirror is selected, by its run folder and its path within that."""
        if self.is_everything:
            return True
        names = rules.project_and_name(folder)
        if names is None or not self.wants_project(names[0]):
            return False
        if not self.media and inner.startswith(rules.MEDIA_FOLDER + "/"):
            return False
        return self.wants_path(f"{folder}/{inner}")


def _patterns(lines: Sequence[str]) -> GitIgnoreSpec | None:
    if not lines:
        return None
    from pathspec import GitIgnoreSpec

    try:
        patterns = list(GitIgnoreSpec.from_lines(lines).patterns)
    except ValueError as error:
        raise UsageError(f"cannot read the pattern: {error}") from error
    for each in patterns:
        regex: re.Pattern[str] | None = getattr(each, "regex", None)
        if regex is not None:
            each.regex = re.compile(_soon(regex.pattern), regex.flags)
    return GitIgnoreSpec(patterns)


def _soon(regex: str) -> str:
    """The same expression, with names tried once only: hostile ones take hours where there are many `*`.

    What follows a `*` up to the next one is met soonest, and nothing is gained by meeting it later; a group
    that is looked ahead for is not gone back into.
    """
    numbers = itertools.count()

    def once(found: re.Match[str]) -> str:
        name = f"star{next(numbers)}"
        return f"(?=(?P<{name}>[^/]*?{found[1]}))(?P={name})"

    return _STAR_BEFORE_STAR.sub(once, regex)
