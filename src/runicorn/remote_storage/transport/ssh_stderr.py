"""What ssh writes to its standard error: kept, passed on, and what it means."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from typing import IO, Final

from runicorn.errors import ConnectError, HostKeyError, LoginError, TransportError
from runicorn.remote_storage.transport.shown import printable

_KEPT_BYTES: Final = 64 * 1024
_WAIT_SECONDS: Final = 0.5
_HOST_KEY_SIGNS: Final = (
    "Host key verification failed",
    "REMOTE HOST IDENTIFICATION HAS CHANGED",
    "POSSIBLE DNS SPOOFING DETECTED",
)
_NOISE: Final = re.compile(r"debug\d:|Warning: Permanently added|@@@|channel \d+: open failed|\*\* ")
_LOGIN_DENIED: Final = "Permission denied ("
"""The ways to log in follow; what the system denies, such as a key file or a connection, has no bracket."""
_HINTS: Final = (
    ("subsystem request failed", "the server must offer the sftp subsystem"),
    (_LOGIN_DENIED, "check the user name, and the key with `ssh-add -l`"),
    ("Too many authentication failures", "let ssh offer one key only: `--identity`, and IdentitiesOnly"),
    ("Could not resolve hostname", "check the host's name, and ~/.ssh/config"),
    ("Connection refused", "check the port, and that sshd runs on the server"),
)
_REFUSALS: Final = ("subsystem request failed", _LOGIN_DENIED, "Too many authentication failures")
"""What trying again would not better; servers lock out who tries again and again."""


class SshStderr:
    """The standard error of an ssh process, read by a thread of its own.

    Args:
        echo: whether to pass it on to this process's own, as it comes.
    """

    def __init__(self, *, echo: bool) -> None:
        self._echo = echo
        self._kept = b""
        self._reader: threading.Thread | None = None

    def read(self, stream: IO[bytes]) -> None:
        """Read it from now on, and close it at its end."""
        self._reader = threading.Thread(
            target=self._read, args=(stream,), name="runicorn-ssh-stderr", daemon=True
        )
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := stream.read(4096):
                self._kept = (self._kept + chunk)[-_KEPT_BYTES:]
                if self._echo:
                    sys.stderr.write(_shown(chunk))
                    sys.stderr.flush()

    def wait(self) -> None:
        """Wait a moment for its end."""
        # A master that ssh left in the background keeps the pipe open: there is no end to wait for.
        if self._reader is not None:
            self._reader.join(_WAIT_SECONDS)

    def last_line(self) -> str | None:
        """The last useful line of it, when there is one."""
        lines = list(self._useful_lines())
        return lines[-1] if lines else None

    def error(self, said: str) -> TransportError | None:
        """The failure of the connection that it tells of; None when it holds no sign that is known.

        Args:
            said: what to tell where no line of it says enough.
        """
        text = self._kept.decode("utf-8", "replace")
        if any(sign in text for sign in _HOST_KEY_SIGNS):
            useful = [line for line in self._useful_lines() if _HOST_KEY_SIGNS[0] not in line]
            return HostKeyError(f"the host key was refused: {useful[-1] if useful else said}")
        for sign, hint in _HINTS:
            if sign in text:
                kind = LoginError if sign in _REFUSALS else ConnectError
                told = [line for line in self._useful_lines() if sign in line]
                return kind(told[-1] if told else said, hint=hint)
        return None

    def _useful_lines(self) -> Iterator[str]:
        for line in self._kept.decode("utf-8", "surrogateescape").splitlines():
            text = line.strip()
            if text and not _NOISE.match(text):
                yield printable(text, 300)


def _shown(chunk: bytes) -> str:
    lines = chunk.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    return "\n".join(printable(line, 4096) for line in lines)
