"""A server that tells what it spent on the sessions of its clients."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from benchmarks.process import metered
from testbed.processes import descendants
from testbed.sshd import Sshd

SESSION_SECONDS, STOP_SECONDS = 10.0, 15.0


@dataclass(frozen=True)
class Spent:
    """By the server's processes, sshd itself among them: processor seconds, and the peak of the largest."""

    cpu_seconds: float
    peak_bytes: int


class MeteredSshd(Sshd):
    """An `Sshd` that can be asked for its costs; it then starts anew on the same port."""

    def spent(self) -> Spent:
        """What was spent since the start, or since this was asked before.

        Waits for sessions that have not ended; one that does not end in time is killed, and counts.
        """
        assert self._process is not None, "the server is not running"
        deadline = time.monotonic() + SESSION_SECONDS
        while len(descendants(self._process.pid)) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        self._process.terminate()
        self._process.wait(STOP_SECONDS)
        self._process = None
        found = json.loads((self.directory / "spent.json").read_bytes())
        self.start_again()
        return Spent(found["cpu_seconds"], found["peak_bytes"])

    def _command(self, sshd: list[str]) -> list[str]:
        return metered(self.directory / "spent.json", 0, sshd)
