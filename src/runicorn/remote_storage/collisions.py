"""Names that a file system takes for the same although they differ: by case, or by the form of their
accents. The second one is refused by name before anything is written in its place. Pure."""

from __future__ import annotations

import unicodedata


def folded(name: str) -> str:
    """What names have in common that such a file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class NameClaims:
    """Who came first, for every folder and file of a listing."""

    def __init__(self) -> None:
        self._spelled: dict[str, str] = {}

    def claim(self, path: str) -> str | None:
        """Claim a path and the folders above it.

        Args:
            path: relative to the mirror.

        Returns:
            None when the path is free, otherwise the spelling that was there first.
        """
        end = 0
        while end >= 0:
            end = path.find("/", end + 1)
            part = path if end < 0 else path[:end]
            first = self._spelled.setdefault(folded(part), part)
            if first != part:
                return first
        return None
