"""`runicorn sync` from a local source, as a process of its own."""

from __future__ import annotations

import io
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from runicorn.cli import progress
from runicorn.cli.progress import TimeLeft
from runicorn.cli.units import age_text, duration_text, size_text
from runicorn.remote_storage.report import BytesReceived, FileDone, SyncReport, TransferStarted
from testbed.trees import append_run, make_tree
from tests.faults.process import (
    COMMAND,
    PROJECT_ROOT,
    TIMEOUT,
    environment,
    generate,
    left_behind,
    run_files,
    runicorn,
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


# -- causes and their codes ----------------------------------------------------------------


def test_missing_root_is_code_6(tmp_path: Path, mirror: Path) -> None:
    for method in ("auto", "journal", "manifest", "walk"):
        sync(tmp_path / "no\x1bwhere", mirror, "--method", method, "-q").refused(6, "hint: ")


def test_no_manifest_with_method_manifest_is_code_1(root: Path, mirror: Path) -> None:
    shutil.rmtree(root / ".runicorn")
    sync(root, mirror, "--method", "manifest").refused(1, "generate-manifest")


def test_no_journal_with_method_journal_is_code_1(root: Path, mirror: Path) -> None:
    generate(root, journal=False)
    sync(root, mirror, "--method", "journal").refused(1, NO_JOURNAL, "hint: ")
    done = sync(root, mirror, "--method", "journal", "--json").refused(1, NO_JOURNAL)
    assert (done.statistics["error"], done.statistics["exit_code"]) == (NO_JOURNAL, 1)
    assert not run_files(mirror)


def test_dry_run_by_the_journal_says_what_to_use(root: Path, mirror: Path) -> None:
    done = sync(root, mirror, "--method", "journal", "--dry-run").expect(2)
    assert "a dry run cannot go by the journal" in done.err
    assert "--method manifest" in done.err


def test_mirror_that_is_a_file_is_code_1(root: Path, mirror: Path) -> None:
    mirror.write_text("mine", encoding="utf-8")
    sync(root, mirror).refused(1, "is not a folder")
    assert mirror.read_text(encoding="utf-8") == "mine"


def test_file_that_fails_is_code_3_and_named(root: Path, mirror: Path) -> None:
    (mirror / PROJECT_RUN / "meta.json/inner").mkdir(parents=True)
    done = sync(root, mirror).expect(3)
    assert "1 FAILED" in done.out
    assert done.lines[0].startswith(f"runicorn: {PROJECT_RUN}/meta.json: ")
    assert (
        sync(root, mirror, "--json").expect(3).statistics["failed"][0]["path"] == f"{PROJECT_RUN}/meta.json"
    )
    (mirror / PROJECT_RUN / "meta.json/inner").rmdir()
    (mirror / PROJECT_RUN / "meta.json").rmdir()
    sync(root, mirror).expect(0)
    assert run_files(mirror) == run_files(root)


def test_unsafe_manifest_is_code_7(root: Path, mirror: Path) -> None:
    document = generate(root, journal=False)
    document["experiments"][0]["files"][0]["path"] = "../x"
    (root / ".runicorn/full_manifest.json.gz").write_text(json.dumps(document), encoding="utf-8")
    sync(root, mirror).refused(7, "'../x'", "hint: ")
    assert not run_files(mirror)


def test_busy_mirror_is_code_8_or_is_waited_for(root: Path, mirror: Path) -> None:
    sync(root, mirror).expect(0)
    lock = FileLock(mirror / ".runicorn/sync.lock")
    with lock:
        done = sync(root, mirror, "--lock-timeout", "0.1").expect(8)
        assert "another sync works on the mirror" in done.err
        assert "--lock-timeout" in done.lines[-1]
        process = subprocess.Popen(
            [*COMMAND, "sync", str(root), str(mirror), "--lock-timeout", "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert process.stderr is not None
        assert b"waiting up to 60 s" in process.stderr.readline()
    out, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert out.startswith(b"No changes")


FULL = """
import errno, os
NAME, LEFT = os.environ["FULL_NAME"], [int(os.environ["FULL_AT"])]
REAL = getattr(os, NAME)
class Full:  # no function: as a class attribute of pathlib it must not become a method
    def __call__(self, *arguments, **options):
        LEFT[0] -= 1
        if LEFT[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return REAL(*arguments, **options)
setattr(os, NAME, Full())
"""


@pytest.mark.parametrize(
    ("name", "at"), [("pwrite", 1), ("pwrite", 5), ("fsync", 2), ("rename", 3), ("mkdir", 5)]
)
def test_disk_that_runs_full_is_code_9_and_the_next_sync_goes_on(
    root: Path, mirror: Path, tmp_path: Path, name: str, at: int
) -> None:
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault/sitecustomize.py").write_text(FULL, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "fault"), str(PROJECT_ROOT)])
    done = sync(root, mirror, env={"PYTHONPATH": path, "FULL_NAME": name, "FULL_AT": str(at)})
    done.refused(9, "No space left on device", "hint: free some space")
    whole = run_files(root)
    assert all(whole[file] == content for file, content in run_files(mirror).items())
    assert left_behind(mirror) == []
    sync(root, mirror).expect(0)
    assert run_files(mirror) == whole


def test_unexpected_error_is_one_line_and_code_1(root: Path, mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "fault").mkdir()
    fault = "import sys\nsys.modules['runicorn.remote_storage.walk'] = None\n"
    (tmp_path / "fault/sitecustomize.py").write_text(fault, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "fault"), str(PROJECT_ROOT)])
    done = sync(root, mirror, env={"PYTHONPATH": path})
    assert done.code == 1
    assert len(done.lines) == 1
    assert done.err.startswith("runicorn: internal error: ")


def test_output_that_nobody_reads_is_no_traceback(root: Path, mirror: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*COMMAND, "sync", str(root), str(mirror)],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=TIMEOUT,
            check=False,
        )
    finally:
        os.close(writer)
    assert b"Traceback" not in done.stderr
    assert run_files(mirror) == run_files(root)


