"""What this machine is, and the versions that were measured: a number means little without them."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

Facts = dict[str, str | int | float]


def machine() -> Facts:
    """The processor, its cores, memory in bytes, kernel, Python, and the load before the run began."""
    return {
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count() or 0,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def versions(program: str) -> dict[str, str]:
    """The first line that each program says of its version, or why it says none."""
    commands = {
        "ssh": ["ssh", "-V"],
        "rsync": ["rsync", "--version"],
        "rclone": ["rclone", "version"],
        "runicorn": [program, "--version"],
    }
    return {name: _first_line(command) for name, command in commands.items()}


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        return f"not found: {error.strerror}"
    return next(iter((done.stdout + done.stderr).strip().splitlines()), "says nothing")


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"
