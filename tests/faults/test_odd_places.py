"""Paths at the limit, odd names, very many files in one folder, very long logs."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import time
from pathlib import Path

import pytest

from runicorn.manifest import rules
from runicorn.manifest.digest import BLOCK_SIZE
from testbed.sshd import find_sftp_server
from tests.faults.odd import Commands
from tests.faults.process import left_behind, run_files
from tests.faults.tally import SOAK_END, scale
from tests.manifest.helpers import PROJECT_RUN, append, make_run
from tests.remote_storage.helpers import hollow, names

METHODS = ("journal", "manifest", "walk")
MEDIA = f"{PROJECT_RUN}/media"
PATH_MAX = 4096
"""Bytes of a path that the system takes at once, its end included."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    make_run(made, PROJECT_RUN, "running", summary="{}")
    return made


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


@pytest.fixture
def far(tmp_path: Path, root: Path) -> tuple[str, ...]:
    """Source and options that reach the root through the real sftp-server."""
    program = tmp_path / "no-ssh"
    program.write_text(f"#!/bin/sh\nexec {shlex.quote(find_sftp_server())}\n", encoding="utf-8")
    program.chmod(0o755)
    return (f"host:{root}", "--ssh", str(program))


# -- paths at the limit ----------------------------------------------------------------------------


def deep_write(root: Path, path: str, data: bytes) -> None:
    """A file whose path may be longer than the system takes at once."""
    *folders, name = path.split("/")
    fd = os.open(root, os.O_RDONLY)
    for folder in folders:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, dir_fd=fd)
        above, fd = fd, os.open(folder, os.O_RDONLY, dir_fd=fd)
        os.close(above)
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666, dir_fd=fd)
    os.write(file, data)
    os.close(file)
    os.close(fd)


def deep_files(root: Path) -> dict[str, bytes]:
    """The content of all files of runs, however long their paths."""
    found = {}
    start = os.open(root, os.O_RDONLY)
    for folder, folders, files, fd in os.fwalk(".", dir_fd=start):
        if rules.ARTEFACT_FOLDER in folders:
            folders.remove(rules.ARTEFACT_FOLDER)
        for name in files:
            file = os.open(name, os.O_RDONLY, dir_fd=fd)
            found[f"{folder}/{name}"[2:]] = os.read(file, 1024 * 1024)
            os.close(file)
    os.close(start)
    return found


