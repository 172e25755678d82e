"""Broken servers: each has its error, in bounded time; and what the engine does with odd ones."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from runicorn.errors import ConnectError, ProtocolError, RequestError, StallError, TransportError
from runicorn.remote_storage.transport import (
    Answer,
    Attributes,
    FdChannel,
    Handle,
    Job,
    Open,
    Read,
    SftpEngine,
    Stat,
    StatusCode,
)
from runicorn.remote_storage.transport.window import FIRST_HANDLES_KNOWN
from testbed import sftp_faults as faults
from testbed import sftp_packets
from testbed.fault_sftp import FaultServer
from testbed.fault_transport import FaultTransport
from testbed.sftp_faults import Fault
from tests.transport.jobs import ask, list_folder, one_answer, read_big, read_small

TIMEOUT = 0.3
"""Seconds; only stalls are waited for, everything else answers at once."""
LONG = 30.0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number in range(20):
        (tmp_path / f"f{number}").write_bytes(b"x" * 5000)
    return tmp_path


def everything(tree: Path) -> Iterator[Job]:
    yield list_folder(str(tree), {})
    yield from (read_small(str(tree / f"f{number}"), 5000, {}) for number in range(20))


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (faults.CutAfter(0), ConnectError, "the connection ended"),
        (faults.CutAfter(20), ConnectError, "the connection ended"),
        (faults.CutAfter(3000), ConnectError, "the connection ended"),
        (faults.WrongIds(), ProtocolError, "a request that is not open"),
        (faults.DoubleReply(), ProtocolError, "a request that is not open"),
        (faults.HugeLength(), ProtocolError, "a packet of 2147483647 bytes"),
        (faults.HugeLength(0), ProtocolError, "a packet of 0 bytes"),
        (faults.WrongType(), ProtocolError, "with packet type 105"),
        (faults.LiesAboutCount(), ProtocolError, "cannot hold 1073741824 names"),
        (faults.LiesAboutCount(0), ProtocolError, "cannot hold 0 names"),
        (faults.LiesAboutCount(1), ProtocolError, "malformed NAME"),
        (faults.TooMuchData(), ProtocolError, "answered a READ of 5001 bytes with 5002"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Fault) else None,
)
def test_broken_server(tree: Path, fault: Fault, error: type[TransportError], message: str) -> None:
    def use() -> None:
        with contextlib.closing(SftpEngine(FdChannel(*server.connect()), timeout=LONG)) as engine:
            engine.run(everything(tree))

    with FaultServer(Path("/"), [fault]) as server, pytest.raises(error, match=message):
        use()


@pytest.mark.parametrize("answers", [0, 1, 2, 10])
def test_silent_server_is_a_stall(tree: Path, answers: int) -> None:
    server = FaultServer(Path("/"), [faults.StallForever(answers)])
    with server, pytest.raises(StallError, match="sent nothing for"):
        SftpEngine(FdChannel(*server.connect()), timeout=TIMEOUT).run(everything(tree))


def test_dripping_server_is_a_stall(tree: Path) -> None:
    # A READ of 1 byte may take the timeout and no more; bytes come faster than the timeout all the while.
    with FaultServer(Path("/"), [faults.DripForever(3)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=TIMEOUT)
        with pytest.raises(StallError, match="does not get on"):
            engine.run([read_small(str(tree / "f1"), 0, {})])
        assert server.seen[-1].kind == sftp_packets.READ


def test_dripping_greeting_is_a_stall() -> None:
    with FaultServer(Path("/"), [faults.DripForever(0)]) as server, pytest.raises(StallError):
        SftpEngine(FdChannel(*server.connect()), timeout=LONG, login_timeout=TIMEOUT)


def test_broken_connection_cannot_be_used_again_and_jobs_are_closed(tree: Path) -> None:
    closed: list[bool] = []

    def job() -> Job:
        try:
            yield [Open(str(tree / "f1"))]
        finally:
            closed.append(True)

    with FaultServer(Path("/"), [faults.WrongIds()]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        with pytest.raises(ProtocolError):
            engine.run([job(), job()])
        assert closed == [True, True]
        with pytest.raises(ConnectError):
            engine.run([])


@pytest.mark.parametrize("words", ["Welcome to the cluster!\n", "hi", "\n", "\x1b[31mred\x1b[0m\n" * 3])
def test_text_from_a_start_up_file_is_quoted(words: str) -> None:
    server = FaultServer(Path("/"), [faults.TextFirst(words)])
    with server, pytest.raises(ProtocolError, match="printed text") as caught:
        SftpEngine(FdChannel(*server.connect()), timeout=LONG)
    assert str(caught.value).isprintable()
    assert words.strip().split("\x1b")[0] in str(caught.value)
    assert "`ssh HOST true` must print nothing" in caught.value.hint


def test_text_alone_is_quoted_when_the_stream_ends() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(b"no!")
    ours.close()
    fd = theirs.detach()
    with pytest.raises(ProtocolError, match="no!"):
        SftpEngine(FdChannel(fd, fd), timeout=LONG)


def test_other_version_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(sftp_packets.packet(sftp_packets.VERSION, b"\0\0\0\x02"))
        fd = theirs.detach()
        with pytest.raises(ProtocolError, match="version 2"):
            SftpEngine(FdChannel(fd, fd), timeout=LONG)


def test_same_handle_twice_is_refused(tree: Path) -> None:
    class SameHandle(Fault):
        def reply(self, request: sftp_packets.Request, packets: list[bytes]) -> list[bytes]:
            if packets[0][4] != sftp_packets.HANDLE:
                return packets
            number = request.number.to_bytes(4, "big")
            return [sftp_packets.packet(sftp_packets.HANDLE, number + sftp_packets.text(b"same"))]

    with FaultServer(Path("/"), [SameHandle()]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        with pytest.raises(ProtocolError, match="the same handle twice"):
            engine.run([ask([Open(str(tree / "f1")), Open(str(tree / "f2"))], [])])


def test_one_handle_is_never_exceeded_after_the_first_refusals(tree: Path) -> None:
    found: dict[str, bytes | RequestError] = {}
    with FaultServer(Path("/"), [faults.OneHandle(3)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run(read_small(str(tree / f"f{number}"), 5000, found) for number in range(20))
        assert server.most_handles == 3
        engine.close()
    assert all(found[str(tree / f"f{number}")] == b"x" * 5000 for number in range(20))


def test_refusals_lower_the_number_of_handles(tree: Path) -> None:
    with FaultServer(Path("/"), [faults.OneHandle(3)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run(read_small(str(tree / f"f{number % 20}"), 5000, {}) for number in range(1000))
        opens = sum(one.kind == sftp_packets.OPEN for one in server.seen)
        engine.close()
    # The first ones go out together; each that is refused may be refused a few times more.
    assert opens < 1000 + 5 * (FIRST_HANDLES_KNOWN - 3)


def test_channel_of_another_client_is_left_without_open_answers(tree: Path) -> None:
    class LateCloses(Fault):
        held: list[bytes] = []  # noqa: RUF012 - one object, one test
        answered = 0

        def reply(self, request: sftp_packets.Request, packets: list[bytes]) -> list[bytes]:
            if request.kind != sftp_packets.CLOSE:
                return packets
            self.held += packets
            return []

        def idle(self) -> list[bytes]:
            late, self.held = self.held, []
            self.answered += len(late)
            return late

    late = LateCloses()
    with FaultServer(Path("/"), [late]) as server:
        read_fd, write_fd = server.connect()
        os.write(write_fd, b"\0\0\0\x05\x01\0\0\0\x03")
        assert os.read(read_fd, 1000)[4] == sftp_packets.VERSION
        engine = SftpEngine(FdChannel(read_fd, write_fd), timeout=LONG, initialised=True)
        for count in (1, 2, 3):
            engine.run([read_small(str(tree / "f1"), 5000, {})])
            assert late.answered == count
        assert {one.number >> 31 for one in server.seen[1:]} == {1}
        engine.close()


def test_channel_wakes_for_room_as_well_as_for_bytes() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        fd = theirs.detach()
        channel = FdChannel(fd, fd)
        assert channel.recv(10, LONG, want_room=True) is None
        while channel.send(memoryview(b"x" * 100_000)):
            pass
        with pytest.raises(StallError):
            channel.recv(10, 0.05, want_room=True)
        ours.sendall(b"hello")
        assert channel.recv(10, LONG, want_room=True) == b"hello"
        channel.close()
        assert channel.recv(10, LONG) == b""


def test_kept_handles_are_closed_on_the_channel_of_another_client(tree: Path) -> None:
    with FaultServer(Path("/"), []) as server:
        read_fd, write_fd = server.connect()
        os.write(write_fd, b"\0\0\0\x05\x01\0\0\0\x03")
        assert os.read(read_fd, 1000)[4] == sftp_packets.VERSION
        engine = SftpEngine(FdChannel(read_fd, write_fd), timeout=LONG, initialised=True)
        engine.run([ask([Open(str(tree / "f1"), keep=True)], [])])
        assert len(server.handles) == 1
        engine.close()
        # The server answers in order, and close() has waited for the last answer.
        assert [one.kind for one in server.seen] == [sftp_packets.INIT, sftp_packets.OPEN, sftp_packets.CLOSE]
        assert server.handles == {}


def test_close_by_another_thread_ends_a_run(tree: Path) -> None:
    with FaultServer(Path("/"), [faults.StallForever(3)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        waits = threading.Event()

        def job() -> Job:
            yield [Open(str(tree / "f1"))]
            waits.set()
            yield [Stat(str(tree))]

        def close() -> None:
            assert waits.wait(LONG)
            engine.close()

        thread = threading.Thread(target=close)
        thread.start()
        begun = time.monotonic()
        with pytest.raises(ConnectError):
            engine.run([job()])
        thread.join(LONG)
        assert time.monotonic() - begun < LONG / 2


@pytest.mark.parametrize("code", [StatusCode.FAILURE, StatusCode.PERMISSION_DENIED])
def test_file_that_cannot_be_opened_fails_alone(tree: Path, code: StatusCode) -> None:
    found: dict[str, bytes | RequestError] = {}
    with FaultServer(Path("/"), [faults.RefuseOpen("f7", code)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run(read_small(str(tree / f"f{number}"), 5000, found) for number in range(20))
        opens = sum(one.kind == sftp_packets.OPEN for one in server.seen)
        engine.close()
    error = found.pop(str(tree / "f7"))
    assert isinstance(error, RequestError)
    assert error.code == code
    assert len(found) == 19
    assert all(data == b"x" * 5000 for data in found.values())
    assert opens == 20 if code == StatusCode.PERMISSION_DENIED else opens <= 30


def test_job_that_wants_more_handles_than_there_are_gets_an_answer(tree: Path) -> None:
    found: list[Answer] = []

    def greedy() -> Job:
        (first,) = yield [Open(str(tree / "f1"))]
        found.append(first)
        (second,) = yield [Open(str(tree / "f2"))]
        found.append(second)

    with FaultServer(Path("/"), [faults.OneHandle()]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run([greedy()])
        engine.close()
    assert isinstance(found[0], Handle)
    assert isinstance(found[1], RequestError)


class Between:
    """A channel with an act before each receiving, which says whether it is a wake-up without bytes."""

    def __init__(self, channel: FdChannel, act: Callable[[], bool]) -> None:
        self._channel = channel
        self._act = act
        self.send, self.close, self.diagnosis = channel.send, channel.close, channel.diagnosis

    def recv(self, max_bytes: int, timeout: float, *, want_room: bool = False) -> bytes | None:
        return None if self._act() else self._channel.recv(max_bytes, timeout, want_room=want_room)


@pytest.fixture
def skip(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets the engine's clock jump by so many seconds."""
    skipped = [0.0]

    def jump(seconds: float) -> None:
        skipped[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + skipped[0])
    monkeypatch.setattr("runicorn.remote_storage.transport.engine.time", clock)
    return jump


