"""Frames: header, chain, payload; what does not fit is never given."""

from __future__ import annotations

import hashlib
import itertools
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runicorn.errors import DamagedError, UnsafeError, UnsupportedVersionError
from runicorn.journal.codecs import Codec
from runicorn.journal.frames import (
    FRAME_HEADER,
    MAX_JSON,
    MAX_OFFSET,
    MAX_PAYLOAD,
    Frame,
    FrameReader,
    Kind,
    Place,
    beginning,
    encode_frame,
    file_name,
    is_epoch,
    parse_object,
)
from tests.journal.forge import BEGIN, COMMIT, FILES, MIB, ONE, SEAL, TWO, Raw, chained, epoch_of, frame, seed

SMALL = (
    frame(BEGIN, {"a": 1}),
    frame(FILES, {"runs": []}, b"some data", codec=1),
    frame(FILES, {"b": "x" * 90}, b"0123456789" * 20, codec=2),
    frame(COMMIT, {"c": None}),
)
EPOCH = epoch_of(ONE, *SMALL)


def read(data: bytes, epoch: str = ONE) -> list[Frame]:
    """All frames; the data ends with a frame or within one."""
    reader = FrameReader(beginning(epoch))
    reader.feed(data)
    return list(reader.frames())


def read_one(raw: Raw) -> Frame:
    (found,) = read(epoch_of(ONE, raw))
    return found


def starts(data: bytes = EPOCH) -> list[int]:
    return [0, *(found.end.offset for found in read(data))]


@pytest.mark.parametrize("codec", [*Codec, None])
def test_a_frame_is_stored_in_the_given_codec(codec: Codec | None) -> None:
    at = beginning(ONE)
    reader = FrameReader(at)
    made, end = encode_frame(at, Kind.FILES, b'{"a": "' + b"x" * 500 + b'"}', b"data" * 50, codec)
    reader.feed(made + made[:5])
    (stored,) = reader.stored_frames()
    assert stored.codec == (Codec.ZSTD if codec is None else codec)
    assert (stored.kind, stored.end, reader.place, reader.held) == (Kind.FILES, end, end, 5)
    assert bytes(stored.open().data) == b"data" * 50


def test_stored_frames_are_those_that_frames_gives() -> None:
    reader = FrameReader(beginning(ONE))
    reader.feed(EPOCH)
    assert [each.open() for each in reader.stored_frames()] == read(EPOCH)
    assert (reader.place, reader.held) == (read(EPOCH)[-1].end, 0)


def test_numbers_of_the_format() -> None:
    assert (FRAME_HEADER, MAX_PAYLOAD, MAX_JSON, MAX_OFFSET) == (48, 8 * MIB, 4 * MIB, 2**53 - 1)
    assert {kind.name: kind.value for kind in Kind} == {"BEGIN": 1, "FILES": 2, "COMMIT": 3, "SEAL": 4}
    assert file_name(ONE) == f"{ONE}.journal"


def test_layout_of_a_frame_byte_by_byte() -> None:
    data, end = encode_frame(beginning(ONE), Kind.COMMIT, b'{"a": 1}', codec=Codec.NONE)
    payload = b"\0\0\0\x08" + b'{"a": 1}'
    fixed = b"RJ\x01\n" + b"\x03" + b"\x00" + b"\0\0" + b"\0\0\0\x0c" + b"\0\0\0\x0c"
    before = hashlib.sha256(b"runicorn journal 1\n" + ONE.encode() + b"\n").digest()
    chain = hashlib.sha256(before + fixed + payload).digest()
    assert data == fixed + chain + payload
    assert end == Place(ONE, 60, chain)
    assert beginning(ONE) == Place(ONE, 0, before)


@pytest.mark.parametrize("text", [ONE, "0" * 32, "f" * 32])
def test_names_of_epochs(text: str) -> None:
    assert is_epoch(text)


@pytest.mark.parametrize(
    "text", ["", "0" * 31, "0" * 33, "F" * 32, "g" * 32, "0" * 32 + "\n", "../" + "0" * 29, "\u0660" * 32]
)
def test_what_names_no_epoch(text: str) -> None:
    assert not is_epoch(text)


FRAMES = st.lists(
    st.tuples(
        st.sampled_from([Kind.BEGIN, Kind.COMMIT, Kind.SEAL, Kind.FILES]),
        st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=50), max_size=4),
        st.binary(max_size=200) | st.just(b"\0" * 5000),
        st.sampled_from([*Codec, None]),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(FRAMES, st.lists(st.integers(1, 400), max_size=50))
