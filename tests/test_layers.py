"""The import rules of docs/architecture.md, checked on the parsed sources."""

from __future__ import annotations

import ast
import fnmatch
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT_ROOT / "src"
PACKAGE = "runicorn"
TYPING, TOP, INSIDE = "for types only", "at the top", "in a function"

IO_MODULES = {
    "io",
    "os",
    "pathlib",
    "select",
    "shutil",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "threading",
}
"""Modules of the standard library that a pure module does not need."""

PURE_CLIENT = (
    "diff",
    "selection",
    "source",
    "report",
    "collisions",
    "pace",
    "transport.wire",
    "transport.window",
)


class Import(NamedTuple):
    """One imported module: its name, and where the statement stands."""

    target: str
    place: str


class Layer(NamedTuple):
    """A row of the table of layers."""

    name: str
    patterns: tuple[str, ...]
    may_import: frozenset[str]


@cache
def _modules() -> dict[str, Path]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = list(path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _short(module: str) -> str:
    return module.removeprefix(PACKAGE + ".")


@cache
def _layers() -> tuple[Layer, ...]:
    text = (PROJECT_ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.split("\n## Layers\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    return tuple(
        Layer(
            name.strip(),
            tuple(part.strip(" `") for part in modules.split(",")),
            frozenset(part.strip() for part in may.split(",")),
        )
        for name, modules, _, may in rows
    )


def _layer_of(module: str) -> Layer:
    for layer in _layers():
        if any(fnmatch.fnmatchcase(_short(module), pattern) for pattern in layer.patterns):
            return layer
    raise AssertionError(f"no row of docs/architecture.md fits {module}")


def _is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _statements(node: ast.AST, place: str = TOP) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, place
        elif _is_typing(child):
            yield from _statements(child, TYPING)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _statements(child, INSIDE)
        else:
            yield from _statements(child, place)


def _targets(statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (name.name for name in statement.names)
        return
    assert statement.level == 0, f"a relative import: {ast.unparse(statement)}"
    assert statement.module is not None
    for name in statement.names:
        whole = f"{statement.module}.{name.name}"
        yield whole if whole in _modules() else statement.module


@cache
def _imports(module: str) -> tuple[Import, ...]:
    tree = ast.parse(_modules()[module].read_text(encoding="utf-8"))
    found = {Import(target, place) for node, place in _statements(tree) for target in _targets(node)}
    return tuple(sorted(found))


def _top_names(module: str, *, without_types: bool = False) -> set[str]:
    chosen = (each for each in _imports(module) if not (without_types and each.place == TYPING))
    return {each.target.partition(".")[0] for each in chosen}


def _third_parties(module: str) -> set[str]:
    return _top_names(module) - sys.stdlib_module_names - {PACKAGE}


def _is_ours(target: str) -> bool:
    return target == PACKAGE or target.startswith(PACKAGE + ".")


@pytest.mark.parametrize("module", sorted(_modules()))
def test_module_imports_only_what_its_layer_may(module: str) -> None:
    layer = _layer_of(module)
    ours = [each.target for each in _imports(module) if _is_ours(each.target)]
    broken = [target for target in ours if _layer_of(target).name not in layer.may_import]
    assert not broken, f"{module} ({layer.name}) must not import {broken}"


def test_each_row_of_the_table_fits_a_module_and_names_known_layers() -> None:
    names = {layer.name for layer in _layers()}
    used = {_layer_of(module).name for module in _modules()}
    assert used == names
    for layer in _layers():
        assert layer.may_import <= names
        for pattern in layer.patterns:
            assert fnmatch.filter(map(_short, _modules()), pattern), f"{pattern} fits nothing"


def test_client_never_imports_the_generator_and_nothing_imports_the_command_line() -> None:
    may = {layer.name: layer.may_import for layer in _layers()}
    assert "generator" not in may["client"] | may["transport"] | may["format"] | may["base"]
    assert [name for name, allowed in may.items() if "command line" in allowed] == ["command line"]
    assert may["transport"] == {"base", "transport"}
    assert "client" not in may["generator"] | may["format"]


def test_third_party_imports() -> None:
    found = {
        _short(module): sorted(_third_parties(module)) for module in _modules() if _third_parties(module)
    }
    cli = {
        name: parties
        for name, parties in found.items()
        if _layer_of(f"{PACKAGE}.{name}").name == "command line"
    }
    assert {party for parties in cli.values() for party in parties} == {"click", "platformdirs", "rich"}
    assert {name: parties for name, parties in found.items() if name not in cli} == {
        "manifest.notices": ["inotify_simple"],
        "remote_storage.manifest_sync": ["paramiko"],
        "remote_storage.selection": ["pathspec"],
        "remote_storage.service": ["paramiko"],
        "remote_storage.opening": ["filelock"],
        "remote_storage.remotes": ["tomli", "tomlkit"],
        "remote_storage.transport.paramiko_channel": ["paramiko"],
    }


def test_paramiko_is_imported_by_one_module_when_it_is_used() -> None:
    places = {
        (_short(module), each.place)
        for module in _modules()
        for each in _imports(module)
        if each.target.partition(".")[0] == "paramiko"
    }
    at_run_time = {(module, place) for module, place in places if place != TYPING}
    assert at_run_time == {("remote_storage.transport.paramiko_channel", INSIDE)}


def test_pure_modules_import_nothing_that_does_io() -> None:
    format_layer = {_short(module) for module in _modules() if _layer_of(module).name == "format"}
    pure = format_layer | {f"remote_storage.{name}" for name in PURE_CLIENT}
    found = {name: _top_names(f"{PACKAGE}.{name}", without_types=True) & IO_MODULES for name in pure}
    assert {name: used for name, used in found.items() if used} == {"manifest.reader": {"pathlib"}}


def test_source_knows_nothing_of_the_project_around_it() -> None:
    around = {"testbed", "benchmarks", "demo", "tests", "scripts"}
    assert {module: _top_names(module) & around for module in _modules() if _top_names(module) & around} == {}


def test_oracle_shares_no_code_with_the_product() -> None:
    """Nor does anything in the testbed that it imports."""
    seen: set[str] = set()
    todo = ["oracle"]
    while todo:
        name = todo.pop()
        seen.add(name)
        tree = ast.parse((PROJECT_ROOT / f"testbed/{name}.py").read_text(encoding="utf-8"))
        found = {target for node, _ in _statements(tree) for target in _targets(node)}
        assert {target.partition(".")[0] for target in found} - sys.stdlib_module_names <= {"testbed"}, name
        todo += {target.partition(".")[2] for target in found if target.startswith("testbed.")} - seen
    assert {"oracle", "history"} <= seen


def _run_python(code: str, *arguments: str, isolated: bool) -> str:
    flags = ["-I", "-S"] if isolated else []
    start = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
    done = subprocess.run(
        [sys.executable, *flags, "-c", start + code, *arguments],
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generator_runs_with_the_standard_library_alone(tmp_path: Path) -> None:
    run = tmp_path / "project/name/runs/run_1"
    run.mkdir(parents=True)
    (run / "meta.json").write_text("{}")
    loaded = _run_python(
        "from pathlib import Path\n"
        "from runicorn.manifest import ManifestGenerator\n"
        "manifest, _ = ManifestGenerator(Path(sys.argv[1])).generate()\n"
        "assert manifest.total_experiments == 1\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
        "assert not any(name.startswith('runicorn.remote_storage') for name in sys.modules)\n",
        str(tmp_path),
        isolated=True,
    ).split()
    assert PACKAGE in loaded
    assert set(loaded) - sys.stdlib_module_names - {PACKAGE, "__main__"} == set()


def _sync_without(unwanted: tuple[str, ...], tmp_path: Path) -> Path:
    """Sync a small root in a process of its own that must not load some modules; returns the mirror."""
    source = tmp_path / "root"
    run = source / "project/name/runs/run_1"
    run.mkdir(parents=True)
    (run / "meta.json").write_text("{}")
    _run_python(
        "from runicorn.cli import main\n"
        "assert main(['sync', '--quiet', *sys.argv[1:]]) == 0\n"
        f"loaded = [name for name in {unwanted!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n",
        str(source),
        str(tmp_path / "mirror"),
        isolated=False,
    )
    return tmp_path / "mirror"


def test_sync_command_loads_neither_scanner_nor_paramiko(tmp_path: Path) -> None:
    unwanted = ("paramiko", "runicorn.manifest.scan", "runicorn.manifest.generator")
    mirror = _sync_without(unwanted, tmp_path)
    assert (mirror / "project/name/runs/run_1/meta.json").read_text() == "{}"


def test_sync_of_a_source_loads_no_library_that_only_remotes_and_terminals_need(tmp_path: Path) -> None:
    unwanted = ("tomlkit", "tomllib", "tomli", "platformdirs", "rich", "runicorn.remote_storage.watch")
    _sync_without(unwanted, tmp_path)
