"""What frames say: every field of the page, wrong and at its bounds; paths; data that has to add up."""

from __future__ import annotations

import copy
import hashlib
import json
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runicorn.errors import DamagedError, UnsafeError, UnsupportedVersionError
from runicorn.journal.frames import Frame, FrameReader, Kind, Place, beginning, encode_frame
from runicorn.journal.sections import (
    MAX_CARRIED,
    MAX_PATHS,
    MAX_PROBLEM_TEXT,
    MAX_PROBLEMS,
    Carried,
    Seal,
    Section,
    decode_begin,
    decode_commit,
    decode_files,
    decode_seal,
    encode_begin,
    encode_change,
    encode_commit,
    encode_files,
    encode_seal,
    encode_section,
)
from runicorn.manifest.model import FileEntry, Header, Identity, ManifestType, Problem
from tests.journal.forge import BEGIN, COMMIT, FILES, LINEAGE, MIB, ONE, SEAL, TWO, epoch_of, frame
from tests.manifest.test_reader import HOSTILE

FOLDER = "p/n/runs/r"
DIGEST = "ab" * 32


def read(kind: int, head: object, data: bytes = b"") -> Frame:
    reader = FrameReader(beginning(ONE))
    reader.feed(epoch_of(ONE, frame(kind, head, data, codec=2)))
    (found,) = reader.frames()
    return found


def entry(path: str = "meta.json", size: int = 3, **more: object) -> dict[str, Any]:
    digest = "block_digest" if path in ("events.jsonl", "logs.txt") else "sha256"
    return {"path": path, "size": size, "mtime": 1.0, "priority": 1, digest: DIGEST, **more}


def a_log(size: int = 10, **more: Any) -> dict[str, Any]:
    return entry("events.jsonl", size, **more)


def section(*files: dict[str, Any], **more: object) -> dict[str, Any]:
    fields = {"folder": FOLDER, "status": "running", "created_at": 1, "updated_at": 2, "files": list(files)}
    return {**fields, **more}


def load(*found: object, data: bytes = b"") -> list[Section]:
    return list(decode_files(read(FILES, {"runs": list(found)}, data)))


def load_one(raw: dict[str, Any], data: bytes = b"") -> tuple[FileEntry, Carried | None]:
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


# -- commits and seals -------------------------------------------------------------------------


def test_a_commit_is_that_of_a_full_manifest_with_a_lineage() -> None:
    header = changed("commit", "manifest_type", "active")
    assert isinstance(header, Header)
    assert header.manifest_type is ManifestType.FULL
    with pytest.raises(DamagedError, match="lineage"):
        changed("commit", "lineage", None)


@pytest.mark.parametrize("complete", [1, "true", None, [True], False])
def test_only_true_is_complete(complete: object) -> None:
    header = changed("commit", "complete", complete)
    assert isinstance(header, Header)
    assert header.complete is False


def test_problems_of_a_commit_are_bounded() -> None:
    problem = COMMITTED["problems"][0]
    header = changed("commit", "problems", [problem] * 100)
    assert isinstance(header, Header)
    assert (len(header.problems), header.problem_count) == (100, 100)
    with pytest.raises(UnsafeError, match=r"^a commit of the journal lists more than 100 problems$"):
        changed("commit", "problems", [problem] * 101)
    wrong: list[object] = [[1], [None], [[]], {"a": 1}]
    for bad in wrong:
        with pytest.raises(DamagedError):
            changed("commit", "problems", bad)


HEADER = Header(ManifestType.FULL, Identity(LINEAGE, 3, "s"), 1.5, "h", "/r", 1, 2, 3, True, generator="g")


def written(header: Header) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode_commit(header))
    return found


def test_a_written_commit_has_what_the_page_says() -> None:
    fields = written(replace(HEADER, active_window=5))
    assert not {"manifest_type", "experiments", "active_window"} & set(fields)
    assert decode_commit(read(COMMIT, fields)) == HEADER
    problems = tuple(Problem(f"p{at}", "link", "m") for at in range(150))
    header = decode_commit(read(COMMIT, written(replace(HEADER, problems=problems))))
    assert (header.problems, header.problem_count) == (problems[:100], 150)
    header = decode_commit(read(COMMIT, written(replace(HEADER, problems=problems, problem_count=999))))
    assert header.problem_count == 999


