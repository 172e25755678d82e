"""A byte stream as the answers of a server, to the real engine over a socket, with jobs under way."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzz.target import Plain, Target, attempt, require_harmless
from runicorn.errors import RequestError
from runicorn.manifest import rules
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.transport import (
    MAX_READ,
    Answer,
    Attributes,
    Close,
    DirectoryEntry,
    FdChannel,
    Fstat,
    Handle,
    Job,
    Open,
    OpenDir,
    Operation,
    Read,
    ReadDir,
    SftpEngine,
    Stat,
    Stream,
)
from runicorn.remote_storage.walk import Walker
from testbed.fault_sftp import FaultServer

ROOT = "/root"
_STALLED = 20.0
_READING = {1: "INIT", 3: "OPEN", 4: "CLOSE", 5: "READ", 8: "FSTAT", 11: "OPENDIR", 12: "READDIR", 17: "STAT"}
_LIMITS = b"limits@openssh.com"
_REPLIES = (101, 102, 103, 104, 105, 201)

Use = Callable[[SftpEngine], None]
Respond = Callable[[bytes], bytes]


# -- the server's side -------------------------------------------------------------------------


class Peer:
    """What a client has at the other end of its socket.

    Before the client waits for bytes, it is given the next answer: so nothing here waits, and the same
    answers always meet the same requests.

    Attributes:
        requests: what the client has sent.
    """

    def __init__(self, next_answer: Callable[[Peer], bytes]) -> None:
        self._next_answer = next_answer
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        fd = theirs.detach()
        self.channel = _Fed(fd, self._serve)
        self.requests: list[bytes] = []
        self.waiting: deque[bytes] = deque()
        self._taken = bytearray()
        self._left = bytearray()

    def close(self) -> None:
        """Let go of the socket."""
        self._ours.close()

    def _serve(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := self._ours.recv(1 << 20):
                self._taken += data
        while len(self._taken) >= 4 and len(self._taken) >= (
            end := 4 + int.from_bytes(self._taken[:4], "big")
        ):
            request = bytes(self._taken[4:end])
            del self._taken[:end]
            _require_reading(request)
            self.requests.append(request)
            self.waiting.append(request)
        if not self._left:
            answer = self._next_answer(self)
            if not answer:
                self._ours.shutdown(socket.SHUT_WR)
                return
            self._left += answer
        with contextlib.suppress(BlockingIOError):
            del self._left[: self._ours.send(self._left)]


class _Fed(FdChannel):
    """A channel that lets the other side move first."""

    def __init__(self, fd: int, serve: Callable[[], None]) -> None:
        super().__init__(fd, fd)
        self._serve = serve
        self._ended = False

    def recv(self, max_bytes: int, timeout: float, *, want_room: bool = False) -> bytes | None:
        """See `FdChannel.recv`."""
        with contextlib.suppress(OSError):
            self._serve()
        return super().recv(max_bytes, timeout, want_room=want_room)


def _require_reading(request: bytes) -> None:
    """A request can change nothing on a server, and asks for nothing but what belongs to the root."""
    kind = request[0]
    if kind == 200:
        assert request[9:] == _LIMITS
        return
    assert kind in _READING, request
    if kind in (3, 11, 17):
        size = int.from_bytes(request[5:9], "big")
        path, flags = request[9 : 9 + size].decode("utf-8"), request[9 + size :]
        assert flags == (struct.pack(">II", 1, 0) if kind == 3 else b"")
        inner = path.removeprefix(ROOT).lstrip("/")
        assert path.startswith(ROOT)
        assert not inner or rules.unsafe_path(inner) is None, path


def _packets(data: bytes) -> list[bytes]:
    """A stream cut where its lengths say; the last one may be anything."""
    found, at = [], 0
    while at < len(data):
        end = min(len(data), at + 4 + int.from_bytes(data[at : at + 4], "big"))
        found.append(data[at:end])
        at = end
    return found


def _answers(data: bytes, *, numbered: bool) -> Callable[[Peer], bytes]:
    left = deque(_packets(data))

    def following(peer: Peer) -> bytes:
        if not left:
            return b""
        packet = left.popleft()
        if numbered and len(packet) >= 9 and packet[4] in _REPLIES:
            while peer.waiting and peer.waiting[0][0] == 1:
                peer.waiting.popleft()
            if peer.waiting:
                packet = packet[:5] + peer.waiting.popleft()[1:5] + packet[9:]
        return packet

    return following


# -- the client's side -------------------------------------------------------------------------


def _checking(of: Operation, answer: Answer) -> None:
    """What a job is given fits what it asked for."""
    if isinstance(answer, RequestError):
        require_harmless(str(answer))
    elif isinstance(of, Open | OpenDir):
        assert isinstance(answer, Handle)
        assert 0 < len(answer.value) <= 256
    elif isinstance(of, Read):
        assert isinstance(answer, bytes)
        assert len(answer) <= of.length
    elif isinstance(of, Stat | Fstat):
        assert isinstance(answer, Attributes)
    elif isinstance(of, ReadDir):
        assert isinstance(answer, tuple)
        assert all(isinstance(each, DirectoryEntry) for each in answer)
    else:
        assert answer is None


def _asking(job: Job) -> Job:
    """A job whose answers are looked at on their way."""
    operations = next(job)
    while True:
        answers = yield operations
        assert len(answers) == len(operations)
        for operation, answer in zip(operations, answers, strict=True):
            _checking(operation, answer)
        try:
            operations = job.send(answers)
        except StopIteration:
            return


def _reading(path: str, size: int) -> Job:
    (handle,) = yield [Open(path)]
    if isinstance(handle, Handle):
        yield [Fstat(handle), Read(handle, 0, size + 1), Read(handle, 5, 40, once=True), Close(handle)]


def _reading_much(path: str) -> Job:
    (handle,) = yield [Open(path, keep=True)]
    if isinstance(handle, Handle):
        yield [Read(handle, offset, MAX_READ) for offset in (0, 100, MAX_READ)]
        yield [Close(handle)]


def _listing(path: str) -> Job:
    (handle,) = yield [OpenDir(path)]
    while isinstance(handle, Handle):
        answers = yield [ReadDir(handle)] * 2
        if not all(isinstance(answer, tuple) and answer for answer in answers):
            break
    yield [Stat(path)]


def use_jobs(engine: SftpEngine) -> None:
    """Jobs of all kinds, twice over one engine."""
    engine.run(map(_asking, [_reading(f"{ROOT}/a", 30), _listing(ROOT), _reading_much(f"{ROOT}/b")]))
    engine.run(map(_asking, [_reading(f"{ROOT}/c", 3), _listing(f"{ROOT}/d")]))


def use_walk(engine: SftpEngine) -> None:
    """A walk of the root: whatever is listed, only what belongs is taken."""
    listing = Walker(engine, ROOT, Selection()).walk()
    paths = [entry.path for run in listing.runs for entry in run.files]
    assert len(set(paths)) == len(paths)
    for run in listing.runs:
        assert run.files
        assert rules.project_and_name(run.folder) == (run.project, run.name)
        for entry in run.files:
            assert rules.unsafe_path(entry.path) is None
            assert rules.belongs(entry.path, run.folder)
            assert 0 <= entry.size < 2**63
            assert 0 <= entry.mtime <= 2**33
    for problem in listing.problems:
        require_harmless(problem.path)


def use_stream(engine: SftpEngine) -> None:
    """A file read ahead, from the middle on."""
    found = b""
    with Stream(engine, f"{ROOT}/b", 50, 200_000, cancel=threading.Event()) as chunks:
        for chunk in chunks:
            assert chunk
            found += chunk
    assert len(found) <= 200_000 - 50


def _run(data: bytes, use: Use, *, numbered: bool) -> None:
    peer = Peer(_answers(data, numbered=numbered))
    threads = threading.active_count()
    try:

        def play() -> None:
            engine = SftpEngine(peer.channel, timeout=_STALLED)
            try:
                use(engine)
            finally:
                engine.close()

        attempt(play)
        # However much is answered, nobody asks for more than a window and what the answers allow.
        assert len(peer.requests) <= 700 + len(data)
        assert threading.active_count() == threads
    finally:
        peer.channel.close()
        peer.close()


def _target(use: Use, longest: int = 8192) -> Target:
    def check(data: bytes) -> None:
        _run(data, use, numbered=False)
        _run(data, use, numbered=True)

    words = (_LIMITS, *(struct.pack(">I", number) for number in (0, 1, 2, 4, 13, 255, 256, 2**31, 2**32 - 1)))
    return Target(check, lambda: _sessions(use), lambda: _spoiled(use), (*words, *_NAMES), _mutate, longest)


# -- honest sessions ---------------------------------------------------------------------------

_NAMES = (b"meta.json", b"status.json", b"events.jsonl", b"media", b"runs", b"..", b".", b"../x", b"a/b")


_BAD_NAMES = (
    *(
        b"",
        b".",
        b"..",
        b"../x",
        b"/etc",
        b"a/b",
        b"a\\b",
        b"a\nb",
        b"\x1b[2J",
        b"\xff\xfe",
        b".ssh",
        b".runicorn",
    ),
    *(b"x" * 300, "\u202e\u061c".encode(), b"a\0b", b"x.lock", b"status.json", b"logs.txt"),
)


def _make_root(root: Path) -> None:
    for folder in ("p/n/runs/r1", "runs/p/deep/r2", "d"):
        run = root / folder
        (run / "media/inner").mkdir(parents=True)
        for name in ("meta.json", "status.json", "events.jsonl", "media/a.png", "media/inner/b.png"):
            (run / name).write_bytes(b'{"a": 1}\n')
    (root / "a").write_bytes(bytes(range(30)))
    (root / "b").write_bytes(b"much\n" * 100)
    (root / "p/link").symlink_to("/etc")
    for path in root.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1_750_000_000, 1_750_000_000))


def _sessions(use: Use) -> Iterator[bytes]:
    """What an honest server answers: with limits, without, and with one handle only."""
    from testbed.sftp_faults import Fault, NoLimits, OneHandle, ShortReads

    faults: list[list[Fault]] = [[], [NoLimits()], [OneHandle(), ShortReads(90)]]
    with tempfile.TemporaryDirectory() as place:
        _make_root(Path(place) / ROOT.lstrip("/"))
        for each in faults:
            server, said = FaultServer(Path(place), each), bytearray()

            def answer(peer: Peer, server: FaultServer = server, said: bytearray = said) -> bytes:
                answers = b"".join(server.respond(peer.waiting.popleft()) if peer.waiting else [])
                said.extend(answers)
                return answers

            peer = Peer(answer)
            engine = SftpEngine(peer.channel)
            use(engine)
            engine.close()
            peer.close()
            for handle in server.handles.values():
                if handle.fd >= 0:
                    os.close(handle.fd)
            yield bytes(said)


def _spoiled(use: Use) -> Iterator[bytes]:
    """An honest session with each packet in turn given up, doubled, cut, lengthened or with another name."""
    packets = _packets(next(iter(_sessions(use))))
    for at, packet in enumerate(packets):
        before, after = b"".join(packets[:at]), b"".join(packets[at + 1 :])
        for other in (b"", packet * 2, packet[:-1], packet + b"!", b"\0\0\0\0" + packet, b"\xff" + packet):
            yield before + other + after
        for name in _BAD_NAMES:
            for honest in (b"meta.json", b"r1", b"media", b"runs", b"a.png"):
                text = struct.pack(">I", len(honest)) + honest
                changed = packet[4:].replace(text, struct.pack(">I", len(name)) + name)
                if changed != packet[4:]:
                    yield before + struct.pack(">I", len(changed)) + changed + after


def _mutate(data: bytes, longest: int, chance: random.Random, plain: Plain) -> bytes:
    packets = _packets(data)
    if not packets or chance.random() < 0.1:
        return plain(data, longest)
    at, other = chance.randrange(len(packets)), chance.randrange(len(packets))
    action = chance.randrange(8)
    if action == 0:
        packets[at], packets[other] = packets[other], packets[at]
    elif action == 1:
        packets.insert(at, packets[other])
    elif action == 2:
        del packets[at]
    elif action == 3:
        number = chance.choice([1, 3, 4])
        status = struct.pack(">BII", 101, 0, number) + bytes(8)
        packets[at] = struct.pack(">I", len(status)) + status
    elif action == 4:
        # Its number, or its length, and nothing else.
        place = chance.choice([0, 5])
        packets[at] = packets[at][:place] + chance.randbytes(4) + packets[at][place + 4 :]
    else:
        body = plain(packets[at][4:], longest)
        packets[at] = struct.pack(">I", len(body)) + body
    return b"".join(packets)


JOBS = _target(use_jobs, 16_384)
WALK = _target(use_walk, 16_384)
STREAM = _target(use_stream)
