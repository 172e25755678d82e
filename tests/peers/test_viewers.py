"""A mirror opens in the real viewers, and survives what they do in it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.processes import kill_tree
from testbed.trees import Layout, append_run, make_tree
from tests.faults.process import PROJECT_ROOT, environment, generate, run_files, sync

READY_SECONDS = 60.0
VIEWERS: dict[str, Layout] = {"0.5.3": "project", "0.7.2": "path"}
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def viewer(version: str, storage: Path, home: Path) -> Iterator[str]:
    """A running viewer of a mirror; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home.mkdir()
    places = {"HOME": home, "XDG_CONFIG_HOME": home / "config", "XDG_DATA_HOME": home / "data"}
    env = environment(**{name: str(path) for name, path in places.items()})
    del env["PYTHONPATH"]
    program = PROJECT_ROOT / ".venv-peers" / version / "bin/runicorn"
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "viewer", "--storage", storage, "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            env=env,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + READY_SECONDS
        while not _answers(port):
            assert process.poll() is None, (home / "log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, (home / "log").read_text(encoding="utf-8")
            time.sleep(0.05)
        yield address
    finally:
        kill_tree(process.pid)
        process.wait()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def get(address: str, path: str) -> Any:
    """What the viewer answers."""
    try:
        with NO_PROXY.open(f"{address}/api/{path}", timeout=READY_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        pytest.fail(f"{path}: {error} {error.read()!r}")


def listed_runs(address: str, names: set[str]) -> dict[str, Any]:
    """What the viewer lists, once it lists these; it answers while it still reads its folder."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        listed = {run["id"]: run for run in get(address, "runs")}
        if set(listed) == names or time.monotonic() > deadline:
            return listed
        time.sleep(0.05)


@pytest.mark.parametrize("version", list(VIEWERS))
def test_mirror_opens_in_the_viewer_with_every_run(tmp_path: Path, version: str) -> None:
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    runs = make_tree(root, 12, layout=VIEWERS[version], running=3)
    generate(root)
    sync(root, mirror).expect(0)
    before = run_files(mirror)
    with viewer(version, mirror, tmp_path / "home") as address:
        listed = listed_runs(address, {run.name for run in runs})
        assert set(listed) == {run.name for run in runs}
        for run in runs:
            status = json.loads((run / "status.json").read_bytes())["status"]
            shown = listed[run.name]
            assert Path(shown["run_dir"]) == mirror / run.relative_to(root)
            assert shown["created_time"] == json.loads((run / "meta.json").read_bytes())["created_at"]
            # The viewer looks for the process of a running run on its own machine.
            assert shown["status"] == status or status == "running"
        detail = get(address, f"runs/{runs[-1].name}")
        assert detail["id"] == runs[-1].name
        metrics = get(address, f"runs/{runs[-1].name}/metrics_step")
        assert len(metrics["rows"]) > 100
        # A sync while the viewer looks.
        append_run(runs[-1], 30)
        generate(root)
        sync(root, mirror).expect(0)
        assert set(listed_runs(address, set(listed))) == set(listed)
    assert before.keys() <= run_files(mirror).keys()
    _scribble(mirror, runs, root)
    sync(root, mirror).expect(0)
    found = run_files(mirror)
    assert {name: found[name] for name in run_files(root)} == run_files(root)
    mine = [name for name in found if name.endswith(".lock") or "runicorn.db" in name]
    assert f"{runs[0].relative_to(root)}/status.json.lock" in mine
    assert found.keys() - run_files(root).keys() == set(mine)


def _scribble(mirror: Path, runs: list[Path], root: Path) -> None:
    """What viewers are known to do, whether this one has done it now or not."""
    for run in runs[:3]:
        copy = mirror / run.relative_to(root)
        state = {
            **json.loads((copy / "status.json").read_bytes()),
            "status": "failed",
            "exit_reason": "zombie",
        }
        (copy / "status.json").write_text(json.dumps(state), encoding="utf-8")
        (copy / "status.json.lock").touch()
    (mirror / "runicorn.db").write_bytes(os.urandom(4096))