def test_problem_texts_of_a_written_commit_are_bounded() -> None:
    problems = tuple(Problem("x" * 4000, "link", "y" * 96) for _ in range(50))
    listed = written(replace(HEADER, problems=problems))["problems"]
    assert sum(len(value) for each in listed for value in each.values()) <= MAX_PROBLEM_TEXT
    assert len(listed) == 15


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 2**53 - 1), TEXT, st.integers(0, 2**53 - 1), st.binary(min_size=32, max_size=32), st.data()
)
def test_round_trip_of_seal_begin_and_commit(
    revision: int, text: str, offset: int, chain: bytes, data: st.DataObject
) -> None:
    seal = Seal(Identity(LINEAGE, revision, text), Place(TWO, offset, chain))
    assert decode_seal(read(SEAL, encode_seal(seal)), LINEAGE) == seal
    when = data.draw(st.floats(0, 2**33))
    assert decode_begin(read(BEGIN, encode_begin(ONE, text, when))) == (ONE, text)
    problems = tuple(data.draw(st.lists(st.builds(Problem, TEXT, TEXT, TEXT), max_size=5)))
    header = replace(HEADER, generated_at=when, problems=problems, problem_count=len(problems) + 1)
    assert decode_commit(read(COMMIT, encode_commit(header))) == header


# -- paths -------------------------------------------------------------------------------------

INNER = [path.removeprefix(f"{FOLDER}/") for path in HOSTILE if path.startswith(f"{FOLDER}/")]
INNER += [path for path in HOSTILE if not path.startswith(f"{FOLDER}/")]
INNER += ["..", "../r/meta.json", "x/../meta.json", "media/../meta.json", "\ud800", "META.JSON", "runs/r/a"]


@pytest.mark.parametrize("path", INNER, ids=ascii)
def test_a_hostile_path_refuses_the_whole_frame(path: str) -> None:
    if path == "meta.json":
        return
    for raw in (section(entry(path)), section(entry(), removed=["meta.json", path])):
        with pytest.raises(UnsafeError) as refused:
            decode_files(read(FILES, {"runs": [section(entry()), raw]}))
        assert str(refused.value).isprintable()
        assert "the manifest" not in str(refused.value)


FOLDERS = [
    *["", "/", ".", "..", "r", "runs", "p/n/runs", "p/n/runs/r/", "/p/n/runs/r", "p/n/runs/r/x", "p/n/x/r"],
    *["../n/runs/r", "p/../runs/r", "p/n/runs/..", "p/n/runs/.", "p//runs/r", "p/n/runs/.r", ".p/n/runs/r"],
    *["runs/../r", "runs//r", "runs/.x/r", "runs/" + "d/" * 33 + "r", "p/n/runs/a\\b", "p/n/runs/a\x00"],
    *["p/n/runs/a\n", "p/n/runs/\x1b[2J", "p/n/runs/\x9b", "p/n/runs/\ud800", "p/n/runs/" + "x" * 256],
    *["p/n/runs/" + "é" * 128, "runs/" + ("d" * 200 + "/") * 25 + "x", ".runicorn/n/runs/r", "x" * 5000],
]


@pytest.mark.parametrize("folder", FOLDERS, ids=ascii)
def test_a_hostile_folder_refuses_the_whole_frame(folder: str) -> None:
    for raw in (
        section(folder=folder),
        section(entry(), folder=folder),
        section(folder=folder, removed=["meta.json"]),
    ):
        with pytest.raises(UnsafeError) as refused:
            decode_files(read(FILES, {"runs": [section(entry()), raw]}))
        assert str(refused.value).isprintable()


