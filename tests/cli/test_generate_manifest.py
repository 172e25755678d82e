"""``runicorn generate-manifest``: what it prints and how it ends, and the frame of all commands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import runicorn.cli
from runicorn import __version__
from runicorn.cli import main
from runicorn.cli.units import size_text
from runicorn.errors import RunicornError
from runicorn.manifest import ManifestGenerator, read_manifest
from tests.manifest.helpers import inside, make_run, temps, write

RULE = "=" * 60


def run(*arguments: str | Path) -> int:
    return main(["generate-manifest", *map(str, arguments)])


def expected_block(root: Path, kind: str = "full", size: str = "119 B") -> str:
    path = root / f".runicorn/{kind}_manifest.json"
    manifest = read_manifest(path)
    return f"""\
{RULE}
Manifest Generation Complete
{RULE}
Type:          {kind}
Output:        {path}
Compressed:    {path}.gz
Revision:      {manifest.revision}
Snapshot ID:   {manifest.snapshot_id}
Experiments:   1
Files:         5
Total Size:    {size}
{RULE}
"""


@pytest.mark.parametrize("option", [None, "--full"])
def test_the_result_block(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str | None) -> None:
    make_run(tmp_path)
    total = sum(path.stat().st_size for path in (tmp_path / "vision").rglob("*") if path.is_file())
    assert run("--root", tmp_path, *([option] if option else [])) == 0
    assert capsys.readouterr() == (expected_block(tmp_path, size=f"{total} B"), "")


def test_the_root_is_the_current_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run() == 0
    assert f"Output:        {tmp_path}/.runicorn/full_manifest.json\n" in capsys.readouterr().out


def test_active(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = make_run(tmp_path)
    assert run("--root", tmp_path, "--active", "--active-window", "5000") == 0
    assert "Type:          active\n" in capsys.readouterr().out
    assert read_manifest(tmp_path / ".runicorn/active_manifest.json").header.active_window == 5000
    for path in run_folder.rglob("*"):
        os.utime(path, (5, 5))
    assert run("--root", tmp_path, "--active") == 0
    assert "Experiments:   0\n" in capsys.readouterr().out


def test_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "root")
    target = tmp_path / "m.json"
    assert run("--root", tmp_path / "root", "--output", target) == 0
    shown = capsys.readouterr().out
    assert f"Output:        {target}\nCompressed:    {target}.gz\n" in shown
    assert read_manifest(target).total_files == 5


def test_no_incremental(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    real = ManifestGenerator.publish

    def publish(self: ManifestGenerator, *args: object) -> object:
        seen.append(self.incremental)
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ManifestGenerator, "publish", publish)
    run("--root", tmp_path, "--no-incremental")
    run("--root", tmp_path)
    assert seen == [False, True]


def test_verbose_logs_on_stderr(tmp_path: Path) -> None:
    make_run(tmp_path)
    write(tmp_path / "a\nb/n/runs/r/meta.json", "{}")
    command = [sys.executable, "-m", "runicorn", "generate-manifest", "--root", str(tmp_path), "--verbose"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 3
    assert result.stdout.startswith(RULE)
    assert "DEBUG" not in result.stdout
    assert re.search(r"DEBUG .*: read 5 files, \d+ bytes\n", result.stderr)
    assert "inherited 0 files" in result.stderr
    assert re.search(r"scanned 1 runs in \d+\.\d+ s", result.stderr)
    assert r"problem: a\x0ab: unsafe_name: it holds the character \x0a" in result.stderr


def test_verbose_without_a_journal_removes_the_one_that_is_there(tmp_path: Path) -> None:
    make_run(tmp_path)
    command = [sys.executable, "-m", "runicorn", "generate-manifest", "--root", str(tmp_path), "--verbose"]
    for more in ([], ["--no-journal"], ["--no-journal"]):
        result = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / ".runicorn/journal").exists() is not bool(more)
        assert ("journal: epoch" in result.stderr) is not bool(more)


def test_problems_are_named_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path)
    for number in range(25):
        (folder / f"media/{number:02d}\x1b").symlink_to("/")
        (folder / f"media/{number:02d}.png").symlink_to("/etc/hostname")
    assert run("--root", tmp_path) == 3
    out, err = capsys.readouterr()
    assert out.startswith(RULE)
    lines = err.splitlines()
    assert len(lines) == 21
    assert lines[0] == (
        r"runicorn: vision/resnet/runs/r1/media/00\x1b: link: "
        "a link is not followed"
    )
    assert lines[1] == "runicorn: vision/resnet/runs/r1/media/00.png: link: a link is not followed"
    assert lines[-1] == "runicorn: ... and 30 more: see the manifest"
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--active", "--full"], 2, "Error: --active and --full exclude each other"),
        (["--active-window", "-1"], 2, "runicorn: the active window cannot be negative"),
        (["--active-window", "x"], 2, "Error: Invalid value for '--active-window'"),
        (["--lock-timeout", "-1"], 2, "runicorn: the waiting time for the lock cannot be negative"),
        (["--lock-timeout", "nan"], 2, "runicorn: the waiting time for the lock cannot be negative"),
        (["--nonsense"], 2, "Error: No such option"),
        (["extra"], 2, "Error: Got unexpected extra argument"),
        (["--root", "missing"], 1, "runicorn: the root '{}/missing' does not exist"),
        (["--root", "file"], 1, "runicorn: the root '{}/file' is not a folder"),
        (["--root", "new\nline"], 1, r"runicorn: the root '{}/new\x0aline' does not exist"),
        (["--output", "file/m.json"], 1, "runicorn: cannot make the folder 'file'"),
        (["--output", "x.gz"], 2, "runicorn: the manifest cannot be written to 'x.gz'"),
        (["--output", "."], 2, "runicorn: the manifest cannot be written to '.'"),
    ],
)
def test_errors_are_one_clear_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    write(tmp_path / "file", "x")
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message.format(tmp_path) in err
    assert "Traceback" not in err
    if message.startswith("runicorn:"):
        assert err.startswith("runicorn: ")
        assert len([line for line in err.splitlines() if not line.startswith("hint: ")]) == 1
    assert sorted(inside(tmp_path)) == ["file"]


def test_a_busy_generator_has_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from runicorn.manifest.generator_lock import generator_lock

    make_run(tmp_path)
    run("--root", tmp_path)
    capsys.readouterr()
    with generator_lock(tmp_path / ".runicorn", 0, lambda: None):
        assert run("--root", tmp_path, "--lock-timeout", "0.1") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        "runicorn: another generator has worked on the same root for 0.1 s\nhint: wait until it has ended"
        in err
    )


def test_help_names_every_option_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    options = [
        "root",
        "output",
        "active",
        "full",
        "active-window",
        "no-incremental",
        "verbose",
        "lock-timeout",
    ]
    assert all(f"--{name}" in shown for name in options)
    assert "Examples:" in shown
    assert all(re.search(rf"^  *{code}  ", shown, re.MULTILINE) for code in (0, 1, 2, 3, 130))


def test_version_and_help_of_the_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"runicorn, version {__version__}\n"
    assert main(["--help"]) == 0
    assert "generate-manifest" in capsys.readouterr().out
    assert main(["nonsense"]) == 2
    assert "No such command" in capsys.readouterr().err


class Failing:
    """Stands for a command: ends with a given exception."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.error = error
        monkeypatch.setattr("runicorn.cli.generate_manifest.run", self)

    def __call__(self, options: object) -> int:
        del options
        raise self.error


