"""Every fenced block of the documents is checked by its language.

- ``bash``, ``console`` (lines after ``$ ``; the rest is their output), ``crontab``: each command is run;
- ``python``: is executed; ``ini``: is parsed, and its ``ExecStart`` run; ``sshconfig``: is parsed by ssh;
  ``sshdconfig``: a sync from a real sshd with it, but for the chroot, which takes root.
- a block of any other language, or one under ``<!-- not executed: reason -->``, is counted in NOT_EXECUTED.

The server that they speak of is an `Arena`; its module says what stands for what. The output of a command is
compared after numbers, sizes and identifiers were blotted out.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from runicorn.cli.root_status import metrics_text
from runicorn.manifest.status import root_status
from testbed.sshd import Sshd
from tests.docs.arena import SENTINEL, Arena
from tests.docs.pages import COMMAND_SECONDS, NOT_EXECUTED, PAGES, PROJECT_ROOT, Block, blocks, checked, read


def _blotted(text: str) -> list[str]:
    """Lines without what differs from run to run."""
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID", text)
    text = re.sub(r"\d+(\.\d+)? ([KMGT]?B)\b", "SIZE", text)
    text = re.sub(r"\d+(\.\d+)?", "N", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_every_page_is_known() -> None:
    pages = {
        "README.md",
        *(path.relative_to(PROJECT_ROOT).as_posix() for path in (PROJECT_ROOT / "docs").rglob("*.md")),
    }
    assert pages == set(PAGES)


def test_blocks_that_nobody_runs_are_counted() -> None:
    found = Counter(block.page for page in PAGES for block in blocks(page) if not block.is_checked)
    assert {page: found[page] for page in PAGES} == NOT_EXECUTED


def _commands(text: str) -> Iterator[str]:
    """The commands of a bash block, without comments, continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s+)#\s.*$", "", line).strip()
        if command:
            yield command


@pytest.mark.parametrize("page", sorted({block.page for block in checked("bash", "crontab")}))
def test_commands_of_a_page_run_one_after_the_other(page: str, arena: Arena) -> None:
    arena.publish()
    for block in blocks(page):
        if not block.is_checked:
            continue
        if block.language == "bash":
            for command in _commands(block.text):
                arena.run(command)
        elif block.language == "crontab":
            for line in _commands(block.text):
                arena.run(line.split(maxsplit=5)[5])


@pytest.mark.parametrize("page", sorted({block.page for block in checked("console")}))
def test_sessions_of_a_page_print_what_they_show(page: str, arena: Arena) -> None:
    for block in blocks(page):
        if block.language != "console" or not block.is_checked:
            continue
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            assert _blotted(arena.run(command)) == _blotted(shown), f"{block}: {command}"


@pytest.fixture
def connecting_to_the_arena(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made: list[paramiko.SSHClient] = []

    class ArenaClient(paramiko.SSHClient):
        def load_system_host_keys(self, filename: Any = None) -> None:
            assert filename is None
            super().load_system_host_keys(str(arena.server.known_hosts))

        def connect(self, hostname: str, **kwargs: Any) -> None:  # type: ignore[override]
            assert not kwargs, f"{hostname} with {kwargs}"
            made.append(self)
            super().connect(
                arena.server.host,
                port=arena.server.port,
                username=arena.server.user,
                key_filename=str(arena.server.client_key),
                allow_agent=False,
                look_for_keys=False,
                timeout=COMMAND_SECONDS,
            )

    monkeypatch.setattr(paramiko, "SSHClient", ArenaClient)
    monkeypatch.chdir(arena.work)
    yield
    for client in made:
        client.close()


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("connecting_to_the_arena")
@pytest.mark.parametrize("block", checked("python"), ids=str)
def test_python_block_runs(block: Block, arena: Arena, capsys: pytest.CaptureFixture[str]) -> None:
    on_the_client = "remote_storage" in block.text
    if on_the_client:
        arena.publish()
    code = block.text.replace(f'Path("{SENTINEL}")', f"Path({str(arena.root)!r})")
    exec(compile(code, str(block), "exec"), {"__name__": "__main__"})
    if on_the_client:
        assert list(arena.work.rglob("status.json")), "it has mirrored nothing"
        assert list(arena.work.rglob(".runicorn/state.db"))
    else:
        assert list(arena.root.glob(".runicorn/*_manifest.json")), "it has published nothing"
    printed = capsys.readouterr()
    assert printed.err == ""


@pytest.mark.parametrize("block", checked("ini"), ids=str)
def test_systemd_unit_is_one_and_its_command_runs(block: Block, arena: Arena) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block.text)
    assert "Unit" in unit
    if "Service" in unit:
        arena.run(unit["Service"]["ExecStart"])
        assert (arena.root / ".runicorn/full_manifest.json").is_file()
        assert arena.here(unit["Service"]["ReadWritePaths"]) == str(arena.root / ".runicorn")
    else:
        assert unit["Install"]["WantedBy"] == "timers.target"


@pytest.mark.parametrize("block", checked("sshconfig"), ids=str)
def test_ssh_configuration_is_one(block: Block, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(block.text, encoding="utf-8")
    keywords = {line.split()[0].lower() for line in block.text.splitlines()} - {"host"}
    told, untold = ({key: asked[key] for key in keywords} for asked in (ssh_told(config), ssh_told("none")))
    assert all(told[key] != untold[key] for key in keywords)


def ssh_told(config: Path | str) -> dict[str, str]:
    """What ssh makes of a configuration; an option that it does not show is empty."""
    done = subprocess.run(
        ["ssh", "-G", "-F", config, "gpu1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return defaultdict(str, (line.partition(" ")[::2] for line in done.stdout.splitlines()))


@pytest.mark.parametrize("block", checked("sshdconfig"), ids=str)
def test_account_of_sftp_alone_can_be_synced_from(block: Block, arena: Arena) -> None:
    arena.publish()
    match, *lines = [line.strip() for line in block.text.splitlines()]
    assert match.startswith("Match Group ")
    kept = [line for line in lines if not line.startswith("ChrootDirectory ")]
    assert len(kept) == len(lines) - 1
    with Sshd(extra_config=["Match all", *kept]) as sshd:
        ssh = [*sshd.ssh_command, sshd.host]
        done = subprocess.run(
            [*ssh, "echo a shell"],
            check=False,
            input="",
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert "a shell" not in done.stdout
        ssh[0] = str(shutil.which("ssh"))  # not the arena's
        arena.run(
            f"runicorn sync {ssh.pop(-1)}:{arena.root} ./experiments --ssh {shlex.quote(shlex.join(ssh))}"
        )
    assert list(arena.work.rglob("status.json"))


def test_gauges_that_the_monitoring_names_are_those_that_are_written(arena: Arena) -> None:
    arena.publish()
    written = re.findall(r"^# TYPE (\w+) gauge$", metrics_text(root_status(arena.root)), re.MULTILINE)
    named = re.findall(r"^\| `(runicorn_\w+)` \|", read("docs/howto/monitoring.md"), re.MULTILINE)
    assert named == written


def test_fields_that_the_monitoring_asks_for_exist(arena: Arena) -> None:
    arena.publish()
    manifest = json.loads((arena.root / ".runicorn/full_manifest.json").read_bytes())
    filters = re.findall(r"^jq '([^']+)'", read("docs/howto/monitoring.md"), re.MULTILINE)
    assert filters
    asked = {name for each in filters for name in re.findall(r"\.(\w+)", each)}
    manifest.setdefault("problems", [])  # left out when there is none
    assert asked <= set(manifest)
