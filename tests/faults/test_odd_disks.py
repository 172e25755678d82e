"""Disks that are full, read-only, in pieces, or take some names for the same: real ones where that can be."""

from __future__ import annotations

import os
import subprocess
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runicorn.journal.head import decode_head
from runicorn.manifest import ManifestGenerator
from tests.faults.odd import Commands, odd_names
from tests.faults.process import COMMAND, TIMEOUT, environment, generate, left_behind, run_files
from tests.faults.tally import Tried, count, scale
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN, append, make_run, replace

METHODS = ("journal", "manifest", "walk")
EVENTS = f"{PROJECT_RUN}/events.jsonl"
PAGE = 4096
KIB = 1024
ROOM = "from runicorn.remote_storage.mirror import Mirror\nMirror.free_bytes = lambda mirror: 2**40\n"
"""The disk says that it has room, as one does that others fill meanwhile."""

needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount; see the limits below")


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@contextmanager
def disk(place: Path, size: int) -> Iterator[Path]:
    """A disk of its own, of so many bytes."""
    place.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "none", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB."""
    with disk(tmp_path / "disk", 512 * KIB) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    make_run(made, PROJECT_RUN, "running", summary="{}")
    make_run(made, PATH_RUN)
    return made


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes of a disk free."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    free = os.statvfs(disk)
    size = free.f_bavail * free.f_frsize - left
    with filler.open("wb") as stream:
        if size > 0:
            os.posix_fallocate(stream.fileno(), 0, size)
    return filler


def assert_laws(mirror: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
    """Each file is a whole older or newer one; a log is a prefix that ends at a record; nothing is left."""
    for path, content in run_files(mirror).items():
        if path.endswith((".jsonl", ".txt")):
            assert new[path].startswith(content), path
            assert content.endswith(b"\n") or not content, path
        else:
            assert content in (old.get(path), new[path]), path
    assert all(name.endswith(".partial") for name in left_behind(mirror))


# -- full ----------------------------------------------------------------------------------------


@needs_mount
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("room", ["", ROOM])
def test_first_sync_to_a_disk_that_is_too_small_goes_on_where_there_is_room(
    commands: Commands, root: Path, small: Path, method: str, room: str
) -> None:
    for number in range(40):
        replace(root / PROJECT_RUN / f"media/{number}.png", os.urandom(20 * KIB))
    new = {path: content for path, content in run_files(root).items() if "/.runicorn/" not in path}
    generate(root)
    mirror = small / "mirror"
    for _ in range(2):
        commands.run("sync", root, mirror, "--method", method, first=room).refused(9, "free some space")
        assert_laws(mirror, {}, new)
    _mount("-o", f"remount,size={8192 * KIB}", small)
    commands.run("sync", root, mirror, "--method", method).expect(0)
    assert run_files(mirror) == new
    commands.run("verify", mirror).expect(0)
    count(Tried.FAULTED_SYNCS, 2)


@needs_mount
@pytest.mark.parametrize("method", METHODS)
def test_disk_that_is_full_at_any_page_loses_nothing_and_the_log_grows_on(
    commands: Commands, root: Path, small: Path, method: str
) -> None:
    """The page that is missing is one of the data, of staging, of the append, of the state or of its log."""
    _mount("-o", f"remount,size={4096 * KIB}", small)  # the log has room for all its turns
    mirror = small / "mirror"
    generate(root)
    commands.run("sync", root, mirror).expect(0)
    inode, refused = (mirror / EVENTS).stat().st_ino, 0
    again = method if method != "journal" else "auto"  # a log that grew by a part only asks for a listing
    for left in range(0, scale(28, 60), scale(8, 1)):
        old = run_files(mirror)
        replace(root / PROJECT_RUN / "summary.json", f'{{"best": {left}}}' + " " * 3 * PAGE)
        replace(root / PROJECT_RUN / f"media/{left}.png", bytes([left]) * PAGE)
        append(root / EVENTS, b'{"step": 2, "loss": 0.5}\n' * 800)
        generate(root)
        new = run_files(root)
        filler = fill(small, left * PAGE)
        done = commands.run("sync", root, mirror, "--method", method, first=ROOM)
        done.expect(done.code if done.code == 0 else 9)
        refused += done.code == 9
        assert_laws(mirror, old, new)
        filler.unlink()
        commands.run("sync", root, mirror, "--method", again).expect(0)
        assert run_files(mirror) == new
        assert (mirror / EVENTS).stat().st_ino == inode
        commands.run("verify", mirror).expect(0)
        (root / PROJECT_RUN / f"media/{left}.png").unlink()
        commands.run("generate-manifest", "--root", root).expect(0)
        commands.run("sync", root, mirror, "--delete").expect(0)
    assert refused
    count(Tried.FAULTED_SYNCS, refused)


@needs_mount
def test_root_on_a_disk_that_is_full_at_any_page_is_published_whole_or_as_before(
    commands: Commands, tmp_path: Path, small: Path
) -> None:
    root, mirror = small / "root", tmp_path / "mirror"
    make_run(root, PROJECT_RUN, "running", summary="{}")
    generate(root)
    refused = 0
    for left in range(0, scale(14, 40), scale(4, 1)):
        append(root / EVENTS, b'{"step": 2, "loss": 0.5}\n' * 100)
        filler = fill(small, left * PAGE)
        done = commands.run("generate-manifest", "--root", root)
        assert done.code in {0, 1, 3}
        assert done.code == 0 or "No space left" in done.err, done.err
        assert "Traceback" not in done.err
        refused += done.code != 0
        commands.run("sync", root, mirror).expect(0)
        assert (root / EVENTS).read_bytes().startswith((mirror / EVENTS).read_bytes())
        filler.unlink()
        generate(root)
        commands.run("sync", root, mirror).expect(0)
        assert run_files(mirror) == run_files(root)
    assert refused
    count(Tried.FAULTED_GENERATIONS, refused)


LIMITED = "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nlimit(resource.RLIMIT_FSIZE, %d)"


@pytest.mark.parametrize("method", METHODS)
def test_file_beyond_the_limit_of_this_user_is_told_and_the_next_sync_completes(
    commands: Commands, root: Path, tmp_path: Path, method: str
) -> None:
    mirror = tmp_path / "mirror"
    replace(root / PROJECT_RUN / "media/large.bin", bytes(400 * KIB))
    generate(root)
    for _ in range(2):
        done = commands.run("sync", root, mirror, "--method", method, first=LIMITED % (200 * KIB))
        done.expect(done.code if done.code in {1, 3} else 3)
        assert "File too large" in done.err
        assert_laws(mirror, {}, run_files(root))
    commands.run("sync", root, mirror, "--method", method).expect(0)
    assert run_files(mirror) == run_files(root)


# -- read-only, and in pieces --------------------------------------------------------------------


@needs_mount
@pytest.mark.parametrize("method", METHODS)
def test_disk_that_becomes_read_only_between_two_syncs(
    commands: Commands, root: Path, small: Path, method: str
) -> None:
    mirror = small / "mirror"
    generate(root)
    commands.run("sync", root, mirror, "--method", method).expect(0)
    before = run_files(mirror)
    append(root / EVENTS, b'{"step": 2}\n')
    generate(root)
    _mount("-o", "remount,ro", small)
    commands.run("sync", root, mirror, "--method", method).refused(1, "Read-only file system")
    commands.run("sync", root, small / "new", "--method", method).refused(1, "Read-only file system")
    assert run_files(mirror) == before
    for arguments in (("status",), ("verify",), ("sync", root)):
        extra = ("--dry-run",) if arguments[0] == "sync" else ()
        commands.run(*arguments, mirror, *extra).expect(0)
    commands.run("explain", mirror, EVENTS).expect(0)
    _mount("-o", "remount,rw", small)
    commands.run("sync", root, mirror, "--method", method).expect(0)
    assert run_files(mirror) == run_files(root)


@needs_mount
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("inner", [".runicorn", "vision"])
def test_other_disk_within_the_mirror_is_named_and_nothing_is_half_there(
    commands: Commands, root: Path, tmp_path: Path, method: str, inner: str
) -> None:
    generate(root)
    mirror = tmp_path / "mirror"
    with disk(mirror / inner, 2048 * KIB):
        done = commands.run("sync", root, mirror, "--method", method).expect(3)
        assert "another disk is mounted within the mirror" in done.err
        assert_laws(mirror, {}, run_files(root))
    commands.run("sync", root, mirror, "--method", method).expect(0)
    assert run_files(mirror) == run_files(root)


@needs_mount
def test_read_only_root_refuses_and_is_found_by_walking_or_is_published_through_a_link(
    commands: Commands, small: Path, tmp_path: Path
) -> None:
    root, away, mirror = small / "root", tmp_path / "away", tmp_path / "mirror"
    make_run(root, PROJECT_RUN, "running", summary="{}")
    _mount("-o", "remount,ro", small)
    for options in ((), ("--watch",), ("--output", tmp_path / "out.json")):
        commands.run("generate-manifest", "--root", root, *options).refused(1, "Read-only file system")
    ManifestGenerator(root, output_dir=away).generate()
    assert "(walk," in commands.run("sync", root, mirror).expect(0).out
    assert run_files(mirror) == run_files(root)
    _mount("-o", "remount,rw", small)
    (root / ".runicorn").symlink_to(away)
    _mount("-o", "remount,ro", small)
    commands.run("generate-manifest", "--root", root).expect(0)
    for method in METHODS:
        place = tmp_path / method
        commands.run("sync", root, place, "--method", method).expect(0)
        assert run_files(place) == run_files(mirror)
    away.rename(tmp_path / "gone")
    commands.run("generate-manifest", "--root", root).refused(1, "cannot make the folder")
    commands.run("status", "--root", root).refused(1, "nothing is published")
    commands.run("sync", root, tmp_path / "journal").expect(0)


@needs_mount
def test_read_only_root_is_watched_through_a_link(small: Path, tmp_path: Path) -> None:
    root, away = small / "root", tmp_path / "away"
    log = make_run(root, PROJECT_RUN, "running") / "events.jsonl"
    away.mkdir()
    (root / ".runicorn").symlink_to(away)
    with disk(tmp_path / "view", 4096) as view:
        _mount("--bind", small, view)
        _mount("-o", "remount,bind,ro", view)
        try:
            arguments = ("generate-manifest", "--watch", "--interval", "1", "--root", view / "root")
            with subprocess.Popen([*COMMAND, *map(str, arguments)], env=environment(), stdout=-1) as watch:
                try:
                    assert watch.stdout is not None
                    assert watch.stdout.readline().startswith(b"watching ")
                    append(log, b'{"step": 2}\n')
                    _wait_for_revision(away, 2)
                finally:
                    watch.terminate()
                    assert watch.wait(TIMEOUT) == 0
        finally:
            subprocess.run(["umount", "--lazy", str(view)], check=True)


def _wait_for_revision(folder: Path, revision: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while decode_head((folder / "journal/HEAD").read_bytes()).identity.revision < revision:
        assert time.monotonic() < deadline, "the change was not published"
        time.sleep(0.05)


# -- names that look the same --------------------------------------------------------------------

COMPOSED, APART = (unicodedata.normalize(form, "caf\u00e9.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_disk_that_takes_names_for_the_same_holds_one_and_tells_the_other(
    commands: Commands, root: Path, tmp_path: Path, method: str, form: str
) -> None:
    mirror, media = tmp_path / "mirror", root / PROJECT_RUN / "media"

    if form == "NFD" and method == "journal":
        method = "auto"  # a name that is spelled otherwise is a change of the mirror

    def sync(*more: str) -> set[str]:
        """The files that are not in the mirror as they are in the root; each of them has been named."""
        there = run_files(root)
        done = commands.run("sync", root, mirror, "--method", method, *more, first=odd_names(form))
        failed = {path for path in there if f"runicorn: {path}: this disk cannot hold it" in done.err}
        done.expect(3 if failed else 0)
        held = run_files(mirror)
        assert len({odd(path) for path in held}) == len(held)
        assert left_behind(mirror) == []
        missing = {path for path, data in there.items() if held.get(normal(path)) != data}
        assert missing <= failed
        return failed

    def normal(path: str) -> str:
        return unicodedata.normalize("NFC" if form == "NFC" else "NFD", path)

    def odd(path: str) -> str:
        return normal(normal(path).casefold())

    generate(root)
    assert sync() == set()
    for name in ("B.png", "b.png", COMPOSED, APART, f"single-{COMPOSED}"):
        replace(media / name, name)
    generate(root)
    for _ in range(2):
        assert len({odd(path) for path in sync()}) >= 2
    for name in ("B.png", "b.png", APART, COMPOSED):
        (media / name).unlink()
    replace(media / "b.png", "only")
    replace(media / normal(COMPOSED), "only")
    replace(media / "plain.png", "new")
    generate(root)
    sync("--delete", "--force-delete")
    # Accents of the other form are all that such a disk never takes.
    assert {path for path in sync("--delete", "--force-delete") if normal(path) == path} == set()