def test_greeting_that_comes_after_a_wake_up_is_taken(tree: Path) -> None:
    wakes = iter([True, False, True])
    with FaultServer(Path("/"), []) as server:
        channel = Between(FdChannel(*server.connect()), lambda: next(wakes, False))
        with contextlib.closing(SftpEngine(channel, timeout=LONG)) as engine:
            job, found = one_answer(tree)
            engine.run([job])
    assert isinstance(found[0], Attributes)
    assert next(wakes, None) is None


def test_wake_ups_do_not_prolong_the_greeting(skip: Callable[[float], None]) -> None:
    def wake() -> bool:
        skip(LONG)
        return True

    with (
        FaultServer(Path("/"), []) as server,
        pytest.raises(StallError, match=r"^no answer to the greeting in 30.0 s$"),
    ):
        SftpEngine(Between(FdChannel(*server.connect()), wake), timeout=LONG)


def test_wake_ups_do_not_prolong_an_answer(tree: Path, skip: Callable[[float], None]) -> None:
    jumps: list[float] = []

    def wake() -> bool:
        skip(sum(jumps))
        return bool(jumps)

    with FaultServer(Path("/"), [faults.StallForever(2)]) as server:
        engine = SftpEngine(Between(FdChannel(*server.connect()), wake), timeout=LONG)
        job, found = one_answer(tree)
        jumps.append(LONG)
        with pytest.raises(StallError, match=r"^the server does not get on with answering 2 requests$"):
            engine.run([job])
    assert found == []