def test_a_path_that_is_too_long_only_with_its_folder() -> None:
    folder = "runs/" + "/".join(["d" * 250] * 16)
    room = 4096 - len(folder) - 1
    inner = f"media/{'x' * (room - 6)}"
    (found,) = load(section(entry(inner), folder=folder, removed=[inner]))
    assert len(found.changes[0].entry.path) == 4096
    for raw in (section(entry(inner + "x"), folder=folder), section(folder=folder, removed=[inner + "x"])):
        with pytest.raises(UnsafeError):
            load(raw)
    with pytest.raises(UnsafeError):
        load(section(folder=folder, removed=[inner[:-1] + "é"]))


@pytest.mark.parametrize("folder", ["runs/r", "runs/a/b/c/r", "p/n/runs/r", "runs/" + "d/" * 32 + "r"])
def test_folders_of_both_layouts(folder: str) -> None:
    (found,) = load(section(entry("media/a/b.png"), folder=folder, removed=["logs.txt"]))
    assert found.changes[0].entry.path == f"{folder}/media/a/b.png"


def test_what_a_section_says_of_its_run_is_of_its_folder() -> None:
    (found,) = load(section(entry(), run_id="..", project="/x", name=5))
    assert (found.run.run_id, found.run.project, found.run.name) == ("r", "p", "n")


@pytest.mark.parametrize(
    "names", [("meta.json", "meta.json"), ("media/a", "media/a/b"), ("media/a/b/c", "media/a")]
)
def test_the_same_file_twice_or_as_a_folder(names: tuple[str, str]) -> None:
    with pytest.raises(UnsafeError):
        load(section(*map(entry, names)))


@pytest.mark.parametrize("runs", [None, {}, "x", 1, [1], [None], [[]], ["x"]])
def test_runs_that_are_no_list_of_objects(runs: object) -> None:
    message = r"^(the field 'runs' of the journal is not a list|a section of the journal is not an object)$"
    with pytest.raises(DamagedError, match=message):
        decode_files(read(FILES, {"runs": runs}))


def test_without_runs() -> None:
    with pytest.raises(DamagedError, match=r"^the journal lacks the field 'runs'$"):
        decode_files(read(FILES, {}))
    assert load() == []


@pytest.mark.parametrize("files", [[1], [None], [[]], ["meta.json"], [entry(), 1]])
def test_files_that_are_no_list_of_objects(files: list[object]) -> None:
    with pytest.raises(DamagedError, match=rf"^the section '{FOLDER}' of the journal has no list of files$"):
        load(section(files=files))
    with pytest.raises(
        DamagedError, match=r"^the section 'runs/\\u200b' of the journal has no list of files$"
    ):
        load(section(files=files, folder="runs/\u200b"))


@pytest.mark.parametrize("removed", [[1], [None], [["meta.json"]], [True], ["meta.json", 1]])
def test_removed_that_is_no_list_of_texts(removed: list[object]) -> None:
    with pytest.raises(DamagedError, match=r"^the field 'removed' of the journal is not a text$"):
        load(section(removed=removed))


@pytest.mark.parametrize("removed", [None, {}, "meta.json", 1])
def test_removed_that_is_no_list(removed: object) -> None:
    with pytest.raises(DamagedError, match=r"^the field 'removed' of the journal is not a list$"):
        load(section(removed=removed))


@pytest.mark.parametrize("name", ["weights.bin", "media/\u200b.tmp", "media/" + "x" * 250 + ".tmp"])
def test_removed_path_that_is_no_file_of_a_run_is_told(name: str) -> None:
    path = f"{FOLDER}/{name}"
    with pytest.raises(UnsafeError) as refusal:
        load(section(removed=["meta.json", name]))
    shown = path[:200].replace("\u200b", r"\u200b")
    assert str(refusal.value) == f"the journal removes '{shown}', which is no file of a run"
    assert refusal.value.path == path


def test_path_within_a_run_is_a_text_within_its_bounds() -> None:
    with pytest.raises(DamagedError, match=r"^the field 'path' of the journal is not a text$"):
        load(section({**entry(), "path": 5}))
    with pytest.raises(UnsafeError, match=r"^the field 'path' of the journal is out of bounds$"):
        load(section(entry("x" * 4097)))


# -- carried bytes -----------------------------------------------------------------------------


