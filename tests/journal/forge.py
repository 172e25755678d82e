"""Frames as a hostile writer makes them: from docs/journal-format.md alone, nothing of `runicorn.journal`."""

from __future__ import annotations

import hashlib
import importlib
import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

MAGIC = b"RJ\x01\n"
HEADER = 48
BEGIN, FILES, COMMIT, SEAL = 1, 2, 3, 4
ONE = "0123456789abcdef0123456789abcdef"
TWO = "fedcba9876543210fedcba9876543210"
LINEAGE = "0b9f6a52-6c1e-4d0a-8a55-3f1de8a0c9b7"
MIB = 1024**2


def zstd() -> Any:
    """The zstd module of this Python."""
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return importlib.import_module("backports.zstd")


@dataclass(frozen=True)
class Raw:
    """One frame as it is going to be written, every field at will.

    Attributes:
        kind: byte 4.
        stored: the payload as it lies there.
        expanded: what the header says of its size.
        codec: byte 5.
        magic: bytes 0 to 3.
        zero: bytes 6 and 7.
        says: what the header says of ``stored``; None: the truth.
    """

    kind: int
    stored: bytes
    expanded: int
    codec: int = 0
    magic: bytes = MAGIC
    zero: int = 0
    says: int | None = None

    @property
    def fixed(self) -> bytes:
        """The header without the chain."""
        size = len(self.stored) if self.says is None else self.says
        return struct.pack(">4sBBHII", self.magic, self.kind, self.codec, self.zero, size, self.expanded)


def seed(epoch: str) -> bytes:
    """The chain before the first frame."""
    return hashlib.sha256(f"runicorn journal 1\n{epoch}\n".encode()).digest()


def chained(before: bytes, frames: Iterable[Raw]) -> Iterator[tuple[bytes, bytes]]:
    """Each frame with its right chain: its bytes, and the chain behind it."""
    for raw in frames:
        before = hashlib.sha256(before + raw.fixed + raw.stored).digest()
        yield raw.fixed + before + raw.stored, before


def epoch_of(epoch: str, *frames: Raw) -> bytes:
    """The file of an epoch."""
    return b"".join(data for data, _ in chained(seed(epoch), frames))


def split(data: bytes) -> list[Raw]:
    """The frames of a sound epoch."""
    found = []
    at = 0
    while at < len(data):
        magic, kind, codec, zero, size, expanded = struct.unpack_from(">4sBBHII", data, at)
        stored = data[at + HEADER : at + HEADER + size]
        found.append(Raw(kind, stored, expanded, codec, magic, zero))
        at += HEADER + size
    return found


def pack(payload: bytes, codec: int) -> bytes:
    """A payload as a codec stores it."""
    if codec == 1:
        return zlib.compress(payload)
    return bytes(zstd().compress(payload)) if codec == 2 else payload


def expanded(raw: Raw) -> bytes:
    """The payload of a sound frame."""
    if raw.codec == 1:
        return zlib.decompress(raw.stored)
    return bytes(zstd().decompress(raw.stored)) if raw.codec == 2 else raw.stored


def content(raw: Raw) -> tuple[bytes, bytes]:
    """JSON and data of a sound frame."""
    payload = expanded(raw)
    (size,) = struct.unpack_from(">I", payload)
    return payload[4 : 4 + size], payload[4 + size :]


def frame(kind: int, head: object, data: bytes = b"", codec: int = 0, length: int | None = None) -> Raw:
    """A frame of this JSON (bytes: as they are) and data; ``length`` is what it says of the JSON."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    payload = struct.pack(">I", len(text) if length is None else length) + text + data
    return Raw(kind, pack(payload, codec), len(payload), codec)


def with_content(raw: Raw, head: bytes, data: bytes) -> Raw:
    """The same frame with other content."""
    made = frame(raw.kind, head, data, raw.codec)
    return replace(raw, stored=made.stored, expanded=made.expanded)


def checksummed(head: object) -> bytes:
    """HEAD of these fields (bytes: as they are) with its checksum."""
    line = head if isinstance(head, bytes) else json.dumps(head).encode()
    return line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n"


def zstd_bomb(size: int) -> bytes:
    """A zstd frame of so many zeros, without its content size."""
    parameter = zstd().CompressionParameter
    packer = zstd().ZstdCompressor(options={parameter.content_size_flag: 0, parameter.window_log: 20})
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(size // MIB)), packer.flush()])


def zlib_bomb(size: int) -> bytes:
    """A zlib stream of so many zeros."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(size // MIB)), packer.flush()])


def zstd_window(log: int) -> bytes:
    """A zstd frame of 4 bytes that asks for a window of ``2**log`` bytes (RFC 8878, section 3.1.1.1.2)."""
    return b"\x28\xb5\x2f\xfd" + bytes([0, (log - 10) << 3]) + b"\x21\x00\x00" + b"\0\0\0\2"