def fails_beside(tree: Path, act: Callable[[], None]) -> Iterator[Job]:
    """A job with two requests, and one that fails while these are under way."""

    def fails() -> Job:
        yield [Stat(str(tree))]
        act()
        raise LookupError

    yield fails()
    yield ask([Stat(str(tree / "f1")), Stat(str(tree / "f2"))], [])


@pytest.mark.parametrize("end", ["stall", "interrupt", "time"])
def test_what_ends_the_wait_for_answers_that_nobody_wants(
    tree: Path, end: str, skip: Callable[[float], None]
) -> None:
    failed: list[bool] = []

    def act() -> bool:
        if failed and end == "stall":
            raise StallError("the next error, which is not told")
        if failed and end == "interrupt":
            raise KeyboardInterrupt
        if failed:
            skip(LONG / 2 + 1)
        return bool(failed)

    with FaultServer(Path("/"), [faults.StallForever(3)]) as server:
        engine = SftpEngine(Between(FdChannel(*server.connect()), act), timeout=LONG)
        with pytest.raises(KeyboardInterrupt if end == "interrupt" else LookupError):
            engine.run(fails_beside(tree, lambda: failed.append(True)))
        assert engine.ended
        with pytest.raises(ConnectError, match="closed"):
            engine.run([])


def test_connections_that_come_after_the_end_are_closed() -> None:
    with FaultServer(Path("/"), []) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        late = SftpEngine(FdChannel(*server.connect()), timeout=LONG)

        def connect(count: int) -> list[SftpEngine]:
            assert count == 2
            engine.close()
            return [late]

        engine.offer_more(connect)
        assert engine.open_more(2) == []
        assert late.ended
        assert engine.open_more(2) == []


