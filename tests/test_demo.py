"""The demo does what it says, leaves its files and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo import __main__ as program
from demo import scene, steps

PROJECT_ROOT = Path(__file__).resolve().parents[1]


def _run_demo(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo", str(folder)],
        check=False,
        cwd=PROJECT_ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_demo_does_every_step_and_keeps_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = _run_demo(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for number, step in enumerate(steps.STEPS, 1):
        assert f"\n{number}. {step.__doc__}\n" in done.stdout
    assert str(folder / "mirror") in done.stdout
    moved = re.search(
        r"appended on the server: ([\d,]+) bytes.*\n.*content of files: ([\d,]+) bytes", done.stdout
    )
    assert moved is not None
    assert moved[1] == moved[2]
    assert (folder / "server/data/experiments/.runicorn/full_manifest.json").is_file()
    assert (folder / "mirror/.runicorn/state.db").is_file()
    assert _processes_that_name(folder) == []


def test_demo_fails_when_a_step_does_not_do_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(stage: scene.Scene) -> None:
        """A step."""
        scene.require(stage.mirror.exists(), "there is no mirror")

    monkeypatch.setattr(program, "STEPS", (broken,))
    monkeypatch.setattr(sys, "argv", ["demo", str(tmp_path)])
    assert program.main() == 1
    assert capsys.readouterr().err == "\nFAILED: there is no mirror\n"


def test_demo_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    done = _run_demo(tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == f"FAILED: the folder {tmp_path} is not empty"


def _processes_that_name(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in line:
                found.append(line.decode(errors="replace"))
    return found
