"""A journal of each format version stays readable for ever."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from runicorn.journal.frames import Frame, FrameReader, Kind, Place, beginning, file_name
from runicorn.journal.head import HEAD_NAME, Head, decode_head, encode_head
from runicorn.journal.sections import (
    Carried,
    decode_begin,
    decode_commit,
    decode_files,
    decode_seal,
)
from runicorn.manifest.model import FileEntry, Header
from tests.journal import forge
from tests.journal.forge import LINEAGE, ONE, TWO

GOLDEN = Path(__file__).parent.parent / "golden/journal-1.0"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text(encoding="ascii"))
HEAD = decode_head((GOLDEN / HEAD_NAME).read_bytes())


def epoch(name: str) -> bytes:
    return (GOLDEN / file_name(name)).read_bytes()


def place_of(fields: dict[str, Any]) -> Place:
    return Place(fields["epoch"], fields["offset"], bytes.fromhex(fields["chain"]))


def fields_of(place: Place) -> dict[str, Any]:
    return {"epoch": place.epoch, "offset": place.offset, "chain": place.chain.hex()}


class Client:
    """What a client knows after the frames that it was given; every carried byte is proven."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.entries: dict[str, FileEntry] = {}
        self.held: dict[str, bytes] = {}
        self.gone: set[str] = set()
        self.sealed: Place | None = None

    def take(self, frame: Frame) -> None:
        if frame.kind is Kind.BEGIN:
            assert decode_begin(frame) == (frame.end.epoch, LINEAGE)
        elif frame.kind is Kind.FILES:
            self._files(frame)
        elif frame.kind is Kind.COMMIT:
            self._commit(decode_commit(frame), frame.end)
        else:
            seal = decode_seal(frame, LINEAGE)
            assert self.states[-1]["revision"] == seal.identity.revision
            assert self.states[-1]["snapshot_id"] == seal.identity.snapshot_id
            assert seal.identity.lineage == LINEAGE
            self.sealed = seal.place

    def _files(self, frame: Frame) -> None:
        for section in decode_files(frame):
            run = section.run
            self.runs[run.folder] = {
                "status": run.status,
                "created_at": run.created_at,
                "updated_at": run.updated_at,
            }
            assert (run.run_id, run.files) == (
                run.folder.rpartition("/")[2],
                tuple(change.entry for change in section.changes),
            )
            for change in section.changes:
                self.entries[change.entry.path] = change.entry
                if change.carried is not None:
                    self._write(change.entry, change.carried)
            self.gone.update(f"{run.folder}/{inner}" for inner in section.removed)

    def _write(self, entry: FileEntry, carried: Carried) -> None:
        before = self.held.get(entry.path, b"") if entry.is_log else b""
        data = before[: carried.start] + carried.data
        assert len(data) == carried.end
        shown = hashlib.sha256(data).digest() if entry.is_log else data
        assert hashlib.sha256(shown).hexdigest() == carried.digest
        self.held[entry.path] = data

    def _commit(self, header: Header, end: Place) -> None:
        if header.complete:
            for path in self.gone:
                del self.entries[path]
                self.held.pop(path, None)
            self.gone.clear()
        assert header.identity.lineage == LINEAGE
        self.states.append(
            {
                "revision": header.identity.revision,
                "snapshot_id": header.identity.snapshot_id,
                "generated_at": header.generated_at,
                "place": fields_of(end),
                "complete": header.complete,
                "problems": [
                    {"path": each.path, "kind": each.kind, "message": each.message}
                    for each in header.problems
                ],
                "problem_count": header.problem_count,
                "total_experiments": header.total_experiments,
                "total_files": header.total_files,
                "total_bytes": header.total_bytes,
                "runs": dict(self.runs),
                "entries": {path: self._entry(self.entries[path]) for path in sorted(self.entries)},
            }
        )

    def _entry(self, entry: FileEntry) -> dict[str, Any]:
        names = ("size", "mtime", "priority", "mtime_ns", "sha256", "block_digest", "tail_hash")
        held = self.held.get(entry.path)
        return {
            **{name: getattr(entry, name) for name in names},
            "held": None if held is None else hashlib.sha256(held).hexdigest(),
        }


def replay(client: Client, place: Place, *, cut: int = 1000, end: int | None = None) -> Place:
    """Read an epoch from a place to its end."""
    reader = FrameReader(place)
    data = epoch(place.epoch)[place.offset : end]
    for at in range(0, len(data), cut):
        reader.feed(data[at : at + cut])
        for frame in reader.frames():
            client.take(frame)
    assert reader.held == 0
    return reader.place