def test_round_trip_in_arbitrary_pieces(
    frames: list[tuple[Kind, dict[str, object], bytes, Codec | None]], pieces: list[int]
) -> None:
    place = beginning(ONE)
    written = []
    wanted = []
    for kind, head, rest, codec in frames:
        data = rest if kind is Kind.FILES else b""
        text = frame(0, head).stored[4:]
        made, place = encode_frame(place, kind, text, data, codec)
        written.append(made)
        wanted.append((kind, head, data, place))
    whole = b"".join(written)
    reader = FrameReader(beginning(ONE))
    found = []
    at = 0
    for piece in [*pieces, len(whole) + 1]:
        reader.feed(whole[at : at + piece])
        at += piece
        found += [(each.kind, each.head, bytes(each.data), each.end) for each in reader.frames()]
    assert found == wanted
    assert (reader.place, reader.held) == (place, 0)


def test_byte_by_byte_and_the_place_moves_with_each_frame() -> None:
    reader = FrameReader(beginning(ONE))
    at_once = read(EPOCH)
    found = []
    for at in range(len(EPOCH)):
        assert reader.place.offset + reader.held == at
        reader.feed(EPOCH[at : at + 1])
        found += list(reader.frames())
        assert reader.place == (found[-1].end if found else beginning(ONE))
    assert [(each.kind, each.head, bytes(each.data)) for each in found] == [
        (each.kind, each.head, bytes(each.data)) for each in at_once
    ]
    assert [each.end for each in found] == [each.end for each in at_once]


def test_reading_on_from_each_place() -> None:
    whole = read(EPOCH)
    for number, found in enumerate(whole):
        reader = FrameReader(found.end)
        reader.feed(EPOCH[found.end.offset :])
        assert [each.end for each in reader.frames()] == [each.end for each in whole[number + 1 :]]


def test_what_is_wanted_for_the_next_frame() -> None:
    reader = FrameReader(beginning(ONE))
    assert (reader.held, reader.wanted) == (0, 48)
    reader.feed(EPOCH[:20])
    assert (reader.held, reader.wanted) == (20, 28)
    reader.feed(EPOCH[20:50])
    assert (reader.held, reader.wanted) == (50, len(SMALL[0].stored) - 2)
    assert list(reader.frames()) == []
    reader.feed(EPOCH[50:])
    assert len(list(reader.frames())) == len(SMALL)
    assert (reader.held, reader.wanted) == (0, 48)


# -- damage ------------------------------------------------------------------------------------


def test_each_bit_of_each_byte_flipped_is_refused_or_incomplete() -> None:
    bounds = starts()
    for at in range(len(EPOCH)):
        before = sum(each <= at for each in bounds) - 1  # whole frames before the flipped byte
        for bit in range(8):
            damaged = bytearray(EPOCH)
            damaged[at] ^= 1 << bit
            reader = FrameReader(beginning(ONE))
            reader.feed(bytes(damaged))
            found = 0
            try:
                for _ in reader.frames():
                    found += 1
            except DamagedError:
                pass
            else:
                assert reader.held >= FRAME_HEADER, f"bit {bit} of byte {at}"
            assert found == before, f"bit {bit} of byte {at}"
            assert reader.place.offset == bounds[before]


@pytest.mark.parametrize("at", range(48))
def test_a_header_of_other_bytes_than_its_own_does_not_fit(at: int) -> None:
    for value in range(256):
        damaged = bytearray(EPOCH[: starts()[1]])
        if damaged[at] == value:
            continue
        damaged[at] = value
        reader = FrameReader(beginning(ONE))
        reader.feed(bytes(damaged))
        try:
            assert list(reader.frames()) == []
        except DamagedError:
            continue
        assert reader.held == len(damaged)
        assert 8 <= at < 12


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(EPOCH)))
def test_cut_anywhere_gives_the_frames_before_it(cut: int) -> None:
    bounds = starts()
    reader = FrameReader(beginning(ONE))
    reader.feed(EPOCH[:cut])
    found = list(reader.frames())
    assert len(found) == sum(each <= cut for each in bounds) - 1
    assert reader.held == cut - bounds[len(found)]


def refuse_chain(data: bytes, good: int, epoch: str = ONE) -> None:
    """So many frames are given, and the next one does not fit."""
    reader = FrameReader(beginning(epoch))
    reader.feed(data)
    frames = reader.frames()
    for _ in range(good):
        next(frames)
    place = reader.place
    with pytest.raises(DamagedError, match="chain does not fit"):
        next(frames)
    assert reader.place == place
    with pytest.raises(DamagedError, match="chain does not fit"):  # and it stays so
        next(reader.frames())


def pieces(data: bytes = EPOCH) -> list[bytes]:
    bounds = starts(data)
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


def test_another_epochs_name_does_not_fit() -> None:
    refuse_chain(EPOCH, 0, TWO)


