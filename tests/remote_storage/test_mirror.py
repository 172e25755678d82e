"""The mirror's tree: no link is followed, logs grow on their inode, records stay whole."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runicorn.errors import DiskFullError, MirrorError
from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.records import record_steps
from tests.remote_storage.helpers import RUN, lines, names, put, run_files

LOG = f"{RUN}/events.jsonl"


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path / "mirror") as made:
        yield made


def install(mirror: Mirror, path: str, content: str) -> Path:
    staged = mirror.staging.stage()
    staged.write(content.encode(), 0)
    mirror.install(staged, path)
    return mirror.root / path


def grow(mirror: Mirror, path: str, *data: bytes) -> None:
    """Append, whatever the mirror gives back."""
    mirror.append(path, mirror.signature(path), iter(data))


def open_fds() -> set[str]:
    return {name for name in names("/proc/self/fd") if Path(f"/proc/self/fd/{name}").exists()}


# -- names -----------------------------------------------------------------------------------


def test_install_makes_folders_and_replaces_whole(mirror: Mirror) -> None:
    path = install(mirror, LOG, "old")
    inode = path.stat().st_ino
    with path.open() as reader:
        install(mirror, LOG, "new and longer")
        assert reader.read() == "old"
    assert path.read_text() == "new and longer"
    assert path.stat().st_ino != inode
    assert names(mirror.root / ".runicorn/staging") == []


def test_install_into_a_folder_that_was_removed_meanwhile(mirror: Mirror) -> None:
    path = install(mirror, LOG, "one")
    path.unlink()
    path.parent.rmdir()
    assert install(mirror, LOG, "two").read_text() == "two"


def test_install_over_a_folder_is_refused_and_leaves_no_temp(mirror: Mirror) -> None:
    put(mirror.root / LOG / "inside", "x")
    with pytest.raises(MirrorError, match="a folder is in the place of a file"):
        install(mirror, LOG, "text")
    assert names(mirror.root / ".runicorn/staging") == []


@pytest.mark.parametrize("at", ["vision", "vision/resnet", RUN])
def test_install_below_a_link_is_refused(mirror: Mirror, tmp_path: Path, at: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (mirror.root / at).parent.mkdir(parents=True, exist_ok=True)
    (mirror.root / at).symlink_to(outside)
    with pytest.raises(MirrorError, match="a link or a file is in the place of a folder"):
        install(mirror, LOG, "text")
    assert list(outside.rglob("*")) == []


def test_folder_swapped_for_a_link_between_two_files_is_not_followed(mirror: Mirror, tmp_path: Path) -> None:
    install(mirror, LOG, "one")
    moved = tmp_path / "moved"
    (mirror.root / RUN).rename(moved)
    outside = tmp_path / "outside"
    outside.mkdir()
    (mirror.root / RUN).symlink_to(outside)
    with contextlib.suppress(MirrorError):
        install(mirror, f"{RUN}/meta.json", "{}")
    assert list(outside.rglob("*")) == []


def test_many_folders_do_not_keep_many_open(mirror: Mirror) -> None:
    before = len(open_fds())
    for number in range(400):
        install(mirror, f"a/b/runs/r{number}/meta.json", "{}")
    assert len(open_fds()) - before <= 130
    assert len(run_files(mirror.root)) == 400


def test_closing_gives_all_handles_back(tmp_path: Path) -> None:
    before = open_fds()
    with Mirror(tmp_path / "mirror") as mirror:
        install(mirror, LOG, "one")
        mirror.list_run(RUN)
    assert open_fds() == before


@pytest.mark.parametrize("name", [".runicorn", ".runicorn/staging"])
def test_link_in_the_place_of_the_state_folder_is_refused(tmp_path: Path, name: str) -> None:
    before = open_fds()
    link = tmp_path / "mirror" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path)
    with pytest.raises(MirrorError):
        Mirror(tmp_path / "mirror")
    assert open_fds() == before


def test_mirror_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "mirror").symlink_to(tmp_path / "real")
    with Mirror(tmp_path / "mirror") as mirror:
        install(mirror, LOG, "text")
    assert (tmp_path / "real" / LOG).read_text() == "text"


def test_read_only_mirror_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    with Mirror(tmp_path / "mirror", read_only=True) as mirror:
        assert mirror.list_run(RUN) == {}
    assert names(tmp_path / "mirror") == []


# -- looking ---------------------------------------------------------------------------------


def test_list_run_names_regular_files_only(mirror: Mirror, tmp_path: Path) -> None:
    for name in ("meta.json", "media/a.png", "media/deep/b.png", "checkpoints/c.pt"):
        put(mirror.root / RUN / name, name)
    os.mkfifo(mirror.root / RUN / "events.jsonl")
    (mirror.root / RUN / "logs.txt").symlink_to("meta.json")
    (mirror.root / RUN / "media/link").symlink_to(tmp_path)
    found = mirror.list_run(RUN)
    assert sorted(found) == ["media/a.png", "media/deep/b.png", "meta.json"]
    assert found["media/a.png"].size == len("media/a.png")
    assert mirror.list_run("no/such/runs/run") == {}


@pytest.mark.parametrize("gone", ["file", "folder"])
def test_list_run_leaves_out_what_goes_while_it_is_listed(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    run = mirror.root / RUN
    for name in ("meta.json", "media/a.png"):
        put(run / name, name)
    scan = os.scandir

    def scan_and_lose(fd: int) -> contextlib.AbstractContextManager[list[os.DirEntry[str]]]:
        monkeypatch.undo()
        with scan(fd) as entries:
            names = list(entries)
        if gone == "file":
            (run / "meta.json").unlink()
        else:
            shutil.rmtree(run / "media")
        return contextlib.nullcontext(names)

    monkeypatch.setattr("runicorn.remote_storage.mirror.os.scandir", scan_and_lose)
    found = mirror.list_run(RUN)
    assert sorted(found) == (["media/a.png"] if gone == "file" else ["meta.json"])


def test_closing_twice_closes_once(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "mirror")
    mirror.close()
    reused = os.open(tmp_path, os.O_RDONLY)
    mirror.close()
    os.fstat(reused)
    os.close(reused)


def test_place_of_the_state_that_cannot_be_looked_at_is_an_error(mirror: Mirror) -> None:
    put(mirror.root / "file", "x")
    with pytest.raises(MirrorError, match="a link or a file is in the place of a folder"):
        mirror.require_plain("file/below")
    mirror.require_plain("file")
    mirror.require_plain("missing")
    (mirror.root / "link").symlink_to("file")
    with pytest.raises(MirrorError, match="link in the mirror is a link or no file"):
        mirror.require_plain("link")


def test_list_run_does_not_follow_links(mirror: Mirror, tmp_path: Path) -> None:
    put(tmp_path / "outside/meta.json", "{}")
    (mirror.root / RUN).parent.mkdir(parents=True)
    (mirror.root / RUN).symlink_to(tmp_path / "outside")
    assert mirror.list_run(RUN) == {}


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_open_file_takes_regular_files_only(mirror: Mirror, tmp_path: Path, kind: str) -> None:
    place = mirror.root / LOG
    place.parent.mkdir(parents=True)
    if kind == "link":
        place.symlink_to(put(tmp_path / "secret", "text"))
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.mkdir()
    before = open_fds()
    with pytest.raises(OSError, match=r".+"):
        mirror.open_file(LOG)
    with pytest.raises(OSError, match=r".+"):
        mirror.read_range(LOG, 0, 10)
    assert open_fds() - before <= {str(number) for number in range(200)}
    assert len(open_fds()) <= len(before) + LOG.count("/")  # the folders may stay open


def test_prefix_hasher_reads_the_last_block_only(mirror: Mirror) -> None:
    content = os.urandom(2 * BLOCK_SIZE + 500)
    put(mirror.root / LOG, content)
    whole = BlockHasher()
    whole.update(content)
    full = whole.hashes()[:2]
    trusted = [bytes(32), full[1]]
    for size in (0, 1, BLOCK_SIZE, BLOCK_SIZE + 7, 2 * BLOCK_SIZE, len(content)):
        expected = BlockHasher()
        expected.update(content[:size])
        assert mirror.prefix_hasher(LOG, size, full).hashes() == expected.hashes()
    assert mirror.prefix_hasher(LOG, len(content), trusted).hashes()[0] == bytes(32)


# -- logs ------------------------------------------------------------------------------------


def test_append_keeps_the_inode(mirror: Mirror) -> None:
    path = install(mirror, LOG, lines(3))
    inode = path.stat().st_ino
    with path.open() as reader:
        reader.read()
        grow(mirror, LOG, lines(2, 3).encode(), lines(1, 5).encode())
        assert reader.read() == lines(3, 3)
    assert (path.stat().st_ino, path.read_text()) == (inode, lines(6))


@pytest.mark.parametrize("change", ["grown", "cut", "replaced", "gone", "link"])
def test_append_refuses_a_log_that_is_not_as_expected(mirror: Mirror, tmp_path: Path, change: str) -> None:
    path = install(mirror, LOG, lines(3))
    expected = mirror.signature(LOG)
    if change == "grown":
        path.write_text(lines(4))
    elif change == "cut":
        os.truncate(path, 5)
    else:
        path.rename(tmp_path / "kept")
    if change == "replaced":
        put(path, lines(3))
    elif change == "link":
        path.symlink_to(tmp_path / "kept")
    before = path.read_bytes() if path.exists() else b""
    with pytest.raises(MirrorError):
        mirror.append(LOG, expected, iter([lines(2, 3).encode()]))
    assert (path.read_bytes() if path.exists() else b"") == before


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.integers(0, 9000), max_size=12),
    tail=st.integers(0, 5000),
    cuts=st.lists(st.integers(1, 7000), min_size=1, max_size=8),
)
def test_every_prefix_of_the_writes_ends_at_a_record(records: list[int], tail: int, cuts: list[int]) -> None:
    data = b"".join(b"x" * size + b"\n" for size in records) + b"y" * tail
    chunks: list[bytes] = []
    at = 0
    while at < len(data):
        step = cuts[len(chunks) % len(cuts)]
        chunks.append(data[at : at + step])
        at += step
    steps = list(record_steps(iter(chunks)))
    assert b"".join(steps) == data
    whole = steps if tail == 0 else steps[:-1]
    assert all(step.endswith(b"\n") for step in whole)
    assert all(len(step) <= 4096 or step.count(b"\n") == 1 for step in whole)


def test_record_without_end_is_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicorn.remote_storage.records._LONGEST_HELD", 10_000)
    steps = list(record_steps(iter([b"x" * 3000] * 5 + [b"\n" + b"y" * 5])))
    assert steps == [b"x" * 12_000, b"x" * 3000 + b"\n", b"y" * 5]


# -- removing and sweeping -----------------------------------------------------------------------


def test_remove_takes_empty_folders_along(mirror: Mirror) -> None:
    install(mirror, f"{RUN}/media/deep/a.png", "a")
    install(mirror, f"{RUN}/media/b.png", "b")
    mirror.remove(f"{RUN}/media/deep/a.png")
    assert not (mirror.root / RUN / "media/deep").exists()
    mirror.remove(f"{RUN}/media/b.png")
    assert names(mirror.root) == [".runicorn"]


def test_remove_leaves_folders_in_which_something_lives(mirror: Mirror) -> None:
    install(mirror, f"{RUN}/meta.json", "a")
    put(mirror.root / RUN / "notes.md", "mine")
    mirror.remove(f"{RUN}/meta.json")
    assert names(mirror.root / RUN) == ["notes.md"]


def test_remove_of_what_is_not_there_is_done(mirror: Mirror) -> None:
    assert not mirror.remove(LOG)
    install(mirror, LOG, "text")
    assert mirror.remove(LOG)
    assert not mirror.remove(LOG)


def test_remove_below_a_link_removes_nothing(mirror: Mirror, tmp_path: Path) -> None:
    put(tmp_path / "outside/events.jsonl", "text")
    (mirror.root / RUN).parent.mkdir(parents=True)
    (mirror.root / RUN).symlink_to(tmp_path / "outside")
    with contextlib.suppress(MirrorError):
        mirror.remove(LOG)
    assert (tmp_path / "outside/events.jsonl").exists()


def test_remove_of_a_link_leaves_its_target(mirror: Mirror, tmp_path: Path) -> None:
    target = put(tmp_path / "outside", "text")
    (mirror.root / RUN).mkdir(parents=True)
    (mirror.root / LOG).symlink_to(target)
    mirror.remove(LOG)
    assert target.read_text() == "text"


def test_sweeping_keeps_young_partial_downloads(mirror: Mirror) -> None:
    for name in ("0123", "young.partial", "old.partial"):
        put(mirror.root / ".runicorn/staging" / name, "x")
    os.utime(mirror.root / ".runicorn/staging/old.partial", (0, 0))
    mirror.staging.sweep()
    assert names(mirror.root / ".runicorn/staging") == ["young.partial"]


@pytest.mark.parametrize("times", [1, 10**6])
def test_sweeping_of_a_folder_that_is_still_written_to(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """A helper of a sync that was killed lives a moment longer."""
    own = mirror.root / ".runicorn/staging/0123-0"
    put(own / "1", "x")
    listdir, left = os.listdir, iter(range(2, times + 2))

    def then_another(fd: int) -> list[str]:
        found = listdir(fd)
        for number in itertools.islice(left, 1):
            put(own / str(number), "x")
        return found

    with monkeypatch.context() as patch:
        patch.setattr("runicorn.remote_storage.staging.os.listdir", then_another)
        mirror.staging.sweep()
    assert names(mirror.root / ".runicorn/staging") == ([own.name] if times > 1 else [])
    mirror.staging.sweep()
    assert names(mirror.root / ".runicorn/staging") == []


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.ENOSPC, DiskFullError, "No space"),
        (errno.EDQUOT, DiskFullError, "quota"),
        (errno.ELOOP, MirrorError, "a link or a file is in the place of a folder"),
        (errno.EISDIR, MirrorError, "a folder is in the place of a file"),
        (errno.EACCES, MirrorError, "Permission denied"),
    ],
)
def test_errors_of_the_file_system_are_mapped(number: int, kind: type[MirrorError], text: str) -> None:
    error = mirror_error(OSError(number, os.strerror(number)), "a\nb")
    assert type(error) is kind
    assert text in str(error)
    assert "\n" not in str(error)


def test_what_a_signal_kept_from_being_given_up_goes_when_the_mirror_is_closed(tmp_path: Path) -> None:
    staging = tmp_path / ".runicorn/staging"
    with Mirror(tmp_path) as mirror, Mirror(tmp_path) as other:
        mirror.staging.stage()
        kept = {mirror.staging.stage("key").name, other.staging.stage().name}
        mirror.close()
        assert {path.name for path in staging.iterdir()} == kept