def test_data_is_handed_out_in_order_of_the_entries() -> None:
    first = section(entry("meta.json", 2, data=2), entry("status.json", 5), entry("media/a", 0, data=0))
    second = section(a_log(4, **{"data": 3, "from": 1}), entry("summary.json", 1, data=1), folder="runs/q")
    found = [change for each in load(first, second, data=b"abcdef") for change in each.changes]
    held = [None if each.carried is None else bytes(each.carried.data) for each in found]
    assert held == [b"ab", None, b"", b"cde", b"f"]


FEWER = "a frame of the journal has fewer bytes than its files"
MORE = "a frame of the journal has bytes that belong to no file"


def refused(raw: dict[str, Any], data: bytes) -> tuple[str, str]:
    """What is said of one entry that makes no sense, and of which path."""
    with pytest.raises(DamagedError) as error:
        load_one(raw, data)
    return str(error.value), error.value.path


@pytest.mark.parametrize(
    ("data", "message"), [(b"", FEWER), (b"ab", FEWER), (b"abcd", MORE), (b"abc" * 99, MORE)]
)
def test_data_that_does_not_add_up(data: bytes, message: str) -> None:
    assert load_one(entry(size=3, data=3), b"abc")[1] is not None
    assert refused(entry(size=3, data=3), data) == (message, "")


def test_data_without_a_file() -> None:
    with pytest.raises(DamagedError, match=rf"^{MORE}$"):
        load(data=b"x")
    with pytest.raises(DamagedError, match=rf"^{MORE}$"):
        load(section(entry()), data=b"x")


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_state_file_is_carried_whole(size: int) -> None:
    message = "the journal carries another number of bytes than it lists"
    assert refused(entry(size=3, data=size), b"x" * size) == (message, f"{FOLDER}/meta.json")


def without_a_digest(inner: str) -> tuple[str, str]:
    path = f"{FOLDER}/{inner}"
    return f"the journal carries '{path}' without a digest", path


def test_carried_without_a_digest() -> None:
    raw = entry("media/\u200b", data=3)
    del raw["sha256"]
    path = f"{FOLDER}/media/\u200b"
    assert refused(raw, b"abc") == (rf"the journal carries '{FOLDER}/media/\u200b' without a digest", path)
    raw = a_log(3, **{"data": 3, "from": 0})
    del raw["block_digest"]
    assert refused(raw, b"abc") == without_a_digest("events.jsonl")


def test_a_digest_of_the_other_kind_is_none() -> None:
    raw = {**entry(data=3), "sha256": None, "block_digest": DIGEST}
    assert refused(raw, b"abc") == without_a_digest("meta.json")
    raw = {**a_log(3, **{"data": 3, "from": 0}), "block_digest": None, "sha256": DIGEST}
    assert refused(raw, b"abc") == without_a_digest("events.jsonl")


def test_ranges_of_a_log() -> None:
    other = "cd" * 32
    for start, size in ((0, 10), (4, 6), (10, 0)):
        _, carried = load_one(a_log(10, **{"data": size, "from": start}), b"x" * size)
        assert carried == Carried(start, memoryview(b"x" * size), DIGEST)
    for start, size in ((0, 9), (3, 4), (9, 0)):
        _, carried = load_one(a_log(10, **{"data": size, "from": start, "digest": other}), b"x" * size)
        assert carried == Carried(start, memoryview(b"x" * size), other)
        message = "the journal carries a part of a log without a digest"
        raw = a_log(10, **{"data": size, "from": start})
        assert refused(raw, b"x" * size) == (message, f"{FOLDER}/events.jsonl")


@pytest.mark.parametrize(("start", "size"), [(0, 11), (10, 1), (11, 0), (2**63 - 1, 1), (2**63 - 1, 0)])
def test_a_range_beyond_the_listed_size(start: int, size: int) -> None:
    raw = a_log(10, **{"data": size, "from": start, "digest": DIGEST})
    message = "the journal carries more of a log than it lists"
    assert refused(raw, b"x" * size) == (message, f"{FOLDER}/events.jsonl")


def test_a_range_needs_its_start() -> None:
    with pytest.raises(DamagedError, match=r"^the journal lacks the field 'from'$"):
        load_one(a_log(data=10), b"x" * 10)