def path_of(length: int, parts: int = 20) -> str:
    """A path of so many bytes below media, in so many parts."""
    room = length - len(MEDIA)
    sizes = [room // parts - 1] * parts
    sizes[-1] += room - sum(size + 1 for size in sizes)
    return MEDIA + "".join("/" + chr(ord("a") + number) * size for number, size in enumerate(sizes))


def test_paths_of_all_lengths_are_synced_as_far_as_the_server_can_open_them_and_the_others_named(
    commands: Commands, root: Path, tmp_path: Path, far: tuple[str, ...]
) -> None:
    longest = PATH_MAX - 1 - len(f"{root}/")
    for length in (3000, longest - 1, longest, longest + 1, 4095, 4096, 4097):
        deep_write(root, path_of(length), b"%d" % length)
    done = commands.run("generate-manifest", "--root", root).expect(3)
    assert done.err.count("longer than 4096 bytes") == 1
    there = {path: data for path, data in deep_files(root).items() if len(path) <= 4096}
    quick = "from runicorn.remote_storage import transfer\ntransfer.BACKOFF = (0.0, 0.0)"
    for method in METHODS:
        mirror = tmp_path / method
        done = commands.run("sync", far[0], mirror, *far[1:], "--method", method, first=quick)
        # The journal carries the bytes; what has to be opened by its path has to be short enough for that.
        reached = (
            there if method == "journal" else {path: there[path] for path in there if len(path) <= longest}
        )
        done.expect(0 if method == "journal" else 3)
        assert deep_files(mirror) == reached
        assert left_behind(mirror) == []
        if method == "journal":
            commands.run("verify", mirror).expect(0)
            told = json.loads(commands.run("explain", mirror, path_of(4096), "--json").expect(0).out)
            assert told["verdict"] == "in_place", told
        else:
            failed = {path for path in there if f"runicorn: {path}: " in done.err}
            # sftp-server leaves out of its lists what it cannot look at.
            assert failed == there.keys() - reached.keys() or "problem" in done.err
        if method == "walk":
            assert "the server could not list everything" in done.err


@pytest.mark.parametrize("method", METHODS)
def test_longest_names_and_deepest_folders_that_the_format_allows_and_one_beyond(
    commands: Commands, root: Path, mirror: Path, far: tuple[str, ...], method: str
) -> None:
    long = ["x" * 255, "\u00e9" * 127 + "x", "\U0001f984" * 63 + "abc", "y" * 251 + ".png"]
    for name in long:
        replace_deep(root / MEDIA / name)
    deepest = MEDIA + "/d" * 31
    replace_deep(root / deepest / "a.png")
    replace_deep(root / ("runs/" + "p/" * 32 + "run") / "meta.json")
    commands.run("generate-manifest", "--root", root).expect(0)
    good = run_files(root)
    commands.run("sync", far[0], mirror, *far[1:], "--method", method).expect(0)
    assert run_files(mirror) == good
    replace_deep(root / deepest / "e/a.png")
    replace_deep(root / deepest / "e/f/a.png")
    replace_deep(root / ("runs/" + "q/" * 33 + "run") / "meta.json")
    commands.run("generate-manifest", "--root", root).expect(3)
    commands.run("sync", far[0], mirror, *far[1:], "--method", method)
    beyond = set(run_files(root)) - set(run_files(mirror))
    assert {path for path in beyond if "/e/f/" in path or path.startswith("runs/q")} == beyond
    assert len(beyond) >= 2


def replace_deep(path: Path) -> None:
    """A new file; a name of 255 bytes leaves no room for a temporary one beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")


def test_mirror_whose_path_is_too_long_for_its_database_is_told_so(
    commands: Commands, root: Path, tmp_path: Path
) -> None:
    commands.run("generate-manifest", "--root", root).expect(0)

    def place(length: int) -> Path:
        path = tmp_path
        while len(str(path)) + 150 < length:
            path /= "d" * 100
        return path / ("e" * (length - len(str(path)) - 1))

    commands.run("sync", root, place(480)).expect(0)
    assert run_files(place(480)) == run_files(root)
    for length in (700, 2000, 4000):
        commands.run("sync", root, place(length)).refused(1, "too long for SQLite", "shorter")
    commands.run("sync", root, tmp_path / ("f" * 256)).refused(1, "File name too long")


# -- odd names -------------------------------------------------------------------------------------

ODD = [
    *(f"a{mark}b" for mark in "!\"#$%&'()*+,-:;<=>?@[]^_`{|}~ "),
    *(
        "-rf",
        "--",
        " ",
        "  x",
        "x ",
        "x.",
        "...",
        "..x",
        "x..",
        "con",
        "nul.txt",
        "aux.",
        "%s%n",
        "%2e%2e%2f",
    ),
    *("$(id)", "`id`", "a;id", "*", "?", "[a]", "~x", "host:path", "C:", "a\u00a0b", "\u2215", "\uff0f"),
    *("\u202egnp.exe", "a\u200bb", "\ufeffbom", "e\u0301", "\u00e9", "\u212b", "\u00c5", "\ufb01", "\u0130"),
    *("\ue000", "\ufffd", "\uffff", "\U0001f984", "\U0010ffff", "\U000e0041", "\u0378", "\u0f77", "\u00ad"),
]


@pytest.mark.parametrize("method", METHODS)
def test_every_odd_name_that_is_allowed_comes_as_it_is(
    commands: Commands, root: Path, mirror: Path, far: tuple[str, ...], method: str
) -> None:
    shown = [name for name in ODD if not name.startswith(".")]
    for name in shown:
        replace_deep(root / MEDIA / name)
        replace_deep(root / MEDIA / f"in{name}" / "a.png")
    replace_deep(root / f"p{''.join(shown[:40])}"[:80] / "n\u202e" / "runs" / "r \U0001f984" / "meta.json")
    commands.run("generate-manifest", "--root", root).expect(0)
    commands.run("sync", far[0], mirror, *far[1:], "--method", method, "--verbose").expect(0)
    assert run_files(mirror) == run_files(root)
    for path in root.glob("**/a.png"):
        path.write_text('{"new": 1}', encoding="utf-8")
    commands.run("generate-manifest", "--root", root).expect(0)
    commands.run("sync", far[0], mirror, *far[1:], "--method", method).expect(0)
    assert run_files(mirror) == run_files(root)
    commands.run("verify", mirror).expect(0)


# -- very many files in one folder ---------------------------------------------------------------------


@pytest.mark.timeout(scale(120, 600))
def test_thousands_of_files_in_one_media_folder(
    commands: Commands, root: Path, mirror: Path, far: tuple[str, ...]
) -> None:
    """Ten thousand in the soak; no rung asks for each of them when little has changed."""
    media = root / MEDIA
    old = time.time() - 2 * 86400
    for number in range(scale(1_500, 10_000)):
        file = os.open(media / f"{number:05}.png", os.O_WRONLY | os.O_CREAT)
        os.write(file, b"%d" % number)
        os.utime(file, (old, old))
        os.close(file)
    total = len(list(media.iterdir())) + 5

    def sync(place: Path, method: str) -> dict[str, object]:
        done = commands.run("sync", far[0], place, *far[1:], "--method", method, "--json").expect(0)
        return done.statistics

    commands.run("generate-manifest", "--root", root).expect(0)
    first = sync(mirror, "journal")
    assert (first["files_synced"], first["failed_count"]) == (total, 0)
    assert int(str(first["requests"])) <= 40
    # A walk looks again at what is young: the run's own six files, and those that are new.
    for method, most, young in (("journal", 8, 0), ("manifest", 16, 0), ("walk", 200, 8)):
        nothing = sync(mirror, method)
        assert int(str(nothing["files_synced"])) <= young, nothing
        assert int(str(nothing["requests"])) <= most, nothing
        (media / f"new-{method}.png").write_bytes(b"new")
        commands.run("generate-manifest", "--root", root).expect(0)
        one = sync(mirror, method)
        assert (mirror / MEDIA / f"new-{method}.png").exists()
        assert int(str(one["files_synced"])) <= young + 1, one
        assert int(str(one["requests"])) <= most + 40, one
    assert {path.name: path.read_bytes() for path in (mirror / MEDIA).iterdir()} == {
        path.name: path.read_bytes() for path in media.iterdir()
    }
    if SOAK_END:
        for method in METHODS[1:]:
            sync(mirror.with_name(method), method)
            assert names(mirror.with_name(method) / MEDIA) == names(media)


# -- very long logs --------------------------------------------------------------------------------------

GIB = 1024**3
RECORD = b'{"step": 1}\n'


def large_log(root: Path, size: int) -> Path:
    """A log of one long record of zeros, which takes no room, and some short ones."""
    log = root / PROJECT_RUN / "events.jsonl"
    hollow(log, size)
    append(log, b"\n" + RECORD * 3)
    return log


def same(one: Path, other: Path) -> bool:
    with one.open("rb") as left, other.open("rb") as right:
        while data := left.read(BLOCK_SIZE):
            if right.read(BLOCK_SIZE) != data:
                return False
        return right.read(1) == b""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.timeout(scale(120, 900))
def test_long_log_is_listed_appended_to_by_range_and_rotated(
    commands: Commands, root: Path, mirror: Path, far: tuple[str, ...], method: str
) -> None:
    """In the soak longer than 32 bits can count; the smaller one crosses the bounds of blocks and reads."""
    size = scale(20 * BLOCK_SIZE - 7, 5 * GIB if method == "journal" else 60 * BLOCK_SIZE)
    log, place = large_log(root, size), mirror / PROJECT_RUN / "events.jsonl"

    def sync() -> dict[str, object]:
        commands.run("generate-manifest", "--root", root).expect(0)
        done = commands.run("sync", far[0], mirror, *far[1:], "--method", method, "--json").expect(0)
        return done.statistics

    sync()
    assert same(log, place)
    inode = place.stat().st_ino
    for count in (1, 1000, BLOCK_SIZE // len(RECORD)):
        append(log, RECORD * count)
        report = sync()
        assert same(log, place)
        assert place.stat().st_ino == inode
        # A walk proves the prefix by its last 64 KiB.
        assert int(str(report["bytes_received"])) <= 300_000 + count * len(RECORD), report
    log.rename(log.with_name("events.jsonl.1"))
    append(log, RECORD)
    sync()
    assert place.read_bytes() == RECORD
    shutil.rmtree(mirror)
