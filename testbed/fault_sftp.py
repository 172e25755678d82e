"""A small read-only SFTP server on a real folder, with named faults that can be put together.

In a test: ``with FaultServer(root, [ShortReads(7)]) as server: SftpEngine(FdChannel(*server.connect()))``.
Behind a real sshd: ``Subsystem sftp python3 .../testbed/fault_sftp.py --root / --fault ShortReads:7``.
It needs the standard library alone.
"""

# ruff: noqa: ARG002 - a fault takes what it is given

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

INIT, VERSION, OPEN, CLOSE, READ, FSTAT, OPENDIR, READDIR, STAT = 1, 2, 3, 4, 5, 8, 11, 12, 17
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED, EXTENDED_REPLY = 101, 102, 103, 104, 105, 200, 201
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, UNSUPPORTED = 0, 1, 2, 3, 4, 8
PATH_REQUESTS = (OPEN, OPENDIR, STAT)
MAX_READ = 255 * 1024


class CutError(Exception):
    """Raised by a fault to end the connection."""


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


@dataclass
class OpenFile:
    """What a handle stands for: a file descriptor, or the names of a folder that are left."""

    path: Path
    fd: int = -1
    names: list[bytes] = field(default_factory=list)


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


class NthRequest(Fault):
    """The n-th request (from 1, the greeting first) is answered wrong, or not at all.

    Args:
        nth: which; 0 for none.
        kind: one of `NTH_KINDS`.
        forever: whether all later requests are answered so, too.

    Attributes:
        seen: how many requests came.
        done: how many of them were answered wrong; a short read of what is no read is no fault.
    """

    def __init__(self, nth: int, kind: str, *, forever: bool = False) -> None:
        self.nth = nth
        self.kind = kind
        self.forever = forever
        self.seen = self.done = 0

    def _is_due(self) -> bool:
        return self.seen == self.nth or (self.forever and 0 < self.nth < self.seen)

    def answer(self, server: FaultServer, request: Request) -> bytes | None:
        """See Fault."""
        self.seen += 1
        if not self._is_due() or request.kind == INIT:
            return None
        if self.kind in NTH_CODES:
            self.done += 1
            return status(request.number, NTH_CODES[self.kind], "on purpose")
        if self.kind == "short read" and request.kind == READ and request.length > 1:
            self.done += 1
            request.length = max(1, request.length // 2)
        if self.kind == "empty read" and request.kind == READ:
            self.done += 1
            return packet(DATA, struct.pack(">I", request.number) + text(b""))
        return None

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        if not self._is_due():
            return packets
        if self.kind == "cut":
            self.done += 1
            raise CutError
        if self.kind == "stall":
            self.done += 1
            return []
        if self.kind == "cut within":
            self.done += 1
            self.ended = True
            return [b"".join(packets)[: len(packets[0]) // 2]]
        change = _NTH_REPLIES.get(self.kind) if request.kind != INIT else None
        if change is None:
            return packets
        self.done += 1
        return change(request, packets)


NTH_CODES = {"failure": FAILURE, "denied": PERMISSION_DENIED, "missing": NO_SUCH_FILE, "lost": 7}
"""Status errors: failure, permission denied, no such file, connection lost."""

_NTH_REPLIES: dict[str, Callable[[Request, list[bytes]], list[bytes]]] = {
    "twice": lambda _, packets: packets * 2,
    "wrong id": lambda request, packets: [
        one[:5] + struct.pack(">I", request.number + 77_777) + one[9:] for one in packets
    ],
    "wrong type": lambda request, _: [
        packet(DATA if request.kind in (STAT, FSTAT) else ATTRS, struct.pack(">II", request.number, 0))
    ],
}

NTH_KINDS = (*NTH_CODES, "short read", "empty read", "cut", "cut within", "stall", *_NTH_REPLIES)

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


class FaultServer:
    """The server. As a context manager it serves in threads of this process.

    Attributes:
        handles: what is open now.
        most_handles: the most that were open at once.
        seen: every request, in order.
    """

    def __init__(self, root: Path, faults: Sequence[Fault] = ()) -> None:
        self.root = root
        self.faults = list(faults)
        self.handles: dict[bytes, OpenFile] = {}
        self.most_handles = 0
        self.seen: list[Request] = []
        self._count = 0
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> FaultServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in self._sockets:
            end.close()

    def connect(self) -> tuple[int, int]:
        """Serve one more connection in a thread; the descriptors to read from and to write to."""
        ours, theirs = socket.socketpair()
        self._sockets.append(ours)
        thread = threading.Thread(target=self._serve_socket, args=(ours,), daemon=True)
        self._threads.append(thread)
        thread.start()
        fd = theirs.detach()
        return fd, fd

    def _serve_socket(self, end: socket.socket) -> None:
        def read(count: int, wait: float | None) -> bytes | None:
            end.settimeout(wait)
            try:
                return end.recv(count)
            except TimeoutError:
                return None
            finally:
                end.settimeout(None)

        with contextlib.suppress(OSError):
            self.serve(read, end.sendall)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

    def serve(
        self, read: Callable[[int, float | None], bytes | None], write: Callable[[bytes], object]
    ) -> None:
        """Serve until the stream ends.

        ``read`` waits so many seconds (None: for ever), and gives b"" at the end of the stream, None
        when nothing came.
        """
        buffer = b""
        try:
            self._write(write, [fault.greeting() for fault in self.faults])
            while True:
                while len(buffer) >= 4 and len(buffer) >= (size := 4 + struct.unpack_from(">I", buffer)[0]):
                    self._write(write, self.respond(buffer[4:size]))
                    buffer = buffer[size:]
                # Waiting requests are looked for before anyone is called idle.
                data = read(65536, 0.01)
                if data is None:
                    self._write(write, [one for fault in self.faults for one in fault.idle()])
                    data = read(65536, 0.01 if any(isinstance(f, DripForever) for f in self.faults) else None)
                if data == b"":
                    return
                buffer += data or b""
        except CutError:
            return
        finally:
            for handle in self.handles.values():
                if handle.fd >= 0:
                    os.close(handle.fd)
            self.handles.clear()

    def _write(self, write: Callable[[bytes], object], packets: Sequence[bytes]) -> None:
        data = b"".join(packets)
        for fault in self.faults:
            data = fault.stream(data)
        if data:
            write(data)
        if any(fault.ended for fault in self.faults):
            raise CutError

    def respond(self, raw: bytes) -> list[bytes]:
        """The packets that answer one request. Raises CutError."""
        request = self._parse(raw)
        self.seen.append(request)
        answer = None
        for fault in self.faults:
            answer = answer or fault.answer(self, request)
        try:
            packets = [answer or self._answer(request)]
        except OSError as error:
            packets = [_refusal(request, error)]
        for fault in self.faults:
            if packets:
                packets = fault.reply(request, packets)
        return packets

    def _parse(self, raw: bytes) -> Request:
        kind, number = struct.unpack_from(">BI", raw)
        if kind == INIT:
            return Request(kind, number)
        (length,) = struct.unpack_from(">I", raw, 5)
        request = Request(kind, number, raw[9 : 9 + length])
        if kind == READ:
            request.offset, request.length = struct.unpack_from(">QI", raw, 9 + length)
        return request

    def _answer(self, request: Request) -> bytes:
        if request.kind == INIT:
            names = [b"limits@openssh.com"]
            for fault in self.faults:
                names = fault.extensions(names)
            return packet(VERSION, struct.pack(">I", 3) + b"".join(text(name) + text(b"1") for name in names))
        if request.kind == EXTENDED:
            body = struct.pack(">IQQQQ", request.number, 256 * 1024, MAX_READ, MAX_READ, 1019)
            return packet(EXTENDED_REPLY, body)
        if request.kind in PATH_REQUESTS:
            return self._on_path(request)
        return self._on_handle(request)

    def _on_path(self, request: Request) -> bytes:
        path = self.root / os.fsdecode(request.value).lstrip("/")
        number = struct.pack(">I", request.number)
        if request.kind == STAT:
            return packet(ATTRS, number + attrs(path.stat()))
        if request.kind == OPENDIR:
            opened = OpenFile(path, names=sorted(os.listdir(os.fsencode(path))))  # noqa: PTH208
        else:
            opened = OpenFile(path, os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        self._count += 1
        handle = b"h%d" % self._count
        self.handles[handle] = opened
        self.most_handles = max(self.most_handles, len(self.handles))
        return packet(HANDLE, number + text(handle))

    def _on_handle(self, request: Request) -> bytes:
        opened = self.handles.get(request.value)
        number = struct.pack(">I", request.number)
        if opened is None:
            return status(request.number, FAILURE, "no such handle")
        if request.kind == CLOSE:
            del self.handles[request.value]
            if opened.fd >= 0:
                os.close(opened.fd)
            return status(request.number, OK)
        if request.kind == FSTAT:
            return packet(ATTRS, number + attrs(os.fstat(opened.fd)))
        if request.kind == READ:
            data = os.pread(opened.fd, min(request.length, MAX_READ), request.offset)
            return packet(DATA, number + text(data)) if data else status(request.number, EOF)
        if request.kind == READDIR:
            return self._names(request, opened)
        return status(request.number, UNSUPPORTED)

    def _names(self, request: Request, opened: OpenFile) -> bytes:
        names, opened.names = opened.names[:100], opened.names[100:]
        if not names:
            return status(request.number, EOF)
        folder = os.fsencode(opened.path)
        # An SFTP server's entries lie in the folder that was opened, whatever their names hold.
        parts = [text(name) + text(b"") + attrs(os.lstat(folder + b"/" + name)) for name in names]
        return packet(NAME, struct.pack(">II", request.number, len(names)) + b"".join(parts))


def _refusal(request: Request, error: OSError) -> bytes:
    code = FAILURE
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        code = NO_SUCH_FILE
    elif isinstance(error, PermissionError):
        code = PERMISSION_DENIED
    return status(request.number, code, error.strerror or "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve standard input and output."""
    import select

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"))
    parser.add_argument("--fault", action="append", default=[], metavar="NAME[:ARG]")
    options = parser.parse_args(arguments)

    def read(count: int, wait: float | None) -> bytes | None:
        ready, _, _ = select.select([0], [], [], wait)
        return os.read(0, count) if ready else None

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]

    with contextlib.suppress(BrokenPipeError):
        FaultServer(options.root, [parse_fault(spec) for spec in options.fault]).serve(read, write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
