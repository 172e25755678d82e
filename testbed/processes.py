"""Ending a process together with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """The process ids of the children of `pid`, their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in the second field may hold spaces and brackets, so count from its last bracket.
                parent = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def kill_tree(pid: int, *, include_root: bool = True) -> None:
    """Kill all descendants of `pid`, and `pid` itself unless told not to. It must not have been waited for.

    Process groups do not reach them all: sshd gives each session a group of its own.
    """
    # A stopped parent starts no further child while its children are being found.
    _signal(pid, signal.SIGSTOP)
    for child in descendants(pid):
        _signal(child, signal.SIGKILL)
    _signal(pid, signal.SIGKILL if include_root else signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