def test_bytes_never_change() -> None:
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in GOLDEN.iterdir()}
    assert sums == {
        "0123456789abcdef0123456789abcdef.journal": (
            "a9bc0bd8db03321329b6639528280ba0f7031ee03e4af60c3ce2b9d92783f699"
        ),
        "HEAD": ("6bc9e5d81b53a0c1ad0b0eb7b11af5d8c9264b00ee115454abf5f7c67c71f09f"),
        "expected.json": ("c4203f96b2ade1bea7a0180935a7d2cfee283c79122f1396f6b2613523066035"),
        "fedcba9876543210fedcba9876543210.journal": (
            "004c0d30f62d7e970aa8945227dfa4c0e87adb0cb15ac6cfa291a02dde94f462"
        ),
    }


@pytest.mark.parametrize("cut", [1, 47, 1000, 10**6])
def test_replay_from_the_first_epoch_through_the_seal(cut: int) -> None:
    client = Client()
    replay(client, beginning(ONE), cut=cut)
    assert client.states == EXPECTED["states"][:3]
    assert client.sealed == place_of(EXPECTED["states"][3]["place"])
    assert replay(client, client.sealed, cut=cut) == HEAD.end
    assert client.states == [*EXPECTED["states"][:3], EXPECTED["states"][4]]


def test_replay_from_the_current_epoch() -> None:
    client = Client()
    assert replay(client, beginning(TWO)) == HEAD.end
    assert client.states == EXPECTED["states"][3:]
    assert client.sealed is None


@pytest.mark.parametrize("state", [0, 1, 2])
def test_replay_goes_on_at_each_remembered_place(state: int) -> None:
    client = Client()
    place = place_of(EXPECTED["states"][state]["place"])
    assert replay(client, beginning(ONE), end=place.offset) == place
    assert client.states == EXPECTED["states"][: state + 1]
    replay(client, place)
    assert client.states == EXPECTED["states"][:3]
    assert client.sealed is not None


def test_kinds_and_codecs_that_are_in_it() -> None:
    found = {name: [(raw.kind, raw.codec) for raw in forge.split(epoch(name))] for name in (ONE, TWO)}
    assert [kind for kind, _ in found[ONE]] == [1, 2, 2, 2, 2, 3, 2, 3, 2, 3, 4]
    assert [kind for kind, _ in found[TWO]] == [1, 2, 2, 2, 2, 3, 2, 3]
    for name in (ONE, TWO):
        assert {codec for _, codec in found[name]} == {0, 1, 2}


def test_head() -> None:
    assert HEAD.identity.lineage == LINEAGE
    assert (HEAD.identity.revision, HEAD.identity.snapshot_id) == (
        10,
        "550e8400-e29b-41d4-a716-446655440010",
    )
    assert HEAD.generated_at == 1704150020.0
    assert (HEAD.epoch, HEAD.end.offset) == (TWO, len(epoch(TWO)))
    assert fields_of(HEAD.base) == EXPECTED["states"][3]["place"]
    assert HEAD.base_bytes == EXPECTED["states"][3]["total_bytes"]
    assert (HEAD.total_experiments, HEAD.total_files, HEAD.total_bytes) == (2, 9, 5246793)
    assert (HEAD.complete, HEAD.problem_count) == (True, 0)
    assert HEAD.manifest is not None
    assert (HEAD.manifest.identity.revision, HEAD.manifest.size) == (8, 1234)
    assert fields_of(HEAD.manifest.place) == EXPECTED["states"][1]["place"]


def test_media_lie_where_head_says() -> None:
    client = Client()
    reader = FrameReader(Place(TWO, HEAD.media.begin, media_chain()))
    reader.feed(epoch(TWO)[HEAD.media.begin : HEAD.media.end.offset])
    for frame in reader.frames():
        client.take(frame)
    assert reader.place == HEAD.media.end
    assert all("/media/" in path for path in client.entries)
    assert len(client.entries) == 1
    commit = FrameReader(HEAD.media.end)
    commit.feed(epoch(TWO)[HEAD.media.end.offset : HEAD.base.offset])
    assert [frame.kind for frame in commit.frames()] == [Kind.COMMIT]


def media_chain() -> bytes:
    reader = FrameReader(beginning(TWO))
    reader.feed(epoch(TWO)[: HEAD.media.begin])
    assert len(list(reader.frames())) == 4
    return reader.place.chain


def test_writing_head_gives_what_it_says() -> None:
    again: Head = decode_head(encode_head(HEAD))
    assert again == HEAD
