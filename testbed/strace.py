"""System calls of a forked process that fail on purpose, whoever in it makes them: `strace` sees to it.

Only calls on given files count, so that SQLite's on its database can be told from all others. It needs
ptrace: `works` tells whether that can be had here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 60.0


class Ended(NamedTuple):
    """How such a process ended.

    Attributes:
        code: its exit code.
        said: what it wrote to stdout and stderr.
        calls: how often it made each call on the files.
        failed: how many of them failed.
    """

    code: int
    said: str
    calls: Counter[str]
    failed: int


@cache
def works() -> bool:
    """Whether this machine lets us trace a process."""
    try:
        done = subprocess.run(
            ["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, timeout=TIMEOUT, check=False
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


def run_traced(
    work: Callable[[], int], files: Sequence[Path], calls: Sequence[str], place: Path, inject: str = ""
) -> Ended:
    """Do something in a forked process whose calls are seen.

    Args:
        work: gives the exit code.
        files: the calls on these count.
        calls: the names of the calls.
        place: a folder for what is said and seen.
        inject: what fails, as of ``strace -e inject=``.
    """
    said, seen = place / "said", place / "seen"
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        _do(work, said, ready, go)
    os.close(ready)
    paths = [word for path in files for word in ("-P", str(path))]
    options = ["-e", f"trace={','.join(calls)}", *(["-e", f"inject={inject}"] if inject else [])]
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", str(seen), *options, *paths, "-p", str(child)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _await_tracer(child, tracer)
        os.write(go, b"!")
        _, status = os.waitpid(child, 0)
    finally:
        os.close(go)
        tracer.communicate(timeout=TIMEOUT)
    text = seen.read_text(encoding="utf-8", errors="replace")
    made = Counter(re.findall(r"^\d+ +(\w+)\(", text, re.MULTILINE))
    return Ended(
        os.waitstatus_to_exitcode(status), said.read_text(encoding="utf-8"), made, text.count("(INJECTED)")
    )


def _await_tracer(child: int, tracer: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text(encoding="utf-8"):
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("strace does not trace")
        time.sleep(0.0005)


def _do(work: Callable[[], int], said: Path, ready: int, go: int) -> None:
    """In the forked process: wait for the tracer, work, and end without what the parent does at its end."""
    code = 99
    try:
        os.close(go)
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        if os.read(ready, 1):
            code = work()
    except BaseException:  # noqa: BLE001 - it is judged by what it says
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
