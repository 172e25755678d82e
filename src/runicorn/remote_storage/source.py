"""Where a sync reads from: ``[user@]host:path``, ``ssh://[user@]host[:port]/path`` or a local path."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from runicorn.errors import UsageError

_REMOTE = re.compile(r"(?:([^:/]+)@)?(\[[^\]/]*\]|[^@:/\[\]]*):(.*)", re.DOTALL).fullmatch
"""``[user@]host:path``; an address with colons stands in brackets."""

_SAFE = re.compile(r"[^A-Za-z0-9._-]+")

_READABLE = 80


@dataclass(frozen=True, slots=True)
class Source:
    """A root somewhere.

    Attributes:
        path: the root; relative to the home folder of the server when it does not begin with a slash.
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

    @property
    def identity(self) -> str:
        """A text that differs for every two sources that may be different roots."""
        return json.dumps([self.host, self.user, self.port, self.path])

    @property
    def text(self) -> str:
        """A SOURCE that `parse_source` reads as this one, as far as it is not the path of a local folder."""
        if self.host is None:
            return self.path
        user = f"{self.user}@" if self.user is not None else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port is None:
            return f"{user}{host}:{self.path}"
        path = quote(self.path if self.path.startswith("/") else f"/~/{self.path}")
        return f"ssh://{quote(user, safe='@')}{host}:{self.port}{path}"

    def folder_name(self) -> str:
        """A name for a mirror of it: readable, its own, without characters that any system dislikes."""
        import hashlib  # what runs before the login is kept short

        parts = [self.host or "local", *self.path.strip("/").split("/")]
        readable = "_".join(filter(None, (_SAFE.sub("-", part).strip(".-") for part in parts)))
        return f"{readable[:_READABLE]}-{hashlib.sha256(self.identity.encode()).hexdigest()[:8]}"


def parse_source(text: str) -> Source:
    """Read a SOURCE as a user writes it.

    Raises:
        UsageError: it is none.
    """
    if not text or "\x00" in text or "\n" in text:
        raise UsageError("the source is empty or holds a line break")
    if text.startswith("ssh://"):
        return _parse_url(text)
    found = _REMOTE(text)
    if found is None:
        return Source(path=text)
    user, host, path = found.groups()
    return _remote(host, user, None, _home_relative(path), text)


def _parse_url(text: str) -> Source:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"cannot read the source {text!r}: {error}") from error
    if parts.query or parts.fragment or parts.password is not None:
        raise UsageError(f"the source {text!r} may only hold user, host, port and path")
    path = unquote(parts.path)
    if path == "/~" or path.startswith("/~/"):
        path = _home_relative(path[1:])
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
