"""What is known of files: from the state where it fits the disk, from the disk where not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicorn.manifest.digest import BlockHasher, block_digest
from runicorn.manifest.model import FileEntry
from runicorn.remote_storage.knowledge import Knowledge
from runicorn.remote_storage.known import Known, Listed
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.opening import OpenMirror
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.state import MirrorState
from tests.remote_storage.helpers import RUN, a_run, an_entry, lines, put

LOG = f"{RUN}/events.jsonl"
SUMMARY = f"{RUN}/summary.json"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[OpenMirror]:
    with Mirror(tmp_path) as tree, MirrorState(tmp_path / ".runicorn/state.db") as state:
        yield OpenMirror(tree, state)


def log_hashes(data: bytes) -> tuple[bytes, ...]:
    hasher = BlockHasher()
    hasher.update(data)
    return tuple(hasher.hashes())


def of(place: OpenMirror, entry: FileEntry) -> Known | None:
    known = Knowledge(place).of_run(a_run(entry), [entry])
    assert Knowledge(place).of_entries(a_run(entry), [entry]) == known
    assert set(known) <= {entry.path.removeprefix(f"{RUN}/")}
    return next(iter(known.values()), None)


def record(place: OpenMirror, path: str, marks: tuple[bytes, ...]) -> Known:
    known = Known(place.tree.signature(path), marks, Listed.of(an_entry(path)), epoch=1)
    place.state.record([(RUN, path.removeprefix(f"{RUN}/"), known)])
    return known


def test_file_as_it_was_left_is_not_read(place: OpenMirror) -> None:
    put(place.tree.root / SUMMARY, "0123456789")
    recorded = record(place, SUMMARY, (b"marked on purpose, 32 bytes long",))
    assert of(place, an_entry(SUMMARY, 10)) == recorded
    assert Knowledge(place).is_as_recorded(RUN, Selection().wants_known)


@pytest.mark.parametrize("change", ["edited", "touched", "replaced"])
def test_changed_file_is_read_again(place: OpenMirror, change: str) -> None:
    path = put(place.tree.root / SUMMARY, "0123456789")
    record(place, SUMMARY, (b"marked on purpose, 32 bytes long",))
    if change == "edited":
        path.write_text("9876543210")
        os.utime(path, (1, 1))
    elif change == "touched":
        os.utime(path, (1, 1))
    else:
        put(path, "9876543210")
    known = of(place, an_entry(SUMMARY, 10))
    assert known is not None
    assert known.hashes == (hashlib.sha256(path.read_bytes()).digest(),)
    assert (known.local, known.listed, known.epoch) == (place.tree.signature(SUMMARY), None, 0)
    assert not Knowledge(place).is_as_recorded(RUN, Selection().wants_known)


def test_file_of_another_size_is_not_worth_reading(place: OpenMirror) -> None:
    put(place.tree.root / SUMMARY, "0123456789")
    assert of(place, an_entry(SUMMARY, 11)) is None


def test_missing_file_is_not_known(place: OpenMirror) -> None:
    put(place.tree.root / SUMMARY, "0123456789")
    record(place, SUMMARY, (bytes(32),))
    (place.tree.root / SUMMARY).unlink()
    assert of(place, an_entry(SUMMARY, 10)) is None
    assert not Knowledge(place).is_as_recorded(RUN, Selection().wants_known)


def test_log_found_on_disk_is_hashed(place: OpenMirror) -> None:
    put(place.tree.root / LOG, lines(50_000))
    known = of(place, an_entry(LOG, 10))
    assert known is not None
    assert known.hashes == log_hashes(lines(50_000).encode())


@pytest.mark.parametrize(
    ("listed", "extends"),
    [(lines(9), True), ("x" + lines(9)[1:], False), (lines(20), None), (lines(50), None), (None, None)],
)
def test_longer_log_is_compared_with_what_is_listed(
    place: OpenMirror, listed: str | None, extends: bool | None
) -> None:
    put(place.tree.root / LOG, lines(20))
    digest = None if listed is None else block_digest(log_hashes(listed.encode()))
    known = of(place, an_entry(LOG, len(listed or "12345"), block_digest=digest))
    assert known is not None
    assert known.extends is extends


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_each_of_several_files_is_known_by_its_own_name(place: OpenMirror, missing: int) -> None:
    sizes = {f"{RUN}/meta.json": 3, SUMMARY: 4, f"{RUN}/media/a.png": 5}
    for path, size in sizes.items():
        put(place.tree.root / path, "x" * size)
    gone = list(sizes)[missing]
    (place.tree.root / gone).unlink()
    entries = [an_entry(path, size) for path, size in sizes.items()]
    known = Knowledge(place).of_run(a_run(*entries), entries)
    assert Knowledge(place).of_entries(a_run(*entries), entries) == known
    assert {f"{RUN}/{inner}": each.local.size for inner, each in known.items()} == {
        path: size for path, size in sizes.items() if path != gone
    }
    assert all(each.hashes == (hashlib.sha256(b"x" * each.local.size).digest(),) for each in known.values())


@pytest.mark.parametrize("way", ["of_run", "of_entries"])
@pytest.mark.parametrize("path", [SUMMARY, LOG])
def test_file_that_cannot_be_read_is_not_known(
    place: OpenMirror, monkeypatch: pytest.MonkeyPatch, way: str, path: str
) -> None:
    put(place.tree.root / path, "0123456789")

    def failing(*_: object) -> Iterator[bytes]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(place.tree, "chunks", failing)
    entry = an_entry(path, 10)
    assert getattr(Knowledge(place), way)(a_run(entry), [entry]) == {}


def test_log_that_shrinks_while_it_is_read_is_not_known(
    place: OpenMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place.tree.root / LOG, lines(20))
    real = place.tree.chunks

    def shrinking(path: str, start: int, end: int) -> Iterator[bytes]:
        assert (start, end) == (0, len(lines(20)))
        os.truncate(place.tree.root / path, 7)
        return real(path, start, end)

    monkeypatch.setattr(place.tree, "chunks", shrinking)
    assert Knowledge(place).of_run(a_run(an_entry(LOG, 10)), [an_entry(LOG, 10)]) == {}


def test_only_what_is_selected_has_to_be_as_recorded(place: OpenMirror) -> None:
    put(place.tree.root / SUMMARY, "0123456789")
    record(place, SUMMARY, (bytes(32),))
    put(place.tree.root / SUMMARY, "changed")
    asked: list[tuple[str, str]] = []

    def selects(folder: str, inner: str) -> bool:
        asked.append((folder, inner))
        return False

    assert Knowledge(place).is_as_recorded(RUN, selects)
    assert asked == [(RUN, "summary.json")]


def test_link_is_not_known(place: OpenMirror, tmp_path: Path) -> None:
    (tmp_path / RUN).mkdir(parents=True)
    (tmp_path / SUMMARY).symlink_to(put(tmp_path / "other", "0123456789"))
    assert of(place, an_entry(SUMMARY, 10)) is None
