"""Runs one command as a whole process and tells what it cost."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Of one process with its children: wall and CPU time in seconds, peak resident memory in bytes.

    The peak is that of the largest single process, and no less than this process had when it started it.

    `trouble` is empty if it ended well, else the exit code and the end of what it wrote.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    trouble: str


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, limit: float = 900.0) -> Cost:
    """Run `command` to its end, or kill it with its children after `limit` seconds.

    Raises OSError if it cannot be started.
    """
    with tempfile.TemporaryFile() as output:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        alarm = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        alarm.start()
        # wait4 instead of Popen.wait: it tells the resources of this one child.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        alarm.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        words = output.read().decode("utf-8", "replace").strip()
    trouble = f"exit {process.returncode}: {words[-400:]}" if process.returncode else ""
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, trouble)
