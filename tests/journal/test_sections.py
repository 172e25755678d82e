"""What frames say: every field of the page, missing, wrong and at its bounds."""

from __future__ import annotations

import json

import pytest

from runicorn.errors import DamagedError, UnsafeError, UnsupportedVersionError
from runicorn.journal.frames import Place
from runicorn.journal.sections import MAX_CARRIED, MAX_PROBLEM_TEXT, MAX_PROBLEMS, Carried, Seal, decode_files
from runicorn.manifest.model import FileEntry, Header, Identity, ManifestType, Problem
from tests.journal.forge import BEGIN, COMMIT, FILES, LINEAGE, MIB, ONE, SEAL, TWO
from tests.journal.sections_helpers import (
    BEGINNING,
    COMMITTED,
    DIGEST,
    ENDING,
    FOLDER,
    SECTION,
    SOUND,
    WHERE,
    changed,
    decode,
    entry,
    load,
    read,
    section,
)


def fields(where: str) -> list[str]:
    kind, find = WHERE[where]
    return sorted(find(SOUND[kind]))


FIELDS = [(where, name) for where in WHERE for name in fields(where)]
OPTIONAL = {
    *[("commit", name) for name in ("complete", "generator", "problem_count", "problems")],
    ("section", "removed"),
    ("state", "data"),
    ("state", "mtime_ns"),
    ("log", "tail_hash"),
}
NUMBERS = {
    *["created_at", "updated_at", "generated_at", "revision", "offset", "total_experiments", "total_files"],
    *["total_bytes", "problem_count", "size", "mtime", "mtime_ns", "priority", "data", "from"],
}
SECONDS = {"created_at", "updated_at", "generated_at", "mtime"}
LISTS = {"files", "problems", "removed"}
TEXTS = {name for _, name in FIELDS} - NUMBERS - LISTS - {"statistics", "complete"}
MAY_BE_NULL = {"mtime_ns", "tail_hash"}


def test_numbers_of_the_format() -> None:
    assert (MAX_CARRIED, MAX_PROBLEMS, MAX_PROBLEM_TEXT) == (4 * MIB, 100, 64 * 1024)


def test_what_is_sound_is_read() -> None:
    assert decode(BEGIN, BEGINNING) == (ONE, LINEAGE)
    assert decode(SEAL, ENDING) == Seal(Identity(LINEAGE, 7, "s"), Place(TWO, 1234, b"\xcd" * 32))
    header = decode(COMMIT, COMMITTED)
    assert header == Header(
        manifest_type=ManifestType.FULL,
        identity=Identity(LINEAGE, 7, "s"),
        generated_at=1704060000.5,
        server_hostname="h",
        remote_root="/r",
        total_experiments=1,
        total_files=2,
        total_bytes=3,
        complete=True,
        problems=(Problem("a", "link", "m"),),
        problem_count=5,
        generator="runicorn 1",
    )
    (found,) = load(SECTION, data=b"0123456")
    run = found.run
    assert (run.folder, run.run_id, run.project, run.name) == (FOLDER, "r", "p", "n")
    assert (run.status, run.created_at, run.updated_at) == ("running", 1.0, 2.0)
    assert run.files == tuple(change.entry for change in found.changes)
    assert found.removed == ("media/x",)
    meta, events = found.changes
    assert meta.entry == FileEntry(f"{FOLDER}/meta.json", 3, 1.0, 1, False, 5, DIGEST)
    assert meta.carried == Carried(0, memoryview(b"012"), DIGEST)
    assert (events.entry.is_log, events.entry.digest, events.entry.tail_hash) == (True, DIGEST, DIGEST)
    assert events.carried == Carried(2, memoryview(b"3456"), DIGEST)
    assert events.carried.end == 6


@pytest.mark.parametrize(("where", "name"), [each for each in FIELDS if each not in OPTIONAL])
def test_a_field_is_missing(where: str, name: str) -> None:
    with pytest.raises(DamagedError) as refused:
        changed(where, name, ...)
    message = {
        "digest": "the journal carries a part of a log without a digest",
        "sha256": f"the journal carries '{FOLDER}/meta.json' without a digest",
        "block_digest": f"the journal carries '{FOLDER}/events.jsonl' without a digest",
    }
    if (where, name) == ("commit", "lineage"):
        message["lineage"] = "a commit of the journal lacks the lineage"
    if (where, name) == ("log", "data"):
        message["data"] = "a frame of the journal has bytes that belong to no file"
    assert str(refused.value) == message.get(name, f"the journal lacks the field '{name}'")


def test_without_what_may_be_missing() -> None:
    header = changed("commit", "problems", ...)
    assert isinstance(header, Header)
    assert (header.problems, header.problem_count) == ((), 5)
    for where, name in OPTIONAL - {("state", "data")}:
        changed(where, name, ...)


@pytest.mark.parametrize("value", [True, False, None, [], {}, [1], {"a": 1}, "x", 1.5, 7])
@pytest.mark.parametrize(("where", "name"), [each for each in FIELDS if each[1] != "complete"])
def test_wrong_types_of_every_field(where: str, name: str, value: object) -> None:
    fits = (
        (name in TEXTS and value == "x")
        or (name in SECONDS and value in (1.5, 7) and type(value) is not bool)
        or (name in NUMBERS and value == 7 and type(value) is int)
        or (name in LISTS and value == [])
        or (value is None and name in MAY_BE_NULL)
    )
    if fits:
        return
    with pytest.raises(DamagedError) as refused:
        changed(where, name, value)
    assert "the manifest" not in str(refused.value)


