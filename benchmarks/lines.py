"""The programs behind `benchmarks.live`: one appends lines to logs, one sees them come into a mirror.

`python -m benchmarks.lines write|observe JSON`
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from testbed.trees import event_line

LOOK_SECONDS = 0.005
"""Between two looks of the observer."""


def write(logs: Sequence[str], per_second: float, lines: int) -> None:
    """Append `lines` lines to the logs in turns, `per_second` to each of them; nothing is buffered.

    Each line tells the time at which it was written, and the number that it has in its log.
    """
    chance = random.Random(0)
    opened = [os.open(log, os.O_WRONLY | os.O_APPEND) for log in logs]
    begin = time.monotonic()
    for number, log in zip(range(lines), cycle(opened), strict=False):
        due = begin + number / (per_second * len(logs))
        time.sleep(max(0.0, due - time.monotonic()))
        os.write(log, event_line(time.time(), number // len(logs), chance))


@dataclass
class Log:
    """One log: where it lies, where its mirror does, and what was seen of that.

    Attributes:
        torn: looks that met an end within a line, or bytes that the source does not begin with.
        delays: seconds from the writing of each line to the look that met it whole.
    """

    source: str
    mirror: str
    torn: int = 0
    delays: list[float] = field(default_factory=list)
    _seen: tuple[int, int] = (0, 0)
    _checked: int = 0
    _met: int = 0

    def look(self, *, is_first: bool = False) -> None:
        """Look at the mirror; lines that are there at the first look have no delay."""
        status = os.stat(self.mirror)  # noqa: PTH116 - many
        found = (status.st_ino, status.st_size)
        if found == self._seen:
            return
        if found[0] != self._seen[0] or found[1] < self._checked:
            self._checked = 0
        self._seen = found
        with open(self.mirror, "rb") as mirror, open(self.source, "rb") as source:  # noqa: PTH123
            for each in (mirror, source):
                each.seek(self._checked)
            content = mirror.read()
            now = time.time()
            expected = source.read(len(content))
        self.torn += content != expected or not (b"\n" + content).endswith(b"\n")
        self._meet(content, now, is_first=is_first)

    def _meet(self, content: bytes, now: float, *, is_first: bool) -> None:
        whole = content[: content.rfind(b"\n") + 1]
        fresh = whole[max(0, self._met - self._checked) :]
        if not is_first:
            self.delays += [now - float(json.loads(line)["ts"]) for line in fresh.splitlines()]
        self._checked += len(whole)
        self._met = max(self._met, self._checked)


def observe(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Look at the mirrors of logs, pairs of source and mirror, until the standard input ends."""
    logs = [Log(*pair) for pair in pairs]
    for log in logs:
        log.look(is_first=True)
    print("ready", flush=True)
    longest, ended = 0.0, False
    before = time.monotonic()
    while not ended:
        ended = bool(select.select([sys.stdin], [], [], LOOK_SECONDS)[0])
        for log in logs:
            log.look()
        now = time.monotonic()
        longest, before = max(longest, now - before), now
    delays = [delay for log in logs for delay in log.delays]
    return {"delays": delays, "torn": sum(log.torn for log in logs), "longest_gap": longest}


def main() -> None:
    """Do what the arguments say."""
    settings: dict[str, Any] = json.loads(sys.argv[2])
    if sys.argv[1] == "write":
        write(**settings)
    else:
        print(json.dumps(observe(**settings)))


if __name__ == "__main__":
    main()
