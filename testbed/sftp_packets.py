"""Packets of SFTP as a server of the testbed writes and reads them, by code of its own."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

INIT, VERSION, OPEN, CLOSE, READ, FSTAT, OPENDIR, READDIR, STAT = 1, 2, 3, 4, 5, 8, 11, 12, 17
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED, EXTENDED_REPLY = 101, 102, 103, 104, 105, 200, 201
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, UNSUPPORTED = 0, 1, 2, 3, 4, 8
PATH_REQUESTS = (OPEN, OPENDIR, STAT)
MAX_READ = 255 * 1024


def text(data: bytes) -> bytes:
    """An SFTP string."""
    return struct.pack(">I", len(data)) + data


def packet(kind: int, body: bytes) -> bytes:
    """A whole packet."""
    return struct.pack(">IB", len(body) + 1, kind) + body


def status(number: int, code: int, message: str = "") -> bytes:
    """A STATUS packet."""
    return packet(STATUS, struct.pack(">II", number, code) + text(message.encode()) + text(b""))


def attrs(found: os.stat_result) -> bytes:
    """Attributes on the wire: size, mode and times."""
    return struct.pack(">IQIII", 13, found.st_size, found.st_mode, int(found.st_atime), int(found.st_mtime))


@dataclass
class Request:
    """One request: ``value`` is its path or its handle."""

    kind: int
    number: int
    value: bytes = b""
    offset: int = 0
    length: int = 0
