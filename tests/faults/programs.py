"""Watching commands as processes of their own, and a look at their mirror that never ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from testbed.oracle import Oracle
from testbed.processes import descendants
from tests.faults.process import COMMAND, TIMEOUT, environment

LOOK = 0.01
"""Seconds between two looks at the mirror."""

PAGE = os.sysconf("SC_PAGE_SIZE")


class Memory(NamedTuple):
    """What a process has in memory now, and the most that it ever had, in bytes."""

    now: int
    most: int

    @classmethod
    def of(cls, pid: int) -> Memory:
        """The memory of a process."""
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE))
        return cls(int(found["VmRSS"]) * 1024, int(found["VmHWM"]) * 1024)

    def grown(self, before: Memory) -> int:
        """How much more it is than before, by whichever number grew more."""
        return max(self.now - before.now, self.most - before.most)


class Program:
    """A command that goes on until it is told to end. What it says can be waited for.

    Attributes:
        out: its lines on stdout.
        err: its lines on stderr.
        growth: the most that its memory has grown by since `warm`, bytes; of all its processes, when it was
            begun again.
    """

    def __init__(self, *arguments: str | Path) -> None:
        self._arguments = [*COMMAND, *map(str, arguments)]
        self._changed = threading.Condition()
        self.out: list[str] = []
        self.err: list[str] = []
        self.growth = 0
        self._warm: Memory | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin, also again after an end."""
        self._warm = None
        self.process = subprocess.Popen(
            self._arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
            start_new_session=True,
        )
        pairs = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._threads = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in pairs]
        for thread in self._threads:
            thread.start()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Begin, and leave nothing behind."""
        self.start()
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(TIMEOUT)
            self._join()

    def _read(self, stream: Any, lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    lines.append(line.rstrip("\n"))
                    self.heard(lines is self.out, lines[-1])
                    self._changed.notify_all()

    def heard(self, is_out: bool, line: str) -> None:
        """Take note of a line."""

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT)

    def wait_for(self, what: Callable[[], bool], timeout: float = TIMEOUT) -> bool:
        """Wait until something that its lines change is true; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(what, timeout)

    def until(self, what: Callable[[], bool]) -> None:
        """The same, for what has to come."""
        assert self.wait_for(what), self.tail()

    def tail(self) -> str:
        """The last that it said."""
        return "\n".join([f"{self._arguments[3]} has said", *self.out[-5:], *self.err[-10:]])

    def lives(self, seconds: float = 0.0) -> None:
        """It does not end for so long."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise AssertionError(f"ended by itself with {code}\n{self.tail()}")

    def warm(self) -> None:
        """From now on its memory should not grow."""
        self._warm = Memory.of(self.process.pid)

    def weigh(self) -> None:
        """See how much its memory has grown since `warm`."""
        assert self._warm is not None
        self.growth = max(self.growth, Memory.of(self.process.pid).grown(self._warm))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Weigh it and send it a signal; returns the exit code."""
        self.lives()
        self.weigh()
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT)
        self._join()
        return code


class WatchingGenerator(Program):
    """`runicorn generate-manifest --watch`."""

    def __init__(self, root: Path) -> None:
        super().__init__("generate-manifest", "--root", root, "--watch")

    def begin(self) -> None:
        """Begin, until the first state is published."""
        before = len(self.out)
        self.start()
        self.until(lambda: len(self.out) > before)
        self.warm()


class WatchingClient(Program):
    """`runicorn sync --watch --json`.

    Attributes:
        events: how many it told of each kind.
        is_well: whether it has synced since its connection was lost.
        changes: files that it brought or removed.
    """

    def __init__(self, *arguments: str | Path) -> None:
        super().__init__("sync", *arguments, "--watch", "--json")
        self.events: Counter[str] = Counter()
        self.is_well = False
        self.changes = 0

    def heard(self, is_out: bool, line: str) -> None:
        """Take note of an event."""
        if not is_out:
            return
        document: dict[str, Any] = json.loads(line)
        self.events[document["event"]] += 1
        if document["event"] in ("sync", "connection_lost"):
            self.is_well = document["event"] == "sync"
        if document["event"] == "sync":
            self.changes += document["files_synced"] + document["removed_count"]

    def next_sync(self, after: int, timeout: float) -> None:
        """Wait until it has told of more syncs than `after`, or the time is over."""
        self.wait_for(lambda: self.events["sync"] > after, timeout)

    def ssh(self) -> list[int]:
        """The process ids of its ssh."""
        found = []
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8") == "ssh\n":
                    found.append(pid)
        return found


@dataclass
class Observer:
    """Looks at every file of a mirror that has changed, again and again, in a thread.

    Attributes:
        mirror: the mirror.
        oracle: knows what is true.
        faults: what it saw that was never there: half a record, wrong bytes, a mixture.
        seen: how many contents it saw.
        passing: how many of these ended within a record, exactly at the end of a page, and did so no more at
            the next look: many file systems show what a single write brings page by page.
    """

    mirror: Path
    oracle: Oracle
    faults: list[str] = field(default_factory=list)
    seen: int = 0
    passing: int = 0
    error: BaseException | None = None
    _known: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Look until the end of the block."""
        thread = threading.Thread(target=self._loop)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(TIMEOUT)
        if self.error is not None:
            raise self.error

    def _loop(self) -> None:
        try:
            while not self._stop.wait(LOOK):
                self.look()
        except BaseException as error:  # noqa: BLE001 - it is raised where the test waits
            self.error = error

    def look(self) -> None:
        """Look at what has changed."""
        for path in _files(str(self.mirror)):
            with contextlib.suppress(FileNotFoundError):
                self._look_at(path)

    def _look_at(self, path: str) -> None:
        status = os.stat(path)  # noqa: PTH116 - many
        found = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._known.get(path) == found:
            return
        content = Path(path).read_bytes()
        self._known[path] = found
        self.seen += 1
        fault = self.oracle.fault(os.path.relpath(path, self.mirror), content)
        if not fault:
            return
        if "within a record" in fault and len(content) % PAGE == 0 and self._grows(path, len(content)):
            self.passing += 1
        else:
            self.faults.append(f"{time.strftime('%H:%M:%S')} {fault}")

    def _grows(self, path: str, size: int) -> bool:
        self._stop.wait(LOOK)
        return os.stat(path).st_size != size  # noqa: PTH116


def _files(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = [each for each in entries if not each.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return
    for each in found:
        if each.is_dir(follow_symlinks=False):
            yield from _files(each.path)
        else:
            yield each.path
