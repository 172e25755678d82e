"""Faults of an SFTP server, each with a name; `testbed.fault_sftp` serves with one or several of them."""

# ruff: noqa: ARG002 - a fault takes what it is given

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from testbed.sftp_packets import (
    ATTRS,
    DATA,
    EOF,
    FAILURE,
    INIT,
    NAME,
    OPEN,
    OPENDIR,
    READ,
    READDIR,
    Request,
    packet,
    status,
    text,
)

if TYPE_CHECKING:
    from testbed.fault_sftp import FaultServer


class CutError(Exception):
    """Raised by a fault to end the connection."""


class Fault:
    """A server without a fault; each fault replaces one of the methods.

    Attributes:
        ended: whether the connection ends after what is sent next.
    """

    ended = False

    def greeting(self) -> bytes:
        """Bytes before the first packet."""
        return b""

    def extensions(self, names: list[bytes]) -> list[bytes]:
        """The extensions that the server names."""
        return names

    def answer(self, server: FaultServer, request: Request) -> bytes | None:
        """An answer in place of the server's own."""
        return None

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """What is sent in place of an answer."""
        return packets

    def stream(self, data: bytes) -> bytes:
        """What is sent in place of some bytes. Raises CutError to end the connection."""
        return data

    def idle(self) -> list[bytes]:
        """What is sent when no request is waiting."""
        return []


class CutAfter(Fault):
    """The connection ends after so many bytes."""

    def __init__(self, count: int = 100) -> None:
        self.left = count

    def stream(self, data: bytes) -> bytes:
        """See Fault."""
        if self.left <= 0:
            raise CutError
        data, self.left = data[: self.left], self.left - len(data)
        return data


class ReorderReplies(Fault):
    """Answers come in groups of up to so many, each group backwards."""

    def __init__(self, group: int = 8) -> None:
        self.group = group
        self.held: list[bytes] = []

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        if request.kind == INIT:
            return packets
        self.held += packets
        return self.idle() if len(self.held) >= self.group else []

    def idle(self) -> list[bytes]:
        """See Fault."""
        held, self.held = self.held[::-1], []
        return held


