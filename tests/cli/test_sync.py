"""`runicorn sync` from a local source, as a process of its own."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from runicorn.remote_storage.report import SyncReport
from testbed.trees import append_run, make_tree
from tests.faults.process import (
    COMMAND,
    PROJECT_ROOT,
    TIMEOUT,
    environment,
    generate,
    run_files,
    snapshot,
    sync,
)
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN, append, make_run
from tests.remote_storage.helpers import NO_JOURNAL

EACH_RUN = 5


# -- what it does and says -----------------------------------------------------------------


def test_first_sync_after_removals_does_not_call_more_files_a_part_of_fewer(root: Path, mirror: Path) -> None:
    shutil.rmtree(root / PATH_RUN)
    generate(root)
    done = sync(root, mirror).expect(0)
    assert done.out.startswith("10 fetched, 0 appended; 5 files, ")
    assert "(journal, revision 2, in " in done.out
    assert run_files(mirror) == run_files(root)


def test_first_second_and_third_sync_say_what_they_did(root: Path, mirror: Path) -> None:
    first = sync(root, mirror).expect(0)
    assert first.out.startswith("10 fetched, 0 appended of 10 files, ")
    assert "(journal, revision 1, in " in first.out
    assert first.err == ""
    assert run_files(mirror) == run_files(root)
    assert sync(root, mirror).expect(0).out.startswith("No changes (journal, revision 1, ")
    append(root / PROJECT_RUN / "events.jsonl", b'{"step": 2}\n')
    generate(root)
    third = sync(root, mirror).expect(0)
    assert third.out.startswith("0 fetched, 1 appended of 10 files, 12 B (journal, revision 2, ")


def test_first_second_and_third_sync_without_a_journal(root: Path, mirror: Path) -> None:
    generate(root, journal=False)
    assert "10 files, 198 B (manifest, revision 1, in " in sync(root, mirror).expect(0).out
    assert sync(root, mirror).expect(0).out.startswith("No changes (manifest, revision 1, ")
    append(root / PROJECT_RUN / "events.jsonl", b'{"step": 2}\n')
    generate(root, journal=False)
    third = sync(root, mirror).expect(0)
    assert third.out.startswith("0 fetched, 1 appended of 10 files, 12 B (manifest, revision 2, ")
    assert third.err == ""


@pytest.mark.parametrize("method", ["journal", "manifest", "walk", "auto"])
def test_method_is_the_one_that_was_asked_for(root: Path, mirror: Path, method: str) -> None:
    done = sync(root, mirror, "--method", method, "--json").expect(0)
    assert done.statistics["method"] == ("journal" if method == "auto" else method)
    assert done.statistics["fallback_reason"] == ""
    assert run_files(mirror) == run_files(root)


def test_fallback_to_the_manifest_is_explained(root: Path, mirror: Path) -> None:
    generate(root, journal=False)
    done = sync(root, mirror, "--json").expect(0)
    assert (done.statistics["method"], done.statistics["fallback_reason"]) == ("manifest", NO_JOURNAL)
    assert done.err == ""  # an older server is no reason to say anything


def test_fallback_from_a_damaged_journal_is_told(root: Path, mirror: Path) -> None:
    sync(root, mirror).expect(0)
    append(root / PROJECT_RUN / "events.jsonl", b'{"step": 2}\n')
    generate(root)
    (epoch,) = (root / ".runicorn/journal").glob("*.journal")
    data = bytearray(epoch.read_bytes())
    data[-9] ^= 1
    epoch.write_bytes(data)
    done = sync(root, mirror, "--json").expect(0)
    assert done.statistics["method"] == "manifest"
    assert done.lines == [f"runicorn: not by the journal: {done.statistics['fallback_reason']}"]
    assert run_files(mirror) == run_files(root)


def test_fallback_to_the_walk_is_explained(root: Path, mirror: Path) -> None:
    shutil.rmtree(root / ".runicorn")
    done = sync(root, mirror, "--json").expect(0)
    reason = f"{NO_JOURNAL}; the server publishes no manifest"
    assert (done.statistics["method"], done.statistics["fallback_reason"]) == ("walk", reason)
    assert done.lines == [f"runicorn: walking the server's folders: {reason}"]
    assert sync(root, mirror, "-q").expect(0).err == ""


def test_json_is_one_object_with_every_documented_field(root: Path, mirror: Path) -> None:
    documented = (PROJECT_ROOT / "docs/sync-json.md").read_text(encoding="utf-8")
    done = sync(root, mirror, "--json").expect(0)
    names = {field.name for field in fields(SyncReport)} | {"format_version", "mirror"}
    assert set(done.statistics) == names
    assert all(f"| `{name}` |" in documented for name in names)
    assert (
        done.statistics["files_synced"]
        == done.statistics["full_count"]
        == done.statistics["total_files"]
        == 10
    )
    assert done.statistics["mirror"] == str(mirror)
    again = sync(root, mirror, "--json").expect(0).statistics
    assert (again["skipped"], again["reason"], again["files_synced"]) == (True, "no changes", 0)
    assert set(again) == names


def test_json_of_a_failure_is_one_object_too(tmp_path: Path, mirror: Path) -> None:
    done = sync(tmp_path / "nowhere", mirror, "--json", "-q").refused(6)
    assert done.statistics == {
        "format_version": "1.0",
        "error": done.lines[0].removeprefix("runicorn: "),
        "exit_code": 6,
    }


def test_dry_run_prints_the_plan_and_writes_nothing(root: Path, mirror: Path, tmp_path: Path) -> None:
    done = sync(root, mirror, "--dry-run").expect(0)
    assert not mirror.exists()
    assert done.out.count("fetch") == 10
    assert done.out.splitlines()[-1].startswith("Nothing was written: dry run of 10 files")
    mirror.mkdir()
    sync(root, mirror, "--dry-run").expect(0)
    assert list(mirror.iterdir()) == []
    sync(root, mirror).expect(0)
    append(root / PROJECT_RUN / "events.jsonl", b'{"step": 2}\n')
    (root / PATH_RUN / "media/a.png").unlink()
    generate(root)
    before = snapshot(tmp_path)
    done = sync(root, mirror, "--dry-run", "--json", "--delete").expect(0)
    assert snapshot(tmp_path) == before
    assert done.statistics["plan"] == {
        "transfers": [{"path": f"{PROJECT_RUN}/events.jsonl", "action": "append", "bytes": 12}],
        "remove": [f"{PATH_RUN}/media/a.png"],
        "total_bytes": 12,
    }
    shown = sync(root, mirror, "--dry-run").expect(0).out
    assert re.search(rf"^append +12 B  {PROJECT_RUN}/events.jsonl$", shown, re.MULTILINE)
    assert re.search(rf"^gone +4 B  {PATH_RUN}/media/a.png$", shown, re.MULTILINE)


def test_delete_removes_only_with_leave(root: Path, mirror: Path) -> None:
    sync(root, mirror).expect(0)
    (root / PATH_RUN / "media/a.png").unlink()
    generate(root)
    done = sync(root, mirror).expect(0)
    assert "1 files that the server does not list are kept: not asked to delete" in done.err
    assert (mirror / PATH_RUN / "media/a.png").exists()
    assert "1 removed" in sync(root, mirror, "--delete").expect(0).out
    assert run_files(mirror) == run_files(root)


def test_more_than_half_goes_only_with_a_second_leave(root: Path, mirror: Path) -> None:
    sync(root, mirror).expect(0)
    for name in ("media/a.png", "events.jsonl", "logs.txt"):
        for folder in (PATH_RUN, PROJECT_RUN):
            (root / folder / name).unlink()
    generate(root)
    assert "--force-delete" in sync(root, mirror, "--delete").expect(3).err
    assert len(run_files(mirror)) == 10
    sync(root, mirror, "--delete", "--force-delete").expect(0)
    assert run_files(mirror) == run_files(root)


SELECTIONS: dict[str, tuple[list[str], Callable[[str], bool]]] = {
    "no-media": (["--no-media"], lambda path: "/media/" not in path),
    "project": (["--project", "nlp"], lambda path: path.startswith("runs/nlp/")),
    "projects": (["--project", "nlp", "--project", "vision"], lambda path: path != ""),
    "include": (["--include", "*.json"], lambda path: path.endswith(".json")),
    "exclude": (
        ["--exclude", "logs.txt", "--exclude", "media/"],
        lambda path: path.endswith(("json", "jsonl")),
    ),
    "both": (
        ["--include", "vision/", "--exclude", "*.png"],
        lambda path: path.startswith("vision/") and not path.endswith(".png"),
    ),
    "none": (["--project", "other"], lambda path: not path),
}


@pytest.mark.parametrize("name", list(SELECTIONS))
@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_selection_is_all_that_is_synced(root: Path, mirror: Path, name: str, method: str) -> None:
    options, wanted = SELECTIONS[name]
    sync(root, mirror, "--method", method, *options).expect(0)
    assert run_files(mirror) == {path: data for path, data in run_files(root).items() if wanted(path)}


def test_verbose_names_each_file_and_quiet_none(root: Path, mirror: Path) -> None:
    done = sync(root, mirror, "-v").expect(0)
    assert done.lines[0] == "method: journal"
    assert set(done.lines[1:]) == set(run_files(root))
    append(root / PROJECT_RUN / "events.jsonl", b'{"step": 2}\n')
    generate(root)
    quiet = sync(root, mirror, "-q").expect(0)
    assert (quiet.out, quiet.err) == ("", "")


def test_jitter_comes_before_the_work(root: Path, mirror: Path) -> None:
    sync(root, mirror, "--jitter", "0.05").expect(0)
    process = subprocess.Popen(
        [*COMMAND, "sync", str(root), str(mirror), "--jitter", "1000000"],
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        time.sleep(0.7)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, shown.strip()) == (130, b"runicorn: stopped")


# -- sources and mirrors -------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["with space", "ünï-codé", "quote'\"s", "$(id)`x`", "-dash", "a,b;c&d", "100%41"]
)
def test_source_and_mirror_with_odd_names(tmp_path: Path, name: str) -> None:
    root, mirror = tmp_path / "server" / name, tmp_path / "client" / name
    make_run(root)
    generate(root)
    sync(root, mirror).expect(0)
    assert run_files(mirror) == run_files(root)
    done = sync("--", name, f"../client/{name}", cwd=tmp_path / "server").expect(0)
    assert done.out.startswith("No changes")


def test_local_path_with_a_colon_needs_a_slash_before_it(tmp_path: Path) -> None:
    make_run(tmp_path / "a:b")
    generate(tmp_path / "a:b")
    sync("./a:b", "mirror", cwd=tmp_path).expect(0)
    assert run_files(tmp_path / "mirror") == run_files(tmp_path / "a:b")


def test_default_mirror_lies_in_the_data_folder(root: Path, tmp_path: Path) -> None:
    done = sync(root, "--json", env={"XDG_DATA_HOME": str(tmp_path / "data")}).expect(0)
    mirror = Path(done.statistics["mirror"])
    assert mirror.parent == tmp_path / "data/runicorn/mirrors"
    assert mirror.name.startswith("local_")
    assert run_files(mirror) == run_files(root)


@pytest.mark.parametrize("inner", ["", "mirror", ".."])
def test_mirror_and_source_inside_each_other_are_refused(root: Path, inner: str) -> None:
    sync(root, root / inner).refused(2, "inside each other")


USAGE = [
    [],
    ["root", "--method", "magic"],
    ["root", "m", "--port", "0"],
    ["root", "m", "--jitter", "-1"],
    ["root", "m", "--port", "22"],
    ["root", "m", "--force-delete"],
    ["root", "m", "--method", "journal", "--dry-run"],
    ["host:x", "m", "--ssh", "'"],
    ["host:x", "m", "--ssh", ""],
    ["ssh://me:password@host/x", "m"],
    ["ssh://host:port/x", "m"],
    ["ssh://host:1/x", "m", "--port", "2"],
    ["-oProxyCommand=x:y", "m"],
    [":x", "m"],
    ["a\nb", "m"],
    ["", "m"],
    ["root", "m", "more"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=map(" ".join, USAGE))
def test_wrong_usage_is_code_2_and_writes_nothing(root: Path, tmp_path: Path, arguments: list[str]) -> None:
    before = set(tmp_path.iterdir())
    done = sync(*arguments, cwd=root.parent).expect(2)
    assert done.err
    assert done.out == ""
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "m"}
    assert not run_files(tmp_path / "m")


def test_run_that_goes_on_moves_only_what_was_appended(tmp_path: Path) -> None:
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    runs = make_tree(root, 3, running=1)
    generate(root)
    sync(root, mirror).expect(0)
    appended = append_run(runs[-1], 20)
    generate(root)
    report = sync(root, mirror, "--json").expect(0).statistics
    states = sum((runs[-1] / name).stat().st_size for name in ("status.json", "summary.json"))
    assert (report["incremental_count"], report["full_count"]) == (2, 2)
    assert report["bytes_downloaded"] == appended + states
    assert sys.version_info >= (3, 10)