@pytest.mark.parametrize("at", range(4))
def test_a_frame_of_another_epoch_does_not_fit(at: int) -> None:
    mine, other = pieces(), [data for data, _ in chained(seed(TWO), SMALL)]
    assert len(mine[at]) == len(other[at])
    refuse_chain(b"".join([*mine[:at], other[at], *mine[at + 1 :]]), at)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_history_that_went_on_otherwise_does_not_fit(at: int) -> None:
    other = epoch_of(ONE, frame(BEGIN, {"a": 2}), *SMALL[1:])
    refuse_chain(EPOCH[: starts()[at]] + other[starts()[at] :], at)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_dropped_frame(at: int) -> None:
    mine = pieces()
    refuse_chain(b"".join(mine[:at] + mine[at + 1 :]), at)


@pytest.mark.parametrize("at", range(4))
def test_a_repeated_frame(at: int) -> None:
    mine = pieces()
    refuse_chain(b"".join([*mine[: at + 1], mine[at], *mine[at + 1 :]]), at + 1)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 2), (0, 3), (2, 3)])
def test_swapped_frames(first: int, second: int) -> None:
    mine = pieces()
    mine[first], mine[second] = mine[second], mine[first]
    refuse_chain(b"".join(mine), first)


def test_a_wrong_chain_of_the_place() -> None:
    place = read(EPOCH)[0].end
    reader = FrameReader(replace(place, chain=bytes(32)))
    reader.feed(EPOCH[place.offset :])
    with pytest.raises(DamagedError, match=f"at byte {place.offset}"):
        list(reader.frames())


# -- headers with a chain that fits ------------------------------------------------------------


@pytest.mark.parametrize("magic", [b"RJ\x01\r", b"RJ\x01\0", b"RK\x01\n", b"SJ\x01\n", bytes(4), b"JR\x01\n"])
def test_another_magic(magic: bytes) -> None:
    with pytest.raises(
        DamagedError, match=r"^the journal is damaged: no frame begins where one should$"
    ) as refused:
        read_one(replace(SMALL[0], magic=magic))
    assert not isinstance(refused.value, UnsupportedVersionError)


@pytest.mark.parametrize("major", [0, 2, 3, 255])
def test_another_major_version(major: int) -> None:
    with pytest.raises(
        UnsupportedVersionError, match=rf"^the journal has the format {major}\.x, this program reads 1\.x$"
    ):
        read_one(replace(SMALL[0], magic=b"RJ" + bytes([major]) + b"\n"))


@pytest.mark.parametrize("kind", [0, 5, 6, 128, 255])
def test_an_unknown_kind(kind: int) -> None:
    with pytest.raises(DamagedError, match=r"^the journal is damaged: no frame begins where one should$"):
        read_one(replace(SMALL[0], kind=kind))


@pytest.mark.parametrize("zero", [1, 255, 256, 65535])
def test_the_zero_bytes_are_zero(zero: int) -> None:
    with pytest.raises(DamagedError, match=r"^the journal is damaged: no frame begins where one should$"):
        read_one(replace(SMALL[0], zero=zero))


@pytest.mark.parametrize("codec", [3, 4, 128, 255])
def test_an_unknown_codec(codec: int) -> None:
    with pytest.raises(UnsupportedVersionError, match=f"codec {codec}"):
        read_one(replace(SMALL[0], codec=codec))


@pytest.mark.parametrize("size", [8 * MIB + 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("name", ["says", "expanded"])
def test_a_payload_beyond_the_bound_is_refused_by_its_header(name: str, size: int) -> None:
    raw = replace(SMALL[0], says=size) if name == "says" else replace(SMALL[0], expanded=size)
    reader = FrameReader(beginning(ONE))
    reader.feed(epoch_of(ONE, raw)[:48])
    with pytest.raises(DamagedError, match=f"{size} bytes"):
        list(reader.frames())


@pytest.mark.parametrize("change", [-1, 1, 1000])
@pytest.mark.parametrize("number", range(4))
def test_another_expanded_size_than_said(number: int, change: int) -> None:
    raw = SMALL[number]
    with pytest.raises(DamagedError, match=r"another size|does not end"):
        read(epoch_of(ONE, *SMALL[:number], replace(raw, expanded=raw.expanded + change)))


@pytest.mark.parametrize("said", [8 * MIB, 1000, len(SMALL[0].stored) + 1])
def test_a_forged_length_that_is_longer_waits_for_more(said: int) -> None:
    reader = FrameReader(beginning(ONE))
    reader.feed(epoch_of(ONE, replace(SMALL[0], says=said)))
    assert list(reader.frames()) == []
    assert reader.wanted == said - len(SMALL[0].stored)


def test_a_forged_length_that_is_shorter_does_not_fit() -> None:
    refuse_chain(epoch_of(ONE, replace(SMALL[0], says=4)), 0)


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_a_payload_without_room_for_a_length(size: int) -> None:
    with pytest.raises(DamagedError, match=r"^a frame of the journal has no JSON$"):
        read_one(Raw(FILES, bytes(size), size))


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (3, "the JSON of a frame of the journal is longer than the frame"),
        (4 * MIB, "the JSON of a frame of the journal is longer than the frame"),
        (0, "the JSON of the journal does not parse"),
        (1, "the JSON of the journal does not parse"),
    ],
)
def test_a_length_of_the_json_that_does_not_fit(length: int, message: str) -> None:
    with pytest.raises(DamagedError, match=f"^{message}$"):
        read_one(frame(FILES, b"{}", length=length))


