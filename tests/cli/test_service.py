"""Units, cron lines and tasks: only where nothing else lies, and accepted by systemd itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runicorn.cli import main
from runicorn.cli.service_units import Plan, units
from tests.cli.test_service_units import NASTY
from tests.manifest.helpers import generate, make_run


def verify(folder: Path, *, user: bool = False) -> None:
    """What systemd says of the units in a folder: nothing."""
    # Sockets of the system's own units lie there, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="r-") as runtime:
        _verify(folder, runtime, user=user)


def _verify(folder: Path, runtime: str, *, user: bool) -> None:
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            "--recursive-errors=yes",
            *(["--user"] if user else []),
            *(str(path) for path in folder.iterdir() if path.is_file()),
        ],
        env=os.environ | {"XDG_RUNTIME_DIR": runtime, "SYSTEMD_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "units"


def install(root: Path, folder: Path, *options: str) -> int:
    return main(["service", "install", "--root", str(root), "--unit-dir", str(folder), *options])


@pytest.mark.parametrize("who", ["--system", "--user"])
@pytest.mark.parametrize("when", [["--watch"], ["--every", "5min"], ["--every", "90s"], []])
def test_units_are_accepted_by_systemd(tmp_path: Path, folder: Path, who: str, when: list[str]) -> None:
    root = tmp_path / "".join(name for name in NASTY if name != "-dash")
    make_run(root)
    assert install(root, folder, who, *when) == 0
    verify(folder, user=who == "--user")
    assert (root / ".runicorn").is_dir()


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("every", [None, 300])
def test_program_with_any_name_is_found_by_systemd(
    tmp_path: Path, folder: Path, name: str, every: int | None
) -> None:
    program = tmp_path / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    plan = Plan(str(tmp_path / name), (str(program),), "runicorn-manifest", every, True, "root")
    folder.mkdir()
    for file, text in units(plan).items():
        (folder / file).write_text(text)
    verify(folder)
    service = (folder / "runicorn-manifest.service").read_text()
    if "ExecStart=/usr/bin/env" in service:  # systemd looks no further
        assert set(name) & set("\"'\\")
        return
    program.chmod(0o644)
    with pytest.raises(AssertionError, match="1 != 0"):
        verify(folder)


def test_default_interval_follows_the_number_of_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(100):
        (tmp_path / f"p/n/runs/r{number}").mkdir(parents=True)
        (tmp_path / f"p/n/runs/r{number}/meta.json").write_text("{}")
    main(["service", "show", "--root", str(tmp_path)])
    assert "OnUnitActiveSec=5min" in capsys.readouterr().out
    generate(tmp_path)
    main(["service", "show", "--root", str(tmp_path)])
    assert "OnUnitActiveSec=10min" in capsys.readouterr().out


def test_show_writes_nothing(tmp_path: Path, folder: Path) -> None:
    before = [*tmp_path.rglob("*")]
    assert main(["service", "show", "--root", str(tmp_path), "--unit-dir", str(folder)]) == 0
    assert [*tmp_path.rglob("*")] == before


def test_commands_take_up_what_is_new_and_end_what_was_there(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path)

    def told(*arguments: str) -> list[str]:
        assert main(["service", *arguments, "--root", str(tmp_path), "--unit-dir", str(folder)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert {line.split()[0] for line in lines[lines.index("now run:") + 1 :]} == {"systemctl"}
        return [line.strip()[len("systemctl ") :] for line in lines[lines.index("now run:") + 1 :]]

    service, timer = "runicorn-manifest.service", "runicorn-manifest.timer"
    assert told("install", "--every", "5min") == ["daemon-reload", f"enable {timer}", f"restart {timer}"]
    leave_timer = [f"stop {timer}", f"disable {timer}"]
    take_up = ["daemon-reload", f"enable {service}", f"restart {service}"]
    assert told("install", "--watch") == [*leave_timer, *take_up]
    assert told("install", "--watch") == take_up
    again = told("install", "--every", "5min")
    assert again == [f"stop {service}", "daemon-reload", f"enable {timer}", f"restart {timer}"]
    leave = [f"stop {service}", f"disable {service}", *leave_timer]
    assert told("remove") == [*leave, "daemon-reload"]


def test_installing_again_changes_what_is_ours(tmp_path: Path, folder: Path) -> None:
    make_run(tmp_path)
    assert install(tmp_path, folder, "--every", "5min") == 0
    assert {path.name for path in folder.iterdir()} == {
        "runicorn-manifest.service",
        "runicorn-manifest.timer",
    }
    assert install(tmp_path, folder, "--watch") == 0
    assert [path.name for path in folder.iterdir()] == ["runicorn-manifest.service"]


@pytest.mark.parametrize("foreign", ["runicorn-manifest.service", "runicorn-manifest.timer"])
def test_unit_of_somebody_else_is_not_touched(
    tmp_path: Path, folder: Path, foreign: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path)
    folder.mkdir()
    (folder / foreign).write_text("[Unit]\n")
    for command in ("install", "remove"):
        arguments = ["service", command, "--root", str(tmp_path), "--unit-dir", str(folder)]
        assert main(arguments) == 1
        assert "was not written by this program" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [foreign]
    assert (folder / foreign).read_text() == "[Unit]\n"


def test_link_in_the_place_of_a_unit_is_not_followed(tmp_path: Path, folder: Path) -> None:
    make_run(tmp_path / "root")
    folder.mkdir()
    target = tmp_path / "target"
    target.write_text("mine")
    (folder / "runicorn-manifest.service").symlink_to(target)
    assert install(tmp_path / "root", folder, "--watch") == 1
    assert target.read_text() == "mine"


def test_units_of_another_root_need_another_name(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for root in (one, other):
        make_run(root)
    assert install(one, folder, "--watch") == 0
    assert install(other, folder, "--watch") == 1
    assert "is for another root" in capsys.readouterr().err
    assert install(other, folder, "--watch", "--name", "other") == 0
    assert main(["service", "remove", "--root", str(one), "--unit-dir", str(folder)]) == 0
    assert [path.name for path in folder.iterdir()] == ["other.service"]
    assert main(["service", "remove", "--root", str(one), "--unit-dir", str(folder)]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--watch", "--every", "5min"], "exclude each other"),
        (["--system", "--user"], "exclude each other"),
        (["--every", "5 weeks"], "no time from 10s to 24h"),
        (["--every", "1s"], "no time from 10s to 24h"),
        (["--name", "../x"], "a name of units"),
        (["--run-as", "a\nExecStart=/bin/sh"], "no name of a user"),
    ],
)
def test_wrong_usage_is_told_in_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "show", "--root", "/data", *options]) == 2
    assert message in capsys.readouterr().err


def test_root_that_would_write_lines_of_its_own_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "show", "--root", "/data/a\nExecStart=/bin/sh"]) == 2
    assert "characters that a unit cannot hold" in capsys.readouterr().err


def test_missing_root_is_no_root(tmp_path: Path, folder: Path) -> None:
    assert install(tmp_path / "nothing", folder) == 6
    assert not folder.exists()


def test_installed_program_is_the_one_that_was_called(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("runicorn")
    done = subprocess.run(
        [program, "service", "show", "--root", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f'ExecStart="{program}" "generate-manifest" "--full"' in done.stdout
