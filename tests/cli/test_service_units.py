"""The text of units, cron lines and tasks, to the last line."""

from __future__ import annotations

import re
import shlex
import subprocess
import xml.etree.ElementTree as ET

import pytest

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

NASTY = ["plain", "a b", "100%", 'say "hi"', "it's", "back\\slash", "$HOME", "-dash", "späth", "a;b #c"]
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
    assert 'ReadWritePaths="/X/.runicorn"' in service_of(a_plan(300, root="/X"))
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
    assert plan_lines(["n.service"], ["n.timer"], a_plan(None))[0] == "systemctl stop n.timer"
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
