"""Reading trusts nothing: every row of the format's tables, damage of any kind, bombs."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runicorn.errors import DamagedError, RunicornError, UnsafeError, UnsupportedVersionError
from runicorn.manifest import Manifest, read_manifest, reader
from runicorn.manifest.codec import RUNS_LINE, encode_header
from runicorn.manifest.reader import ManifestReader, read_header
from tests.manifest.helpers import a_header
from tests.manifest.make_golden import MANIFEST, encode_body, packed, texts

TEXT = b"".join(texts())
PACKED = b"".join(map(packed, texts()))
PLAIN: dict[str, Any] = json.loads(TEXT)
FOLDER = "p/n/runs/r"


def load(data: bytes) -> Manifest:
    opened = ManifestReader(io.BytesIO(data), len(data))
    return Manifest(opened.header, tuple(opened.runs()))


def document(change: Callable[[dict[str, Any]], object] = len) -> bytes:
    """A small manifest in another text layout, changed."""
    fields: dict[str, Any] = {
        "format_version": "1.0",
        "manifest_type": "full",
        "revision": 1,
        "snapshot_id": "s",
        "generated_at": 1.5,
        "server_hostname": "h",
        "remote_root": "/r",
        "lineage": "l",
        "experiments": [run_fields()],
        "statistics": {"total_experiments": 1, "total_files": 2, "total_bytes": 7},
    }
    change(fields)
    return json.dumps(fields).encode()


def run_fields(folder: str = FOLDER) -> dict[str, Any]:
    return {
        "run_id": folder.rpartition("/")[2],
        "project": "p",
        "name": "n",
        "status": "running",
        "created_at": 1,
        "updated_at": 2,
        "files": [entry_fields(f"{folder}/meta.json"), entry_fields(f"{folder}/events.jsonl", 4)],
    }


def entry_fields(path: str, size: int = 3) -> dict[str, Any]:
    return {"path": path, "size": size, "mtime": 1.0, "priority": 1}


def changed(place: str, name: str, value: object) -> bytes:
    def change(fields: dict[str, Any]) -> None:
        run = fields["experiments"][0]
        places = {
            "header": fields,
            "statistics": fields["statistics"],
            "run": run,
            "entry": run["files"][0],
            "log": run["files"][1],
        }
        if value is ...:
            del places[place][name]
        else:
            places[place][name] = value

    return document(change)


def test_the_small_manifest_is_fine() -> None:
    manifest = load(document())
    assert (manifest.total_bytes, len(manifest.experiments[0].files)) == (7, 2)
    assert [each.is_log for each in manifest.experiments[0].files] == [False, True]


REQUIRED = {
    "header": [
        "format_version",
        "manifest_type",
        "revision",
        "snapshot_id",
        "generated_at",
        "server_hostname",
        "remote_root",
        "experiments",
        "statistics",
    ],
    "statistics": ["total_experiments", "total_files", "total_bytes"],
    "run": ["run_id", "project", "name", "status", "created_at", "updated_at", "files"],
    "entry": ["path", "size", "mtime", "priority"],
}


@pytest.mark.parametrize(
    ("place", "name"), [(place, name) for place, names in REQUIRED.items() for name in names]
)
def test_a_required_field_is_missing(place: str, name: str) -> None:
    with pytest.raises(DamagedError):
        load(changed(place, name, ...))


NUMBERS = [
    ("header", "revision"),
    ("header", "generated_at"),
    ("statistics", "total_experiments"),
    ("statistics", "total_files"),
    ("statistics", "total_bytes"),
    ("run", "created_at"),
    ("run", "updated_at"),
    ("entry", "size"),
    ("entry", "mtime"),
    ("entry", "priority"),
    ("entry", "mtime_ns"),
    ("header", "problem_count"),
    ("header", "active_window"),
]
STRINGS = [
    ("header", "format_version"),
    ("header", "snapshot_id"),
    ("header", "server_hostname"),
    ("header", "remote_root"),
    ("header", "lineage"),
    ("header", "generator"),
    ("run", "run_id"),
    ("run", "project"),
    ("run", "name"),
    ("run", "status"),
    ("run", "folder"),
    ("entry", "path"),
    ("entry", "sha256"),
    ("log", "block_digest"),
]


@pytest.mark.parametrize("value", ["1", True, False, [], {}, [1]])
@pytest.mark.parametrize(("place", "name"), NUMBERS)
def test_what_is_no_number_is_damage(place: str, name: str, value: object) -> None:
    with pytest.raises(DamagedError):
        load(changed(place, name, value))


@pytest.mark.parametrize("value", [-1, -0.5, 2**64, 1e300])
@pytest.mark.parametrize(("place", "name"), NUMBERS)
def test_a_number_out_of_bounds_is_refused(place: str, name: str, value: float) -> None:
    with pytest.raises((UnsafeError, DamagedError)) as refused:
        load(changed(place, name, value))
    fraction_for_integer = type(value) is float and name not in (
        "generated_at",
        "created_at",
        "updated_at",
        "mtime",
    )
    assert isinstance(refused.value, DamagedError if fraction_for_integer else UnsafeError)


@pytest.mark.parametrize("value", [5, True, None, [], {}, 1.5])
@pytest.mark.parametrize(("place", "name"), STRINGS)
def test_what_is_no_text_is_damage(place: str, name: str, value: object) -> None:
    optional = ("lineage", "folder", "sha256", "block_digest")
    if value is None and name in optional:
        load(changed(place, name, value))
        return
    with pytest.raises(DamagedError):
        load(changed(place, name, value))


BOUNDS = [
    ("header", "revision", 2**53 - 1, 2**53),
    ("header", "revision", 1, 0),
    ("header", "snapshot_id", "x" * 64, "x" * 65),
    ("header", "snapshot_id", "x", ""),
    ("header", "lineage", "x" * 64, "x" * 65),
    ("header", "generated_at", 2**33, 2**33 + 1),
    ("header", "server_hostname", "x" * 255, "x" * 256),
    ("header", "remote_root", "x" * 4096, "x" * 4097),
    ("header", "generator", "x" * 64, "x" * 65),
    ("header", "active_window", 0, -1),
    ("run", "project", "x" * 4096, "x" * 4097),
    ("run", "status", "x" * 64, "x" * 65),
    ("run", "created_at", 0, -1),
    ("entry", "mtime", 2**33, 2**33 + 1),
    ("entry", "mtime_ns", 2**33 * 10**9, 2**33 * 10**9 + 1),
    ("entry", "priority", 100, 101),
]


@pytest.mark.parametrize(("place", "name", "good", "bad"), BOUNDS)
def test_bounds(place: str, name: str, good: object, bad: object) -> None:
    load(changed(place, name, good))
    with pytest.raises(UnsafeError):
        load(changed(place, name, bad))


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_is_damage(token: str) -> None:
    with pytest.raises(DamagedError, match="not a number"):
        load(document().replace(b'"mtime": 1.0', f'"mtime": {token}'.encode()))


@pytest.mark.parametrize(
    "digest", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 63 + "\n", "\u0660" * 64], ids=repr
)
@pytest.mark.parametrize(("place", "name"), [("entry", "sha256"), ("log", "block_digest")])
def test_what_is_no_digest_is_damage(place: str, name: str, digest: str) -> None:
    with pytest.raises(DamagedError, match="SHA-256"):
        load(changed(place, name, digest))


def test_tail_hash_needs_a_block_digest() -> None:
    manifest = load(changed("log", "tail_hash", "0" * 64))
    assert manifest.experiments[0].files[1].tail_hash is None


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0", "999999.1"])
def test_an_unknown_major_version_is_refused(version: str) -> None:
    with pytest.raises(UnsupportedVersionError) as refused:
        load(changed("header", "format_version", version))
    assert refused.value.exit_code == 7


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.999"])
def test_a_known_major_version_is_read_and_unknown_fields_ignored(version: str) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["format_version"] = version
        for place in (fields, fields["experiments"][0], fields["experiments"][0]["files"][0]):
            place["later"] = {"x": [1]}

    assert load(document(change)).header.format_version == version


@pytest.mark.parametrize("version", ["", "1", "1.", "1.x", "v1.0", " 1.0", "1.0\n", "1" * 9 + ".0", "-1.0"])
def test_a_version_that_is_none(version: str) -> None:
    with pytest.raises(DamagedError):
        load(changed("header", "format_version", version))


@pytest.mark.parametrize("kind", ["FULL", "", "partial", 1, None])
def test_a_type_that_is_none(kind: object) -> None:
    with pytest.raises(DamagedError):
        load(changed("header", "manifest_type", kind))


HOSTILE = [
    "/etc/passwd",
    "../p/n/runs/r/meta.json",
    "p/n/runs/r/../../x/meta.json",
    "p/n/runs/r/./meta.json",
    "p//n/runs/r/meta.json",
    "p/n/runs/r/meta.json/",
    "p/n/runs/r/media/a\\b",
    "p/n/runs/r/media/a\x00b",
    "p/n/runs/r/media/a\nb",
    "p/n/runs/r/media/a\x1b[2J",
    "p/n/runs/r/media/a\x7f",
    "p/n/runs/r/media/a\x9b",
    "p/n/runs/r/media/a\ud800",
    "p/n/runs/r/media/" + "x" * 256,
    "p/n/runs/r/media/" + "é" * 128,
    "p/n/runs/r/media/" + "d/" * 80 + "x",
    "p/n/runs/r/media/" + "d/" * 33 + "x",
    "p/n/runs/r/media/" + ("d" * 200 + "/") * 25 + "x",
    "p/n/runs/r/other.json",
    "p/n/runs/r/.ssh/authorized_keys",
    "p/n/runs/r/media/.hidden",
    "p/n/runs/r/media/x.tmp",
    "p/n/runs/r/media",
    "p/n/runs/r",
    "p/n/runs/q/meta.json",
    "p/n/other/r/meta.json",
    ".runicorn/n/runs/r/meta.json",
    "p/.n/runs/r/meta.json",
    "p/x/n/runs/r/meta.json",
    "runs/.x/r/meta.json",
    "runs/" + "d/" * 33 + "r/meta.json",
    "r/meta.json",
    "meta.json",
    ".bashrc",
    "",
    "C:/x/runs/r/../meta.json",
]


@pytest.mark.parametrize("path", HOSTILE, ids=ascii)
@pytest.mark.parametrize("with_folder", [False, True])
def test_a_hostile_path_refuses_the_whole_manifest(path: str, with_folder: bool) -> None:
    def change(fields: dict[str, Any]) -> None:
        run = fields["experiments"][0]
        run["files"][0]["path"] = path
        if with_folder:
            run["folder"] = FOLDER

    with pytest.raises(UnsafeError) as refused:
        load(document(change))
    assert "\x1b" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "folder", ["/p/n/runs/r", "p/n/runs/q", "p/n/runs", "n/runs/r", "../n/runs/r", "p/n/runs/r/media/r", "r"]
)
def test_a_hostile_folder(folder: str) -> None:
    with pytest.raises(UnsafeError):
        load(changed("run", "folder", folder))


@pytest.mark.parametrize("run_id", ["..", ".", "a/b", "q", "x" * 256, "r\n"])
def test_a_hostile_run_id(run_id: str) -> None:
    with pytest.raises(UnsafeError):
        load(changed("run", "run_id", run_id))


def runs_of(*folders: str) -> bytes:
    def change(fields: dict[str, Any]) -> None:
        fields["experiments"] = [run_fields(folder) for folder in folders]
        count = len(folders)
        fields["statistics"] = {
            "total_experiments": count,
            "total_files": 2 * count,
            "total_bytes": 7 * count,
        }

    return document(change)


def test_many_runs_are_fine() -> None:
    assert len(load(runs_of("a/n/runs/r", "a/n/runs/q", "runs/x/r", "runs/xy/r")).experiments) == 4


@pytest.mark.parametrize(
    "folders",
    [("runs/x/r", "runs/x/r"), ("runs/x", "runs/x/r"), ("runs/x/r", "runs/x"), ("runs/a/b/c/d", "runs/a")],
)
def test_the_same_run_twice_or_inside_another(folders: tuple[str, ...]) -> None:
    with pytest.raises(UnsafeError):
        load(runs_of(*folders))


@pytest.mark.parametrize(
    "names", [("meta.json", "meta.json"), ("media/a", "media/a/b"), ("media/a/b/c", "media/a")]
)
def test_the_same_file_twice_or_as_a_folder(names: tuple[str, str]) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["experiments"][0]["files"] = [entry_fields(f"{FOLDER}/{name}") for name in names]

    with pytest.raises(UnsafeError):
        load(document(change))


@pytest.mark.parametrize("field", ["total_experiments", "total_files", "total_bytes"])
def test_sums_must_be_right_when_there_is_a_lineage(field: str) -> None:
    with pytest.raises(DamagedError, match="sums"):
        load(changed("statistics", field, 5))

    def change(fields: dict[str, Any]) -> None:
        fields["statistics"][field] = 5
        del fields["lineage"]

    load(document(change))


def test_sizes_beyond_any_disk() -> None:
    def change(fields: dict[str, Any]) -> None:
        for entry in fields["experiments"][0]["files"]:
            entry["size"] = 2**63 - 1

    with pytest.raises(UnsafeError):
        load(document(change))


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("header", "experiments", {}),
        ("header", "experiments", [1]),
        ("header", "statistics", []),
        ("run", "files", []),
        ("run", "files", {}),
        ("run", "files", [1]),
        ("header", "problems", {}),
        ("header", "problems", [1]),
        ("header", "problems", [{"path": "x"}]),
        ("header", "problems", [{"path": 1, "kind": "x", "message": "y"}]),
    ],
)
def test_other_shapes_are_damage(place: str, name: str, value: object) -> None:
    with pytest.raises(DamagedError):
        load(changed(place, name, value))


@pytest.mark.parametrize("complete", [True, False, 1, "true", None])
def test_only_true_is_complete(complete: object) -> None:
    assert load(changed("header", "complete", complete)).complete is (complete is True)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"1", b"\xff\xfe", b"<html>", b"{" * 10, b"\x00" * 100, TEXT + b"x"]
)
def test_what_is_no_manifest_is_damage(data: bytes) -> None:
    with pytest.raises(DamagedError):
        load(data)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_damage(opening: bytes) -> None:
    with pytest.raises(DamagedError):
        load(opening * 200_000)
    head, _ = texts()
    with pytest.raises(DamagedError):
        load(head + opening * 200_000 + b"\n]\n}\n")


@pytest.mark.parametrize("data", [TEXT, PACKED], ids=["plain", "gzip"])
def test_torn_at_every_byte(data: bytes) -> None:
    assert load(data) == MANIFEST
    for cut in range(len(data)):
        try:
            whole = load(data[:cut])
        except DamagedError:
            continue
        assert whole == MANIFEST
        assert data[cut:].strip() == b""


def damaged_bytes(data: bytes) -> st.SearchStrategy[bytes]:
    places = st.integers(0, len(data) - 1)
    edits = st.lists(
        st.tuples(places, st.integers(0, 3), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4
    )

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        result = data
        for at, kind, new in changes:
            if kind == 0:
                result = result[:at] + new + result[at + len(new) :]
            elif kind == 1:
                result = result[:at] + new + result[at:]
            elif kind == 2:
                result = result[:at] + result[at + len(new) :]
            else:
                result = result[:at] + result[at // 2 :]
        return result

    return edits.map(apply)


def only_known_refusals(data: bytes) -> None:
    try:
        manifest = load(data)
    except (DamagedError, UnsafeError):
        return
    except RunicornError as error:
        raise AssertionError(f"another error: {error!r}") from error
    for run in manifest.experiments:
        for entry in run.files:
            assert entry.path.startswith(run.folder + "/")
            assert ".." not in entry.path.split("/")
            assert entry.size >= 0


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damaged_bytes(TEXT))
def test_random_damage_of_the_text(data: bytes) -> None:
    only_known_refusals(data)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damaged_bytes(PACKED))
def test_random_damage_of_the_gzip_is_found_or_harmless(data: bytes) -> None:
    try:
        manifest = load(data)
    except (DamagedError, UnsafeError):
        return
    assert manifest == MANIFEST


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_in_any_place(data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(sorted(REQUIRED)))
    name = data.draw(st.sampled_from(REQUIRED[place]))
    only_known_refusals(changed(place, name, data.draw(JSON)))


def test_a_gzip_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "EXPANSION_ALLOWANCE", 1024 * 1024)
    bomb = packed(texts()[0]) + gzip.compress(b"\n" * (64 * 1024 * 1024))
    with pytest.raises(UnsafeError, match="expands"):
        load(bomb)


def test_a_gzip_bomb_in_a_header_is_cut() -> None:
    bomb = gzip.compress(b" " * (64 * 1024 * 1024))
    assert read_header(bomb) is None


def test_a_bomb_in_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_HEADER", 5_000)
    monkeypatch.setattr(reader, "MAX_FREE_LAYOUT", 10_000)
    with pytest.raises(UnsafeError, match="this text layout"):
        load(gzip.compress(b"{" + b" \n" * 100_000))


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_RUN", 1000)
    with pytest.raises(UnsafeError, match="longer"):
        load(texts()[0] + b'{"' + b" " * 3_000_000)


@pytest.mark.parametrize("name", ["MAX_RUNS", "MAX_ENTRIES"])
def test_too_many_runs_or_entries(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(reader, name, 1)
    with pytest.raises(UnsafeError, match="more than any root"):
        load(TEXT)


@pytest.mark.parametrize("rest", [b"]\n", b"]\n}\n}\n", b"]\n}\n]\n", b"]\n{}\n", b"]\n}}\n"])
def test_another_end_is_damage(rest: bytes) -> None:
    head, body = texts()
    assert body.endswith(b"]\n}\n")
    with pytest.raises(DamagedError):
        load(head + body[:-4] + rest)


@pytest.mark.parametrize("place", ["after the end", "between runs", "in the header"])
def test_a_bomb_of_empty_lines_is_refused_at_once(place: str) -> None:
    bomb = b"\n" * 20_000_000
    head, body = texts()
    data = {
        "after the end": TEXT + bomb,
        "between runs": head + body.replace(b"},\n", b"},\n" + bomb, 1),
        "in the header": b"{" + bomb + TEXT[1:],
    }
    if place == "in the header":
        assert load(data[place]) == MANIFEST  # another layout, read as a whole
        return
    with pytest.raises(DamagedError):
        load(gzip.compress(data[place]))


def test_another_layout_that_breaks_its_lines_at_the_same_place() -> None:
    for indent in (0, 1, ""):
        assert load(json.dumps(PLAIN, indent=indent).encode()) == MANIFEST
    bare = json.loads(document())
    assert load(json.dumps(bare, indent=0).encode()) == load(document())


def test_a_manifest_without_runs() -> None:
    header = a_header()
    text = encode_header(header) + b"".join(encode_body(iter(())))
    assert load(text) == Manifest(header, ())
    assert load(gzip.compress(text)) == Manifest(header, ())


def test_any_number_of_gzip_members_and_other_layouts() -> None:
    assert load(gzip.compress(TEXT)) == MANIFEST
    assert load(b"".join(gzip.compress(TEXT[at : at + 100]) for at in range(0, len(TEXT), 100))) == MANIFEST
    for layout in (
        json.dumps(PLAIN),
        json.dumps(PLAIN, indent=2),
        json.dumps(PLAIN, ensure_ascii=False, sort_keys=True),
    ):
        assert load(layout.encode()) == MANIFEST


def test_what_follows_the_end_is_damage() -> None:
    with pytest.raises(DamagedError):
        load(TEXT + b"\n{}")
    with pytest.raises(DamagedError):
        load(PACKED + b"rubbish")


def test_runs_are_checked_as_they_come_and_sums_at_the_end() -> None:
    head, body = texts()
    torn = head + body[: body.rindex(b"\n]\n}\n")]
    opened = ManifestReader(io.BytesIO(torn), len(torn))
    runs = opened.runs()
    assert next(runs) == MANIFEST.experiments[0]
    with pytest.raises(DamagedError, match="torn"):
        list(runs)


def test_read_manifest_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(zlib.compress(TEXT))
    with pytest.raises(DamagedError):
        read_manifest(path)
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "missing")
    path.write_bytes(PACKED)
    assert read_manifest(path) == MANIFEST


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"\x1f\x8b\x08\x00", PACKED[:40], TEXT[:40]])
def test_the_start_of_a_header_is_no_header(data: bytes) -> None:
    assert read_header(data) is None


@pytest.mark.parametrize("data", [b"\x1f\x8bxxxxxxxx", b"{\n" + RUNS_LINE, b"rubbish\n" + RUNS_LINE])
def test_a_header_that_makes_no_sense(data: bytes) -> None:
    with pytest.raises(DamagedError):
        read_header(data)
