"""A watching command of which each line can be waited for."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.faults.process import COMMAND, TIMEOUT, environment, generate
from tests.manifest.helpers import PROJECT_RUN, append


class Watch:
    """A watching command; its lines can be waited for."""

    def __init__(self, *arguments: str | Path, **env: str) -> None:
        self._arguments = [*COMMAND, "sync", *map(str, arguments), "--watch", "--interval", "0.05"]
        self._env = environment(**env)
        self.out: queue.Queue[str] = queue.Queue()
        self.err: queue.Queue[str] = queue.Queue()
        self.said: list[str] = []

    def __enter__(self) -> Watch:
        self.process = subprocess.Popen(
            self._arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._env,
            text=True,
            start_new_session=True,
        )
        pairs = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._threads = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in pairs]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        for thread in self._threads:
            thread.join(TIMEOUT)

    def _read(self, stream: Any, lines: queue.Queue[str]) -> None:
        with stream:
            for line in stream:
                lines.put(line.rstrip("\n"))

    def until(self, lines: queue.Queue[str], word: str) -> str:
        """The next line that holds a word."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
            self.said.append(line)
            if word in line:
                return line

    def event(self, name: str) -> dict[str, Any]:
        """The next object of a kind on stdout."""
        while True:
            found: dict[str, Any] = json.loads(self.until(self.out, "{"))
            if found["event"] == name:
                return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT)
        for thread in self._threads:
            thread.join(TIMEOUT)
        return code


def grow(root: Path, text: bytes = b'{"step": 2}\n') -> None:
    append(root / PROJECT_RUN / "events.jsonl", text)
    generate(root)
