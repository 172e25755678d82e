"""Runs one command and writes what it cost with all that it started: `meter.py RESULT LIMIT COMMAND...`

Orphans come to this process, so that a child which outlives its parent is counted too. SIGTERM is passed on.
It runs by its path, with the standard library alone: it has to be small, because a child counts the memory
that its parent had at the fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
ORPHAN_SECONDS = 5.0


class Meter:
    """Waits for a command and its orphans, and kills them when they take too long."""

    def __init__(self, command: list[str], limit: float) -> None:
        signal.signal(signal.SIGALRM, self._kill)
        signal.signal(signal.SIGTERM, self._pass_on)
        self._too_long = False
        self._begin = time.perf_counter()
        # It is kept: one that nobody holds waits for its process itself.
        self._process = subprocess.Popen(command)
        self._main = self._process.pid
        self._code = self._cpu = self._seconds = 0.0
        self._peak = 0
        signal.setitimer(signal.ITIMER_REAL, limit, 0.1)

    def wait(self) -> dict[str, float]:
        """Seconds from the start to the end of the command, and what everything cost until its end."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, 0)
                self._cpu += usage.ru_utime + usage.ru_stime
                self._peak = max(self._peak, usage.ru_maxrss * 1024)
                if pid == self._main:
                    self._seconds = time.perf_counter() - self._begin
                    self._code = os.waitstatus_to_exitcode(status)
                    was_too_long = self._too_long
                    signal.setitimer(signal.ITIMER_REAL, 0.01 if was_too_long else ORPHAN_SECONDS, 0.1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        return {
            "seconds": self._seconds,
            "cpu_seconds": self._cpu,
            "peak_bytes": self._peak,
            "code": self._code,
            "too_long": was_too_long,
        }

    def _kill(self, *_: object) -> None:
        # Those whose parents die come here, and go when the alarm rings again.
        self._too_long = True
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _pass_on(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._main, signal.SIGTERM)


def _children() -> list[int]:
    own = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split()]


def main() -> None:
    """Do what the arguments say; no limit is 0."""
    result, limit, command = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Path(result).write_text(json.dumps(Meter(command, limit).wait()), encoding="ascii")


if __name__ == "__main__":
    main()
