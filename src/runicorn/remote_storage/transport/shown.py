"""What a peer says, made safe to show."""

from __future__ import annotations


def printable(text: str | bytes, limit: int = 200) -> str:
    """Text of a peer made safe to show: no control characters, at most ``limit`` characters."""
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "surrogateescape")
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text[:limit]
    )
    return shown if len(text) <= limit and len(shown) <= limit else shown[:limit] + "..."
