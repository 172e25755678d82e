"""Commands that start at once, and are killed where it is wanted.

A process with everything loaded has them as its children: a kill costs tens of milliseconds. A child is
killed after some time, or kills itself before or after a *step*: a call that changes what is on disk, or
waits for the disk. Which steps there were a child tells when it has lived to its end.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pkgutil
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from tests.faults.process import TIMEOUT, environment

STEPS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "utime", "ftruncate", "write", "pwrite")
"""Functions of `os`; besides, files that are made, `syncfs`, and statements of SQLite that write."""

KILLED = -signal.SIGKILL
_SITE = 3
"""Functions of runicorn that tell one place of a step from another."""


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: its exit code; negative when it was killed.
        seconds: how long it took.
        steps: the place of each step, twice: before and after it; only when that was asked for.
        said: the end of what it said.
    """

    code: int
    seconds: float
    steps: list[str]
    said: str

    def expect(self, *codes: int) -> Ended:
        """It ended with one of these exit codes."""
        assert self.code in codes, f"exit code {self.code}, not {codes}: {self.said}"
        return self


class Nursery:
    """Starts commands, one at a time.

    Args:
        place: a folder for what they say.
    """

    def __init__(self, place: Path) -> None:
        self._said = place / f"said-{id(self)}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery", str(self._said)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def run(self, *arguments: str | Path, **order: Any) -> Ended:
        """Run a command of `runicorn` to its end, as `begin`."""
        self.begin(*arguments, **order)
        return self.end()

    def begin(
        self,
        *arguments: str | Path,
        after: float | None = None,
        step: int | None = None,
        steps: bool = False,
        sets: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin a command of `runicorn`.

        Args:
            arguments: of the command.
            after: seconds after which it is killed.
            step: the step at which it is killed: two numbers, from 0 on, for each, before and after it.
            steps: whether it tells its steps.
            sets: constants of modules, as ``module:name``, and what they are for this command.
        """
        order = {
            "argv": [*map(str, arguments)],
            "after": after,
            "step": step,
            "steps": steps,
            "sets": dict(sets or {}),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def end(self) -> Ended:
        """Wait for the command that was begun."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], TIMEOUT)
        line = self._process.stdout.readline() if ready else ""
        said = ""
        with contextlib.suppress(FileNotFoundError):
            said = self._said.read_text(encoding="utf-8", errors="replace")[-2000:]
        assert line, f"the command did not end, or nobody is there who starts it: {said}"
        return Ended(**json.loads(line), said=said)

    def close(self) -> None:
        """End it, and what it has begun."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait(TIMEOUT)
        assert self._process.stdout is not None
        self._process.stdout.close()


# -- the process that has them for its children ----------------------------------------------


class Steps:
    """Counts the steps of this process, and kills it at one of them.

    Args:
        last: the step at which it is killed; None to live.
        tells: whether their places are kept.

    Attributes:
        places: where each step was.
    """

    def __init__(self, last: int | None, *, tells: bool) -> None:
        self._last = last
        self._tells = tells
        self._count = 0
        self.places: list[str] = []

    def watch(self) -> None:
        """Count from now on."""
        for name in STEPS:
            setattr(os, name, self._counted(getattr(os, name), name))
        opens, real = self._counted(os.open, "open"), os.open

        def opened(path: Any, flags: int, *more: Any, **options: Any) -> int:
            makes = flags & os.O_CREAT and flags & os.O_TMPFILE != os.O_TMPFILE
            return int((opens if makes else real)(path, flags, *more, **options))

        os.open = opened
        durability: Any = importlib.import_module("runicorn.remote_storage.durability")
        if durability._SYNCFS is not None:
            durability._SYNCFS = self._counted(durability._SYNCFS, "syncfs")
        counted = self._counted

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
                call = super().execute
                word = sql.split(None, 1)[0]
                return (call if word in ("SELECT", "PRAGMA") else counted(call, word))(sql, *more)

            def executescript(self, sql: str) -> sqlite3.Cursor:
                return counted(super().executescript, "script")(sql)  # type: ignore[no-any-return]

            def executemany(self, sql: str, rows: Any) -> sqlite3.Cursor:
                return counted(super().executemany, sql.split(None, 1)[0])(sql, rows)  # type: ignore[no-any-return]

            def close(self) -> None:
                counted(super().close, "close")()

        connect: Any = functools.partial(sqlite3.connect, factory=Connection)
        sqlite3.connect = connect

    def _counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._reached(name)
            result = real(*arguments, **options)
            self._reached(name)
            return result

        return call

    def _reached(self, name: str) -> None:
        if self._count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        self._count += 1
        if self._tells:
            self.places.append(f"{name} {_place()}")


def _place() -> str:
    frame: FrameType | None = sys._getframe(2)
    found: list[str] = []
    while frame is not None and len(found) < _SITE:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("runicorn."):
            found.append(f"{module.rpartition('.')[2]}.{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(found)


def _live(order: dict[str, Any], said: str, tell: int) -> int:
    """What a child does."""
    fd = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for each in (1, 2):
        os.dup2(fd, each)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, value in order["sets"].items():
        module, _, constant = name.partition(":")
        setattr(importlib.import_module(module), constant, value)
    steps = Steps(order["step"], tells=order["steps"])
    write = os.write
    if order["steps"] or order["step"] is not None:
        steps.watch()
    from runicorn.cli import main

    code = main(order["argv"])
    write(tell, json.dumps(steps.places).encode())
    return code


def _bear(order: dict[str, Any], said: str) -> dict[str, Any]:
    begun = time.monotonic()
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.close(hear)
            code = _live(order, said, tell)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(tell)
    if order["after"] is not None:
        handle = os.pidfd_open(child)
        select.select([handle], [], [], order["after"])
        os.close(handle)
        os.kill(child, signal.SIGKILL)  # it is not waited for yet, so the number is still its own
    with os.fdopen(hear, "rb") as stream:
        told = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": code, "seconds": time.monotonic() - begun, "steps": json.loads(told or b"[]")}


def _load() -> None:
    import runicorn

    for module in pkgutil.walk_packages(runicorn.__path__, "runicorn."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def main(said: str) -> None:
    """Have a child for every line of the standard input, and tell of it."""
    import ctypes
    import gc

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with the tests
    _load()
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(_bear(json.loads(line), said)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
