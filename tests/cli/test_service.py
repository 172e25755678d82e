"""Units, cron lines and tasks: only where nothing else lies, and accepted by systemd itself."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from runicorn.cli import main
from runicorn.cli.service_units import (
    Plan,
    cron_line,
    leaving_lines,
    plan_lines,
    quoted,
    recommended_interval,
    require_plain,
    span,
    units,
    windows_task,
)
from runicorn.errors import UsageError
from tests.manifest.helpers import generate, make_run

NASTY = ["plain", "a b", "100%", 'say "hi"', "it's", "back\\slash", "$HOME", "-dash", "späth", "a;b #c"]


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


FIRST = "# Written by `runicorn service install`. Root: /data/a b\n"
HARDENED = """NoNewPrivileges=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX
SystemCallArchitectures=native
"""
HARDENED_BY_THE_SYSTEM = (
    HARDENED
    + """ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
PrivateTmp=yes
PrivateDevices=yes
CapabilityBoundingSet=
ProtectSystem=strict
ReadWritePaths="/data/a b/.runicorn"
"""
)
WATCHING = """Restart=always
RestartSec=10s
# 2: wrong usage; the same again would not help
RestartPreventExitStatus=2
WatchdogSec=10min
TimeoutStartSec=30min
TimeoutStopSec=10min
"""


def a_plan(every: int | None, *, system: bool = True, user: str = "mluser", root: str = "/data/a b") -> Plan:
    return Plan(root, ("/usr/bin/runicorn", "--x"), "runicorn-manifest", every, system, user)


def test_all_lines_of_a_watching_unit() -> None:
    assert units(a_plan(None)) == {
        "runicorn-manifest.service": FIRST
        + """[Unit]
Description=Runicorn Manifest Generation
RequiresMountsFor="/data/a b"
StartLimitIntervalSec=0

[Service]
Type=notify
User=mluser
UMask=0022
Nice=10
"""
        + WATCHING
        + HARDENED_BY_THE_SYSTEM
        + """ExecStart="/usr/bin/runicorn" "--x" "generate-manifest" "--watch" "--root" "/data/a b"

[Install]
WantedBy=multi-user.target
"""
    }


def test_all_lines_of_a_timer_and_its_unit_for_a_user() -> None:
    assert units(a_plan(5400, system=False)) == {
        "runicorn-manifest.service": FIRST
        + """[Unit]
Description=Runicorn Manifest Generation
RequiresMountsFor="/data/a b"

[Service]
Type=oneshot
UMask=0022
Nice=10
# 3: published, but something could not be listed
SuccessExitStatus=3
TimeoutStartSec=30min
"""
        + HARDENED
        + """ExecStart="/usr/bin/runicorn" "--x" "generate-manifest" "--full" "--root" "/data/a b"
""",
        "runicorn-manifest.timer": FIRST
        + """[Unit]
Description=Runicorn Manifest Generation Timer

[Timer]
OnBootSec=2min
OnUnitActiveSec=90min

