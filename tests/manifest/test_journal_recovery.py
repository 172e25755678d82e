"""Every state that a killed generator can leave: the next one goes on from it, and no reader is misled."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runicorn.journal.codecs import Codec
from runicorn.journal.frames import FRAME_HEADER, Kind, Place
from runicorn.journal.head import Head, decode_head
from runicorn.manifest import Manifest, read_manifest
from runicorn.manifest.model import Identity
from tests.manifest.helpers import append, generate, make_run, remove, settle, temps
from tests.manifest.journal_reader import Replica, epochs, head, journal

RUN = "p/n/runs/r"
NEXT = "scan_state.gz.next"


class Past:
    """The output folder as it was after each generation.

    A: the first one. B: a change was appended. C: a new epoch was begun and the old one sealed.
    """

    def __init__(self, root: Path, saved: Path) -> None:
        self.root = root
        self.saved = saved
        make_run(root, RUN, status="running")
        make_run(root, "runs/other/r")
        self.a = self._generate("a")
        append(root / RUN / "logs.txt", b"more\n")
        append(root / RUN / "events.jsonl", b"{}\nhalf")
        self.b = self._generate("b")
        self.at_b = Replica()
        self.at_b.sync(root)
        self.c = self._generate("c", compact=True)

    @property
    def out(self) -> Path:
        return self.root / ".runicorn"

    def _generate(self, name: str, **options: Any) -> Manifest:
        manifest = generate(self.root, **options)
        shutil.copytree(self.out, self.saved / name)
        return manifest

    def back_to(self, name: str) -> None:
        shutil.rmtree(self.out)
        shutil.copytree(self.saved / name, self.out)

    def bring(self, name: str, *files: str, to: str = "") -> None:
        for file in files:
            shutil.copy2(self.saved / name / file, self.out / (to or file))

    def epoch(self, name: str) -> str:
        return head_of(self.saved / name).end.epoch

    def file(self, name: str) -> str:
        return f"journal/{self.epoch(name)}.journal"


def head_of(out: Path) -> Head:
    return decode_head((out / "journal/HEAD").read_bytes())


@pytest.fixture
def past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Past:
    settle(monkeypatch)
    (tmp_path / "root").mkdir()
    return Past(tmp_path / "root", tmp_path / "saved")


def identity(manifest: Manifest) -> Identity:
    return manifest.header.identity


def go_on(past: Past, reader: Replica | None = None) -> Manifest:
    """Generate, and read all of the journal; a reader that was there carries on."""
    manifest = generate(past.root)
    for each in (Replica(), reader or Replica()):
        at = each.sync(past.root)
        each.check(past.root)
        assert at.identity == identity(manifest)
    assert temps(past.root) == []
    assert not (past.out / NEXT).exists()
    assert len(epochs(past.root)) <= 2
    assert read_manifest(past.out / "full_manifest.json.gz") == manifest
    again = generate(past.root)
    assert identity(again) == identity(manifest)
    return manifest


def reader_at(past: Past, name: str) -> Replica:
    past.back_to(name)
    replica = Replica()
    replica.sync(past.root)
    return replica


def test_killed_before_the_frames_were_appended(past: Past) -> None:
    reader = reader_at(past, "a")
    past.bring("b", "scan_state.gz", to=NEXT)
    manifest = go_on(past, reader)
    assert manifest.revision == past.b.revision
    assert identity(manifest) != identity(past.b)
    assert epochs(past.root) == [past.epoch("a")]


@pytest.mark.parametrize("part", [1, 47, 48, 49, 200, -200, -49, -1])
def test_killed_while_the_frames_were_appended(past: Past, part: int) -> None:
    reader = reader_at(past, "a")
    begin, end = head_of(past.saved / "a").end.offset, head_of(past.saved / "b").end.offset
    past.bring("b", "scan_state.gz", to=NEXT)
    past.bring("b", past.file("b"))
    os.truncate(past.out / past.file("b"), (begin if part > 0 else end) + part)
    reader.follow(past.root)
    manifest = go_on(past, reader_at_commit(past, reader))
    assert manifest.revision == past.b.revision
    assert identity(manifest) != identity(past.b)
    assert epochs(past.root) == [past.epoch("a")]


def reader_at_commit(past: Past, reader: Replica) -> Replica:
    """What a reader applies again is what it held at the last commit that it has read."""
    assert reader.identity == identity(past.a)
    assert reader.frames[-1] in (Kind.COMMIT, Kind.FILES)
    reader.place = head_of(past.saved / "a").end
    return reader


def test_killed_before_the_scan_state_took_its_name(past: Past) -> None:
    reader = reader_at(past, "a")
    past.bring("b", "scan_state.gz", to=NEXT)
    past.bring("b", past.file("b"))
    reader.follow(past.root)
    assert reader.identity == identity(past.b)
    assert identity(go_on(past, reader)) == identity(past.b)
    assert epochs(past.root) == [past.epoch("a")]


@pytest.mark.parametrize("damage", ["absent", "torn", "other"])
def test_a_revision_whose_scan_state_is_lost_is_never_given_again(past: Past, damage: str) -> None:
    past.back_to("a")
    past.bring("b", past.file("b"))
    if damage == "torn":
        (past.out / NEXT).write_bytes((past.saved / "b/scan_state.gz").read_bytes()[:-5])
    elif damage == "other":
        past.bring("a", "scan_state.gz", to=NEXT)
    manifest = go_on(past)
    assert manifest.lineage == past.b.lineage
    assert manifest.revision > past.b.revision
    assert past.epoch("a") not in epochs(past.root)


def test_killed_before_head_was_written(past: Past) -> None:
    reader = reader_at(past, "a")
    past.bring("b", "scan_state.gz", past.file("b"))
    assert identity(go_on(past, reader)) == identity(past.b)
    assert epochs(past.root) == [past.epoch("a")]


def test_killed_before_the_manifests_were_written(past: Past) -> None:
    reader = reader_at(past, "b")
    past.bring("a", "full_manifest.json", "full_manifest.json.gz")
    assert identity(go_on(past, reader)) == identity(past.b)


def test_killed_before_the_old_epoch_was_sealed(past: Past) -> None:
    reader = reader_at(past, "b")
    past.bring("c", past.file("c"))
    assert identity(go_on(past, reader)) == identity(past.b)
    assert epochs(past.root) == [past.epoch("b")]


@pytest.mark.parametrize("part", [1, FRAME_HEADER, -1])
def test_killed_while_the_seal_was_appended(past: Past, part: int) -> None:
    reader = reader_at(past, "b")
    past.bring("c", past.file("c"), past.file("b"))
    end = head_of(past.saved / "b").end.offset if part > 0 else (past.out / past.file("b")).stat().st_size
    os.truncate(past.out / past.file("b"), end + part)
    assert identity(go_on(past, reader)) == identity(past.b)
    assert epochs(past.root) == [past.epoch("b")]


def test_killed_after_the_seal(past: Past) -> None:
    reader = reader_at(past, "b")
    past.bring("c", past.file("c"), past.file("b"))
    append(past.root / RUN / "logs.txt", b"more\n")
    manifest = go_on(past, reader)
    assert manifest.revision == past.b.revision + 1
    assert sorted(epochs(past.root)) == sorted([past.epoch("b"), past.epoch("c")])
    expected, found = head_of(past.saved / "c"), head(past.root)
    assert (found.base, found.media) == (expected.base, expected.media)
    assert found.base_bytes == expected.base_bytes
    assert reader.frames.count(Kind.SEAL) == 1


@pytest.mark.parametrize("damage", ["absent", "short", "flipped"])
def test_a_seal_that_leads_nowhere(past: Past, damage: str) -> None:
    past.back_to("b")
    past.bring("c", past.file("b"))
    if damage != "absent":
        data = bytearray((past.saved / "c" / past.file("c")).read_bytes())
        data[len(data) // 2] ^= 1 if damage == "flipped" else 0
        (past.out / past.file("c")).write_bytes(data[: -1 if damage == "short" else None])
    assert identity(go_on(past)) == identity(past.b)
    assert not {past.epoch("b"), past.epoch("c")} & set(epochs(past.root))


def without_head(past: Past) -> None:
    (past.out / "journal/HEAD").unlink()


def flip_head(past: Past) -> None:
    data = bytearray((past.out / "journal/HEAD").read_bytes())
    data[40] ^= 1
    (past.out / "journal/HEAD").write_bytes(data)


def short_epoch(past: Past) -> None:
    path = past.out / past.file("b")
    os.truncate(path, path.stat().st_size - 1)


def without_epoch(past: Past) -> None:
    (past.out / past.file("b")).unlink()


def without_scan_state(past: Past) -> None:
    (past.out / "scan_state.gz").unlink()


def older_scan_state(past: Past) -> None:
    past.bring("a", "scan_state.gz")


def without_journal(past: Past) -> None:
    shutil.rmtree(past.out / "journal")


@pytest.mark.parametrize(
    "damage",
    [
        without_head,
        flip_head,
        short_epoch,
        without_epoch,
        without_scan_state,
        older_scan_state,
        without_journal,
    ],
)
@pytest.mark.parametrize("change", [False, True])
def test_a_journal_that_cannot_be_gone_on_with(
    past: Past, damage: Callable[[Past], None], change: bool
) -> None:
    past.back_to("b")
    damage(past)
    if change:
        append(past.root / RUN / "logs.txt", b"again\n")
    manifest = go_on(past)
    assert manifest.lineage == past.b.lineage
    assert manifest.revision >= past.b.revision + change
    assert (identity(manifest) == identity(past.b)) <= (not change)
    assert past.epoch("b") not in epochs(past.root)
    assert len(epochs(past.root)) == 1


@pytest.mark.parametrize("lost", [("scan_state.gz",), ("full_manifest.json", "full_manifest.json.gz")])
@pytest.mark.parametrize("head_too", [False, True])
def test_a_state_that_only_the_journal_knows_is_never_given_again(
    past: Past, lost: tuple[str, ...], head_too: bool
) -> None:
    past.back_to("b")
    past.bring("a", "full_manifest.json", "full_manifest.json.gz")
    for name in ("scan_state.gz", *lost):
        remove(past.out / name) if (past.out / name).exists() else None
    if head_too:
        without_head(past)
    append(past.root / RUN / "logs.txt", b"again\n")
    manifest = go_on(past)
    assert (manifest.lineage, manifest.revision) == (past.b.lineage, past.b.revision + 1)
    assert manifest.snapshot_id != past.b.snapshot_id


def test_a_new_epoch_that_no_head_names_is_removed(past: Past) -> None:
    past.back_to("b")
    without_head(past)
    past.bring("c", past.file("c"))
    go_on(past)
    assert not {past.epoch("b"), past.epoch("c")} & set(epochs(past.root))


def test_temporary_files_are_swept(past: Past) -> None:
    names = [f".{past.epoch('c')}.journal.0123456789ab.tmp", ".HEAD.0123456789ab.tmp"]
    for name in names:
        (journal(past.root) / name).write_text("x")
    (journal(past.root) / "README").write_text("not ours")
    go_on(past)
    assert (journal(past.root) / "README").exists()


def test_an_epoch_that_grew_behind_its_last_commit_is_cut(past: Past) -> None:
    path = past.out / past.file("c")
    append(path, b"torn")
    append(past.root / RUN / "logs.txt", b"more\n")
    go_on(past, past.at_b)
    assert b"torn" not in path.read_bytes()


def test_an_old_scan_state_of_another_form_counts_as_lost(past: Past) -> None:
    path = past.out / "scan_state.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"state 2", b"state 1", 1)))
    go_on(past)


def test_killed_after_each_of_several_seals(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    past.back_to("b")
    reader = Replica()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    for number in range(5):
        append(past.root / RUN / "logs.txt", b"more\n")
        with monkeypatch.context() as patch:
            patch.setattr("runicorn.manifest.journal_writer.JournalWriter._put_head", fail)
            with pytest.raises(KeyboardInterrupt):
                generate(past.root, compact=True)
        if number == 3:
            reader = Replica()
            reader.sync(past.root)
    manifest = generate(past.root)
    assert manifest.revision == past.b.revision + 5
    reader.sync(past.root)
    reader.check(past.root)
    assert len(epochs(past.root)) == 6


@pytest.mark.parametrize("version", ["zstd", "codec", "major"])
@pytest.mark.parametrize("scan_state", [True, False])
def test_what_another_python_has_committed_is_never_given_again(
    past: Past, monkeypatch: pytest.MonkeyPatch, version: str, scan_state: bool
) -> None:
    for name in ("d", "e"):
        append(past.root / RUN / "logs.txt", b"more\n")
        last = past._generate(name)
    past.back_to("b")
    path = past.out / past.file("b")
    place = head_of(past.saved / "b").end
    frames, codec = b"", {"zstd": Codec.ZSTD, "codec": 9, "major": Codec.ZLIB}[version]
    for kind in (Kind.FILES, Kind.COMMIT, Kind.FILES, Kind.COMMIT):
        stored = random.Random(3).randbytes(300)
        major = 2 if version == "major" else 1
        fixed = struct.pack(">2sBcBBHII", b"RJ", major, b"\n", kind, codec, 0, 300, 600)
        chain = hashlib.sha256(place.chain + fixed + stored).digest()
        frames += fixed + chain + stored
        place = Place(place.epoch, 0, chain)
    append(path, frames)
    if not scan_state:
        (past.out / "scan_state.gz").unlink()
    if version == "zstd":
        monkeypatch.setattr("runicorn.journal.codecs._zstd", lambda: None)
    removed: list[bytes] = []
    real = os.unlink

    def noting(name: Path, **options: int) -> None:
        if Path(name) == path:
            removed.append(path.read_bytes())
        real(name, **options)

    monkeypatch.setattr("os.unlink", noting)
    manifest = generate(past.root)
    assert removed[0].endswith(frames)
    assert manifest.revision == past.b.revision + 3
    assert manifest.lineage == last.lineage
    assert past.epoch("b") not in epochs(past.root)
    assert identity(generate(past.root)) == identity(manifest)


def test_a_prepared_state_of_a_lost_journal_is_never_given_again(past: Past) -> None:
    past.back_to("a")
    past.bring("b", "scan_state.gz", to=NEXT)
    without_journal(past)
    assert go_on(past).revision == past.b.revision + 1


def test_a_python_without_zstd_keeps_sealed_epochs(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    there = epochs(past.root)
    monkeypatch.setattr("runicorn.journal.codecs._zstd", lambda: None)
    generate(past.root)
    assert epochs(past.root) == there


def test_the_weight_is_found_again(past: Past) -> None:
    expected = head_of(past.saved / "b").written
    assert expected is not None
    past.back_to("a")
    past.bring("b", "scan_state.gz", past.file("b"))
    go_on(past)
    assert head(past.root).written == expected
    past.back_to("b")
    past.bring("c", past.file("c"), past.file("b"))
    go_on(past)
    assert head(past.root).written == head_of(past.saved / "c").written
