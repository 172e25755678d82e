"""Where a sync reads from: ``[user@]host:path``, ``ssh://[user@]host[:port]/path`` or a local path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from runicorn.errors import UsageError

_SAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Source:
    """A root somewhere.

    Attributes:
        path: the root; relative to the home folder when it does not begin with a slash.
        host: name or address, or None for a local path.
        user: login name, or None for what ssh takes by itself.
        port: TCP port, or None for what ssh takes by itself.
    """

    path: str
    host: str | None = None
    user: str | None = None
    port: int | None = None

    @property
    def is_local(self) -> bool:
        """Whether no connection is needed."""
        return self.host is None

    def folder_name(self) -> str:
        """A name for a mirror of it, without characters that any system dislikes."""
        parts = [self.host or "local", *self.path.strip("/").split("/")]
        return "_".join(filter(None, (_SAFE.sub("-", part).strip(".-") for part in parts))) or "root"


def parse_source(text: str) -> Source:
    """Read a SOURCE as a user writes it.

    Raises:
        UsageError: it is none.
    """
    if not text or "\x00" in text or "\n" in text:
        raise UsageError("the source is empty or holds a line break")
    if text.startswith("ssh://"):
        return _parse_url(text)
    head, colon, path = text.partition(":")
    if text.startswith("["):  # [::1]:path
        head, colon, path = text.partition("]:")
        head += "]" if colon else ""
    if not colon or "/" in head:
        return Source(path=text)
    user, _, host = head.rpartition("@")
    return _remote(host, user or None, None, _home_relative(path), text)


def _parse_url(text: str) -> Source:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"cannot read the source {text!r}: {error}") from error
    if parts.query or parts.fragment or parts.password is not None:
        raise UsageError(f"the source {text!r} may only hold user, host, port and path")
    path = unquote(parts.path)
    if path.startswith("/~/"):
        path = path[3:]
    user = unquote(parts.username) if parts.username else None
    return _remote(parts.hostname or "", user, port, path or "/", text)


def _home_relative(path: str) -> str:
    if path in ("", "~", "~/"):
        return "."
    return path[2:] if path.startswith("~/") else path


def _remote(host: str, user: str | None, port: int | None, path: str, text: str) -> Source:
    host = host.removeprefix("[").removesuffix("]")
    if not host or host.startswith("-") or any(mark.isspace() for mark in host):
        raise UsageError(f"the source {text!r} names no host")
    if user is not None and (user.startswith("-") or any(mark.isspace() for mark in user)):
        raise UsageError(f"the source {text!r} names no user")
    return Source(path=path, host=host, user=user, port=port)
