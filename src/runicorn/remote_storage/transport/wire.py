"""The read-only half of SFTP version 3 as bytes (draft-ietf-secsh-filexfer-02): no input, no output.

Requests are encoded, the byte stream is split into packets, replies are decoded. Every length that
the peer sends is checked before it is used; whatever does not fit raises `ProtocolError`. No request
that could change a server exists here: files are opened with the READ flag alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from runicorn.errors import ProtocolError, RequestError
from runicorn.remote_storage.transport.base import Attributes, DirectoryEntry
from runicorn.remote_storage.transport.shown import printable

VERSION: Final = 3
MAX_PACKET: Final = 256 * 1024 + 1024
"""Bytes of the longest packet taken from a server, its length field not counted."""
MAX_PATH: Final = 32 * 1024
"""Bytes of the longest path that is sent; far above what any file system takes."""
MAX_HANDLE: Final = 256
"""Bytes of the longest handle that a server may give out (draft, section 6.2)."""
DATA_OVERHEAD: Final = 13
"""Bytes of a DATA packet besides its data."""
LIMITS_EXTENSION: Final = "limits@openssh.com"

_LENGTH = struct.Struct(">I")
_STRING_REQUEST = struct.Struct(">IBII")
_READ_TAIL = struct.Struct(">QI")
_OPEN_TAIL = struct.pack(">II", 1, 0)
_STATUS = struct.Struct(">II")
_LIMITS = struct.Struct(">QQQQ")
_ATTR_SIZE, _ATTR_OWNER, _ATTR_MODE, _ATTR_TIMES, _ATTR_EXTENDED = 1, 2, 4, 8, 0x80000000
_SHORTEST_NAME = 12
_MAX_EXTENSIONS = 256

Buffer: TypeAlias = bytes | memoryview


class Kind(IntEnum):
    """The packet types in use."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    FSTAT = 8
    OPENDIR = 11
    READDIR = 12
    STAT = 17
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class StatusCode(IntEnum):
    """The SSH_FX codes of version 3."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OP_UNSUPPORTED = 8


class Packet(NamedTuple):
    """One packet: its type and where its body (behind the type byte) lies in a buffer."""

    kind: int
    buffer: Buffer
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What `limits@openssh.com` answered; 0 = the server sets no limit.

    Attributes:
        packet_length: bytes of the longest packet.
        read_length: bytes of the longest READ.
        open_handles: handles that may be open at once.
    """

    packet_length: int
    read_length: int
    open_handles: int


def status_name(code: int) -> str:
    """The name of an SSH_FX code, or ``SSH_FX 42`` for one that version 3 does not have."""
    try:
        return StatusCode(code).name
    except ValueError:
        return f"SSH_FX {code}"


def request_error(code: int, message: str | bytes, path: str) -> RequestError:
    """The one place where a `RequestError` is made: the code's name, then the server's words."""
    said = printable(message).strip()
    return RequestError(f"{status_name(code)}: {said}" if said else status_name(code), code=code, path=path)


def encode_path(path: str) -> bytes:
    """A path as it goes over the wire (UTF-8, undecodable bytes as they came).

    Raises:
        RequestError: no server can have this path (a NUL, not encodable, too long).
    """
    try:
        raw = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise request_error(StatusCode.NO_SUCH_FILE, "the path cannot be encoded", path) from None
    if b"\0" in raw or len(raw) > MAX_PATH:
        raise request_error(StatusCode.NO_SUCH_FILE, "the path has a NUL or is too long", path)
    return raw


def encode_init() -> bytes:
    """INIT for version 3."""
    return struct.pack(">IBI", 5, Kind.INIT, VERSION)


def encode_limits(request_id: int) -> bytes:
    """The question of `limits@openssh.com`."""
    return encode_string_request(Kind.EXTENDED, request_id, LIMITS_EXTENSION.encode())


def encode_open(request_id: int, path: bytes) -> bytes:
    """OPEN of a file, for reading and nothing else."""
    head = _STRING_REQUEST.pack(17 + len(path), Kind.OPEN, request_id, len(path))
    return head + path + _OPEN_TAIL


