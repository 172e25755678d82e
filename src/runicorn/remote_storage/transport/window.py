"""How many handles may be open at once, learned from what the server refuses."""

from __future__ import annotations

from typing import Final

FIRST_HANDLES: Final = 64
FIRST_HANDLES_KNOWN: Final = 512
"""As many at once when the server has said that it allows them."""


class HandleWindow:
    """Counts handles, and says whether one more may be asked for.

    SFTP has no code for "too many open files": it is the FAILURE that an unreadable file gives, too.
    So a refusal lowers the number of handles to what is open, unless that many were open before, and
    the open is tried again with fewer and fewer handles open; it counts when no other handle is.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._ceiling = min(FIRST_HANDLES, most)
        self._strict = False
        self._proven = 0
        self.limit = self._ceiling
        """How many jobs and handles there should be now."""
        self.held = 0
        """Handles that are open."""
        self.opening = 0
        """Opens without an answer."""
        self.closing = 0
        """Closes without an answer."""

    def allow(self, handles: int) -> None:
        """Take the server's own word for how many handles it allows (0: it has no limit)."""
        self._most = min(self._most, max(1, handles // 2)) if handles else self._most
        if not self._strict:
            self._ceiling = self._most
            self.limit = min(max(self.limit, FIRST_HANDLES_KNOWN), self._ceiling)

    def grow(self) -> None:
        """A job has ended well: one more may be under way."""
        self.limit = min(self._ceiling, self.limit + 1)

    def room(self, bound: int) -> bool:
        """Whether an open may be sent; ``bound`` is 0 for one that was not refused yet."""
        occupied = self.held + self.opening
        if bound or self._strict:
            # A server that works on several requests at once opens before it has closed.
            occupied += self.closing
        return occupied < (min(bound, self.limit) if bound else self.limit)

    def accepted(self) -> None:
        """The server gave out a handle."""
        self.held += 1
        self._proven = max(self._proven, self.held)
        if self.held > self.limit:
            self.limit = min(self.held, self._most)
            self._ceiling = max(self._ceiling, self.limit)

    def refused(self, bound: int) -> int:
        """The server answered an open with FAILURE; below how many handles to try again, 0 = never."""
        held = self.held + self.closing
        if not held and not self.opening:
            return 0
        if held >= self._proven:
            self._strict = True
            self.limit = self._ceiling = max(1, held)
        return max(1, held // 2 if bound else held)
