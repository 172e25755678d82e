"""A slow line: a TCP proxy on 127.0.0.1 that adds delay and a rate limit, and counts what goes through.

It runs in a process of its own, so that its work does not take the interpreter lock of the client under
measurement.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Traffic:
    """What a line carried: payload bytes from the clients (`up`) and to them (`down`), and connections."""

    up: int
    down: int
    connections: int


class DelayProxy:
    """Context manager: connections to `host`, `port` reach `target_port` of this machine over a slow line.

    `rtt` is the round-trip time in seconds; half of it is added each way, and opening a connection takes one,
    as it does on a real line. `rate` limits each direction to that many bytes per second, all connections
    together. Entering raises RuntimeError if the proxy process does not start.
    """

    def __init__(self, target_port: int, *, rtt: float = 0.0, rate: float | None = None) -> None:
        self.host = HOST
        self.port = 0
        self._settings = {"target_port": target_port, "rtt": rtt, "rate": rate}
        self._process: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()

    def __enter__(self) -> DelayProxy:
        line = Path(__file__).with_name("line.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", line, json.dumps(self._settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        first = self._answers.readline()
        if not first:
            self.stop()
            raise RuntimeError("the proxy process did not start")
        self.port = json.loads(first)["port"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def traffic(self) -> Traffic:
        """The bytes that went through since the start, counted as they leave the line."""
        return Traffic(**self._ask("traffic"))

    def cut(self) -> None:
        """Drop all connections at once; new ones are accepted."""
        self._ask("cut")

    def stall(self) -> None:
        """Deliver nothing more on any connection, and keep all of them open, until `resume`."""
        self._ask("stall")

    def resume(self) -> None:
        """Deliver again what `stall` held back."""
        self._ask("resume")

    def stop(self) -> None:
        """End the proxy process, and with it all connections."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    @property
    def _answers(self) -> IO[str]:
        assert self._process is not None, "the proxy is not running"
        assert self._process.stdout is not None
        return self._process.stdout

    def _ask(self, question: str) -> dict[str, Any]:
        with self._turn:
            answers = self._answers
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(answers.readline())
            return answer


def wait_until_idle(proxy: DelayProxy, *, quiet: float = 0.2, limit: float = 10.0) -> Traffic:
    """The traffic once none has been counted for `quiet` seconds.

    Raises TimeoutError after `limit` seconds.
    """
    deadline = time.monotonic() + limit
    before = proxy.traffic()
    while time.monotonic() < deadline:
        time.sleep(quiet)
        now = proxy.traffic()
        if now == before:
            return now
        before = now
    raise TimeoutError("the line did not become idle")
