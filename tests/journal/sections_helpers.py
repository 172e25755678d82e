"""Sound frames of each kind for the tests of what frames say, and how one field of them is changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from runicorn.journal.frames import Frame, FrameReader, beginning
from runicorn.journal.sections import Carried, Section, decode_begin, decode_commit, decode_files, decode_seal
from runicorn.manifest.model import FileEntry
from tests.journal.forge import BEGIN, COMMIT, FILES, LINEAGE, ONE, SEAL, TWO, epoch_of, frame

FOLDER = "p/n/runs/r"
DIGEST = "ab" * 32
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def read(kind: int, head: object, data: bytes = b"") -> Frame:
    """A frame of this JSON and data, as the reader of frames gives it."""
    reader = FrameReader(beginning(ONE))
    reader.feed(epoch_of(ONE, frame(kind, head, data, codec=2)))
    (found,) = reader.frames()
    return found


def entry(path: str = "meta.json", size: int = 3, **more: object) -> dict[str, Any]:
    """An entry of a section; a log has the digest of its blocks."""
    digest = "block_digest" if path in ("events.jsonl", "logs.txt") else "sha256"
    return {"path": path, "size": size, "mtime": 1.0, "priority": 1, digest: DIGEST, **more}


def a_log(size: int = 10, **more: Any) -> dict[str, Any]:
    """An entry of a log."""
    return entry("events.jsonl", size, **more)


def section(*files: dict[str, Any], **more: object) -> dict[str, Any]:
    """A section with these entries, and other fields than usual."""
    fields = {"folder": FOLDER, "status": "running", "created_at": 1, "updated_at": 2, "files": list(files)}
    return {**fields, **more}


def load(*found: object, data: bytes = b"") -> list[Section]:
    """The sections of a files frame, decoded."""
    return list(decode_files(read(FILES, {"runs": list(found)}, data)))


def load_one(raw: dict[str, Any], data: bytes = b"") -> tuple[FileEntry, Carried | None]:
    """The only entry of a files frame, decoded, and the bytes that it carries."""
    ((change,),) = (each.changes for each in load(section(raw), data=data))
    return change.entry, change.carried


BEGINNING: dict[str, Any] = {
    "format_version": "1.0",
    "epoch": ONE,
    "lineage": LINEAGE,
    "created_at": 1704060000.5,
}
ENDING: dict[str, Any] = {
    "epoch": TWO,
    "offset": 1234,
    "chain": "cd" * 32,
    "revision": 7,
    "snapshot_id": "s",
}
COMMITTED: dict[str, Any] = {
    "format_version": "1.0",
    "revision": 7,
    "snapshot_id": "s",
    "generated_at": 1704060000.5,
    "server_hostname": "h",
    "remote_root": "/r",
    "lineage": LINEAGE,
    "complete": True,
    "statistics": {"total_experiments": 1, "total_files": 2, "total_bytes": 3},
    "generator": "runicorn 1",
    "problem_count": 5,
    "problems": [{"path": "a", "kind": "link", "message": "m"}],
}
SECTION = section(
    entry(data=3, mtime_ns=5),
    a_log(10, tail_hash=DIGEST, **{"data": 4, "from": 2, "digest": DIGEST}),
    removed=["media/x"],
)


def decode(kind: int, head: dict[str, Any]) -> object:
    """What a frame says, of any kind."""
    if kind == BEGIN:
        return decode_begin(read(BEGIN, head))
    if kind == COMMIT:
        return decode_commit(read(COMMIT, head))
    if kind == SEAL:
        return decode_seal(read(SEAL, head), LINEAGE)
    return load(head, data=b"0123456")


SOUND: dict[int, dict[str, Any]] = {BEGIN: BEGINNING, COMMIT: COMMITTED, SEAL: ENDING, FILES: SECTION}
WHERE: dict[str, tuple[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "begin": (BEGIN, lambda head: head),
    "commit": (COMMIT, lambda head: head),
    "statistics": (COMMIT, lambda head: head["statistics"]),
    "problem": (COMMIT, lambda head: head["problems"][0]),
    "seal": (SEAL, lambda head: head),
    "section": (FILES, lambda head: head),
    "state": (FILES, lambda head: head["files"][0]),
    "log": (FILES, lambda head: head["files"][1]),
}
"""Name of an object -> the kind of its frame, and where it lies in it."""


def changed(where: str, name: str, value: object) -> object:
    """A frame with one field changed (``...``: removed), decoded."""
    kind, find = WHERE[where]
    head = copy.deepcopy(SOUND[kind])
    holder = find(head)
    if value is ...:
        del holder[name]
    else:
        holder[name] = value
    return decode(kind, head)
