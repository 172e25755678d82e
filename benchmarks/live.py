"""Both sides watching: how long a line takes from the server's disk to the mirror, and what waiting costs.

Runs keep appending to their logs, one process writes all their lines, another sees them come into the mirror.
Both use the clock of this machine. Then nobody writes, and the two watching processes are left alone.
"""

from __future__ import annotations

import json
import os
import queue
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.contenders import Source
from benchmarks.lab import Lab, Planted, difference
from benchmarks.plan import Watches
from benchmarks.results import Watched
from testbed.processes import descendants
from testbed.proxy import DelayProxy
from testbed.sshd import Sshd

WRITING_RUNS, LINES_PER_SECOND = 20, 5.0
LOG = "events.jsonl"
BEGIN_SECONDS, ARRIVE_SECONDS, SETTLE_SECONDS = 120.0, 30.0, 5.0
PROJECT_ROOT = Path(__file__).resolve().parents[1]


class Watching:
    """Context manager: a watching command, which tells on stdout when it has begun.

    `begun` raises RuntimeError, with what it wrote, if it does not.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._lines: queue.Queue[str] = queue.Queue()

    def __enter__(self) -> Watching:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def begun(self) -> None:
        """Wait for its first line."""
        try:
            line = self._lines.get(timeout=BEGIN_SECONDS)
        except queue.Empty:
            line = ""
        if not line:
            raise RuntimeError(f"{self._command[1]} did not begin: {self.words()}")

    def words(self) -> str:
        """The end of what it wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace").strip()[-400:]

    def end(self) -> None:
        """Tell it to end. Raises RuntimeError if it does not do so with exit code 0."""
        self._process.terminate()
        code = self._process.wait(ARRIVE_SECONDS)
        if code:
            raise RuntimeError(f"{self._command[1]} ended with exit code {code}: {self.words()}")

    def processor_seconds(self) -> tuple[float, float]:
        """The processor time so far of the process itself, and that of the processes that it started."""
        children = sum(_processor_seconds(pid) for pid in descendants(self._process.pid))
        return _processor_seconds(self._process.pid), children

    def peak_bytes(self) -> int:
        """The largest resident memory so far of the process itself."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


def _processor_seconds(pid: int) -> float:
    # The name in the second field may hold spaces and brackets, so count from its last bracket.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Pair:
    """The two watching commands, the tree and its mirror."""

    generator: Watching
    client: Watching
    planted: Planted
    mirror: Path

    def spent(self) -> tuple[float, float, float]:
        """Processor seconds so far of the generator, the client and the client's ssh."""
        generator, _ = self.generator.processor_seconds()
        return generator, *self.client.processor_seconds()

    def logs(self) -> list[tuple[str, str]]:
        """The logs that grow, each with its mirror."""
        sources = [run / LOG for run in self.planted.runs[-WRITING_RUNS:]]
        return [(str(each), str(self.mirror / each.relative_to(self.planted.root))) for each in sources]


def watch_live(lab: Lab, act: Watches) -> Watched:
    """Play both scenes; without the second where it is to last no time."""
    watched = Watched()
    try:
        with _watched(lab, act) as pair:
            watched = _write_lines(pair, round(act.writing * WRITING_RUNS * LINES_PER_SECOND))
            _expect_equal(pair)
            if act.idle:
                time.sleep(SETTLE_SECONDS)
                watched = _leave_alone(pair, act.idle, watched)
                _expect_equal(pair)
            peaks = [each.peak_bytes() for each in (pair.generator, pair.client)]
            watched = replace(watched, generator_peak=peaks[0], client_peak=peaks[1])
            for each in (pair.client, pair.generator):
                each.end()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return replace(watched, trouble=str(error) or type(error).__name__)
    return watched


