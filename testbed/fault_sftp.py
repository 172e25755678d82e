"""A small read-only SFTP server on a real folder, with faults of `testbed.sftp_faults`.

In a test: ``with FaultServer(root, [ShortReads(7)]) as server: SftpEngine(FdChannel(*server.connect()))``.
Behind a real sshd: ``Subsystem sftp python3 .../testbed/fault_sftp.py --root / --fault ShortReads:7``.
It needs the standard library alone, and what lies beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

if __name__ == "__main__":  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from testbed.sftp_faults import CutError, DripForever, Fault, parse_fault
from testbed.sftp_packets import (
    ATTRS,
    CLOSE,
    DATA,
    EOF,
    EXTENDED,
    EXTENDED_REPLY,
    FAILURE,
    FSTAT,
    HANDLE,
    INIT,
    MAX_READ,
    NAME,
    NO_SUCH_FILE,
    OK,
    OPENDIR,
    PATH_REQUESTS,
    PERMISSION_DENIED,
    READ,
    READDIR,
    STAT,
    UNSUPPORTED,
    VERSION,
    Request,
    attrs,
    packet,
    status,
    text,
)


@dataclass
class OpenFile:
    """What a handle stands for: a file descriptor, or the names of a folder that are left."""

    path: Path
    fd: int = -1
    names: list[bytes] = field(default_factory=list)


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
