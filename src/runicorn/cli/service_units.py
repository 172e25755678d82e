"""What lets a server publish by itself, as text: units of systemd, lines of cron, a task of Windows. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from subprocess import list2cmdline
from typing import NamedTuple
from xml.sax.saxutils import escape as xml_escape

from runicorn.errors import UsageError
from runicorn.manifest.rules import escape, visible

MARK = "# Written by `runicorn service install`. Root: "
"""How the first line of each unit begins; the root follows."""

_REFUSED = frozenset("\"'\\")
"""Characters that systemd refuses in the name of a program, however they are written."""

_HIDDEN_BY = {"PrivateTmp": ("/tmp", "/var/tmp"), "PrivateDevices": ("/dev",)}  # noqa: S108 - what it hides

_HARDENED = (
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "ProtectClock",
    "ProtectHostname",
    "RestrictNamespaces",
)
_HARDENED_EVERYWHERE = ("NoNewPrivileges", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality")


class Plan(NamedTuple):
    """What is to run, and when.

    Attributes:
        root: the folder that holds all runs, absolute.
        program: the command, without arguments.
        name: of the units, without ending.
        every: seconds between two generations; None watches.
        system: whether it is for the system's manager, or for that of a user.
        user: who it runs as, for the system's manager; empty for root.
    """

    root: str
    program: tuple[str, ...]
    name: str
    every: int | None
    system: bool
    user: str

    @property
    def command(self) -> list[str]:
        """Program and arguments."""
        how = ["--full"] if self.every is not None else ["--watch"]
        return [*self.program, "generate-manifest", *how, "--root", self.root]


def recommended_interval(runs: int) -> int:
    """Seconds between two generations, by the number of runs."""
    if runs < 100:
        return 300
    return 600 if runs <= 500 else 900


def require_plain(path: str) -> None:
    """Refuse a path that no unit can hold.

    Raises:
        UsageError: it has control characters or is not UTF-8.
    """
    if any(ord(each) < 32 or 127 <= ord(each) < 160 or 0xD800 <= ord(each) < 0xE000 for each in path):
        raise UsageError(f"'{escape(path)}' has characters that a unit cannot hold")


def quoted(text: str, *, dollars: bool = False) -> str:
    """A word of a unit's line (systemd.syntax(7)).

    Args:
        text: the word.
        dollars: whether variables are replaced there: in arguments of a command, not in its program.
    """
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + (text.replace("$", "$$") if dollars else text) + '"'


def units(plan: Plan) -> dict[str, str]:
    """The units by file name.

    Raises:
        UsageError: a path cannot stand in a unit.
    """
    for each in (plan.root, *plan.program):
        require_plain(each)
    made = {f"{plan.name}.service": _service(plan)}
    if plan.every is not None:
        made[f"{plan.name}.timer"] = _timer(plan, plan.every)
    return made


def mark_of(root: str) -> str:
    """The first line of the units of a root."""
    return MARK + visible(root)


def _program(path: str) -> str:
    if not _REFUSED & set(path):
        return quoted(path)
    if "=" in path:  # env would take it for a variable
        raise UsageError(f"systemd cannot run a program of the name '{escape(path)}'")
    return f"/usr/bin/env {quoted(path, dollars=True)}"


def _timer(plan: Plan, every: int) -> str:
    return "\n".join(
        [
            mark_of(plan.root),
            "[Unit]",
            "Description=Runicorn Manifest Generation Timer",
            "",
            "[Timer]",
            "OnBootSec=2min",
            f"OnUnitActiveSec={span(every)}",
            "",
            "[Install]",
            "WantedBy=timers.target",
            "",
        ]
    )


def span(seconds: int) -> str:
    """A time as systemd writes it, in one unit."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _service(plan: Plan) -> str:
    program, *arguments = plan.command
    command = " ".join([_program(program), *(quoted(each, dollars=True) for each in arguments)])
    watches = plan.every is None
    lines = [mark_of(plan.root), "[Unit]", "Description=Runicorn Manifest Generation"]
    lines.append(f"RequiresMountsFor={quoted(plan.root)}")
    lines += ["StartLimitIntervalSec=0"] if watches else []
    lines += ["", "[Service]", f"Type={'notify' if watches else 'oneshot'}"]
    lines += [f"User={plan.user}"] if plan.system and plan.user else []
    lines += ["UMask=0022", "Nice=10"]
    lines += _WATCHING if watches else _ONCE
    lines += _hardening(plan)
    lines.append(f"ExecStart={command}")
    if watches:
        lines += ["", "[Install]", f"WantedBy={'multi-user' if plan.system else 'default'}.target"]
    return "\n".join([*lines, ""])


