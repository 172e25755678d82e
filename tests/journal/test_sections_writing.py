"""What is written of sections, beginnings and seals, byte by byte; sections are read as they were written."""

from __future__ import annotations

import hashlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from runicorn.journal.frames import FrameReader, Kind, Place, beginning, encode_frame
from runicorn.journal.sections import (
    Seal,
    decode_files,
    encode_begin,
    encode_change,
    encode_files,
    encode_seal,
    encode_section,
)
from runicorn.manifest.model import FileEntry, Identity
from tests.journal.forge import ONE, TWO
from tests.journal.sections_helpers import DIGEST, ENDING, FOLDER, TEXT

SIZES = st.integers(0, 50)
STATE_NAMES = st.sampled_from(["meta.json", "status.json", "media/a.png", "media/ö/b \U0001f600.png"])
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def written_files(draw: st.DrawFn) -> tuple[list[FileEntry], list[str], bytes, list[bytes | None]]:
    """Entries, their JSON, the data of the frame, the carried bytes of each."""
    entries, texts, held = [], [], []
    for inner in draw(st.lists(STATE_NAMES, unique=True)) + draw(
        st.lists(st.sampled_from(["events.jsonl", "logs.txt"]), unique=True)
    ):
        is_log = inner in ("events.jsonl", "logs.txt")
        data = draw(st.none() | st.binary(max_size=30))
        start = draw(SIZES) if is_log else 0
        rest = draw(SIZES) if is_log else 0
        exact = draw(st.none() | st.integers(0, 2**33 * 10**9))
        found = FileEntry(
            path=f"{FOLDER}/{inner}",
            size=draw(SIZES) if data is None else start + len(data) + rest,
            mtime=draw(st.floats(0, 2**33)),
            priority=draw(st.integers(0, 100)),
            is_log=is_log,
            mtime_ns=exact,
            sha256=None if is_log else draw(HASHES),
            block_digest=draw(HASHES) if is_log else None,
            tail_hash=draw(st.none() | HASHES) if is_log else None,
        )
        entries.append(found)
        held.append(data)
        if data is None:
            texts.append(encode_change(found, inner))
        else:
            texts.append(encode_change(found, inner, len(data), start, DIGEST if rest else ""))
    return entries, texts, b"".join(each or b"" for each in held), held


@settings(max_examples=150, deadline=None)
@given(written_files(), st.lists(STATE_NAMES, unique=True), TEXT, st.floats(0, 2**33))
def test_round_trip_of_sections(
    files: tuple[list[FileEntry], list[str], bytes, list[bytes | None]],
    removed: list[str],
    status: str,
    when: float,
) -> None:
    entries, texts, data, held = files
    head = encode_files(
        [
            encode_section((FOLDER, status, when, 5.0), texts, removed),
            encode_section(("runs/ö/q", "x", 0.0, when), []),
        ]
    )
    made, _ = encode_frame(beginning(ONE), Kind.FILES, head, data)
    reader = FrameReader(beginning(ONE))
    reader.feed(made)
    first, second = (each for found in reader.frames() for each in decode_files(found))
    assert (first.run.status, first.run.created_at, first.run.updated_at) == (status, when, 5.0)
    assert [change.entry for change in first.changes] == entries
    assert [change.carried and bytes(change.carried.data) for change in first.changes] == held
    for change in first.changes:
        if change.carried is not None:
            whole = change.carried.end == change.entry.size
            assert change.carried.digest == (change.entry.digest if whole else DIGEST)
    assert first.removed == tuple(removed)
    assert (second.run.folder, second.run.updated_at, second.changes, second.removed) == (
        "runs/ö/q",
        when,
        (),
        (),
    )


def test_every_byte_of_what_is_written() -> None:
    log = FileEntry(f"{FOLDER}/events.jsonl", 5, 1.0, 3, True, block_digest=DIGEST)
    text = f'{{"path": "events.jsonl", "size": 5, "mtime": 1.0, "priority": 3, "block_digest": "{DIGEST}"'
    assert encode_change(log, "events.jsonl") == text + "}"
    assert encode_change(log, "events.jsonl", 5) == text + ', "data": 5, "from": 0}'
    assert encode_change(log, "events.jsonl", 2, 1, "cd") == text + ', "data": 2, "from": 1, "digest": "cd"}'
    state = FileEntry(f"{FOLDER}/meta.json", 5, 1.0, 1, sha256=DIGEST)
    text = f'{{"path": "meta.json", "size": 5, "mtime": 1.0, "priority": 1, "sha256": "{DIGEST}"'
    assert encode_change(state, "meta.json", 5) == text + ', "data": 5}'
    run = ('runs/"', "\u00e4", 1.5, 2.0)
    text = '{"folder": "runs/\\"", "status": "\\u00e4", "created_at": 1.5, "updated_at": 2.0, "files": ['
    assert encode_section(run, []) == text + "]}"
    assert encode_section(run, ["{a}", "{b}"], ("c", '"')) == text + '{a}, {b}], "removed": ["c", "\\""]}'
    assert encode_files([]) == b'{"runs": []}'
    assert encode_files(["{a}", "{b}"]) == b'{"runs": [{a}, {b}]}'
    assert json.loads(encode_begin(ONE, "l", 1.5)) == {
        "format_version": "1.0",
        "epoch": ONE,
        "lineage": "l",
        "created_at": 1.5,
    }
    seal = Seal(Identity("l", 7, "s"), Place(TWO, 1234, b"\xcd" * 32))
    assert json.loads(encode_seal(seal)) == ENDING


def test_what_is_only_listed_has_no_added_fields() -> None:
    found = FileEntry(f"{FOLDER}/events.jsonl", 5, 1.0, 3, True, block_digest=DIGEST)
    assert set(json.loads(encode_change(found, "events.jsonl"))) == {
        "path",
        "size",
        "mtime",
        "priority",
        "block_digest",
    }
    carried = json.loads(encode_change(found, "events.jsonl", 0, 5))
    assert (carried["data"], carried["from"], "digest" in carried) == (0, 5, False)
    state = FileEntry(f"{FOLDER}/meta.json", 5, 1.0, 1, sha256=hashlib.sha256(b"").hexdigest())
    assert {"from", "digest"} & set(json.loads(encode_change(state, "meta.json", 5))) == set()
    assert "removed" not in json.loads(encode_section((FOLDER, "", 0.0, 0.0), []))