[Install]
WantedBy=timers.target
""",
    }


def service_of(plan: Plan) -> list[str]:
    return units(plan)["runicorn-manifest.service"].splitlines()


def test_watching_unit_of_a_user_belongs_to_the_default_target() -> None:
    assert service_of(a_plan(None, system=False))[-1] == "WantedBy=default.target"


@pytest.mark.parametrize(
    ("user", "set_"), [("root", "CAP_DAC_READ_SEARCH"), ("", "CAP_DAC_READ_SEARCH"), ("u", "")]
)
def test_only_root_keeps_a_capability(user: str, set_: str) -> None:
    lines = service_of(a_plan(300, user=user))
    assert f"CapabilityBoundingSet={set_}" in lines
    assert [line for line in lines if line.startswith("User=")] == ([f"User={user}"] if user else [])


def test_writable_folder_is_that_of_the_root() -> None:
    assert 'ReadWritePaths="/.runicorn"' in service_of(a_plan(300, root="/"))
    assert 'ReadWritePaths="/a/.runicorn"' in service_of(a_plan(300, root="/a/"))
    assert 'ReadWritePaths="/$a%%/.runicorn"' in service_of(a_plan(300, root="/$a%"))


@pytest.mark.parametrize(
    ("root", "program", "hidden"),
    [
        ("/tmp", "/usr/bin/r", ["PrivateDevices=yes"]),
        ("/tmpx", "/usr/bin/r", ["PrivateTmp=yes", "PrivateDevices=yes"]),
        ("/dev/shm/runs", "/usr/bin/r", ["PrivateTmp=yes"]),
        ("/data", "/dev/r", ["PrivateTmp=yes"]),
    ],
)
def test_folders_that_are_hidden(root: str, program: str, hidden: list[str]) -> None:
    text = units(Plan(root, (program,), "n", None, True, "u"))["n.service"]
    assert [line for line in text.splitlines() if line.startswith("Private")] == hidden


def test_variables_are_doubled_in_arguments_but_not_in_a_program() -> None:
    assert quoted('a"$%\\') == '"a\\"$%%\\\\"'
    assert quoted('a"$%\\', dollars=True) == '"a\\"$$%%\\\\"'
    lines = service_of(Plan("/r$", ("/a$b",), "runicorn-manifest", None, True, ""))
    assert lines[-4] == 'ExecStart="/a$b" "generate-manifest" "--watch" "--root" "/r$$"'
    lines = service_of(Plan("/r", ("/a'$",), "runicorn-manifest", None, True, ""))
    assert lines[-4].startswith("""ExecStart=/usr/bin/env "/a'$$" "generate-manifest" """)


def test_program_that_systemd_cannot_run_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^systemd cannot run a program of the name '/a\\\\=b'$"):
        units(Plan("/r", ("/a\\=b",), "n", None, True, ""))
    units(Plan("/r", ("/a=b",), "n", None, True, ""))


@pytest.mark.parametrize("character", ["\0", "\x1f", "\x7f", "\x9f", chr(0xD800), chr(0xDFFF)])
def test_characters_that_a_unit_cannot_hold(character: str) -> None:
    for plan in (
        Plan(f"/a{character}", ("/p",), "n", 60, True, ""),
        Plan("/a", ("/p", character), "n", 60, True, ""),
    ):
        with pytest.raises(UsageError, match=r"^'[ -~]*' has characters that a unit cannot hold$"):
            units(plan)
    for write in (cron_line, windows_task):
        with pytest.raises(UsageError, match=r"^'/a[ -~]*' has characters that a unit cannot hold$"):
            write(Plan(f"/a{character}", ("/p",), "n", 60, True, ""))


@pytest.mark.parametrize("character", [" ", "~", "\xa0", "\ud7ff", "\ue000"])
def test_characters_that_a_unit_can_hold(character: str) -> None:
    require_plain(f"/a{character}")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1s"), (59, "59s"), (60, "1min"), (61, "61s"), (3600, "1h"), (5400, "90min"), (86400, "24h")],
)
def test_span_is_written_in_one_unit(seconds: int, text: str) -> None:
    assert span(seconds) == text


def test_watching_unit_is_supervised_and_hardened() -> None:
    plan = Plan("/data/a b", ("/usr/local/bin/runicorn",), "runicorn-manifest", None, True, "mluser")
    lines = units(plan)["runicorn-manifest.service"].splitlines()
    wanted = {
        "Type=notify",
        "WatchdogSec=10min",
        "User=mluser",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "PrivateTmp=yes",
        "CapabilityBoundingSet=",
        'ReadWritePaths="/data/a b/.runicorn"',
        "WantedBy=multi-user.target",
    }
    assert wanted <= set(lines)
    assert sum(line.startswith("ReadWritePaths") for line in lines) == 1


@pytest.mark.parametrize(("root", "program"), [("/var/tmp/runs", "/usr/bin/r"), ("/data", "/tmp/venv/bin/r")])
def test_private_folders_that_would_hide_what_is_needed_are_left_out(root: str, program: str) -> None:
    shown = units(Plan(root, (program,), "n", None, True, "mluser"))["n.service"]
    assert "PrivateTmp" not in shown
    assert "PrivateDevices=yes" in shown


@pytest.mark.parametrize(("runs", "seconds"), [(0, 300), (99, 300), (100, 600), (500, 600), (501, 900)])
def test_recommended_interval(runs: int, seconds: int) -> None:
    assert recommended_interval(runs) == seconds


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


def as_cron_does(command: str) -> str:
    """What cron hands to the shell: characters are paired with a backslash before them, and of a pair with a
    percent sign the backslash goes; a percent sign by itself ends the command."""
    parts = re.findall(r"(\\.|[^\\])", command)
    assert "%" not in parts, command
    return "".join("%" if each == "\\%" else each for each in parts)


def test_cron_gets_the_command_as_a_shell_would() -> None:
    for name in [*NASTY, "back\\%", "two\\\\%s", "it's\\%'%"]:
        plan = Plan(f"/data/{name}", ("/usr/bin/runicorn",), "n", 300, True, "")
        schedule, command = cron_line(plan)[:12], cron_line(plan)[12:]
        assert schedule == "*/5 * * * * "
        seen = shlex.split(as_cron_does(command))
        assert seen == [*plan.command, ">", "/dev/null"]


@pytest.mark.parametrize(
    ("every", "begins"),
    [
        (60, "*/1 * * * * "),
        (3540, "*/59 * * * * "),
        (3600, "0 */1 * * * "),
        (7200, "0 */2 * * * "),
        (82800, "0 */23 * * * "),
        (None, "@reboot "),
    ],
)
def test_cron_schedules(every: int | None, begins: str) -> None:
    plan = Plan("/data", ("/usr/bin/runicorn",), "n", every, True, "")
    assert cron_line(plan) == begins + shlex.join(plan.command) + " > /dev/null"


@pytest.mark.parametrize(
    ("every", "shown"), [(90, "90s"), (0, "0h"), (5400, "90min"), (86400, "24h"), (3601, "3601s")]
)
def test_cron_refuses_what_it_cannot_do(every: int, shown: str) -> None:
    with pytest.raises(UsageError, match=f"^cron cannot run something every {shown}$"):
        cron_line(Plan("/data", ("/usr/bin/runicorn",), "n", every, True, ""))


@pytest.mark.parametrize("every", [30, 59])
def test_windows_refuses_what_it_cannot_do(every: int) -> None:
    with pytest.raises(
        UsageError, match=f"^Windows cannot run something every {every}s: a minute is the least$"
    ):
        windows_task(Plan("/data", ("/usr/bin/runicorn",), "n", every, True, ""))
    windows_task(Plan("/data", ("/usr/bin/runicorn",), "n", 60, True, ""))


@pytest.mark.parametrize(
    ("every", "limit", "trigger"),
    [
        (None, "PT0S", "<LogonTrigger/>"),
        (
            300,
            "PT30M",
            "<TimeTrigger><StartBoundary>2020-01-01T00:00:00</StartBoundary>"
            "<Repetition><Interval>PT300S</Interval></Repetition></TimeTrigger>",
        ),
    ],
)
def test_windows_task_begins_and_ends_by_its_trigger(every: int | None, limit: str, trigger: str) -> None:
    task = windows_task(Plan("/data", ("/usr/bin/runicorn",), "n", every, True, ""))
    assert f"<Triggers>{trigger}</Triggers>" in task
    assert f"<ExecutionTimeLimit>{limit}</ExecutionTimeLimit>" in task
    assert task.startswith('<?xml version="1.0"?>\n<Task version="1.2" ')
    arguments = subprocess.list2cmdline(["--exec", "/usr/bin/runicorn", "generate-manifest"])
    assert f"<Command>wsl.exe</Command><Arguments>{arguments} " in task


def test_commands_for_a_manager() -> None:
    files = ["n.service", "n.timer"]
    assert plan_lines(files, [], a_plan(300)) == [
        "systemctl daemon-reload",
        "systemctl enable n.timer",
        "systemctl restart n.timer",
    ]
    assert plan_lines(["n.service"], ["n.timer", "n.service"], a_plan(None, system=False)) == [
        "systemctl --user stop n.timer",
        "systemctl --user disable n.timer",
        "systemctl --user daemon-reload",
        "systemctl --user enable n.service",
        "systemctl --user restart n.service",
    ]
    assert plan_lines(files, files, a_plan(300))[0] == "systemctl stop n.service"
    assert leaving_lines(["a", "b"], system=True) == [
        f"systemctl {how} {each}" for each in "ab" for how in ("stop", "disable")
    ]
    assert leaving_lines(["a"], system=False) == ["systemctl --user stop a", "systemctl --user disable a"]


@pytest.mark.parametrize("every", [None, 300])
def test_windows_task_is_xml_with_the_command(every: int | None) -> None:
    plan = Plan('/data/a & "b" <c>', ("/usr/bin/runicorn",), "n", every, True, "")
    space = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
    task = ET.fromstring(windows_task(plan))
    found = task.find(f"{space}Actions/{space}Exec/{space}Arguments")
    assert found is not None
    assert found.text == subprocess.list2cmdline(["--exec", *plan.command])
    interval = task.find(f".//{space}Interval")
    assert (interval.text if interval is not None else None) == (None if every is None else "PT300S")


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