_ONCE = [
    "# 3: published, but something could not be listed",
    "SuccessExitStatus=3",
    "TimeoutStartSec=30min",
]
_WATCHING = [
    "Restart=always",
    "RestartSec=10s",
    "# 2: wrong usage; the same again would not help",
    "RestartPreventExitStatus=2",
    "WatchdogSec=10min",
    "TimeoutStartSec=30min",
    "TimeoutStopSec=10min",
]


def _hardening(plan: Plan) -> list[str]:
    lines = [f"{name}=yes" for name in _HARDENED_EVERYWHERE]
    lines += ["RestrictAddressFamilies=AF_UNIX", "SystemCallArchitectures=native"]
    if not plan.system:  # the rest needs a namespace of users there, in which foreign groups look alike
        return lines
    lines += [f"{name}=yes" for name in _HARDENED]
    for name, places in _HIDDEN_BY.items():
        if not any(_is_below(path, place) for path in (plan.root, plan.program[0]) for place in places):
            lines.append(f"{name}=yes")
    lines.append("CapabilityBoundingSet=" + ("" if plan.user not in ("", "root") else "CAP_DAC_READ_SEARCH"))
    lines.append("ProtectSystem=strict")
    lines.append(f"ReadWritePaths={quoted(plan.root.rstrip('/') + '/.runicorn')}")
    return lines


def _is_below(path: str, place: str) -> bool:
    return PurePosixPath(path).is_relative_to(place)


def cron_line(plan: Plan) -> str:
    """A line of a crontab.

    Raises:
        UsageError: cron knows no such interval, or the path cannot stand there.
    """
    require_plain(plan.root)
    # Cron takes a percent sign for the end of the command, also within quotes, and two backslashes before it
    # for a pair: quotes that end and begin again keep the path's own one apart.
    command = shlex.join(plan.command).replace("\\%", "\\''%").replace("%", "\\%") + " > /dev/null"
    if plan.every is None:
        return f"@reboot {command}"
    minutes, rest = divmod(plan.every, 60)
    if rest == 0 and 0 < minutes < 60:
        return f"*/{minutes} * * * * {command}"
    hours, rest = divmod(plan.every, 3600)
    if rest == 0 and 0 < hours < 24:
        return f"0 */{hours} * * * {command}"
    raise UsageError(f"cron cannot run something every {span(plan.every)}")


def windows_task(plan: Plan) -> str:
    """A task for ``schtasks /Create /TN NAME /XML FILE``, which runs the generator in WSL.

    Raises:
        UsageError: Windows knows no such interval, or the path cannot stand there.
    """
    require_plain(plan.root)
    if plan.every is not None and plan.every < 60:
        raise UsageError(f"Windows cannot run something every {span(plan.every)}: a minute is the least")
    arguments = xml_escape(list2cmdline(["--exec", *plan.command]))
    return f"""<?xml version="1.0"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo><Description>Runicorn Manifest Generation</Description></RegistrationInfo>
  <Triggers>{_trigger(plan.every)}</Triggers>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <ExecutionTimeLimit>{"PT0S" if plan.every is None else "PT30M"}</ExecutionTimeLimit>
  </Settings>
  <Actions>
    <Exec><Command>wsl.exe</Command><Arguments>{arguments}</Arguments></Exec>
  </Actions>
</Task>
"""


def _trigger(every: int | None) -> str:
    if every is None:
        return "<LogonTrigger/>"
    start = "<StartBoundary>2020-01-01T00:00:00</StartBoundary>"
    return f"<TimeTrigger>{start}<Repetition><Interval>PT{every}S</Interval></Repetition></TimeTrigger>"


def plan_lines(files: Sequence[str], before: Sequence[str], plan: Plan) -> list[str]:
    """The commands that make a manager take the units up, also in the place of others of the same name.

    Args:
        files: the names of the units.
        before: the names of those that were there, with a plan that may have been another one.
        plan: what they are for.
    """
    systemctl = "systemctl" if plan.system else "systemctl --user"
    chosen = next((each for each in files if each.endswith(".timer")), files[0])
    lines = leaving_lines([each for each in before if each not in files], system=plan.system)
    lines += [f"{systemctl} stop {each}" for each in before if each in files and each != chosen]
    return [
        *lines,
        *(f"{systemctl} {how}" for how in ("daemon-reload", f"enable {chosen}", f"restart {chosen}")),
    ]


def leaving_lines(files: Sequence[str], *, system: bool) -> list[str]:
    """The commands that make a manager forget units whose files are gone.

    Stopping comes first and by itself: to disable what has no file is an error for some managers.
    """
    systemctl = "systemctl" if system else "systemctl --user"
    return [f"{systemctl} {how} {each}" for each in files for how in ("stop", "disable")]