class ShortReads(Fault):
    """A READ gives at most so many bytes."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most

    def answer(self, server: FaultServer, request: Request) -> bytes | None:
        """See Fault."""
        request.length = min(request.length, self.most)
        return None


class OneHandle(Fault):
    """Only so many handles may be open at once; one more is a FAILURE."""

    def __init__(self, most: int = 1) -> None:
        self.most = most

    def answer(self, server: FaultServer, request: Request) -> bytes | None:
        """See Fault."""
        if request.kind in (OPEN, OPENDIR) and len(server.handles) >= self.most:
            return status(request.number, FAILURE, "too many open files")
        return None


class NoLimits(Fault):
    """The server has no limits@openssh.com, and gives 32 KiB at once."""

    def extensions(self, names: list[bytes]) -> list[bytes]:
        """See Fault."""
        return [name for name in names if name != b"limits@openssh.com"]

    def answer(self, server: FaultServer, request: Request) -> bytes | None:
        """See Fault."""
        if request.kind == READ and request.length > 32 * 1024:
            raise CutError
        return None


class StallForever(Fault):
    """After so many answers nothing comes any more."""

    def __init__(self, answers: int = 2) -> None:
        self.left = answers

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        self.left -= 1
        return packets if self.left >= 0 else []


class DripForever(Fault):
    """After so many answers one byte of a long packet comes every 10 ms, and the packet never ends."""

    def __init__(self, answers: int = 2) -> None:
        self.left = answers

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        self.left -= 1
        if self.left >= 0:
            return packets
        return [struct.pack(">IB", 200_000, DATA)] if self.left == -1 else []

    def idle(self) -> list[bytes]:
        """See Fault."""
        return [b"x"] if self.left < 0 else []


class WrongIds(Fault):
    """Answers carry the number of a request that nobody made."""

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        if request.kind == INIT:
            return packets
        return [one[:5] + struct.pack(">I", request.number + 77_777) + one[9:] for one in packets]


class DoubleReply(Fault):
    """Every answer comes twice."""

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        return packets if request.kind == INIT else packets * 2


class HugeLength(Fault):
    """Packets claim to be so long."""

    def __init__(self, length: int = 0x7FFFFFFF) -> None:
        self.length = length

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        if request.kind == INIT:
            return packets
        return [struct.pack(">I", self.length) + one[4:] for one in packets]


class WrongType(Fault):
    """Every answer is an ATTRS."""

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        if request.kind == INIT:
            return packets
        return [packet(ATTRS, struct.pack(">II", request.number, 0))]


class TextFirst(Fault):
    """A shell start-up file prints this."""

    def __init__(self, words: str = "Welcome to the cluster!\n") -> None:
        self.words = words.encode()

    def greeting(self) -> bytes:
        """See Fault."""
        return self.words


class LiesAboutCount(Fault):
    """A NAME claims to have so many names."""

    def __init__(self, count: int = 0x40000000) -> None:
        self.count = count

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        return [
            one[:9] + struct.pack(">I", self.count) + one[13:] if one[4] == NAME else one for one in packets
        ]


class TooMuchData(Fault):
    """A DATA has so many bytes more than asked for."""

    def __init__(self, extra: int = 1) -> None:
        self.extra = extra

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        if packets[0][4] != DATA:
            return packets
        data = packets[0][13:] + b"!" * (request.length + self.extra)
        data = data[: request.length + self.extra]
        return [packet(DATA, struct.pack(">I", request.number) + text(data))]


class FlipByte(Fault):
    """In every n-th DATA the bits of the middle byte are turned over."""

    def __init__(self, nth: int = 1) -> None:
        self.nth = nth
        self.seen = 0

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        if packets[0][4] != DATA or len(packets[0]) == 13:
            return packets
        self.seen += 1
        if self.seen % self.nth:
            return packets
        data = bytearray(packets[0])
        data[13 + (len(data) - 13) // 2] ^= 0xFF
        return [bytes(data)]


class TruncateDuringRead(Fault):
    """At the n-th READ every file has shrunk to so many bytes."""

    def __init__(self, size: int = 0, nth: int = 2) -> None:
        self.size = size
        self.nth = nth
        self.seen = 0

    def answer(self, server: FaultServer, request: Request) -> bytes | None:
        """See Fault."""
        if request.kind != READ:
            return None
        self.seen += 1
        if self.seen < self.nth:
            return None
        request.length = max(0, min(request.length, self.size - request.offset))
        return None if request.length else status(request.number, EOF)


class NamesWith(Fault):
    """Every folder also has these names (on the command line: separated by commas)."""

    def __init__(self, names: str | Sequence[str | bytes] = "../escape,a\nb") -> None:
        several = names.split(",") if isinstance(names, str) else names
        self.names = [one if isinstance(one, bytes) else os.fsencode(one) for one in several]

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        if packets[0][4] != NAME:
            return packets
        count = struct.unpack_from(">I", packets[0], 9)[0] + len(self.names)
        file = struct.pack(">IQIII", 13, 5, stat.S_IFREG | 0o644, 0, 0)
        more = b"".join(text(name) + text(b"") + file for name in self.names)
        body = struct.pack(">II", request.number, count) + packets[0][13:] + more
        return [packet(NAME, body)]


class ListsForever(Fault):
    """Every listing goes on for ever, with new names of so many bytes."""

    def __init__(self, length: int = 20) -> None:
        self.length = length
        self.count = 0

    def answer(self, server: FaultServer, request: Request) -> bytes | None:
        """See Fault."""
        if request.kind != READDIR:
            return None
        folder = struct.pack(">IQIII", 13, 5, stat.S_IFDIR | 0o755, 0, 0)
        number = max(1, min(100, 200_000 // self.length))
        names = (b"%0*d" % (self.length, self.count + each) for each in range(number))
        self.count += number
        body = b"".join(text(name) + text(b"") + folder for name in names)
        return packet(NAME, struct.pack(">II", request.number, number) + body)


class RefuseOpen(Fault):
    """Files whose name has this in it cannot be opened, with this SSH_FX code."""

    def __init__(self, part: str = "bad", code: int = FAILURE) -> None:
        self.part = os.fsencode(part)
        self.code = code

    def answer(self, server: FaultServer, request: Request) -> bytes | None:
        """See Fault."""
        if request.kind in (OPEN, OPENDIR) and self.part in request.value:
            return status(request.number, self.code, "refused")
        return None


FAULTS: dict[str, Callable[..., Fault]] = {
    one.__name__: one
    for one in (
        CutAfter, ReorderReplies, ShortReads, OneHandle, NoLimits, StallForever, DripForever, WrongIds,
        DoubleReply, HugeLength, WrongType, TextFirst, LiesAboutCount, TooMuchData, FlipByte,
        TruncateDuringRead, NamesWith, ListsForever, RefuseOpen,
    )
}  # fmt: skip


def parse_fault(spec: str) -> Fault:
    """A fault from ``NAME`` or ``NAME:ARG``. Raises KeyError for an unknown name."""
    name, colon, argument = spec.partition(":")
    make = FAULTS[name]
    if not colon:
        return make()
    return make(int(argument)) if argument.lstrip("-").isdigit() else make(argument)
