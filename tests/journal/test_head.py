"""HEAD: what it tells, its checksum, and that it does not contradict itself."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runicorn.errors import DamagedError, UnsafeError, UnsupportedVersionError
from runicorn.journal.frames import MAX_OFFSET, Place
from runicorn.journal.head import HEAD_NAME, MAX_HEAD, Head, Media, Published, decode_head, encode_head
from runicorn.manifest.model import Identity
from tests.journal.forge import ONE, TWO, checksummed

FIELDS: dict[str, Any] = {
    "format_version": "1.0",
    "lineage": "lineage",
    "revision": 7,
    "snapshot_id": "snapshot",
    "generated_at": 1704060000.5,
    "epoch": ONE,
    "length": 5000,
    "chain": "11" * 32,
    "base_length": 3000,
    "base_chain": "22" * 32,
    "base_bytes": 4000,
    "media": {"begin": 1000, "end": 2900, "chain": "33" * 32},
    "statistics": {"total_experiments": 1, "total_files": 2, "total_bytes": 3},
    "complete": True,
    "problem_count": 4,
    "written": 9000,
    "duration": 2.5,
    "manifest": {
        "revision": 6,
        "snapshot_id": "other",
        "epoch": TWO,
        "offset": 123,
        "chain": "44" * 32,
        "bytes": 99,
    },
}
HEAD = Head(
    identity=Identity("lineage", 7, "snapshot"),
    generated_at=1704060000.5,
    end=Place(ONE, 5000, b"\x11" * 32),
    base=Place(ONE, 3000, b"\x22" * 32),
    base_bytes=4000,
    media=Media(1000, Place(ONE, 2900, b"\x33" * 32)),
    total_experiments=1,
    total_files=2,
    total_bytes=3,
    complete=True,
    problem_count=4,
    manifest=Published(Identity("lineage", 6, "other"), Place(TWO, 123, b"\x44" * 32), 99),
    written=9000,
    duration=2.5,
)
TEXT = checksummed(FIELDS)


def changed(place: str, name: str, value: object) -> bytes:
    """HEAD with one field changed (``...``: removed) and a checksum that fits."""
    fields = copy.deepcopy(FIELDS)
    holder = fields if place == "" else fields[place]
    if value is ...:
        del holder[name]
    else:
        holder[name] = value
    return checksummed(fields)


def test_every_field() -> None:
    assert (HEAD_NAME, MAX_HEAD) == ("HEAD", 65536)
    assert decode_head(TEXT) == HEAD
    assert HEAD.epoch == ONE


def test_writing_gives_every_field_and_two_lines() -> None:
    text = encode_head(HEAD)
    assert json.loads(text.split(b"\n")[0]) == FIELDS
    assert text == checksummed(text.split(b"\n")[0])
    assert text.count(b"\n") == 2


NUMBER = st.integers(0, 2**53 - 1)
CHAIN = st.binary(min_size=32, max_size=32)
NAMES = st.text("0123456789abcde", min_size=31, max_size=31).map("0".__add__)
OTHER_NAMES = NAMES.map(lambda name: "f" + name[1:])
LABEL = st.text(min_size=1, max_size=64)
HEADS = st.builds(
    lambda name, offsets, chains, numbers, labels, when, other, complete: Head(
        identity=Identity(labels[0], numbers[0] + 1, labels[1]),
        generated_at=when,
        end=Place(name, offsets[3], chains[3]),
        base=Place(name, offsets[2], chains[2]),
        base_bytes=numbers[1],
        media=Media(offsets[0], Place(name, offsets[1], chains[1])),
        total_experiments=numbers[2],
        total_files=numbers[3],
        total_bytes=numbers[4],
        complete=complete,
        problem_count=numbers[5],
        manifest=other and Published(Identity(labels[0], other.offset + 1, labels[2]), other, numbers[6]),
        written=None if complete else numbers[0],
        duration=None if complete else when,
    ),
    NAMES,
    st.lists(NUMBER, min_size=4, max_size=4, unique=True).map(sorted),
    st.lists(CHAIN, min_size=4, max_size=4),
    st.lists(st.integers(0, 2**53 - 2), min_size=7, max_size=7),
    st.lists(LABEL, min_size=3, max_size=3),
    st.floats(0, 2**33),
    st.none() | st.builds(Place, OTHER_NAMES, st.integers(0, 2**53 - 2), CHAIN),
    st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(HEADS)
def test_round_trip(head: Head) -> None:
    assert decode_head(encode_head(head)) == head


def test_weight_and_duration_may_be_absent() -> None:
    assert decode_head(changed("", "written", ...)) == dataclasses.replace(HEAD, written=None)
    assert decode_head(changed("", "duration", ...)) == dataclasses.replace(HEAD, duration=None)
    bare = dataclasses.replace(HEAD, written=None, duration=None, manifest=None)
    assert not {"written", "duration", "manifest"} & set(json.loads(encode_head(bare).split(b"\n")[0]))
    for value in (-1, 1.5, "1", None, True):
        with pytest.raises((DamagedError, UnsafeError)):
            decode_head(changed("", "written", value))


def test_each_bit_flipped_is_refused() -> None:
    for at in range(len(TEXT)):
        for bit in range(8):
            damaged = bytearray(TEXT)
            damaged[at] ^= 1 << bit
            with pytest.raises(DamagedError, match=r"^the journal's HEAD does not fit its checksum$"):
                decode_head(bytes(damaged))


def test_cut_anywhere_is_refused() -> None:
    for cut in range(len(TEXT)):
        with pytest.raises(DamagedError, match=r"^the journal's HEAD does not fit its checksum$"):
            decode_head(TEXT[:cut])


@pytest.mark.parametrize(
    "text",
    [
        TEXT + b"\n",
        TEXT + TEXT,
        TEXT + b"x",
        b"\n" + TEXT,
        TEXT.replace(b"\n", b"\r\n"),
        TEXT[:-1] + b" \n",
        TEXT[:-65] + TEXT[-65:].upper(),
        TEXT[:-65],
        bytes(len(TEXT)),
        TEXT[:100] + bytes(len(TEXT) - 100),
    ],
)
def test_what_is_not_two_lines_that_fit(text: bytes) -> None:
    with pytest.raises(DamagedError, match=r"^the journal's HEAD does not fit its checksum$"):
        decode_head(text)


def test_its_length_is_bounded() -> None:
    room = MAX_HEAD - len(TEXT)
    longest = changed("", "later", "x" * (room - len(', "later": ""')))
    assert len(longest) == MAX_HEAD
    assert decode_head(longest) == HEAD
    with pytest.raises(UnsafeError, match=r"^the journal's HEAD is longer than 65536 bytes$"):
        decode_head(changed("", "later", "x" * (room - len(', "later": ""') + 1)))
    with pytest.raises(UnsafeError, match=r"^the journal's HEAD is longer than 65536 bytes$"):
        decode_head(b"x" * 10**7)


@pytest.mark.parametrize("line", [b"[]", b"null", b"", b"{", b"{}x", b'{"a": NaN}', b"[" * 60_000, b"\xff"])
def test_a_first_line_that_is_no_object(line: bytes) -> None:
    with pytest.raises(DamagedError):
        decode_head(checksummed(line))


ALL = [("", name) for name in FIELDS] + [
    (place, name) for place in ("media", "statistics", "manifest") for name in FIELDS[place]
]
OPTIONAL = {"written", "duration", "manifest", "complete", "problem_count"}


@pytest.mark.parametrize(("place", "name"), [each for each in ALL if each[1] not in OPTIONAL])
def test_a_field_is_missing(place: str, name: str) -> None:
    with pytest.raises(DamagedError, match=f"^the journal lacks the field '{name}'$"):
        decode_head(changed(place, name, ...))


def test_without_what_may_be_missing() -> None:
    assert decode_head(changed("", "manifest", ...)) == replace(HEAD, manifest=None)
    assert decode_head(changed("", "complete", ...)) == replace(HEAD, complete=False)
    assert decode_head(changed("", "problem_count", ...)) == replace(HEAD, problem_count=0)


@pytest.mark.parametrize("complete", [1, "true", None, [True], False])
def test_only_true_is_complete(complete: object) -> None:
    assert decode_head(changed("", "complete", complete)).complete is False


OBJECTS = {"media", "statistics", "manifest"}


@pytest.mark.parametrize("value", [True, None, [], {}, [1], {"a": 1}])
@pytest.mark.parametrize(("place", "name"), [each for each in ALL if each[1] != "complete"])
def test_wrong_types(place: str, name: str, value: object) -> None:
    with pytest.raises(DamagedError) as refused:
        decode_head(changed(place, name, value))
    assert "manifest" not in str(refused.value).replace("'manifest'", "")
    assert f"'{name}'" in str(refused.value) or name == "epoch" or (name in OBJECTS and type(value) is dict)


@pytest.mark.parametrize("name", ["media", "statistics", "manifest"])
def test_what_is_no_object_is_told(name: str) -> None:
    with pytest.raises(DamagedError, match=f"^the field '{name}' of the journal is not an object$"):
        decode_head(changed("", name, []))


TEXTS = {"format_version", "lineage", "snapshot_id", "epoch", "chain", "base_chain"}


@pytest.mark.parametrize(("place", "name"), [each for each in ALL if each[1] != "complete"])
def test_text_for_number_and_number_for_text(place: str, name: str) -> None:
    for value in [1, 1.5] if name in TEXTS else [1] if name in OBJECTS else ["1", ""]:
        with pytest.raises(DamagedError):
            decode_head(changed(place, name, value))


NUMBERS = [(place, name) for place, name in ALL if name not in TEXTS | OBJECTS | {"complete"}]


@pytest.mark.parametrize(("place", "name"), NUMBERS)
def test_numbers_out_of_bounds(place: str, name: str) -> None:
    for value in (-1, 2**63, 2**64, 10**400):
        with pytest.raises(UnsafeError) as refused:
            decode_head(changed(place, name, value))
        assert str(refused.value) == f"the field '{name}' of the journal is out of bounds"


@pytest.mark.parametrize(
    ("place", "name"), [each for each in NUMBERS if each[1] not in ("generated_at", "duration")]
)
def test_a_fraction_is_no_integer(place: str, name: str) -> None:
    for value in (0.5, 1.0, 1e300):
        with pytest.raises(DamagedError, match=f"^the field '{name}' of the journal is not an integer$"):
            decode_head(changed(place, name, value))


@pytest.mark.parametrize(
    ("place", "name", "bad"),
    [
        ("", "length", 2**53),
        ("", "base_length", 2**53),
        ("media", "begin", 2**53),
        ("media", "end", 2**53),
        ("manifest", "offset", 2**53),
        ("", "revision", 2**53),
        ("", "revision", 0),
        ("manifest", "revision", 0),
        ("manifest", "revision", 2**53),
        ("", "generated_at", 2**33 + 1),
        ("", "lineage", ""),
        ("", "lineage", "x" * 65),
        ("", "snapshot_id", ""),
        ("", "snapshot_id", "x" * 65),
        ("manifest", "snapshot_id", "x" * 65),
        ("", "format_version", "1." + "0" * 15),
    ],
)
def test_bounds(place: str, name: str, bad: object) -> None:
    with pytest.raises(UnsafeError, match=f"^the field '{name}' of the journal is out of bounds$"):
        decode_head(changed(place, name, bad))


def test_at_the_bounds() -> None:
    fields = {**FIELDS, "length": MAX_OFFSET, "revision": 2**53 - 1, "base_bytes": 2**63 - 1}
    fields["lineage"] = fields["snapshot_id"] = "x" * 64
    fields["generated_at"] = 2**33
    head = decode_head(checksummed(fields))
    assert (head.end.offset, head.identity.revision, head.base_bytes) == (2**53 - 1, 2**53 - 1, 2**63 - 1)


@pytest.mark.parametrize("bad", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 63 + "\n", "\u0660" * 64])
@pytest.mark.parametrize(
    ("place", "name"), [("", "chain"), ("", "base_chain"), ("media", "chain"), ("manifest", "chain")]
)
def test_what_is_no_chain(place: str, name: str, bad: str) -> None:
    with pytest.raises(DamagedError, match="SHA-256"):
        decode_head(changed(place, name, bad))


@pytest.mark.parametrize(
    "bad", ["", "0" * 31, "0" * 33, "F" * 32, "../" + "0" * 29, "0" * 32 + "\n", "\u0660" * 32, "/" * 32]
)
@pytest.mark.parametrize("place", ["", "manifest"])
def test_what_names_no_epoch(place: str, bad: str) -> None:
    with pytest.raises(DamagedError, match=r"^the journal names an epoch that cannot be$"):
        decode_head(changed(place, "epoch", bad))


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0", "999999.1"])
def test_an_unknown_major_version(version: str) -> None:
    message = rf"^the journal has the format {re.escape(version)}, this program reads 1\.x$"
    with pytest.raises(UnsupportedVersionError, match=message):
        decode_head(changed("", "format_version", version))


@pytest.mark.parametrize(
    "version", ["", "1", "1.", "1.x", "v1.0", " 1.0", "1.0\n", "1" * 9 + ".0", "-1.0", ".", "1.0.0", "x1.0"]
)
def test_a_version_that_is_none(version: str) -> None:
    message = r"^the field 'format_version' of the journal is not MAJOR.MINOR$"
    with pytest.raises(DamagedError, match=message) as refused:
        decode_head(changed("", "format_version", version))
    assert not isinstance(refused.value, UnsupportedVersionError)


def test_the_version_comes_before_all_other_fields() -> None:
    with pytest.raises(UnsupportedVersionError):
        decode_head(checksummed({"format_version": "2.0"}))


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.999"])
def test_minor_versions_and_unknown_fields(version: str) -> None:
    fields = copy.deepcopy(FIELDS)
    fields["format_version"] = version
    for holder in (fields, fields["media"], fields["statistics"], fields["manifest"]):
        holder["later"] = {"x": [1]}
    assert decode_head(checksummed(fields)) == HEAD


def test_a_field_that_is_there_twice_is_checked_as_it_counts() -> None:
    line = json.dumps(FIELDS).encode()
    assert decode_head(checksummed(b'{"length": -1, ' + line[1:])) == HEAD
    with pytest.raises(UnsafeError):
        decode_head(checksummed(line[:-1] + b', "length": -1}'))


# -- contradictions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("", "length", 2999),
        ("", "length", 0),
        ("", "base_length", 5001),
        ("", "base_length", 2899),
        ("media", "end", 3001),
        ("media", "end", 999),
        ("media", "begin", 2901),
        ("media", "begin", 2**53 - 1),
    ],
)
def test_places_out_of_order(place: str, name: str, value: int) -> None:
    with pytest.raises(DamagedError, match=r"^the journal's HEAD contradicts itself$"):
        decode_head(changed(place, name, value))


def same_place(fields: dict[str, Any]) -> None:
    fields["length"] = fields["base_length"]


def media_at_the_base(fields: dict[str, Any]) -> None:
    fields["media"]["end"] = fields["base_length"]


def manifest_at_the_end(fields: dict[str, Any]) -> None:
    fields["manifest"].update(epoch=ONE, offset=5000)


def manifest_at_the_base(fields: dict[str, Any]) -> None:
    fields["manifest"].update(epoch=ONE, offset=3000)


@pytest.mark.parametrize("change", [same_place, media_at_the_base, manifest_at_the_end, manifest_at_the_base])
def test_the_same_offset_with_another_chain(change: Callable[[dict[str, Any]], None]) -> None:
    fields = copy.deepcopy(FIELDS)
    change(fields)
    with pytest.raises(DamagedError, match=r"^the journal's HEAD contradicts itself$"):
        decode_head(checksummed(fields))


@pytest.mark.parametrize("offset", [0, 2999, 5001, 2**53 - 1])
def test_a_manifest_that_the_current_epoch_cannot_have(offset: int) -> None:
    fields = copy.deepcopy(FIELDS)
    fields["manifest"].update(epoch=ONE, offset=offset)
    with pytest.raises(DamagedError, match=r"^the journal's HEAD contradicts itself$"):
        decode_head(checksummed(fields))
    fields["manifest"]["epoch"] = TWO
    decode_head(checksummed(fields))


def test_an_epoch_that_is_its_base_without_media() -> None:
    fields = copy.deepcopy(FIELDS)
    fields["length"], fields["chain"] = fields["base_length"], fields["base_chain"]
    fields["media"].update(begin=2900, end=2900)
    fields["manifest"].update(epoch=ONE, offset=3000, chain=fields["base_chain"])
    head = decode_head(checksummed(fields))
    assert head.manifest is not None
    assert head.end == head.base == head.manifest.place
