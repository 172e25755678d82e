"""README and docs are true: their code runs, their links lead somewhere, generated pages are fresh.

Every fenced block is checked by its language:

- ``bash``, ``console`` (lines after ``$ ``; the rest is their output), ``crontab``: each command is run;
- ``python``: is executed; ``ini``: is parsed, and its ``ExecStart`` run; ``sshconfig``: is parsed by ssh;
  ``sshdconfig``: a sync from a real sshd with it, but for the chroot, which takes root.
- A block of any other language, or one under ``<!-- not executed: reason -->``, is counted in NOT_EXECUTED.

Sentinels of the documents and what they stand for here, in an `Arena`:

- ``/data/experiments`` on the server, and where a host name stands in front of it: 24 runs in a temporary
  folder, which an embedded server shows under that very path;
- any host, user, port, identity and jump host: that server (the ``ssh`` on the PATH sees to it; paramiko's
  ``connect`` likewise);
- ``/usr/local/bin/``: where this environment's programs lie; the working folder and ``~``: temporary folders.
- ``--jitter``: no waiting.

The output of a command is compared after numbers, sizes and identifiers were blotted out.
"""

from __future__ import annotations

import ast
import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import paramiko
import pytest

from runicorn import errors
from runicorn.manifest import ManifestGenerator
from testbed.embedded import EmbeddedServer
from testbed.sshd import Sshd
from testbed.trees import make_tree

PROJECT_ROOT = Path(__file__).resolve().parents[1]
SENTINEL = "/data/experiments"
COMMAND_SECONDS = 30.0

NOT_EXECUTED = {
    "README.md": 1,
    "docs/api.md": 0,
    "docs/architecture.md": 1,
    "docs/cli.md": 14,
    "docs/client.md": 0,
    "docs/comparison.md": 0,
    "docs/examples.md": 0,
    "docs/howto/backups.md": 0,
    "docs/howto/filters.md": 0,
    "docs/howto/many-servers.md": 1,
    "docs/howto/monitoring.md": 2,
    "docs/howto/nfs.md": 0,
    "docs/howto/sftp-only.md": 0,
    "docs/howto/ssh.md": 1,
    "docs/howto/systemd.md": 1,
    "docs/index.md": 0,
    "docs/journal-format.md": 0,
    "docs/manifest-format.md": 0,
    "docs/performance.md": 1,
    "docs/python.md": 1,
    "docs/quickstart.md": 1,
    "docs/reliability.md": 0,
    "docs/server.md": 1,
    "docs/sync-json.md": 0,
    "docs/troubleshooting.md": 0,
}
"""How many blocks of each document nobody runs: pictures, help texts, and those that say why."""

PAGES = sorted(NOT_EXECUTED)
_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not executed: \S.*-->\n\Z")
_CHECKED = ("bash", "console", "crontab", "python", "ini", "sshconfig", "sshdconfig")

_DROP_JUMP_HOSTS = """#!/bin/sh
skip=
for argument do
  shift
  if [ "$skip" ]; then skip=; elif [ "$argument" = -J ]; then skip=1; else set -- "$@" "$argument"; fi
done
"""


class Block(NamedTuple):
    """A fenced block of a document."""

    page: str
    line: int
    language: str
    text: str
    is_marked: bool

    @property
    def is_checked(self) -> bool:
        return self.language in _CHECKED and not self.is_marked

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def _read(page: str) -> str:
    return (PROJECT_ROOT / page).read_text(encoding="utf-8")


def _blocks(page: str) -> list[Block]:
    text = _read(page)
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found[1],
            found[2],
            bool(_MARK.search(text, 0, found.start())),
        )
        for found in _FENCE.finditer(text)
    ]


def _checked(*languages: str) -> list[Block]:
    return [
        block for page in PAGES for block in _blocks(page) if block.is_checked and block.language in languages
    ]


# -- the arena ---------------------------------------------------------------------------------


