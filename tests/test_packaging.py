"""What is shipped: a wheel that holds the package alone, and runs where nothing else of ours is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from runicorn import __version__

PROJECT_ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60.0


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=clean | {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, made by the build backend that is installed here."""
    folder = tmp_path_factory.mktemp("built")
    _run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=PROJECT_ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"runicorn-{__version__}.dist-info/METADATA"))


def _run_time_requirements(wheel: Path) -> list[Requirement]:
    requirements = [Requirement(text) for text in _metadata(wheel).get_all("Requires-Dist", [])]
    return [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {
            name for name in archive.namelist() if not name.startswith(f"runicorn-{__version__}.dist-info/")
        }
    sources = PROJECT_ROOT / "src"
    expected = {
        path.relative_to(sources).as_posix()
        for path in (sources / "runicorn").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected
    assert "runicorn/py.typed" in names


def test_metadata_say_what_the_project_is(wheel: Path) -> None:
    said = _metadata(wheel)
    assert (said["Name"], said["Version"], said["Requires-Python"]) == ("runicorn", __version__, ">=3.10")
    assert said["License-Expression"] == "MIT"
    readme = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    payload = said.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode("utf-8") == readme
    needed = {"click", "filelock", "pathspec", "platformdirs", "rich", "tomlkit"}
    if sys.version_info < (3, 11):
        needed.add("tomli")
    if sys.version_info < (3, 14):
        needed.add("backports-zstd")
    assert {canonicalize_name(each.name) for each in _run_time_requirements(wheel)} == needed
    extras = {"dev", "docs", "figures", "fuzz", "mutants", "paramiko", "profile", "watch"}
    assert set(said.get_all("Provides-Extra", [])) == extras


def test_source_archive_can_be_built_from(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "src/runicorn/__init__.py"} <= names
    assert not any(
        name.startswith(
            ("tests", "testbed", "fuzz", "mutants", "demo", "benchmarks", "docs", "examples", ".")
        )
        for name in names - {".gitignore"}
    )


def _with_dependencies(names: list[str]) -> set[str]:
    """Installed distributions that these need, and what those need."""
    todo, found = list(names), set()
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        requirements = [Requirement(text) for text in metadata.requires(name) or []]
        todo += [
            each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})
        ]
    return found


def _copy_distribution(name: str, target: Path) -> None:
    for file in metadata.files(name) or []:
        if ".." not in file.parts and "__pycache__" not in file.parts:
            copy = target / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), copy)


@pytest.mark.timeout(90)
def test_installed_alone_it_runs(wheel: Path, tmp_path: Path) -> None:
    """In a new environment with the wheel and its run-time dependencies, copied from here: no network."""
    environment = tmp_path / "environment"
    _run(sys.executable, "-m", "venv", "--without-pip", environment)
    python, runicorn = environment / "bin/python", environment / "bin/runicorn"
    packages = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for name in _with_dependencies([each.name for each in _run_time_requirements(wheel)]):
        _copy_distribution(name, packages)
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel)

    missing = (
        "import importlib.util as u; print([n for n in ('paramiko', 'pytest', 'testbed') if u.find_spec(n)])"
    )
    assert _run(python, "-c", missing, cwd=tmp_path).strip() == "[]"
    assert _run(runicorn, "--version").split()[-1] == __version__
    shown = _run(runicorn, "--help")
    assert "generate-manifest" in shown
    assert "sync" in shown

    run = tmp_path / "root/project/name/runs/run_1"
    run.mkdir(parents=True)
    (run / "meta.json").write_text("{}")
    (run / "notes.txt").write_text("not a file of a run")
    assert "Experiments:   1\n" in _run(runicorn, "generate-manifest", "--root", tmp_path / "root")
    mirror = tmp_path / "mirror"
    patterns = ("--include", "**/*.json", "--exclude", "*.png")
    assert _run(runicorn, "sync", tmp_path / "root", mirror, *patterns).startswith("1 fetched")
    assert (mirror / "project/name/runs/run_1/meta.json").read_text() == "{}"
    assert not (mirror / "project/name/runs/run_1/notes.txt").exists()
    everything = "import runicorn.remote_storage as r; print(len([getattr(r, name) for name in r.__all__]))"
    assert int(_run(python, "-W", "error", "-c", everything)) > 0


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("import runicorn", {"runicorn", "runicorn._version"}),
        (
            "import runicorn.cli; runicorn.cli.main(['--help'])",
            {
                "runicorn",
                "runicorn._version",
                "runicorn.cli",
                "runicorn.errors",
                "runicorn.manifest",
                "runicorn.manifest.rules",
            },
        ),
    ],
    ids=["import", "help"],
)
def test_start_loads_no_more_than_it_needs(code: str, modules: set[str]) -> None:
    slow = {"paramiko", "rich", "pathspec", "sqlite3", "asyncio", "filelock", "platformdirs", "tomlkit"}
    report = "print('\\n' + ' '.join(sys.modules))"
    loaded = _run(sys.executable, "-c", f"import sys; {code}; {report}").splitlines()[-1].split()
    assert {name for name in loaded if name.partition(".")[0] == "runicorn"} == modules
    assert not slow & set(loaded)
