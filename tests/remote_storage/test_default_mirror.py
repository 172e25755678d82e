"""Sources, and the mirrors that belong to them: regressions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runicorn.remote_storage.source import Source, parse_source
from tests.faults.process import sync_here
from tests.remote_storage.helpers import (
    RUN,
    Site,
    make_run,
    run_files,
)

pytestmark = pytest.mark.rungs("journal", "manifest")

RUNS = [f"vision/resnet/runs/r{number}" for number in range(1, 4)]
"""Three runs of six files each."""


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("me@[::1]:/p", Source("/p", "::1", "me")),
        ("[::1]:/p", Source("/p", "::1")),
        ("ssh://h/~", Source(".", "h")),
        ("ssh://h/~/", Source(".", "h")),
        ("@host:path", Source("@host:path")),
    ],
)
def test_source_of_a_rare_form_is_read(text: str, source: Source) -> None:
    assert parse_source(text) == source


def test_source_without_runs_is_pointed_out(site: Site) -> None:
    done = sync_here(site.root / "vision/resnet/runs/r1/media", site.mirror).expect(0)
    assert "no run below the source" in done.err
    assert "no run below" not in sync_here(site.root, site.mirror).expect(0).err


@pytest.mark.parametrize(
    "option", [("--project", "none"), ("--include", "none"), ("--exclude", "*")], ids=" ".join
)
def test_selection_of_nothing_is_pointed_out(site: Site, option: tuple[str, str]) -> None:
    site.publish()
    done = sync_here(site.root, site.mirror, *option).expect(0)
    assert "no file is selected" in done.err
    assert run_files(site.mirror) == {}


def default_mirror(*arguments: str) -> Path:
    return Path(sync_here(*arguments, "--json").expect(0).statistics["mirror"])


def test_default_mirrors_of_local_roots_are_never_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    roots = [tmp_path / name for name in ("one/root", "two/root", "a_b/root", "a/b/root", "a b/root")]
    found = []
    for number, root in enumerate(roots):
        make_run(root, f"vision/resnet/runs/r{number}")
        monkeypatch.chdir(root.parent)
        found.append(default_mirror("root"))
        assert run_files(found[-1]) == run_files(root)
        assert default_mirror(str(root)) == found[-1]
    assert len(set(found)) == len(roots)


def test_default_mirrors_of_other_users_and_ports_are_never_shared(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_ssh: str
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    root = str(site.root)
    sources = [
        (f"host:{root}",),
        (f"me@host:{root}",),
        (f"other:{root}",),
        (f"host:{root}", "--port", "2222"),
        (f"ssh://host:2223{root}",),
    ]
    found = [default_mirror(*each, "--ssh", no_ssh) for each in sources]
    assert len(set(found)) == len(sources)
    assert default_mirror(f"host:{root}", "--port", "2223", "--ssh", no_ssh) == found[-1]


def test_delete_by_a_walk_through_another_port_removes_nothing(site: Site, no_ssh: str) -> None:
    for folder in RUNS:
        make_run(site.root, folder)
    arguments = (f"localhost:{site.root}", site.mirror, "--ssh", no_ssh, "--method", "walk")
    sync_here(*arguments, "--port", "2222").expect(0)
    before = run_files(site.mirror)
    shutil.rmtree(site.root / RUN)
    done = sync_here(*arguments, "--port", "2223", "--delete").expect(3)
    assert "6 files that the server does not list are kept" in done.err
    assert run_files(site.mirror) == before