def test_carried_bytes_of_one_file_are_bounded() -> None:
    most = 4 * MIB
    for raw in (entry(size=most, data=most), a_log(most, **{"data": most, "from": 0})):
        _, carried = load_one(raw, bytes(most))
        assert carried is not None
        assert len(carried.data) == most
    for raw in (entry(size=most + 1, data=most + 1), a_log(most + 1, **{"data": most + 1, "from": 0})):
        with pytest.raises(UnsafeError, match=r"^the field 'data' of the journal is out of bounds$"):
            load_one(raw, bytes(most + 1))


def test_nothing_is_given_of_a_frame_that_is_refused_later() -> None:
    good, bad = section(entry(data=3)), section(entry("../x"))
    with pytest.raises(UnsafeError):
        decode_files(read(FILES, {"runs": [good, bad]}, b"abc"))
    with pytest.raises(DamagedError):
        decode_files(read(FILES, {"runs": [good]}, b"abcd"))


# -- bombs -------------------------------------------------------------------------------------

SPELLED = rf"^a frame of the journal names paths of more than {MAX_PATHS} bytes$"
DEEP = "runs/" + "/".join(["d" * 250] * 15) + "/\U0001f600"


def test_a_folder_that_many_entries_repeat() -> None:
    """The JSON names it once; whole paths would be a gigabyte."""
    files = ",".join(
        f'{{"path":"media/{number:x}","size":0,"mtime":0,"priority":0}}' for number in range(70_000)
    )
    start = f'{{"folder":{json.dumps(DEEP)},"status":"","created_at":0,"updated_at":0,"files":['
    together = read(FILES, f'{{"runs":[{start}{files}]}}]}}'.encode())
    part = files[:400_000].rpartition(",{")[0]
    assert part.count("path") * len(DEEP.encode()) < MAX_PATHS
    apart = ",".join([f"{start}{part}]}}"] * 6)
    for found in (together, read(FILES, f'{{"runs":[{apart}]}}'.encode())):
        tracemalloc.start()
        try:
            with pytest.raises(UnsafeError, match=SPELLED):
                decode_files(found)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 256 * MIB


def test_paths_of_the_largest_frame_of_a_writer_are_read() -> None:
    folder = "runs/" + "/".join(["d" * 250] * 16)
    files = [entry(f"media/{number:04x}", mtime=1704060000.5, mtime_ns=1) for number in range(5_500)]
    assert len(json.dumps(files)) < MIB
    assert len(files) * len(folder) < MAX_PATHS
    (found,) = load(section(*files, folder=folder))
    assert len(found.changes) == 5_500


def test_removed_paths_of_a_long_folder_take_no_time() -> None:
    gone = ",".join(['"media/a"'] * 300_000)
    text = (
        f'{{"runs":[{{"folder":{json.dumps(DEEP)},"status":"","created_at":0,"updated_at":0,"files":[],'
        f'"removed":[{gone}]}}]}}'
    )
    found = read(FILES, text.encode())
    begun = time.process_time()
    decode_files(found)
    assert time.process_time() - begun < 5


# -- writing -----------------------------------------------------------------------------------

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


def test_problem_texts_of_a_written_commit_are_counted_to_the_last_byte() -> None:
    fits = Problem("p" * 1000, "k" * 100, "m" * (MAX_PROBLEM_TEXT - 1100))
    assert len(written(replace(HEADER, problems=(fits,)))["problems"]) == 1
    for part in ("path", "kind", "message"):
        longer = replace(fits, **{part: getattr(fits, part) + "x"})
        fields = written(replace(HEADER, problems=(longer, Problem("p", "k", "m"))))
        assert (fields["problems"], fields["problem_count"]) == ([], 2)
    half = Problem("p" * (MAX_PROBLEM_TEXT // 2), "", "")
    assert len(written(replace(HEADER, problems=(half, half, Problem("", "", ""))))["problems"]) == 3
    assert len(written(replace(HEADER, problems=(half, half, Problem("p", "", ""), half)))["problems"]) == 2


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