class Refuses(Fault):
    """Requests of one kind are answered with a code; READs only from an offset on."""

    def __init__(self, kind: int, code: int, offset: int = 0) -> None:
        self.kind, self.code, self.offset = kind, code, offset

    def answer(self, server: FaultServer, request: sftp_packets.Request) -> bytes | None:
        del server
        hit = request.kind == self.kind and (self.kind != sftp_packets.READ or request.offset >= self.offset)
        return sftp_packets.status(request.number, self.code, "on purpose") if hit else None


def test_ok_where_an_answer_was_asked_for_is_refused(tree: Path) -> None:
    with FaultServer(Path("/"), [Refuses(sftp_packets.STAT, 0)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        with pytest.raises(ProtocolError, match=r"^the server answered STAT with OK and nothing else$"):
            engine.run([one_answer(tree)[0]])


def test_error_in_a_part_of_a_long_read_is_that_of_the_read(tree: Path) -> None:
    (tree / "big").write_bytes(bytes(100_000))
    found: list[Answer] = []

    def job() -> Job:
        (handle,) = yield [Open(str(tree / "big"))]
        assert isinstance(handle, Handle)
        found.extend((yield [Read(handle, 0, 100_000), Read(handle, 0, 10)]))

    with FaultServer(Path("/"), [faults.NoLimits(), Refuses(sftp_packets.READ, 4, 64 * 1024)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run([job()])
        engine.close()
    error, data = found
    assert isinstance(error, RequestError)
    assert (str(error), error.code, error.path) == ("FAILURE: on purpose", 4, str(tree / "big"))
    assert data == bytes(10)


def test_server_that_refuses_to_tell_its_limits_is_used_without_them(tree: Path) -> None:
    found: dict[str, bytes | RequestError] = {}
    with FaultServer(Path("/"), [Refuses(sftp_packets.EXTENDED, 8)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run([read_small(str(tree / "f1"), 5000, found)])
        engine.close()
    assert found[str(tree / "f1")] == b"x" * 5000


def test_limits_of_zero_are_none(tree: Path) -> None:
    class Unlimited(Fault):
        def answer(self, server: FaultServer, request: sftp_packets.Request) -> bytes | None:
            del server
            body = request.number.to_bytes(4, "big") + bytes(32)
            return sftp_packets.packet(201, body) if request.kind == sftp_packets.EXTENDED else None

    (tree / "big").write_bytes(os.urandom(300_000))
    found: dict[str, bytes | RequestError] = {}
    with FaultServer(Path("/"), [Unlimited()]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run([read_big(str(tree / "big"), found)])
        engine.close()
        assert max(one.length for one in server.seen if one.kind == sftp_packets.READ) == 32 * 1024
    assert found[str(tree / "big")] == (tree / "big").read_bytes()


def test_shrinking_file_gives_what_is_left(tree: Path) -> None:
    (tree / "big").write_bytes(os.urandom(600_000))
    found: dict[str, bytes | RequestError] = {}
    with FaultServer(Path("/"), [faults.TruncateDuringRead(300_000, nth=2)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run([read_big(str(tree / "big"), found)])
        engine.close()
    assert found[str(tree / "big")] == (tree / "big").read_bytes()[:300_000]


def test_short_read_of_all_but_one_byte_is_asked_again_of_a_server_that_gives_them(tree: Path) -> None:
    (tree / "a").write_bytes(b"0123456789")
    found: list[Answer] = []

    def job() -> Job:
        (handle,) = yield [Open(str(tree / "a"))]
        assert isinstance(handle, Handle)
        for length in (5, 3):
            found.extend((yield [Read(handle, 0, length)]))

    with FaultServer(Path("/"), [faults.ShortReads(2)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run([job()])
        engine.close()
    assert found == [b"01234", b"012"]


def test_gap_in_a_long_read_ends_it(tree: Path) -> None:
    class Gap(Fault):
        def answer(self, server: FaultServer, request: sftp_packets.Request) -> bytes | None:
            del server
            hit = request.kind == sftp_packets.READ and request.offset == 32 * 1024
            return sftp_packets.status(request.number, sftp_packets.EOF) if hit else None

    (tree / "big").write_bytes(os.urandom(100_000))
    found: list[Answer] = []

    def job() -> Job:
        (handle,) = yield [Open(str(tree / "big"))]
        assert isinstance(handle, Handle)
        found.extend((yield [Read(handle, 0, 100_000)]))

    with FaultServer(Path("/"), [faults.NoLimits(), Gap()]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run([job()])
        engine.close()
    assert found == [(tree / "big").read_bytes()[: 32 * 1024]]


def test_flipped_bytes_are_passed_on_for_the_digest_to_find(tree: Path) -> None:
    found: dict[str, bytes | RequestError] = {}
    with FaultServer(Path("/"), [faults.FlipByte()]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run([read_small(str(tree / "f1"), 5000, found)])
        engine.close()
    data = found[str(tree / "f1")]
    assert isinstance(data, bytes)
    assert (len(data), data.count(b"x")) == (5000, 4999)


def test_hostile_names_are_passed_on_as_they_are(tree: Path) -> None:
    names: list[str | bytes] = ["../../etc", "/abs", "", "a\nb", b"\xff", "..", "nul\0"]
    found: dict[str, Attributes] = {}
    with FaultServer(Path("/"), [faults.NamesWith(names)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run([list_folder(str(tree), found)])
        engine.close()
    assert {"../../etc", "/abs", "", "a\nb", "\udcff", "nul\0"} < set(found)


def test_leftover_handles_are_closed_on_the_server(tree: Path) -> None:
    def leaves() -> Job:
        yield [Open(str(tree / "f1")), Open(str(tree / "f2"))]

    def fails() -> Job:
        yield [Open(str(tree / "f1"))]
        raise LookupError

    with FaultServer(Path("/"), []) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run([leaves()])
        with pytest.raises(LookupError):
            engine.run([leaves(), fails(), leaves()])
        job, found = one_answer(tree)
        # The server works in order: when this is answered, all before it is done.
        engine.run([job])
        assert isinstance(found[0], Attributes)
        assert server.handles == {}
        assert sum(one.kind == sftp_packets.OPEN for one in server.seen) == 7
        engine.close()


def test_interrupt_waits_for_no_server(tree: Path) -> None:
    def interrupted() -> Job:
        yield [Open(str(tree / "f1"))]
        raise KeyboardInterrupt

    def waits() -> Job:
        yield [Open(str(tree / "f1")), Open(str(tree / "f2"))]

    with FaultServer(Path("/"), [faults.StallForever(4)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        with pytest.raises(KeyboardInterrupt):
            engine.run([interrupted(), waits()])
        with pytest.raises(ConnectError, match="closed"):
            engine.run([waits()])


def test_requests_go_out_together_and_none_is_wasted(tree: Path) -> None:
    with FaultServer(Path("/"), []) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run(read_small(str(tree / f"f{number}"), 5000, {}) for number in range(20))
        engine.run([one_answer(tree)[0]])
        kinds = [one.kind for one in server.seen]
        assert kinds[:22] == [sftp_packets.INIT, sftp_packets.EXTENDED, *[sftp_packets.OPEN] * 20]
        assert len(kinds) == engine.traffic.requests == 2 + 60 + 1
        engine.close()


def test_jobs_are_taken_only_when_there_is_room(tree: Path) -> None:
    taken: list[int] = []
    most: list[int] = []
    done: list[int] = []

    def job() -> Job:
        yield [Stat(str(tree))]
        most.append(len(taken) - len(done))
        done.append(1)

    def jobs() -> Iterator[Job]:
        for number in range(300):
            taken.append(number)
            yield job()

    with FaultServer(Path("/"), []) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG, window=10)
        engine.run(jobs())
        engine.close()
    assert len(done) == 300
    assert max(most) <= 10


def test_run_inside_a_job_is_refused(tree: Path) -> None:
    with FaultServer(Path("/"), []) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)

        def job() -> Job:
            yield [Stat(str(tree))]
            engine.run([])

        with pytest.raises(RuntimeError, match="own transport"):
            engine.run([job()])
        engine.close()


def test_slow_job_is_no_stall(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = [0.0]

    def slow() -> Job:
        yield [Stat(str(tree))]
        skipped[0] += 1e6
        yield [Stat(str(tree))]

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + skipped[0])
    monkeypatch.setattr("runicorn.remote_storage.transport.engine.time", clock)
    with FaultServer(Path("/"), []) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        engine.run([slow(), *(one_answer(tree)[0] for _ in range(200))])
        engine.close()


def test_server_that_reads_nothing_while_it_writes_is_no_deadlock(tree: Path) -> None:
    # Far more bytes of requests and of replies than a socket holds.
    path = "/".join(["."] * 8000)
    (tree / "f1").write_bytes(b"x" * 200_000)
    with FaultServer(tree, []) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        found: dict[str, bytes | RequestError] = {}
        answers: list[Answer] = []
        engine.run([ask([Stat(f"{path}/f1/none")] * 300, answers), read_big("f1", found)])
        engine.close()
    assert found["f1"] == b"x" * 200_000
    assert len(answers) == 300


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_fault_transport_fails_the_nth_operation(tree: Path, nth: int) -> None:
    path = str(tree / "f1")
    with FaultServer(Path("/"), []) as server:
        engine = SftpEngine(FdChannel(*server.connect()), timeout=LONG)
        found: dict[str, bytes | RequestError] = {}
        refusal = RequestError("FAILURE", code=4)
        if nth < 3:
            FaultTransport(engine, nth, refusal).run([read_small(path, 5000, found)])
            assert found[path] is refusal
        broken = FaultTransport(engine, nth, StallError("on purpose"))
        with pytest.raises(StallError):
            broken.run([read_small(path, 5000, found), read_small(path, 5000, found)])
        with pytest.raises(ConnectError):
            engine.run([])
