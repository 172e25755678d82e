from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import pytest

from testbed.history import History, is_log, is_run_file
from testbed.live import ACTIONS, LiveWriter
from testbed.trees import Layout, append_run, make_tree


def content(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("files", [6, 9, 15])
def test_the_same_seed_gives_the_same_tree_with_so_many_files_per_run(tmp_path: Path, files: int) -> None:
    first = make_tree(tmp_path / "a", 20, files=files, seed=3)
    make_tree(tmp_path / "b", 20, files=files, seed=3)
    make_tree(tmp_path / "c", 20, files=files, seed=4)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")
    assert [sum(path.is_file() for path in run.rglob("*")) for run in first] == [files] * 20


def test_a_standard_run_has_a_quarter_of_a_megabyte_modified_long_ago(tmp_path: Path) -> None:
    make_tree(tmp_path, 10)
    sizes = [len(data) for data, _ in content(tmp_path).values()]
    assert 2_300_000 < sum(sizes) < 2_700_000
    newest = max(path.stat().st_mtime for path in tmp_path.rglob("*") if path.parent.name != tmp_path.name)
    assert all(modified < (time.time() - 86_400) * 1e9 for _, modified in content(tmp_path).values())
    assert newest <= time.time()


@pytest.mark.parametrize(("layout", "depth"), [("project", "*/*/runs/*"), ("path", "runs/*/*/*")])
def test_runs_lie_where_the_layout_puts_them(tmp_path: Path, layout: Layout, depth: str) -> None:
    made = make_tree(tmp_path, 3, layout=layout, files=6, running=1)
    assert sorted(made) == sorted(tmp_path.glob(depth))
    states = [json.loads((run / "status.json").read_bytes())["status"] for run in made]
    assert states == ["finished", "finished", "running"]
    meta = json.loads((made[0] / "meta.json").read_bytes())
    assert (meta["id"], meta["project"], meta["name"]) == (made[0].name, "project_00", "experiment_00")


def test_append_run_tells_the_bytes_it_appended(tmp_path: Path) -> None:
    (run,) = make_tree(tmp_path, 1)
    before = content(run)
    appended = append_run(run, 10)
    after = content(run)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"events.jsonl", "logs.txt", "status.json", "summary.json"}
    grown = [(after[name][0], before[name][0]) for name in ("events.jsonl", "logs.txt")]
    assert all(new.startswith(old) and new.endswith(b"\n") for new, old in grown)
    assert appended == sum(len(new) - len(old) for new, old in grown)
    assert after.keys() == before.keys()


def test_a_live_tree_is_always_found_in_its_history(tmp_path: Path) -> None:
    root, directory = tmp_path / "root", tmp_path / "history"
    make_tree(root, 4, files=6)
    with LiveWriter(root, directory, interval=0) as writer:
        history = History(directory)
        for _ in range(20):
            for name, data in read_while_changing(root).items():
                whole = data[: data.rfind(b"\n") + 1] if is_log(name) else data
                assert history.fault(name, whole) is None
        made = writer.stop()
    assert set(made) <= set(ACTIONS)
    assert made["append"] > 0
    assert history.faults(root) == []


def read_while_changing(root: Path) -> dict[str, bytes]:
    found = {}
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            relative = path.relative_to(root).as_posix()
            if is_run_file(relative) and path.suffix != ".png":
                with contextlib.suppress(FileNotFoundError):
                    found[relative] = path.read_bytes()
    return found


def test_history_refuses_what_was_never_there(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.record("run/status.json", b"one")
    history.record("run/status.json", b"two")
    history.record("run/logs.txt", b"a\n")
    history.record_append("run/logs.txt", b"b\nc")
    history.record("run/logs.txt", b"z\n")
    for name, right in [
        ("status.json", b"one"),
        ("status.json", b"two"),
        ("logs.txt", b""),
        ("logs.txt", b"a\n"),
    ]:
        assert history.fault(f"run/{name}", right) is None
    assert history.fault("run/logs.txt", b"a\nb\n") is None
    for name, wrong in [("status.json", b"onetwo"), ("logs.txt", b"a\nb"), ("logs.txt", b"b\n"), ("x", b"")]:
        assert history.fault(f"run/{name}", wrong) is not None