@pytest.mark.parametrize(
    "value", [-1, 2**63, 2**64, 10**400, -(10**400)], ids=["-1", "2^63", "2^64", "10^400", "-10^400"]
)
@pytest.mark.parametrize(("where", "name"), [each for each in FIELDS if each[1] in NUMBERS])
def test_numbers_out_of_bounds(where: str, name: str, value: int) -> None:
    with pytest.raises(UnsafeError) as refused:
        changed(where, name, value)
    assert str(refused.value) == f"the field '{name}' of the journal is out of bounds"


@pytest.mark.parametrize("name", sorted(SECONDS))
@pytest.mark.parametrize("value", [-0.5, 1e300, 2**33 + 1])
def test_times_out_of_bounds(name: str, value: float) -> None:
    for where, field in FIELDS:
        if field == name:
            with pytest.raises(UnsafeError):
                changed(where, name, value)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", sorted(SECONDS - {"generated_at"}))
def test_what_is_no_number(name: str, token: str) -> None:
    text = json.dumps({"runs": [section(entry(), **{name: -7777})]})
    if name == "mtime":
        text = json.dumps({"runs": [section(entry(mtime=-7777))]})
    with pytest.raises(UnsafeError if token == "1e999" else DamagedError):
        list(decode_files(read(FILES, text.replace("-7777", token).encode())))


BOUNDS: list[tuple[str, str, object, object]] = [
    ("begin", "lineage", "x" * 64, "x" * 65),
    ("begin", "lineage", "x", ""),
    ("begin", "created_at", 2**33, 2**33 + 1),
    ("commit", "revision", 2**53 - 1, 2**53),
    ("commit", "revision", 1, 0),
    ("commit", "lineage", "x", ""),
    ("commit", "lineage", "x" * 64, "x" * 65),
    ("commit", "snapshot_id", "x" * 64, "x" * 65),
    ("commit", "snapshot_id", "x", ""),
    ("commit", "server_hostname", "x" * 255, "x" * 256),
    ("commit", "remote_root", "x" * 4096, "x" * 4097),
    ("commit", "generator", "x" * 64, "x" * 65),
    ("commit", "problem_count", 2**63 - 1, 2**63),
    ("problem", "path", "x" * 8 * 4096, "x" * (8 * 4096 + 1)),
    ("seal", "revision", 2**53 - 1, 2**53),
    ("seal", "revision", 1, 0),
    ("seal", "snapshot_id", "x" * 64, "x" * 65),
    ("seal", "snapshot_id", "x", ""),
    ("seal", "offset", 2**53 - 1, 2**53),
    ("seal", "offset", 0, -1),
    ("section", "status", "x" * 64, "x" * 65),
    ("section", "created_at", 2**33, 2**33 + 1),
    ("section", "updated_at", 0, -1),
    ("state", "priority", 100, 101),
    ("state", "mtime_ns", 2**33 * 10**9, 2**33 * 10**9 + 1),
    ("log", "size", 2**63 - 1, 2**63),
]


@pytest.mark.parametrize(("where", "name", "good", "bad"), BOUNDS)
def test_bounds(where: str, name: str, good: object, bad: object) -> None:
    changed(where, name, good)
    with pytest.raises(UnsafeError, match=rf"^the field '{name}' of the journal is out of bounds$"):
        changed(where, name, bad)


@pytest.mark.parametrize("name", ["status", "created_at", "updated_at"])
def test_a_section_without_files_is_checked_as_well(name: str) -> None:
    (found,) = load(section(removed=["meta.json"]))
    assert (found.changes, found.run.files, found.removed) == ((), (), ("meta.json",))
    assert (found.run.run_id, found.run.project, found.run.name) == ("r", "p", "n")
    wrong: list[object] = [None, [], True]
    for value in wrong:
        with pytest.raises(DamagedError):
            load(section(**{name: value}))
    with pytest.raises(UnsafeError):
        load(section(**{name: "x" * 65 if name == "status" else -1}))
    raw = section()
    del raw[name]
    with pytest.raises(DamagedError, match=f"lacks the field '{name}'"):
        load(raw)


DIGESTS = [each for each in FIELDS if each[1] in ("sha256", "block_digest", "tail_hash", "digest", "chain")]


@pytest.mark.parametrize("bad", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 63 + "\n", "\u0660" * 64])
@pytest.mark.parametrize(("where", "name"), DIGESTS)
def test_what_is_no_digest(where: str, name: str, bad: str) -> None:
    with pytest.raises(DamagedError, match="SHA-256"):
        changed(where, name, bad)


@pytest.mark.parametrize(
    "bad", ["", "0" * 31, "0" * 33, "F" * 32, "../" + "0" * 29, "0" * 32 + "\n", "\u0660" * 32, "/" * 32]
)
@pytest.mark.parametrize("where", ["begin", "seal"])
def test_what_names_no_epoch(where: str, bad: str) -> None:
    with pytest.raises(DamagedError, match=r"^the journal names an epoch that cannot be$"):
        changed(where, "epoch", bad)


@pytest.mark.parametrize("where", ["begin", "commit"])
def test_versions(where: str) -> None:
    for version in ("1.0", "1.7"):
        changed(where, "format_version", version)
    for version in ("2.0", "0.1", "10.0"):
        with pytest.raises(UnsupportedVersionError, match="the journal has the format"):
            changed(where, "format_version", version)
    for version in ("", "1", "1.", "1.x", " 1.0", "1.0\n", "-1.0"):
        with pytest.raises(DamagedError) as refused:
            changed(where, "format_version", version)
        assert not isinstance(refused.value, UnsupportedVersionError)


@pytest.mark.parametrize("where", WHERE)
def test_unknown_fields_are_ignored(where: str) -> None:
    assert changed(where, "later", {"x": [1]}) == decode(WHERE[where][0], SOUND[WHERE[where][0]])