def test_help_tells_every_exit_code() -> None:
    shown = runicorn("sync", "--help").expect(0).out
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130):
        assert re.search(rf"^ +{code} +\w", shown, re.MULTILINE), code


# -- progress ------------------------------------------------------------------------------


def on_terminal(*arguments: str | Path) -> tuple[int, str]:
    """Run a sync whose stderr is a terminal; its exit code and what the terminal was sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "sync", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment(TERM="xterm", COLUMNS="150", LINES="24"),
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + TIMEOUT
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([ours], [], [], 1)
            try:
                data = os.read(ours, 65536) if ready else b""
            except OSError:  # a terminal that nobody holds open any more
                break
            if ready and not data:
                break
            shown += data
        return process.wait(TIMEOUT), shown.decode()
    finally:
        os.close(ours)
        process.kill()


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_progress_on_a_terminal_has_exact_totals_and_goes_at_the_end(tmp_path: Path, method: str) -> None:
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    make_tree(root, 40)
    generate(root)
    size = size_text(sum(map(len, run_files(root).values())))
    code, shown = on_terminal(root, mirror, "--method", method)
    assert code == 0
    assert run_files(mirror) == run_files(root)
    counts = [(int(done), int(total)) for done, total in re.findall(r"(\d+)/(\d+) files", shown)]
    assert counts
    # A walk fetches the status files before it knows the rest.
    total = 560 if method == "walk" else 600
    assert counts[-1] == (total, total)
    assert all(done <= all_of_it == total for done, all_of_it in counts)
    assert [done for done, _ in counts] == sorted(done for done, _ in counts)
    totals = set(re.findall(r"/(\d[\d.]* [KMG]?B)  ", shown))
    assert len(totals) == 1
    assert method != "manifest" or totals == {size}  # of the journal are shown the bytes that come, packed
    # The last line is taken off the screen: erased, and the cursor is there again.
    assert shown.rstrip("\r\n").endswith("\x1b[2K")
    assert "\x1b[?25h" in shown[shown.rfind(f"{total}/{total}") :]


def test_progress_never_shows_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_STEP", 0.0)
    screen = io.StringIO()
    shown = progress.TerminalProgress(Console(file=screen, force_terminal=True, width=150))
    for _ in range(2):  # the status files of a walk come before the totals are known
        shown(BytesReceived(70))
        shown(FileDone("status.json", 70))
    shown(TransferStarted(3, 300))
    for _ in range(3):
        shown(BytesReceived(150))  # more than planned: something was read twice
        shown(FileDone("meta.json", 100))
    shown.stop()
    assert "3/3 files  300 B/300 B" in screen.getvalue()
    assert not re.search(r"[45]/3 files", screen.getvalue())


@pytest.mark.parametrize("option", ["-q", "-v"])
def test_terminal_shows_no_bar_when_told(root: Path, mirror: Path, option: str) -> None:
    _, shown = on_terminal(root, mirror, option)
    assert "\x1b" not in shown


def test_pipe_shows_no_bar(root: Path, mirror: Path) -> None:
    assert sync(root, mirror).expect(0).err == ""


def test_time_left_is_never_negative_and_does_not_jump() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        total = 1e6
        left = TimeLeft(total, 0.0)
        now = done = 0.0
        last: float | None = None
        assert left.update(0, 1.0) is None
        while done < 1.2 * total:
            step = chance.uniform(0.01, 0.3)
            now += step
            done += chance.choice([0.0, 1.0, 20_000.0]) * chance.random()
            shown = left.update(done, now)
            if shown is None:
                continue
            assert shown >= 0
            if last is not None:
                estimate = max(0.0, total - done) * now / done
                # At most a tenth of the way to the present estimate, beside the time that has gone.
                assert (
                    abs(shown - max(0.0, last - step)) <= 0.1 * abs(estimate - max(0.0, last - step)) + 1e-6
                )
            last = shown
        assert last is not None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KB"), (1024**2 - 1, "1.00 MB"), (5 * 1024**4, "5.00 TB")],
)
def test_sizes_are_in_the_unit_that_fits(value: int, text: str) -> None:
    assert size_text(value) == text


def test_times_are_in_the_unit_that_fits() -> None:
    assert [duration_text(each) for each in (0, 59.94, 60, 3599.6, 7260)] == [
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "1 h 00 min",
        "2 h 01 min",
    ]
    assert [age_text(each) for each in (-5, 1, 60, 7200, 86400 * 3)] == [
        "0 seconds",
        "1 second",
        "1 minute",
        "2 hours",
        "3 days",
    ]


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