class Arena:
    """A server as the documents speak of it, and a client's home; see the head of this module.

    Tree and server are made once; for each user of them nothing is published yet, and the home is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "served" / SENTINEL.lstrip("/")
        self.programs = folder / "bin"
        for each in (self.root, self.programs):
            each.mkdir(parents=True)
        make_tree(self.root, 24, files=6, running=4)
        self._served = folder / "served"

    @contextlib.contextmanager
    def serve(self) -> Iterator[Arena]:
        """Serve the root, and make the programs that lead to it."""
        with EmbeddedServer(self._served) as server:
            self.server = server
            ssh = f'exec /usr/bin/env PATH="$RUNICORN_TEST_PATH" {server.ssh_to_any_host} "$@"\n'
            self._make_program("ssh", _DROP_JUMP_HOSTS + ssh)
            self._make_program(
                "runicorn", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m runicorn "$@"\n'
            )
            self._make_program("python3", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
            yield self

    def begin(self, folder: Path) -> None:
        """Give a client a new home below `folder`, and forget what was published."""
        self.work, self.home = folder / "work", folder / "home"
        for each in (self.work, self.home):
            each.mkdir()
        shutil.rmtree(self.root / ".runicorn", ignore_errors=True)

    def publish(self) -> None:
        """Publish a full manifest."""
        ManifestGenerator(self.root).generate()

    def here(self, text: str) -> str:
        """A command with the server's paths as they are on this machine."""
        local = re.sub(r"(?<![\w:.\]/-])" + SENTINEL, str(self.root), text)
        local = re.sub(r"--jitter \d+", "--jitter 0", local)
        return local.replace("/usr/local/bin/", f"{self.programs}/")

    def run(self, command: str) -> str:
        """Run a command line of a document; returns its output, with the document's paths."""
        path = os.environ["PATH"]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(command)],
            check=False,
            cwd=self.work,
            env={
                "PATH": f"{self.programs}:{path}",
                "RUNICORN_TEST_PATH": path,
                "HOME": str(self.home),
                "COLUMNS": "80",
                "LC_ALL": "C.UTF-8",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"{command!r} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout.replace(str(self.root), SENTINEL)

    def _make_program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with Arena(tmp_path_factory.mktemp("arena")).serve() as made:
        yield made


@pytest.fixture
def arena(served: Arena, tmp_path: Path) -> Arena:
    served.begin(tmp_path)
    return served


def _blotted(text: str) -> list[str]:
    """Lines without what differs from run to run."""
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID", text)
    text = re.sub(r"\d+(\.\d+)? ([KMGT]?B)\b", "SIZE", text)
    text = re.sub(r"\d+(\.\d+)?", "N", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


# -- blocks ------------------------------------------------------------------------------------


def test_every_page_is_known() -> None:
    pages = {
        "README.md",
        *(path.relative_to(PROJECT_ROOT).as_posix() for path in (PROJECT_ROOT / "docs").rglob("*.md")),
    }
    assert pages == set(PAGES)


def test_blocks_that_nobody_runs_are_counted() -> None:
    found = Counter(block.page for page in PAGES for block in _blocks(page) if not block.is_checked)
    assert {page: found[page] for page in PAGES} == NOT_EXECUTED


def _commands(text: str) -> Iterator[str]:
    """The commands of a bash block, without comments, continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s+)#\s.*$", "", line).strip()
        if command:
            yield command


@pytest.mark.parametrize("page", sorted({block.page for block in _checked("bash", "crontab")}))
def test_commands_of_a_page_run_one_after_the_other(page: str, arena: Arena) -> None:
    arena.publish()
    for block in _blocks(page):
        if not block.is_checked:
            continue
        if block.language == "bash":
            for command in _commands(block.text):
                arena.run(command)
        elif block.language == "crontab":
            for line in _commands(block.text):
                arena.run(line.split(maxsplit=5)[5])


@pytest.mark.parametrize("page", sorted({block.page for block in _checked("console")}))
def test_sessions_of_a_page_print_what_they_show(page: str, arena: Arena) -> None:
    for block in _blocks(page):
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
@pytest.mark.parametrize("block", _checked("python"), ids=str)
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


@pytest.mark.parametrize("block", _checked("ini"), ids=str)
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


@pytest.mark.parametrize("block", _checked("sshconfig"), ids=str)
def test_ssh_configuration_is_one(block: Block, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(block.text, encoding="utf-8")
    done = subprocess.run(
        ["ssh", "-G", "-F", config, "gpu1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "controlmaster auto\n" in done.stdout


@pytest.mark.parametrize("block", _checked("sshdconfig"), ids=str)
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


def test_fields_that_the_monitoring_asks_for_exist(arena: Arena) -> None:
    arena.publish()
    manifest = json.loads((arena.root / ".runicorn/full_manifest.json").read_bytes())
    filters = re.findall(r"^jq '([^']+)'", _read("docs/howto/monitoring.md"), re.MULTILINE)
    assert filters
    asked = {name for each in filters for name in re.findall(r"\.(\w+)", each)}
    manifest.setdefault("problems", [])  # left out when there is none
    assert asked <= set(manifest)


# -- links, targets, messages ------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    titles = re.findall(
        r"^#+ (.+)$",
        re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL),
        re.MULTILINE,
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = PROJECT_ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", _read(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in _anchors(found), f"{page} links to {target}"


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_make_targets_and_paths_that_are_named_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", _read("Makefile"), re.MULTILINE))
    text = _read(page)
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.MULTILINE)) <= targets
    folders = "src|tests|testbed|benchmarks|demo|docs|scripts|examples"
    for name in re.findall(rf"`((?:{folders})(?:/[\w./-]+)?)`", text):
        is_written = name in ("benchmarks/results/", "docs/performance.json")  # by the benchmarks
        assert (PROJECT_ROOT / name).exists() or is_written, f"{page} names {name}"


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_tests_that_are_named_exist(page: str) -> None:
    for name, test in re.findall(r"`(tests/[\w./-]+\.py)::(\w+)`", _read(page)):
        source = (PROJECT_ROOT / name).read_text(encoding="utf-8")
        assert f"\ndef {test}(" in source, f"{page} names {name}::{test}"


def test_every_class_of_attacks_has_its_tests() -> None:
    rows = _table("docs/reliability.md", "Attack classes and their tests")
    assert len(rows) >= 16
    for name, _, tests in rows:
        assert "::test_" in tests, name


def test_every_page_is_named_in_the_contents() -> None:
    named = set(re.findall(r"^- \[[^]]+\]\(([\w/-]+\.md)\)", _read("docs/index.md"), re.MULTILINE))
    pages = {page.removeprefix("docs/") for page in PAGES} - {"README.md", "index.md"}
    assert pages == named


# -- docs/troubleshooting.md -------------------------------------------------------------------


class Cure(NamedTuple):
    """A row of the page: the exit code of its section, and its cells."""

    code: int
    name: str
    hint: str
    text: str


def _cures() -> list[Cure]:
    found = []
    for section in re.split(r"^## ", _read("docs/troubleshooting.md"), flags=re.MULTILINE)[1:]:
        code = int(section.split(":")[0])
        for row in re.findall(r"^\| `(\w+)` \|(.*?)\|(.*)\|$", section, re.MULTILINE):
            found.append(Cure(code, row[0], row[1].strip(), row[2].strip()))
    return found


def _sources() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in (PROJECT_ROOT / "src").rglob("*.py")]


def _texts(node: ast.AST) -> Iterator[list[str]]:
    """The constant parts of each text in an expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield [node.value]
    elif isinstance(node, ast.JoinedStr):
        yield [str(each.value) for each in node.values if isinstance(each, ast.Constant)]
    elif isinstance(node, ast.Tuple):  # of a sign in what ssh says, and the hint
        for each in node.elts:
            yield from _texts(each.elts[-1] if isinstance(each, ast.Tuple) else each)


def _hints() -> Iterator[tuple[str, list[str]]]:
    """The class and the constant parts of every hint that the program gives; no class where that is open."""
    classes = {each.__name__ for each in _error_classes()}
    for tree in map(ast.parse, _sources()):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                for each in node.keywords:
                    if each.arg == "hint":
                        yield from ((name if name in classes else "", parts) for parts in _texts(each.value))
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and re.fullmatch(r"(\w*_)?hints?", target.id, re.IGNORECASE):
                    yield from (("", parts) for parts in _texts(node.value))


def test_every_error_is_explained_under_its_exit_code_with_its_hint() -> None:
    cures = _cures()
    for each in _error_classes():
        rows = [cure for cure in cures if cure.name == each.__name__]
        assert {cure.code for cure in rows} == {each.exit_code}, f"{each.__name__} is not explained there"
        inherits = "default_hint" not in vars(each)
        assert inherits or each.default_hint in {cure.hint for cure in rows}, each.__name__
    assert {cure.name for cure in cures} == {each.__name__ for each in _error_classes()}
    assert all(cure.text for cure in cures)


def _says(parts: list[str], hint: str) -> bool:
    return all(part.strip(" '`") in hint for part in parts)


def test_every_hint_of_the_program_is_explained() -> None:
    cures = _cures()
    given = [(name, parts) for name, parts in _hints() if any(parts)]
    assert len(given) >= 30
    for name, parts in given:
        rows = [cure for cure in cures if _says(parts, cure.hint)]
        assert any(name in ("", cure.name) for cure in rows), f"{name}: {parts}"
    for cure in cures:
        told = not cure.hint or any(_says(parts, cure.hint) for _, parts in given)
        assert told or cure.hint in {each.default_hint for each in _error_classes()}, cure


def test_messages_that_the_troubleshooting_quotes_are_those_of_the_program() -> None:
    source = "\n".join(_sources())
    page = _read("docs/troubleshooting.md")
    first = re.findall(r"^\| `([^|]+)` \|", page.split("## 1:")[0], re.MULTILINE)
    quoted = [message for each in first for message in each.split("`, `")]
    quoted += ["cannot use the mirror", "internal error", "another sync works on the mirror"]
    quoted += [
        "the source ... names no host",
        "the host key was refused",
        "there is no folder ... at the source",
    ]
    quoted += ["subsystem request failed", "Too many authentication failures", "Could not resolve hostname"]
    assert len(quoted) >= 10
    for message in quoted:
        assert f"`{message}" in page, message
        assert all(each.strip() in source for each in re.split(r"\.\.\.|: ", message)), message


# -- docs/cli.md -------------------------------------------------------------------------------


def _error_classes(
    base: type[errors.RunicornError] = errors.RunicornError,
) -> Iterator[type[errors.RunicornError]]:
    yield base
    for each in base.__subclasses__():
        yield from _error_classes(each)


def _table(page: str, title: str) -> list[list[str]]:
    section = re.split(rf"^#+ {re.escape(title)}$", _read(page), flags=re.MULTILINE)[1]
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_command_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, PROJECT_ROOT / "scripts/cli_reference.py", "--check"],
        check=False,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == 0, done.stderr


def test_exit_codes_are_those_of_the_error_classes() -> None:
    shown = {int(code): meaning for code, meaning in _table("docs/cli.md", "Exit codes")}
    used = {each.exit_code for each in _error_classes()}
    assert set(shown) == used | {0}
    assert all(shown.values())
    listed = {
        name.strip("`"): int(code) for name, code, *_ in _table("docs/cli.md", "The errors behind them")
    }
    assert listed == {each.__name__: each.exit_code for each in _error_classes()}


def test_help_of_sync_lists_every_exit_code() -> None:
    text = next(
        block.text for block in _blocks("docs/cli.md") if block.text.startswith("Usage: runicorn sync")
    )
    listed = text.split("Exit codes:\n")[1].split("\n\n")[0]
    codes = {int(line.split()[0]) for line in listed.splitlines()}
    assert codes == {0} | {each.exit_code for each in _error_classes()} - {errors.StaleError.exit_code}


# -- docs/sync-json.md -------------------------------------------------------------------------

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
    "object": (dict,),
    "list of objects": (list,),
    "list of strings": (list,),
}


