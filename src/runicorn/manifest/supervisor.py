"""Telling a service manager how it goes: the protocol of ``sd_notify(3)``, one datagram for each message."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

_EXTENSION_S = 600
_MICROSECONDS = 10**6


class Supervisor:
    """The service manager that started this process, if one did; telling it never fails.

    Args:
        environment: of this process.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._ready = False
        self._next_beat = 0.0
        self.period = _period(environment)

    def ready(self) -> None:
        """The service works."""
        if not self._ready:
            self._ready = True
            self._tell("READY=1")

    def stopping(self) -> None:
        """The service is going to end."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """Say in one line what the service does."""
        self._tell("STATUS=" + " ".join(text.split()))

    def beat(self) -> None:
        """Work gets on; cheap enough to be called for every run."""
        now = time.monotonic()
        if not self._address or now < self._next_beat:
            return
        self._next_beat = now + self.period
        text = "WATCHDOG=1"
        if not self._ready:
            text += f"\nEXTEND_TIMEOUT_USEC={_EXTENSION_S * _MICROSECONDS}"
        self._tell(text)

    def _tell(self, text: str) -> None:
        if self._address[:1] not in ("/", "@") or not hasattr(socket, "AF_UNIX"):
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(1.0)
                channel.sendto(text.encode("utf-8", "replace"), address)
        except OSError:
            return  # a manager that does not listen loses a message, the service nothing


def _period(environment: Mapping[str, str]) -> float:
    """Seconds between two beats: a third of what the manager allows, at most 10."""
    told, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not told.isdecimal() or (pid and pid != str(os.getpid())):
        return 10.0
    return min(10.0, max(0.01, int(told) / 3 / _MICROSECONDS))