def encode_read(request_id: int, handle: bytes, offset: int, length: int) -> bytes:
    """READ of ``length`` bytes at ``offset``."""
    head = _STRING_REQUEST.pack(21 + len(handle), Kind.READ, request_id, len(handle))
    return head + handle + _READ_TAIL.pack(offset, length)


def encode_string_request(kind: Kind, request_id: int, value: bytes) -> bytes:
    """CLOSE, FSTAT, READDIR (of a handle), OPENDIR, STAT (of a path): the kinds of one string."""
    return _STRING_REQUEST.pack(9 + len(value), kind, request_id, len(value)) + value


class PacketSplitter:
    """Cuts a byte stream into packets; a packet is copied at most once before it is decoded."""

    def __init__(self) -> None:
        self._parts: list[Buffer] = []
        self._have = 0
        self._need = 4

    @property
    def pending(self) -> bytes:
        """The bytes of the packet that is not whole yet."""
        return b"".join(self._parts)

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that ``data`` completes.

        Raises:
            ProtocolError: a packet is empty or longer than `MAX_PACKET`.
        """
        self._parts.append(data)
        self._have += len(data)
        if self._have < self._need:
            return []
        buffer: Buffer = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        packets, position = self._split(buffer)
        rest = memoryview(buffer)[position:]
        self._parts = [rest] if len(rest) else []
        self._have = len(rest)
        return packets

    def _split(self, buffer: Buffer) -> tuple[list[Packet], int]:
        packets: list[Packet] = []
        position, size = 0, len(buffer)
        while True:
            if size - position < 4:
                self._need = 4
                return packets, position
            (length,) = _LENGTH.unpack_from(buffer, position)
            if not 0 < length <= MAX_PACKET:
                raise ProtocolError(f"the server sent a packet of {length} bytes")
            end = position + 4 + length
            if end > size:
                self._need = end - position
                return packets, position
            packets.append(Packet(buffer[position + 4], buffer, position + 5, end))
            position = end


def _truncated(what: str) -> ProtocolError:
    return ProtocolError(f"the server sent a malformed {what} packet")


def _string(packet: Packet, position: int, what: str) -> tuple[bytes, int]:
    begin = position + 4
    if begin > packet.end:
        raise _truncated(what)
    (length,) = _LENGTH.unpack_from(packet.buffer, position)
    end = begin + length
    if end > packet.end:
        raise _truncated(what)
    return bytes(packet.buffer[begin:end]), end


def request_id(packet: Packet) -> int:
    """The number of the request that a reply answers.

    Raises:
        ProtocolError: the packet is too short to have one.
    """
    if packet.end - packet.start < 4:
        raise ProtocolError(f"the server sent a packet of type {packet.kind} without a request number")
    (number,) = _LENGTH.unpack_from(packet.buffer, packet.start)
    return int(number)


def decode_version(packet: Packet) -> tuple[int, dict[str, bytes]]:
    """The server's version and its extensions.

    Raises:
        ProtocolError: it is not a VERSION packet, or malformed.
    """
    if packet.kind != Kind.VERSION:
        raise ProtocolError(f"the server opened with a packet of type {packet.kind}, not with its version")
    if packet.end - packet.start < 4:
        raise _truncated("VERSION")
    (version,) = _LENGTH.unpack_from(packet.buffer, packet.start)
    extensions: dict[str, bytes] = {}
    position = packet.start + 4
    while position < packet.end:
        name, position = _string(packet, position, "VERSION")
        value, position = _string(packet, position, "VERSION")
        if len(extensions) >= _MAX_EXTENSIONS:
            raise ProtocolError("the server names too many extensions")
        extensions[name.decode("utf-8", "replace")] = value
    return version, extensions


def decode_status(packet: Packet) -> tuple[int, bytes]:
    """Code and message of a STATUS; old servers leave the message out.

    Raises:
        ProtocolError: malformed.
    """
    body = packet.start + 8
    if body > packet.end:
        raise _truncated("STATUS")
    (_, code) = _STATUS.unpack_from(packet.buffer, packet.start)
    if body == packet.end:
        return code, b""
    message, position = _string(packet, body, "STATUS")
    if position < packet.end:
        _string(packet, position, "STATUS")
    return code, message


def decode_handle(packet: Packet) -> bytes:
    """The handle of a HANDLE.

    Raises:
        ProtocolError: malformed, empty, or longer than `MAX_HANDLE`.
    """
    handle, position = _string(packet, packet.start + 4, "HANDLE")
    if position != packet.end or not 0 < len(handle) <= MAX_HANDLE:
        raise _truncated("HANDLE")
    return handle


def decode_data(packet: Packet) -> bytes:
    """The bytes of a DATA.

    Raises:
        ProtocolError: malformed.
    """
    data, position = _string(packet, packet.start + 4, "DATA")
    if position != packet.end:
        raise _truncated("DATA")
    return data


def decode_attrs(packet: Packet) -> Attributes:
    """The attributes of an ATTRS.

    Raises:
        ProtocolError: malformed.
    """
    attributes, position = _attributes(packet, packet.start + 4, "ATTRS")
    if position != packet.end:
        raise _truncated("ATTRS")
    return attributes


def decode_names(packet: Packet) -> tuple[DirectoryEntry, ...]:
    """The entries of a NAME, in the server's order.

    Raises:
        ProtocolError: malformed, or the count is 0 or does not fit the bytes.
    """
    position = packet.start + 8
    if position > packet.end:
        raise _truncated("NAME")
    (count,) = _LENGTH.unpack_from(packet.buffer, packet.start + 4)
    if not 0 < count <= (packet.end - position) // _SHORTEST_NAME:
        raise ProtocolError(f"the server sent a NAME packet that cannot hold {count} names")
    entries = []
    for _ in range(count):
        name, position = _string(packet, position, "NAME")
        _, position = _string(packet, position, "NAME")
        attributes, position = _attributes(packet, position, "NAME")
        entries.append(DirectoryEntry(name.decode("utf-8", "surrogateescape"), attributes))
    if position != packet.end:
        raise _truncated("NAME")
    return tuple(entries)


def decode_limits(packet: Packet) -> ServerLimits:
    """The answer of `limits@openssh.com`.

    Raises:
        ProtocolError: malformed.
    """
    if packet.end - packet.start < 4 + _LIMITS.size:
        raise _truncated("EXTENDED_REPLY")
    packet_length, read_length, _, handles = _LIMITS.unpack_from(packet.buffer, packet.start + 4)
    return ServerLimits(packet_length, read_length, handles)


def _attributes(packet: Packet, position: int, what: str) -> tuple[Attributes, int]:
    flags, position = _number(packet, position, what)
    size = mode = mtime = None
    if flags & _ATTR_SIZE:
        high, position = _number(packet, position, what)
        low, position = _number(packet, position, what)
        size = high << 32 | low
    if flags & _ATTR_OWNER:
        position += 8
    if flags & _ATTR_MODE:
        mode, position = _number(packet, position, what)
    if flags & _ATTR_TIMES:
        mtime, position = _number(packet, position + 4, what)
    if position > packet.end:
        raise _truncated(what)
    if flags & _ATTR_EXTENDED:
        position = _skip_extended(packet, position, what)
    return Attributes(size, mode, mtime), position


def _number(packet: Packet, position: int, what: str) -> tuple[int, int]:
    end = position + 4
    if end > packet.end:
        raise _truncated(what)
    (value,) = _LENGTH.unpack_from(packet.buffer, position)
    return value, end


def _skip_extended(packet: Packet, position: int, what: str) -> int:
    count, position = _number(packet, position, what)
    if count > (packet.end - position) // 8:
        raise _truncated(what)
    for _ in range(2 * count):
        _, position = _string(packet, position, what)
    return position