def _fields(title: str) -> dict[str, str]:
    return {name.strip("`"): kind for name, kind, _ in _table("docs/sync-json.md", title)}


def _fits(value: Any, kind: str) -> bool:
    kinds = kind.partition(",")[0].split(" or ")
    types = tuple(each for name in kinds for each in _TYPES[name])
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


def _assert_documented(document: dict[str, Any], title: str, *, absent: frozenset[str] = frozenset()) -> None:
    fields = _fields(title)
    assert set(document) == set(fields) - absent
    wrong = {name: value for name, value in document.items() if not _fits(value, fields[name])}
    assert not wrong, f"not of the documented type: {wrong}"


def _sync_json(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "runicorn", "sync", "--json", *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.count("\n") == 1
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_json_of_a_sync_is_documented_field_by_field(tmp_path: Path) -> None:
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    runs = make_tree(root, 2, files=6)
    ManifestGenerator(root).generate()
    no_plan = frozenset({"plan"})
    title = "A sync that ended"

    _assert_documented(_sync_json(root, mirror), title, absent=no_plan)
    skipped = _sync_json(root, mirror)
    assert skipped["skipped"] is True
    _assert_documented(skipped, title, absent=no_plan)

    with (runs[0] / "logs.txt").open("ab") as log:
        log.write(b"one more line\n")
    (runs[0] / "summary.json").write_bytes(b"{}")
    (runs[1] / "summary.json").unlink()
    ManifestGenerator(root).generate()
    planned = _sync_json(root, mirror, "--dry-run")
    _assert_documented(planned, title)
    _assert_documented(planned["plan"], "`plan`")
    assert {each["action"] for each in planned["plan"]["transfers"]} == {"fetch", "append"}
    for each in planned["plan"]["transfers"]:
        _assert_documented(each, "`plan.transfers[]`")
    assert len(planned["plan"]["remove"]) == 1

    walked = _sync_json(root, mirror, "--method", "walk")
    assert walked["manifest_revision"] is walked["generated_at"] is None
    _assert_documented(walked, title, absent=no_plan)


def test_json_of_failed_files_and_failed_syncs_is_documented(tmp_path: Path) -> None:
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    (run,) = make_tree(root, 1, files=6)
    ManifestGenerator(root, journal=False).generate()  # its bytes would be in a journal
    (run / "summary.json").unlink()
    (run / "summary.json").mkdir()
    report = _sync_json(root, mirror, code=3)
    assert report["failed_count"] == 1
    (failed,) = report["failed"]
    _assert_documented(failed, "`failed[]`")

    failure = _sync_json(tmp_path / "nothing", mirror, code=6)
    _assert_documented(failure, "A sync that failed")


def _runicorn_json(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "runicorn", *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == code, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_json_of_status_and_verify_is_documented_field_by_field(tmp_path: Path) -> None:
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    (run,) = make_tree(root, 1, files=6)
    ManifestGenerator(root).generate()
    _sync_json(root, mirror)
    _assert_documented(_runicorn_json("status", mirror, "--json"), "The status of a mirror")
    _assert_documented(_runicorn_json("verify", mirror, "--json"), "A verification")
    (mirror / run.relative_to(root) / "summary.json").unlink()
    _assert_documented(_runicorn_json("verify", mirror, "--json", "--repair"), "A verification")


def test_events_of_a_watch_are_documented() -> None:
    from runicorn.cli.sync_watch import EVENT_NAMES

    section = _read("docs/sync-json.md").split("\n## A watch\n")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", section.split("| event |")[1], re.MULTILINE))
    assert named == {"sync", "ended", *EVENT_NAMES.values()}
    for kind, name in EVENT_NAMES.items():
        row = next(line for line in section.splitlines() if line.startswith(f"| `{name}` |"))
        assert set(getattr(kind, "__dataclass_fields__", {})) <= set(re.findall(r"`(\w+)`", row))


_REASONS = (
    "_reason_for_all",
    "_remove_sure",
    "reason_to_keep",
    "_doubt_about_history",
    "_reason_to_keep_file",
)


def _parts(node: ast.AST) -> list[str]:
    """The constant parts of a text that has some words, formats of logging taken out."""
    parts = [each.strip() for part in next(_texts(node), []) for each in re.split(r"%\w", part)]
    return [each for each in parts if len(each.split()) >= 3]


def _said() -> Iterator[list[str]]:
    """What a sync notes, why it keeps files, and every warning of the program."""
    for tree in map(ast.parse, _sources()):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("log.warning", "_log.warning"):
                yield _parts(node.args[0])
            elif isinstance(node, ast.FunctionDef) and node.name == "notes":
                found = (each for each in ast.walk(node) if isinstance(each, ast.Yield))
                yield from (_parts(each.value) for each in found if each.value is not None)
            elif isinstance(node, ast.FunctionDef) and node.name in _REASONS:
                without_docstring = node.body[ast.get_docstring(node) is not None :]
                yield from map(_parts, (each for part in without_docstring for each in ast.walk(part)))


def test_everything_that_is_said_beside_a_result_is_explained() -> None:
    cells = [
        each.replace("...", "").strip()
        for each in re.findall("`([^`\n]+)`", _read("docs/troubleshooting.md"))
    ]
    told = [each for each in cells if len(each.split()) >= 3]
    said = [parts for parts in _said() if parts]
    assert len(said) >= 25
    for parts in said:
        assert any(each in part or part in each for each in told for part in parts), parts