@pytest.mark.parametrize("length", [4 * MIB + 1, 2**31, 2**32 - 1])
def test_a_length_of_the_json_beyond_the_bound(length: int) -> None:
    with pytest.raises(UnsafeError, match=f"{length} bytes of JSON"):
        read_one(frame(FILES, b"{}", length=length))


def test_json_and_payload_at_the_bounds_are_read() -> None:
    head = b"{" + b" " * (MAX_JSON - 2) + b"}"
    data = bytes(MAX_PAYLOAD - MAX_JSON - 4)
    for codec in (0, 1, 2):
        assert len(read_one(frame(FILES, head, data, codec)).data) == len(data)
    made, _ = encode_frame(beginning(ONE), Kind.FILES, head, data)
    assert len(read(made)) == 1
    with pytest.raises(ValueError, match=r"^a frame beyond the bounds of the format$"):
        encode_frame(beginning(ONE), Kind.FILES, head, data + b"\0")
    with pytest.raises(ValueError, match=r"^a frame beyond the bounds of the format$"):
        encode_frame(beginning(ONE), Kind.FILES, head + b" ")
    with pytest.raises(UnsafeError):
        read_one(frame(FILES, head + b" "))


@pytest.mark.parametrize("kind", [BEGIN, COMMIT, SEAL])
def test_data_in_a_frame_that_has_none(kind: int) -> None:
    assert len(read_one(frame(kind, {})).data) == 0
    with pytest.raises(DamagedError, match=r"^a frame of the journal has data where none can be$"):
        read_one(frame(kind, {}, b"x"))


# -- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"[]", b"1", b'"x"', b"null", b"true", b"1.5", b'[{"a": 1}]'])
def test_json_that_is_no_object(text: bytes) -> None:
    with pytest.raises(DamagedError, match=r"^the JSON of the journal is not an object$"):
        parse_object(text)
    with pytest.raises(DamagedError, match=r"^the JSON of the journal is not an object$"):
        read_one(frame(FILES, text))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{}x",
        b"{} {}",
        b"{'a': 1}",
        b'{"a": 01}',
        b'{"a": "\n"}',
        b'{"a": "\\x41"}',
        b'{"a": \xff}',
        b'{"a": "\xff"}',
        b'{"a": "\xc3"}',
        b"\x00",
        b"\xff\xfe",
        b"{" * 100,
    ],
)
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(DamagedError, match=r"^the JSON of the journal does not parse$"):
        parse_object(text)


@pytest.mark.parametrize("token", [b"NaN", b"Infinity", b"-Infinity", b"nan"])
def test_what_is_no_number_of_json(token: bytes) -> None:
    with pytest.raises(DamagedError, match=r"^the JSON of the journal does not parse$"):
        parse_object(b'{"unknown": [' + token + b"]}")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"":'])
def test_deep_json(opening: bytes) -> None:
    text = b'{"a": ' + opening * ((4 * MIB - 100) // len(opening))
    with pytest.raises(DamagedError, match=r"^the JSON of the journal does not parse$"):
        read_one(frame(FILES, text, codec=1))


@pytest.mark.parametrize("digits", [5000, 4 * MIB - 100])
def test_a_huge_integer_takes_no_time(digits: int) -> None:
    text = b'{"a": ' + b"9" * digits + b"}"
    with pytest.raises(DamagedError, match=r"^the JSON of the journal does not parse$"):
        parse_object(text)


def test_of_a_field_that_is_there_twice_the_last_counts() -> None:
    assert parse_object(b'{"a": 1, "a": 2}') == {"a": 2}


def test_length_is_big_endian() -> None:
    payload = struct.pack(">I", 2) + b"{}" + b"rest"
    assert bytes(read_one(Raw(FILES, payload, len(payload))).data) == b"rest"
