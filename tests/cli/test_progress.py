"""Progress of `runicorn sync` on a terminal, and the units in which it tells sizes and times."""

from __future__ import annotations

import io
import os
import pty
import random
import re
import select
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console

from runicorn.cli import progress
from runicorn.cli.progress import TimeLeft
from runicorn.cli.units import age_text, duration_text, size_text
from runicorn.remote_storage.report import BytesReceived, FileDone, TransferStarted
from testbed.trees import make_tree
from tests.faults.process import (
    COMMAND,
    TIMEOUT,
    environment,
    generate,
    run_files,
    sync,
)


def on_terminal(*arguments: str | Path) -> tuple[int, str]:
    """Run a sync whose stderr is a terminal; its exit code and what the terminal was sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "sync", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment(TERM="xterm", COLUMNS="150", LINES="24"),
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + TIMEOUT
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([ours], [], [], 1)
            try:
                data = os.read(ours, 65536) if ready else b""
            except OSError:  # a terminal that nobody holds open any more
                break
            if ready and not data:
                break
            shown += data
        return process.wait(TIMEOUT), shown.decode()
    finally:
        os.close(ours)
        process.kill()


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_progress_on_a_terminal_has_exact_totals_and_goes_at_the_end(tmp_path: Path, method: str) -> None:
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    make_tree(root, 40)
    generate(root)
    size = size_text(sum(map(len, run_files(root).values())))
    code, shown = on_terminal(root, mirror, "--method", method)
    assert code == 0
    assert run_files(mirror) == run_files(root)
    counts = [(int(done), int(total)) for done, total in re.findall(r"(\d+)/(\d+) files", shown)]
    assert counts
    # A walk fetches the status files before it knows the rest.
    total = 560 if method == "walk" else 600
    assert counts[-1] == (total, total)
    assert all(done <= all_of_it == total for done, all_of_it in counts)
    assert [done for done, _ in counts] == sorted(done for done, _ in counts)
    totals = set(re.findall(r"/(\d[\d.]* [KMG]?B)  ", shown))
    assert len(totals) == 1
    assert method != "manifest" or totals == {size}  # of the journal are shown the bytes that come, packed
    # The last line is taken off the screen: erased, and the cursor is there again.
    assert shown.rstrip("\r\n").endswith("\x1b[2K")
    assert "\x1b[?25h" in shown[shown.rfind(f"{total}/{total}") :]


def test_progress_never_shows_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_STEP", 0.0)
    screen = io.StringIO()
    shown = progress.TerminalProgress(Console(file=screen, force_terminal=True, width=150))
    for _ in range(2):  # the status files of a walk come before the totals are known
        shown(BytesReceived(70))
        shown(FileDone("status.json", 70))
    shown(TransferStarted(3, 300))
    for _ in range(3):
        shown(BytesReceived(150))  # more than planned: something was read twice
        shown(FileDone("meta.json", 100))
    shown.stop()
    assert "3/3 files  300 B/300 B" in screen.getvalue()
    assert not re.search(r"[45]/3 files", screen.getvalue())


@pytest.mark.parametrize("option", ["-q", "-v"])
def test_terminal_shows_no_bar_when_told(root: Path, mirror: Path, option: str) -> None:
    _, shown = on_terminal(root, mirror, option)
    assert "\x1b" not in shown


def test_pipe_shows_no_bar(root: Path, mirror: Path) -> None:
    assert sync(root, mirror).expect(0).err == ""


def test_time_left_is_never_negative_and_does_not_jump() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        total = 1e6
        left = TimeLeft(total, 0.0)
        now = done = 0.0
        last: float | None = None
        assert left.update(0, 1.0) is None
        while done < 1.2 * total:
            step = chance.uniform(0.01, 0.3)
            now += step
            done += chance.choice([0.0, 1.0, 20_000.0]) * chance.random()
            shown = left.update(done, now)
            if shown is None:
                continue
            assert shown >= 0
            if last is not None:
                estimate = max(0.0, total - done) * now / done
                # At most a tenth of the way to the present estimate, beside the time that has gone.
                assert (
                    abs(shown - max(0.0, last - step)) <= 0.1 * abs(estimate - max(0.0, last - step)) + 1e-6
                )
            last = shown
        assert last is not None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KB"), (1024**2 - 1, "1.00 MB"), (5 * 1024**4, "5.00 TB")],
)
def test_sizes_are_in_the_unit_that_fits(value: int, text: str) -> None:
    assert size_text(value) == text


def test_times_are_in_the_unit_that_fits() -> None:
    assert [duration_text(each) for each in (0, 59.94, 60, 3599.6, 7260)] == [
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "1 h 00 min",
        "2 h 01 min",
    ]
    assert [age_text(each) for each in (-5, 1, 60, 7200, 86400 * 3)] == [
        "0 seconds",
        "1 second",
        "1 minute",
        "2 hours",
        "3 days",
    ]
