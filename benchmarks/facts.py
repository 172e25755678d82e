"""What this machine is, and the versions that were measured: a number means little without them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

Facts = dict[str, str | int]

PROJECT_ROOT = Path(__file__).resolve().parents[1]
MEASURED = ("src", "benchmarks", "testbed", "pyproject.toml", "constraints.txt")
SAYS_NOTHING = "says nothing"


def machine() -> Facts:
    """The processor, its cores, memory in bytes, kernel and Python."""
    return {
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count() or 0,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def versions(program: str) -> dict[str, str]:
    """The first line that each program says of its version, or why it says none."""
    commands = {
        "runicorn": [program, "--version"],
        "ssh": ["ssh", "-V"],
        "rsync": ["rsync", "--version"],
        "rclone": ["rclone", "version"],
        "lftp": ["lftp", "--version"],
        "py-spy": [str(Path(sys.executable).with_name("py-spy")), "--version"],
    }
    return {name: _first_line(command) for name, command in commands.items()} | {"commit": _commit()}


def _commit() -> str:
    """The last commit of what is measured and of what measures, and whether they differ from it."""
    git = ["git", "-C", str(PROJECT_ROOT)]
    last = _first_line([*git, "log", "-1", "--format=%h", "--", *MEASURED])
    changed = _first_line([*git, "status", "--porcelain", "--", *MEASURED]) != SAYS_NOTHING
    return f"{last}, and changes that are not committed" if changed else last


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        return f"not found: {error.strerror}"
    return next(iter((done.stdout + done.stderr).strip().splitlines()), SAYS_NOTHING)


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"