@contextmanager
def _watched(lab: Lab, act: Watches) -> Iterator[Pair]:
    planted = lab.plant(act.tree)
    mirror = lab.folder("watched")
    with ExitStack() as stack:
        server = stack.enter_context(Sshd())
        proxy = stack.enter_context(DelayProxy(server.port, rtt=act.line.rtt, rate=act.line.rate))
        source = Source(planted.root, server.access, proxy.port)
        ssh = shlex.join(source.access.ssh_command(source.port))
        sync = [lab.program, "sync", source.address, str(mirror), "--ssh", ssh, "--watch"]
        generator = stack.enter_context(Watching([*lab.generate_command(planted.root), "--watch"]))
        generator.begun()
        client = stack.enter_context(Watching(sync))
        client.begun()
        pair = Pair(generator, client, planted, mirror)
        _expect_equal(pair)
        yield pair


def _expect_equal(pair: Pair) -> None:
    wrong = difference(pair.planted.root, pair.mirror)
    if wrong:
        raise RuntimeError(f"{wrong}; {pair.generator.words()} {pair.client.words()}".strip())


def _write_lines(pair: Pair, lines: int) -> Watched:
    logs = pair.logs()
    before = {source: Counter(_lines_of(source)) for source, _ in logs}
    settings = {"logs": [source for source, _ in logs], "per_second": LINES_PER_SECOND, "lines": lines}
    with _program("observe", {"pairs": logs}) as observer:
        assert observer.stdout is not None
        if observer.stdout.readline() != "ready\n":
            raise RuntimeError("the observer did not begin")
        spent, begin = pair.spent(), time.monotonic()
        with _program("write", settings) as writer:
            if writer.wait():
                raise RuntimeError("the writer failed")
        _await_arrival(logs)
        seconds = time.monotonic() - begin
        cost = [after - at_first for after, at_first in zip(pair.spent(), spent, strict=True)]
        answer, _ = observer.communicate(timeout=ARRIVE_SECONDS)
    seen: dict[str, Any] = json.loads(answer)
    lost, doubled = _balance(logs, before)
    # A line that nobody met took longer than any other.
    delays = sorted(seen["delays"]) + [float("inf")] * lost
    return Watched(
        lines=lines,
        seconds=seconds,
        p50=statistics.median(delays),
        p95=delays[int(0.95 * len(delays))],
        longest=delays[-1],
        torn=seen["torn"],
        lost=lost,
        doubled=doubled,
        longest_gap=seen["longest_gap"],
        generator_cpu=cost[0],
        client_cpu=cost[1] + cost[2],
    )


@contextmanager
def _program(name: str, settings: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lines", name, json.dumps(settings)],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _await_arrival(logs: Sequence[tuple[str, str]]) -> None:
    """Until the mirrors are as long as the logs, or it has taken too long."""
    deadline = time.monotonic() + ARRIVE_SECONDS
    while time.monotonic() < deadline:
        if all(os.stat(one).st_size == os.stat(other).st_size for one, other in logs):  # noqa: PTH116
            return
        time.sleep(0.05)


def _lines_of(path: str) -> list[bytes]:
    return Path(path).read_bytes().splitlines()


def _balance(logs: Sequence[tuple[str, str]], before: dict[str, Counter[bytes]]) -> tuple[int, int]:
    """How many of the lines that were written are lost, and how many are there once too often."""
    lost = doubled = 0
    for source, mirror in logs:
        wanted = Counter(_lines_of(source)) - before[source]
        found = Counter(_lines_of(mirror)) - before[source]
        lost += (wanted - found).total()
        doubled += (found - wanted).total()
    return lost, doubled


def _leave_alone(pair: Pair, seconds: float, watched: Watched) -> Watched:
    spent, begin = pair.spent(), time.monotonic()
    time.sleep(seconds)
    now, took = pair.spent(), time.monotonic() - begin
    generator, client, ssh = ((after - before) / took for after, before in zip(now, spent, strict=True))
    return replace(
        watched, idle_seconds=took, idle_generator=generator, idle_client=client + ssh, idle_ssh=ssh
    )
