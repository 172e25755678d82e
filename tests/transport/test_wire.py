"""The codec alone: round trips, and nothing but ProtocolError for damage."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicorn.errors import ProtocolError, RequestError
from runicorn.remote_storage.transport import wire
from runicorn.remote_storage.transport.base import Attributes
from runicorn.remote_storage.transport.shown import printable

Words = st.binary(max_size=40)
NUMBER = struct.pack(">I", 7)
DECODERS: tuple[Callable[[wire.Packet], object], ...] = (
    wire.request_id,
    wire.decode_version,
    wire.decode_status,
    wire.decode_handle,
    wire.decode_data,
    wire.decode_attrs,
    wire.decode_names,
    wire.decode_limits,
)


def text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def whole(kind: int, body: bytes) -> bytes:
    return struct.pack(">IB", len(body) + 1, kind) + body


def body_of(body: bytes, kind: int = wire.Kind.STATUS) -> wire.Packet:
    (packet,) = wire.PacketSplitter().feed(whole(kind, body))
    return packet


def attributes(size: int | None, mode: int | None, mtime: int | None, *, rest: int = 0) -> bytes:
    flags = rest | (size is not None) | (mode is not None) << 2 | (mtime is not None) << 3
    data = struct.pack(">I", flags)
    if size is not None:
        data += struct.pack(">Q", size)
    if rest & 2:
        data += struct.pack(">II", 1, 2)
    if mode is not None:
        data += struct.pack(">I", mode)
    if mtime is not None:
        data += struct.pack(">II", 9, mtime)
    if rest & 0x80000000:
        data += struct.pack(">I", 2) + text(b"a") + text(b"bc") + text(b"") + text(b"x")
    return data


u32 = st.integers(0, 2**32 - 1)
attribute_parts = st.tuples(
    st.none() | st.integers(0, 2**64 - 1),
    st.none() | u32,
    st.none() | u32,
    st.sampled_from([0, 2, 0x80000000, 0x80000002]),
)


@given(st.lists(st.tuples(st.integers(0, 255), Words), max_size=8), st.data())
def test_splitter_gives_the_same_packets_for_any_cut(packets: list[tuple[int, bytes]], data: Any) -> None:
    stream = b"".join(whole(kind, body) for kind, body in packets)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    splitter = wire.PacketSplitter()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        for packet in splitter.feed(stream[start:end]):
            found.append((packet.kind, bytes(packet.buffer[packet.start : packet.end])))
    assert found == packets
    assert splitter.pending == b""


@pytest.mark.parametrize("length", [0, wire.MAX_PACKET + 1, 0xFFFFFFFF])
def test_splitter_refuses_a_length_before_it_waits_for_the_bytes(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"^the server sent a packet of {length} bytes$"):
        wire.PacketSplitter().feed(struct.pack(">I", length))


def test_splitter_takes_the_longest_packet() -> None:
    splitter = wire.PacketSplitter()
    assert splitter.feed(struct.pack(">I", wire.MAX_PACKET)) == []
    (packet,) = splitter.feed(b"\x67" * wire.MAX_PACKET)
    assert packet.end - packet.start == wire.MAX_PACKET - 1


@given(attribute_parts)
def test_attributes_round_trip(parts: tuple[int | None, int | None, int | None, int]) -> None:
    size, mode, mtime, rest = parts
    packet = body_of(NUMBER + attributes(size, mode, mtime, rest=rest))
    assert wire.decode_attrs(packet) == Attributes(size, mode, mtime)


@given(st.lists(st.tuples(Words, attribute_parts), min_size=1, max_size=5))
def test_names_round_trip(entries: list[tuple[bytes, Any]]) -> None:
    body = NUMBER + struct.pack(">I", len(entries))
    for name, (size, mode, mtime, rest) in entries:
        body += text(name) + text(b"-rw-r--r-- long") + attributes(size, mode, mtime, rest=rest)
    found = wire.decode_names(body_of(body))
    assert [entry.name.encode("utf-8", "surrogateescape") for entry in found] == [name for name, _ in entries]
    assert [entry.attributes for entry in found] == [Attributes(*parts[:3]) for _, parts in entries]


@given(Words)
def test_data_status_and_version_round_trip(data: bytes) -> None:
    assert wire.decode_data(body_of(NUMBER + text(data))) == data
    status = NUMBER + struct.pack(">I", 4)
    assert wire.decode_status(body_of(status + text(data) + text(b"en"))) == (4, data)
    assert wire.decode_status(body_of(status)) == (4, b"")
    version = struct.pack(">I", 3) + text(b"x@y") + text(data)
    assert wire.decode_version(body_of(version, wire.Kind.VERSION)) == (3, {"x@y": data})


def test_limits_round_trip() -> None:
    packet = body_of(NUMBER + struct.pack(">QQQQ", 1, 2, 3, 4))
    assert wire.decode_limits(packet) == wire.ServerLimits(1, 2, 4)


def refuses(message: str) -> AbstractContextManager[object]:
    return pytest.raises(ProtocolError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize("length", [0, wire.MAX_HANDLE + 1])
def test_handle_of_a_wrong_length_is_refused(length: int) -> None:
    with refuses("the server sent a malformed HANDLE packet"):
        wire.decode_handle(body_of(NUMBER + text(b"h" * length)))


@pytest.mark.parametrize("length", [1, wire.MAX_HANDLE])
def test_handle_of_a_right_length_is_taken(length: int) -> None:
    assert wire.decode_handle(body_of(NUMBER + text(b"h" * length))) == b"h" * length


@pytest.mark.parametrize("count", [0, 2, 0x7FFFFFFF, 0xFFFFFFFF])
def test_count_of_names_is_checked_against_the_bytes(count: int) -> None:
    one = text(b"a") + text(b"") + struct.pack(">I", 0)
    with refuses(f"the server sent a NAME packet that cannot hold {count} names"):
        wire.decode_names(body_of(NUMBER + struct.pack(">I", count) + one))


def test_count_of_names_that_leaves_bytes_over_is_refused() -> None:
    one = text(b"") + text(b"") + struct.pack(">I", 0)
    assert len(wire.decode_names(body_of(NUMBER + struct.pack(">I", 2) + one * 2))) == 2
    for names in (one * 2, one + b"x"):
        with refuses("the server sent a malformed NAME packet"):
            wire.decode_names(body_of(NUMBER + struct.pack(">I", 1) + names))


@pytest.mark.parametrize("count", [1, 0xFFFFFFFF])
def test_count_of_extended_attributes_is_checked_against_the_bytes(count: int) -> None:
    with refuses("the server sent a malformed ATTRS packet"):
        wire.decode_attrs(body_of(NUMBER + struct.pack(">II", 0x80000000, count) + b"1234567"))


def test_extended_attributes_may_be_none_or_empty() -> None:
    for pairs in (0, 1, 3):
        body = NUMBER + struct.pack(">II", 0x80000001, 0) + b"\0\0\0\x07" + struct.pack(">I", pairs)
        found = wire.decode_attrs(body_of(body + (text(b"") + text(b"")) * pairs))
        assert found == Attributes(7, None, None)


@pytest.mark.parametrize(
    ("decode", "body", "what"),
    [
        (wire.decode_handle, text(b"h") + b"x", "HANDLE"),
        (wire.decode_handle, b"\0\0\0\x02h", "HANDLE"),
        (wire.decode_data, text(b"d") + b"x", "DATA"),
        (wire.decode_attrs, struct.pack(">I", 0) + b"x", "ATTRS"),
        (wire.decode_attrs, struct.pack(">II", 2, 0), "ATTRS"),
        (wire.decode_status, struct.pack(">I", 4) + b"x", "STATUS"),
        (wire.decode_status, struct.pack(">I", 4) + text(b"no") + b"x", "STATUS"),
        (wire.decode_status, b"\0\0\0", "STATUS"),
        (wire.decode_data, b"\0\0\0", "DATA"),
        (wire.decode_data, text(b"data")[:-1], "DATA"),
        (wire.decode_names, b"\0\0\0", "NAME"),
        (wire.decode_names, struct.pack(">I", 1) + text(b"123456789"), "NAME"),
        (wire.decode_names, struct.pack(">I", 1) + text(b"n") + text(b"longname") + b"\0\0\0", "NAME"),
        (wire.decode_names, struct.pack(">I", 1) + b"\0\0\0\x0f" + bytes(10), "NAME"),
        (wire.decode_limits, struct.pack(">QQQ", 1, 2, 3) + b"1234567", "EXTENDED_REPLY"),
    ],
)
def test_reply_of_a_wrong_length_is_refused_by_its_name(
    decode: Callable[[wire.Packet], object], body: bytes, what: str
) -> None:
    with refuses(f"the server sent a malformed {what} packet"):
        decode(body_of(NUMBER + body))


def test_attributes_that_are_cut_are_refused_by_the_name_of_their_packet() -> None:
    whole_file = attributes(2**40, 0o644, 5, rest=0x80000002)
    assert wire.decode_attrs(body_of(NUMBER + whole_file)).size == 2**40
    for cut in range(len(whole_file)):
        with refuses("the server sent a malformed ATTRS packet"):
            wire.decode_attrs(body_of(NUMBER + whole_file[:cut]))


def test_status_without_a_language_is_read() -> None:
    assert wire.decode_status(body_of(NUMBER + struct.pack(">I", 3) + text(b"no"))) == (3, b"no")


def test_number_of_the_request_is_read_or_missed() -> None:
    assert wire.request_id(body_of(NUMBER)) == 7
    with refuses("the server sent a packet of type 101 without a request number"):
        wire.request_id(body_of(NUMBER[:3]))


def test_greeting_is_read_or_refused() -> None:
    version = struct.pack(">I", 3)
    assert wire.decode_version(body_of(version, wire.Kind.VERSION)) == (3, {})
    most = version + b"".join(text(b"%d" % number) + text(b"") for number in range(256))
    assert len(wire.decode_version(body_of(most, wire.Kind.VERSION))[1]) == 256
    with refuses("the server names too many extensions"):
        wire.decode_version(body_of(most + text(b"\xff") + text(b""), wire.Kind.VERSION))
    odd = body_of(version + text(b"\xff") + text(b"1"), wire.Kind.VERSION)
    assert wire.decode_version(odd) == (3, {"\ufffd": b"1"})
    with refuses("the server opened with a packet of type 101, not with its version"):
        wire.decode_version(body_of(version))
    for cut in (version[:3], version + text(b"name"), version + b"\0\0\0", version + b"\0\0\0\x09name"):
        with refuses("the server sent a malformed VERSION packet"):
            wire.decode_version(body_of(cut, wire.Kind.VERSION))


def test_splitter_says_how_much_of_a_packet_it_has() -> None:
    splitter = wire.PacketSplitter()
    assert splitter.feed(b"\0\0") == splitter.feed(b"\0\x05\x65ab") == []
    assert splitter.pending == b"\0\0\0\x05\x65ab"
    (packet,) = splitter.feed(b"cd\0")
    assert (packet.kind, bytes(packet.buffer[packet.start : packet.end])) == (101, b"abcd")
    assert splitter.pending == b"\0"


@given(st.binary(max_size=80), st.sampled_from(DECODERS))
def test_noise_is_a_protocol_error_or_an_answer(body: bytes, decode: Callable[[wire.Packet], object]) -> None:
    # The bytes behind the packet belong to the next one: a decoder that reads them is caught by its answer.
    alone = _outcome(decode, body_of(body))
    followed = wire.Packet(wire.Kind.STATUS, body + b"\xff" * 64, 0, len(body))
    assert _outcome(decode, followed) == alone


def _outcome(decode: Callable[[wire.Packet], object], packet: wire.Packet) -> object:
    try:
        return decode(packet)
    except ProtocolError:
        return ProtocolError


@given(attribute_parts, st.data())
def test_every_truncated_reply_is_a_protocol_error(parts: Any, data: Any) -> None:
    size, mode, mtime, rest = parts
    file = attributes(size, mode, mtime, rest=rest)
    bodies: list[tuple[bytes, Callable[[wire.Packet], object]]] = [
        (NUMBER + file, wire.decode_attrs),
        (NUMBER + text(b"handle"), wire.decode_handle),
        (NUMBER + text(b"data"), wire.decode_data),
        (NUMBER + struct.pack(">I", 1) + text(b"n") + text(b"") + file, wire.decode_names),
        (NUMBER + struct.pack(">QQQQ", 1, 2, 3, 4), wire.decode_limits),
    ]
    body, decode = data.draw(st.sampled_from(bodies))
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(ProtocolError):
        decode(body_of(body[:cut]))


@given(Words, u32, st.integers(0, 2**64 - 1), u32)
def test_requests_have_the_length_they_say(value: bytes, number: int, offset: int, length: int) -> None:
    packets = [
        wire.encode_init(),
        wire.encode_limits(number),
        wire.encode_open(number, value),
        wire.encode_read(number, value, offset, length),
        wire.encode_string_request(wire.Kind.STAT, number, value),
    ]
    for packet in packets:
        assert struct.unpack_from(">I", packet)[0] == len(packet) - 4
    assert packets[3][13 + len(value) :] == struct.pack(">QI", offset, length)


def test_requests_are_these_bytes() -> None:
    number, name = 0x01020304, b"a/b"
    assert wire.encode_init() == bytes.fromhex("00000005 01 00000003")
    head, value = bytes.fromhex("01020304"), b"\0\0\0\x03a/b"
    assert wire.encode_open(number, name) == b"\0\0\0\x14\x03" + head + value + b"\0\0\0\x01\0\0\0\0"
    read = wire.encode_read(number, name, 2**40 + 5, 6)
    assert read == b"\0\0\0\x18\x05" + head + value + bytes.fromhex("0000010000000005 00000006")
    assert wire.encode_string_request(wire.Kind.STAT, number, name) == b"\0\0\0\x0c\x11" + head + value
    limits = text(b"limits@openssh.com")
    assert wire.encode_limits(number) == struct.pack(">IB", 5 + len(limits), 200) + head + limits


def test_files_are_opened_for_reading_only() -> None:
    assert wire.encode_open(1, b"x")[-8:] == struct.pack(">II", 1, 0)


def test_no_request_can_change_the_server() -> None:
    changing = {6, 9, 10, 13, 14, 15, 18, 20}
    assert not changing & {int(kind) for kind in wire.Kind}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a\0b", "NO_SUCH_FILE: the path has a NUL or is too long"),
        ("x" * (wire.MAX_PATH + 1), "NO_SUCH_FILE: the path has a NUL or is too long"),
        ("\ud800", "NO_SUCH_FILE: the path cannot be encoded"),
    ],
)
def test_path_that_no_server_has_is_refused(path: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        wire.encode_path(path)
    assert caught.value.code == wire.StatusCode.NO_SUCH_FILE
    assert caught.value.path == path
    assert str(caught.value) == message


@pytest.mark.parametrize("path", ["", "späth", "\udcff", "x" * wire.MAX_PATH])
def test_path_goes_over_the_wire_as_its_bytes(path: str) -> None:
    assert wire.encode_path(path) == path.encode("utf-8", "surrogateescape")


@given(st.text() | st.binary())
def test_printable_has_no_control_characters(words: str | bytes) -> None:
    shown = printable(words, 50)
    assert shown.isprintable()
    assert len(shown) <= 53


def test_request_error_names_the_code_and_bounds_the_message() -> None:
    error = wire.request_error(3, b"no\x1b[31m" + b"x" * 10_000, "/p")
    assert str(error).startswith("PERMISSION_DENIED: no\\x1b[31mxxx")
    assert len(str(error)) < 300
    assert str(wire.request_error(42, b"", "/p")) == "SSH_FX 42"
    assert (error.code, error.path) == (3, "/p")
    assert (wire.request_error(42, b" \n", "/p").code, wire.request_error(42, b"", "/p").path) == (42, "/p")