def test_texts_of_errors_are_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Failing(monkeypatch, RunicornError("bad \x1b[31m\nname \\x0a", hint="do\x07 this"))
    assert run() == 1
    assert capsys.readouterr().err == "runicorn: bad \\x1b[31m\\x0aname \\x0a\nhint: do\\x07 this\n"


def test_an_unexpected_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Failing(monkeypatch, ZeroDivisionError("oops\n"))
    monkeypatch.delenv(runicorn.cli.DEBUG_VARIABLE, raising=False)
    assert run() == 1
    assert capsys.readouterr() == ("", "runicorn: internal error: ZeroDivisionError: oops\\x0a\n")
    monkeypatch.setenv(runicorn.cli.DEBUG_VARIABLE, "1")
    with pytest.raises(ZeroDivisionError):
        run()


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Failing(monkeypatch, KeyboardInterrupt())
    assert run() == 130
    assert capsys.readouterr().err.strip() == "runicorn: stopped"


def test_the_handler_of_sigterm_is_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run("--root", tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_has_gone_is_no_traceback(tmp_path: Path) -> None:
    make_run(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "runicorn", "generate-manifest", "--root", str(tmp_path)]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, b"")
    assert read_manifest(tmp_path / ".runicorn/full_manifest.json").total_files == 5
    assert temps(tmp_path) == []


def test_generating_does_not_load_the_client() -> None:
    code = "import sys, runicorn.cli.generate_manifest; print('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(result.stdout.split())
    assert "runicorn.cli.generate_manifest" in loaded
    assert not {"runicorn.remote_storage", "paramiko", "rich", "runicorn.cli.sync", "socket"} & loaded


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KB"),
        (1536, "1.50 KB"),
        (1024**2 - 1, "1.00 MB"),
        (1024**2, "1.00 MB"),
        (1320702444, "1.23 GB"),
        (5 * 1024**4, "5.00 TB"),
        (5000 * 1024**4, "5000.00 TB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text
