"""Training runs that go on: a process that appends to the logs of some runs until it is told to stop.

The parent talks to it by lines on its standard input, see `Trainer`; when that ends, the runs end.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from testbed import trees

PROJECT_ROOT = Path(__file__).resolve().parents[1]
LOGS = ("events.jsonl", "logs.txt")
INTERVAL_SECONDS = 0.005
ANSWER_SECONDS = 15.0


class Trainer:
    """Context manager: a process that lets `runs` go on, from entering to `finish` or the end of the block.

    Each method raises RuntimeError when the process has failed or does not answer in time.
    """

    def __init__(self, runs: list[Path]) -> None:
        self._runs = runs
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Trainer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "demo.trainer", *map(str, self._runs)],
            cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._expect("started")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def pause(self, after: int) -> None:
        """Let it stand still, when it has appended `after` times to each log since it went on.

        One log then ends in the middle of a record.
        """
        self._send(f"pause {after}")
        self._expect("paused")

    def resume(self) -> None:
        """Let it go on; the half record is completed."""
        self._send("resume")

    def finish(self) -> None:
        """Let the runs end: a last line without a newline, and a status that says so."""
        assert self._process is not None
        process, self._process = self._process, None
        try:
            process.communicate(timeout=ANSWER_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.communicate()
            raise RuntimeError("the trainer did not end in time") from error
        if process.returncode != 0:
            raise RuntimeError(f"the trainer failed with exit code {process.returncode}")

    def _send(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise RuntimeError("the trainer has ended") from error

    def _expect(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        if not ready or self._process.stdout.readline() != line + "\n":
            raise RuntimeError(f"the trainer did not say {line!r}")


class _Training:
    """What the process does."""

    def __init__(self, runs: list[Path]) -> None:
        self._runs = runs
        self._chance = random.Random(0)
        self._step = 0
        self._rest = b""

    def step(self) -> None:
        """Append a record to each log."""
        self._step += 1
        for run in self._runs:
            for name in LOGS:
                _append(run / name, self._record(name))

    def break_record(self) -> None:
        """Append half a record to one log."""
        record = self._record(LOGS[0])
        _append(self._runs[0] / LOGS[0], record[:20])
        self._rest = record[20:]

    def mend_record(self) -> None:
        """Append the other half."""
        _append(self._runs[0] / LOGS[0], self._rest)

    def end(self) -> None:
        """End all runs."""
        for run in self._runs:
            _append(run / LOGS[1], b"training finished")
            started = json.loads((run / "status.json").read_bytes())["started_at"]
            trees.replace_file(run / "status.json", trees.to_json(trees.status(started, time.time())))

    def _record(self, name: str) -> bytes:
        line = trees.event_line if name == LOGS[0] else trees.log_line
        return line(time.time(), self._step, self._chance)


def _append(log: Path, data: bytes) -> None:
    with log.open("ab", buffering=0) as target:
        target.write(data)


def _has_line(commands: io.FileIO, seconds: float) -> bool:
    ready, _, _ = select.select([commands], [], [], seconds)
    return bool(ready)


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Append until the standard input ends."""
    arguments = argparse.ArgumentParser(description="Let runs go on.")
    arguments.add_argument("runs", nargs="+", type=Path)
    training = _Training(arguments.parse_args().runs)
    # Without a buffer, so that no line can wait in one where `select` does not see it.
    commands = io.FileIO(sys.stdin.fileno(), closefd=False)
    _say("started")
    steps = 0
    while True:
        if not _has_line(commands, INTERVAL_SECONDS):
            training.step()
            steps += 1
            continue
        word, _, count = commands.readline().decode().strip().partition(" ")
        if word != "pause":
            break
        for _ in range(int(count) - steps):
            training.step()
        training.break_record()
        _say("paused")
        line = commands.readline()
        training.mend_record()
        steps = 0
        if not line:
            break
    training.end()


if __name__ == "__main__":
    main()
