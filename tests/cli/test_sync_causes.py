"""What stops `runicorn sync`, or part of it: each cause with its exit code, and no traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from tests.faults.process import (
    COMMAND,
    PROJECT_ROOT,
    TIMEOUT,
    environment,
    generate,
    left_behind,
    run_files,
    runicorn,
    sync,
)
from tests.manifest.helpers import PROJECT_RUN
from tests.remote_storage.helpers import NO_JOURNAL


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
