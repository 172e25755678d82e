"""Processes in odd surroundings: streams, limits, folders and languages that are not there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runicorn.manifest import read_manifest
from testbed.sshd import find_sftp_server
from tests.faults.odd import Commands
from tests.faults.process import COMMAND, PROJECT_ROOT, TIMEOUT, Done, environment, generate, run_files
from tests.manifest.helpers import PROJECT_RUN, append, make_run

METHODS = ("journal", "manifest", "walk")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a run of each layout, one of them with a name beyond ASCII; published."""
    made = tmp_path / "root"
    make_run(made, PROJECT_RUN, "running", summary="{}")
    make_run(made, "runs/nlp/b\u00e4se/r2")
    generate(made)
    return made


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


def assert_equal(mirror: Path, root: Path) -> None:
    assert run_files(mirror) == run_files(root)


# -- streams -----------------------------------------------------------------------------------

CLOSED = """
import os, sys
for number in map(int, sys.argv[1]):
    os.close(number)
os.execv(sys.executable, [sys.executable, "-m", "runicorn", *sys.argv[2:]])
"""


def without_streams(numbers: str, *arguments: str | Path, out: int = subprocess.PIPE) -> Done:
    """The command, started with some of its standard streams closed."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", CLOSED, numbers, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=TIMEOUT,
        check=False,
    )
    return Done(done.returncode, (done.stdout or b"").decode(), done.stderr.decode())


@pytest.mark.parametrize("numbers", ["0", "2", "012"])
def test_sync_over_ssh_without_standard_streams_works_and_tells_by_its_exit_code(
    root: Path, mirror: Path, tmp_path: Path, numbers: str
) -> None:
    program = tmp_path / "no-ssh"
    program.write_text(f"#!/bin/sh\necho greeting >&2\nexec {find_sftp_server()}\n", encoding="utf-8")
    program.chmod(0o755)
    source = f"host:{root}"
    without_streams(numbers, "sync", source, mirror, "--ssh", program).expect(0)
    assert_equal(mirror, root)
    without_streams(numbers, "sync", f"{source}-not", mirror, "--ssh", program).expect(6)
    assert_equal(mirror, root)


def test_generator_without_standard_streams_writes_into_no_file_of_its_own(root: Path) -> None:
    before = (root / ".runicorn/full_manifest.json").read_bytes().partition(b'"experiments": [')[2]
    (root / "gone").mkdir()
    without_streams("012", "generate-manifest", "--root", root, "--verbose").expect(0)
    after = (root / ".runicorn/full_manifest.json").read_bytes().partition(b'"experiments": [')[2]
    assert after == before
    without_streams("012", "generate-manifest", "--root", root / "nowhere").expect(1)


FULL = "os.dup2(os.open('/dev/full', os.O_WRONLY), %d)"


@pytest.mark.parametrize(
    "arguments",
    [
        ("sync", "{root}", "{mirror}"),
        ("sync", "{root}", "{mirror}", "--json"),
        ("status", "{mirror}"),
        ("status", "--root", "{root}"),
        ("verify", "{mirror}"),
        ("explain", "{mirror}", f"{PROJECT_RUN}/meta.json"),
        ("generate-manifest", "--root", "{root}"),
    ],
)
def test_result_that_cannot_be_written_is_one_line_and_what_was_asked_for_is_done(
    commands: Commands, root: Path, mirror: Path, arguments: tuple[str, ...]
) -> None:
    commands.run("sync", root, mirror).expect(0)
    append(root / PROJECT_RUN / "events.jsonl", b'{"step": 2}\n')
    generate(root)
    filled = [each.format(root=root, mirror=mirror) for each in arguments]
    done = commands.run(*filled, first=FULL % 1).refused(1, "the result cannot be written", "No space left")
    assert done.out == ""
    if arguments[0] == "sync":
        assert_equal(mirror, root)


@pytest.mark.parametrize(
    ("arguments", "code"), [(("sync", "{root}-not", "{mirror}"), 6), (("sync", "--no-such-option"), 2)]
)
def test_exit_code_of_a_failure_holds_although_nothing_can_be_said(
    commands: Commands, root: Path, mirror: Path, arguments: tuple[str, ...], code: int
) -> None:
    filled = [each.format(root=root, mirror=mirror) for each in arguments]
    assert commands.run(*filled, first=FULL % 2).code == code


# -- folders that are not there ----------------------------------------------------------------

GONE = "os.rmdir(os.getcwd())"


def test_working_folder_that_was_removed_is_told_and_absolute_paths_work(
    commands: Commands, root: Path, mirror: Path, tmp_path: Path
) -> None:
    def run(*arguments: str | Path) -> Done:
        (tmp_path / "gone").mkdir()
        return commands.run(*arguments, first=GONE, cwd=tmp_path / "gone")

    run("sync", root, mirror).expect(0)
    assert_equal(mirror, root)
    run("generate-manifest", "--root", root).expect(0)
    run("status", mirror).expect(0)
    for arguments in (
        ("sync", root, "mirror"),
        ("sync", "./root", mirror),
        ("generate-manifest",),
        ("verify", "mirror"),
        ("explain", "mirror", f"{PROJECT_RUN}/meta.json"),
        ("remote", "add", "name", "./root"),
    ):
        run(*arguments).refused(1, "the working folder is not there any more")


def test_home_that_is_missing_or_no_folder_is_told(commands: Commands, root: Path, tmp_path: Path) -> None:
    leave = "for name in [each for each in os.environ if each.startswith('XDG_')]: del os.environ[name]\n"
    (tmp_path / "file").touch()
    nowhere = leave + f"os.environ['HOME'] = {str(tmp_path / 'file')!r}"
    commands.run("sync", root, first=nowhere).refused(1, "/file/", "Not a directory")
    commands.run("remote", "add", "name", root, first=nowhere).refused(2, "/file/", "Not a directory")
    commands.run("sync", "name", first=nowhere).refused(2, "/file/", "Not a directory")
    missing = leave + f"os.environ['HOME'] = {str(tmp_path / 'new/home')!r}"
    commands.run("sync", root, first=missing).expect(0)
    (made,) = (tmp_path / "new/home").rglob("mirrors/*")
    assert_equal(made, root)


def test_temporary_folder_is_needed_by_a_dry_run_only_and_told(
    commands: Commands, root: Path, mirror: Path
) -> None:
    missing = "import tempfile\ntempfile.tempdir = '/nowhere'"
    commands.run("sync", root, mirror, first=missing).expect(0)
    append(root / PROJECT_RUN / "events.jsonl", b'{"step": 2}\n')
    commands.run("generate-manifest", "--root", root, first=missing).expect(0)
    commands.run("sync", root, mirror, first=missing).expect(0)
    assert_equal(mirror, root)
    commands.run("verify", mirror, first=missing).expect(0)
    commands.run("sync", root, mirror, "--dry-run", first=missing).refused(1, "temporary", "TMPDIR")


def test_state_that_does_not_fit_the_temporary_folder_of_a_dry_run_is_told(
    commands: Commands, root: Path, mirror: Path
) -> None:
    commands.run("sync", root, mirror).expect(0)
    before = run_files(mirror)
    small = (
        "limit(resource.RLIMIT_FSIZE, 10_000)\nimport signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    )
    commands.run("sync", root, mirror, "--dry-run", first=small).refused(1, "TMPDIR", "File too large")
    assert run_files(mirror) == before


HIDDEN = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x00020000) == 0
assert libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) == 0
assert libc.mount(b"tmpfs", b"/proc", b"tmpfs", 0, None) == 0
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide /proc")
def test_without_proc_everything_works(commands: Commands, root: Path, mirror: Path) -> None:
    for number, method in enumerate(METHODS):
        append(root / PROJECT_RUN / "events.jsonl", b'{"step": %d}\n' % number)
        commands.run("generate-manifest", "--root", root, first=HIDDEN).expect(0)
        commands.run("sync", root, mirror, "--method", method, first=HIDDEN).expect(0)
        assert_equal(mirror, root)


# -- languages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("sync", "{root}", "{mirror}"), ("status", "{mirror}")])
def test_locale_that_cannot_name_the_files_is_refused_before_anything_is_written(
    root: Path, mirror: Path, arguments: tuple[str, ...]
) -> None:
    plain = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    done = subprocess.run(
        [*COMMAND, *(each.format(root=root, mirror=mirror) for each in arguments)],
        capture_output=True,
        env=plain,
        timeout=TIMEOUT,
        check=False,
    )
    Done(done.returncode, done.stdout.decode(), done.stderr.decode()).refused(1, "UTF-8", "PYTHONUTF8=1")
    assert not mirror.exists()


def test_plain_c_locale_names_files_as_ever(root: Path, mirror: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "sync", root, mirror],
        capture_output=True,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT)},
        timeout=TIMEOUT,
        check=False,
    )
    Done(done.returncode, done.stdout.decode(), done.stderr.decode()).expect(0)
    assert_equal(mirror, root)


# -- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_few_descriptors_are_enough_and_fewer_are_named(
    commands: Commands, root: Path, mirror: Path, method: str
) -> None:
    for number in range(12):
        make_run(root, f"vision/net{number}/runs/r{number}", summary="{}")
    enough = "limit(resource.RLIMIT_NOFILE, 20)"
    commands.run("generate-manifest", "--root", root, first=enough).expect(0)
    for limit in (8, 10, 12, 14):
        few = f"limit(resource.RLIMIT_NOFILE, {limit})"
        done = commands.run("sync", root, mirror, "--method", method, first=few)
        done.expect(done.code if done.code in {0, 3} else 1)
        assert done.code == 0 or "Too many open files" in done.err or "unable to open" in done.err
    held, there = run_files(mirror), run_files(root)
    assert all(there[path] == content for path, content in held.items())
    commands.run("sync", root, mirror, "--method", method, first=enough).expect(0)
    assert_equal(mirror, root)
    commands.run("verify", mirror, first=enough).expect(0)


def test_too_few_descriptors_for_a_generation_publish_no_problem(commands: Commands, root: Path) -> None:
    append(root / PROJECT_RUN / "events.jsonl", b'{"step": 2}\n')
    before = (root / ".runicorn/full_manifest.json").read_bytes()
    codes = []
    for limit in range(6, 32):
        few = f"limit(resource.RLIMIT_NOFILE, {limit})"
        done = commands.run("generate-manifest", "--root", root, first=few)
        codes.append(done.code)
        if done.code == 0:
            break
        done.refused(1, "cannot open", "Too many open files", "ulimit -n")
        assert (root / ".runicorn/full_manifest.json").read_bytes() == before
    assert codes[0] == 1
    assert codes[-1] == 0
    manifest = read_manifest(root / ".runicorn/full_manifest.json")
    assert (manifest.revision, manifest.header.problem_count) == (2, 0)


# -- a mirror and a root that are too near -----------------------------------------------------


@pytest.fixture
def no_ssh(tmp_path: Path) -> str:
    program = tmp_path / "no-ssh"
    program.write_text(f"#!/bin/sh\nexec {find_sftp_server()}\n", encoding="utf-8")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("method", ["auto", "manifest", "walk"])
@pytest.mark.parametrize("published", [True, False])
def test_root_is_never_its_own_mirror_although_a_host_name_hides_it(
    commands: Commands, root: Path, no_ssh: str, method: str, published: bool
) -> None:
    if not published:
        shutil.rmtree(root / ".runicorn")
        if method != "auto":
            return
    log = root / PROJECT_RUN / "events.jsonl"
    with log.open("ab") as writer:  # a training script, which would go on writing into nothing
        writer.write(b'{"step": 2}\n')
        writer.flush()
        before = run_files(root)
        for _ in range(2):
            done = commands.run("sync", f"host:{root}", root, "--ssh", no_ssh, "--method", method)
            done.refused(2, "published" if published else "its own source", "another folder")
        assert run_files(root) == before
        assert os.fstat(writer.fileno()).st_ino == log.stat().st_ino
    if published:
        assert not (root / ".runicorn/state.db").exists()


def test_mirror_that_is_published_on_its_own_is_synced_all_the_same(
    commands: Commands, root: Path, mirror: Path, tmp_path: Path
) -> None:
    commands.run("sync", root, mirror).expect(0)
    commands.run("generate-manifest", "--root", mirror).expect(0)
    append(root / PROJECT_RUN / "events.jsonl", b'{"step": 2}\n')
    generate(root)
    commands.run("sync", root, mirror).expect(0)
    assert_equal(mirror, root)
    commands.run("generate-manifest", "--root", mirror).expect(0)
    commands.run("sync", mirror, tmp_path / "second").expect(0)
    assert_equal(tmp_path / "second", root)


def test_mirror_inside_its_root_is_no_part_of_what_is_published(
    commands: Commands, root: Path, no_ssh: str
) -> None:
    inside = root / "backup"
    for number in range(3):
        append(root / PROJECT_RUN / "events.jsonl", b'{"step": %d}\n' % number)
        manifest = generate(root)
        commands.run("sync", f"host:{root}", inside, "--ssh", no_ssh).expect(0)
        assert {run["folder"] for run in manifest["experiments"]} == {PROJECT_RUN, "runs/nlp/b\u00e4se/r2"}
    whole = run_files(root)
    assert run_files(inside) == {
        path: content for path, content in whole.items() if not path.startswith("backup/")
    }


@pytest.mark.parametrize("name", [b"a b", b"line\nbreak", b"bad\xff\xfe", b"-dash", "\u00fcber".encode()])
def test_mirror_and_root_with_odd_names_work_and_are_shown_escaped(
    commands: Commands, root: Path, tmp_path: Path, name: bytes
) -> None:
    place, source = tmp_path / os.fsdecode(name), tmp_path / ("of" + os.fsdecode(name))
    root.rename(source)
    if b"\n" in name:  # no source may hold a line break
        source.rename(root)
        source = root
    commands.run("generate-manifest", "--root", source).expect(0)
    for arguments in (
        ("sync", source, place),
        ("sync", source, place, "--json"),
        ("sync", source, place, "--dry-run"),
        ("status", place),
        ("status", place, "--json"),
        ("status", "--root", source),
        ("verify", place),
        ("explain", place, f"{PROJECT_RUN}/meta.json"),
    ):
        commands.run(*arguments).expect(0)
    commands.run("sync", f"./{source.name}", f"./{place.name}", cwd=tmp_path).expect(0)
    assert_equal(place, source)


def test_name_that_is_not_utf8_can_be_no_remote(commands: Commands, root: Path, tmp_path: Path) -> None:
    home = f"os.environ.update(HOME={str(tmp_path)!r}, XDG_CONFIG_HOME={str(tmp_path)!r})"
    for source, mirror in ((root, "bad\udcff"), (f"{root}\udcff", "good")):
        done = commands.run("remote", "add", "name", source, tmp_path / mirror, first=home)
        done.refused(2, "is not UTF-8")
    commands.run("remote", "add", "name", root, tmp_path / "good", first=home).expect(0)


def test_mirror_that_is_reached_through_a_link_stays_there(
    commands: Commands, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for method in METHODS:
        append(root / PROJECT_RUN / "events.jsonl", b'{"step": 2}\n')
        generate(root)
        commands.run("sync", root, tmp_path / "link", "--method", method).expect(0)
        assert_equal(tmp_path / "real", root)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    commands.run("sync", root, tmp_path / "link").refused(1, "link")
    assert not (tmp_path / "nowhere").exists()
