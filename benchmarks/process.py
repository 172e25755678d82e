"""Runs one command as a whole process and tells what it cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.processes import kill_tree

METER = Path(__file__).with_name("meter.py")
LIMIT_SECONDS = 900.0


@dataclass(frozen=True)
class Cost:
    """Of a command with all that it started: wall and processor time in seconds, peak memory in bytes.

    The peak is the resident memory of the largest single process, and at least that of the meter: some 15 MB.

    `trouble` is empty if it ended well, else the exit code and the end of what it wrote.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    trouble: str
    too_long: bool = False


def metered(result: Path, limit: float, command: Sequence[str]) -> list[str]:
    """What runs `command` and writes its cost to `result`; `limit` is in seconds, 0 for none."""
    return [sys.executable, "-I", "-S", str(METER), str(result), str(limit), *command]


def run(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, limit: float = LIMIT_SECONDS
) -> Cost:
    """Run `command` to its end, or kill it with all that it started after `limit` seconds."""
    with tempfile.TemporaryDirectory(prefix="meter-") as folder, tempfile.TemporaryFile() as output:
        result = Path(folder) / "result.json"
        with subprocess.Popen(
            metered(result, limit, command),
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                code = process.wait()
            except BaseException:
                # An interrupted measurement leaves nothing behind that takes the time of the next one.
                kill_tree(process.pid)
                raise
        output.seek(0)
        words = output.read().decode("utf-8", "replace").strip()[-400:]
        if code:
            return Cost(0.0, 0.0, 0, f"could not be run: {words}")
        found = json.loads(result.read_bytes())
    code, too_long = round(found.pop("code")), found.pop("too_long")
    trouble = f"took longer than {limit:g} s" if too_long else f"exit {code}: {words}" if code else ""
    return Cost(**found, trouble=trouble, too_long=too_long)
