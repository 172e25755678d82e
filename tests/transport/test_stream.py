"""Reading one file in order, ahead of its consumer."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import pytest

from runicorn.errors import CancelledError, ConnectError, NoJournalError, RequestError, StallError
from runicorn.remote_storage.transport import (
    MAX_READ,
    Answer,
    FdChannel,
    Handle,
    Job,
    LocalTransport,
    Open,
    Opening,
    Read,
    SftpEngine,
    SshTarget,
    StatusCode,
    Stream,
    Traffic,
    Transport,
    connect_ssh,
    stream,
)
from testbed import counting, sftp_faults, sftp_packets
from testbed.fault_sftp import FaultServer
from testbed.fault_transport import FaultTransport
from testbed.proxy import DelayProxy
from testbed.sftp_faults import Fault, NoLimits, ReorderReplies, ShortReads
from testbed.sshd import Sshd
from tests.transport.jobs import ask, one_answer, read_small

TIMEOUT = 30.0
MIB = 1024 * 1024


@pytest.fixture
def cancel() -> threading.Event:
    return threading.Event()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith("runicorn-")
    ]
    assert left == []


def make_file(folder: Path, size: int) -> tuple[str, bytes]:
    data = os.urandom(size)
    (folder / "file").write_bytes(data)
    return str(folder / "file"), data


def serve(server: FaultServer) -> SftpEngine:
    return SftpEngine(FdChannel(*server.connect()), timeout=TIMEOUT)


def works(transport: Transport, path: str) -> bool:
    found: dict[str, bytes | RequestError] = {}
    transport.run([read_small(path, 10, found)])
    # When this is answered, the server has done all before it.
    transport.run([one_answer(path)[0]])
    return isinstance(found[path], bytes)


class WithMore:
    """A transport whose further connections are given, and may have faults."""

    def __init__(self, inner: Transport, more: Iterable[Transport]) -> None:
        self._inner = inner
        self._more = list(more)
        self.asked = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    @property
    def traffic(self) -> Traffic:
        return self._inner.traffic

    def run(self, jobs: Iterable[Job]) -> None:
        self._inner.run(jobs)

    def open_more(self, count: int) -> list[Transport]:
        self.asked.set()
        assert self.gate.wait(TIMEOUT)
        return self._more[:count]

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stream is one for which further channels are opened."""
    monkeypatch.setattr(stream, "BULK_FROM", 1)
    monkeypatch.setattr(stream, "LONG_LINE", -1.0)


@pytest.mark.parametrize("faults", [[], [ShortReads(100_000)], [NoLimits()], [ReorderReplies()]])
@pytest.mark.parametrize(("start", "end"), [(0, 3_000_001), (1, 1), (777, 778), (5, 255 * 1024 * 4 + 5)])
def test_bytes_come_in_order(
    tmp_path: Path, cancel: threading.Event, faults: list[Fault], start: int, end: int
) -> None:
    path, data = make_file(tmp_path, 3_000_001)
    with FaultServer(Path("/"), faults) as server:
        engine = serve(server)
        with Stream(engine, path, start, end, cancel=cancel) as chunks:
            got = list(chunks)
        assert b"".join(got) == data[start:end]
        assert all(0 < len(chunk) <= MAX_READ for chunk in got)
        assert works(engine, path)
        assert server.handles == {}
        engine.close()


def test_local_folder(tmp_path: Path, cancel: threading.Event) -> None:
    path, data = make_file(tmp_path, 30_000_000)
    transport = LocalTransport()
    with Stream(transport, path, 0, len(data), cancel=cancel) as chunks:
        assert b"".join(chunks) == data
    assert works(transport, path)


def test_one_request_for_each_range_and_two_more(tmp_path: Path, cancel: threading.Event) -> None:
    path, data = make_file(tmp_path, 7 * MIB)
    with FaultServer(Path("/")) as server:
        engine = serve(server)
        with Stream(engine, path, 0, len(data), cancel=cancel) as chunks:
            assert b"".join(chunks) == data
        # When this is answered, the server has seen all before it.
        engine.run([one_answer(path)[0]])
        kinds = [one.kind for one in server.seen]
        reads = -(-len(data) // MAX_READ)
        assert kinds.count(sftp_packets.READ) == reads
        # INIT and the limits, OPEN and CLOSE, and the one above.
        assert len(kinds) == engine.traffic.requests == reads + 5
        engine.close()


def test_kept_handle_is_used_and_stays_open(tmp_path: Path, cancel: threading.Event) -> None:
    path, data = make_file(tmp_path, 2_000_000)
    found: list[Answer] = []
    with FaultServer(Path("/")) as server:
        engine = serve(server)
        engine.run([ask([Open(path, keep=True)], found)])
        handle = cast(Handle, found[0])
        with Stream(engine, path, 10, len(data), cancel=cancel, opening=Opening(lambda: handle)) as chunks:
            assert b"".join(chunks) == data[10:]
        assert [one.kind for one in server.seen].count(sftp_packets.OPEN) == 1
        engine.run([ask([Read(handle, 0, 9)], found)])
        assert found[1] == data[:9]
        engine.close()


@pytest.mark.parametrize("round_trip", [0.2, 0.0])
def test_further_channels_open_beside_the_file_where_the_line_is_known(
    tmp_path: Path, cancel: threading.Event, monkeypatch: pytest.MonkeyPatch, round_trip: float
) -> None:
    monkeypatch.setattr(stream, "BULK_FROM", MIB)
    monkeypatch.setattr(stream, "LONG_LINE", 0.1)
    path, data = make_file(tmp_path, 3 * MIB)
    with FaultServer(Path("/")) as server:
        engine = serve(server)
        transport = WithMore(engine, [])
        found: list[Answer] = []
        asked = []

        def handle() -> Handle:
            asked.append(transport.asked.wait(TIMEOUT if round_trip else 0))
            engine.run([ask([Open(path, keep=True)], found)])
            return cast(Handle, found[0])

        with Stream(
            transport, path, 0, len(data), cancel=cancel, opening=Opening(handle, round_trip)
        ) as chunks:
            assert b"".join(chunks) == data
        assert asked == [round_trip > 0]
        assert transport.asked.is_set() is (round_trip > 0)
        engine.close()


@pytest.mark.usefixtures("bulk")
@pytest.mark.parametrize("name", ["runicorn-read", "runicorn-open-more"])
def test_thread_that_cannot_be_started_ends_everything(
    tmp_path: Path, cancel: threading.Event, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, data = make_file(tmp_path, 10)
    start = threading.Thread.start

    def refusing(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    with FaultServer(Path("/")) as server, FaultServer(Path("/")) as other:
        engine, more = serve(server), serve(other)
        transport = WithMore(engine, [more])
        monkeypatch.setattr(threading.Thread, "start", refusing)
        opening = Opening(lambda: pytest.fail("nothing is opened"), 1.0)
        with (
            pytest.raises(RuntimeError, match="can't start"),
            Stream(transport, path, 0, len(data), cancel=cancel, opening=opening),
        ):
            pytest.fail("it was entered")
        monkeypatch.undo()
        for thread in threading.enumerate():
            if thread.name.startswith(("runicorn-read", "runicorn-open-more")):
                thread.join(TIMEOUT)
                assert not thread.is_alive()
        with pytest.raises(ConnectError):
            works(engine, path)
        more.close()


def test_file_that_cannot_be_opened_ends_the_iteration(tmp_path: Path, cancel: threading.Event) -> None:
    path, _ = make_file(tmp_path, 10)

    def handle() -> Handle:
        raise NoJournalError("gone")

    with FaultServer(Path("/")) as server:
        engine = serve(server)
        with (
            Stream(engine, path, 0, 10, cancel=cancel, opening=Opening(handle)) as chunks,
            pytest.raises(NoJournalError, match="gone"),
        ):
            next(chunks)
        assert works(engine, path)
        engine.close()


@pytest.mark.parametrize("size", [0, 1000, MAX_READ, 2 * MAX_READ + 7])
def test_file_that_ends_early_ends_the_iteration(tmp_path: Path, cancel: threading.Event, size: int) -> None:
    path, data = make_file(tmp_path, size)
    with FaultServer(Path("/")) as server:
        engine = serve(server)
        with Stream(engine, path, 0, 5 * MIB, cancel=cancel) as chunks:
            assert b"".join(chunks) == data
        assert works(engine, path)
        engine.close()


def test_refused_open_is_raised(tmp_path: Path, cancel: threading.Event) -> None:
    with FaultServer(Path("/")) as server:
        engine = serve(server)
        chunks = Stream(engine, str(tmp_path / "none"), 0, 10, cancel=cancel)
        with pytest.raises(RequestError) as caught, chunks:
            next(chunks)
        assert caught.value.code == StatusCode.NO_SUCH_FILE
        (tmp_path / "a").write_bytes(b"x")
        assert works(engine, str(tmp_path / "a"))
        engine.close()


@pytest.mark.parametrize("nth", [2, 3, 9])
def test_refused_read_is_raised_behind_what_came_before(
    tmp_path: Path, cancel: threading.Event, nth: int
) -> None:
    path, data = make_file(tmp_path, 6 * MIB)
    kept: list[Answer] = []
    got: list[bytes] = []
    with FaultServer(Path("/")) as server:
        engine = serve(server)
        engine.run([ask([Open(path, keep=True)], kept)])
        transport = FaultTransport(engine, nth, RequestError("FAILURE: on purpose", code=4))
        with (
            pytest.raises(RequestError, match="on purpose"),
            Stream(transport, path, 0, len(data), cancel=cancel) as chunks,
        ):
            got.extend(chunks)
        assert b"".join(got) == data[: (nth - 2) * MAX_READ]
        assert works(engine, path)
        # What others keep open is not touched.
        assert len(server.handles) == 1
        engine.close()


@pytest.mark.parametrize("nth", [1, 2, 9])
def test_connection_that_fails_is_raised(tmp_path: Path, cancel: threading.Event, nth: int) -> None:
    path, data = make_file(tmp_path, 6 * MIB)
    with FaultServer(Path("/")) as server:
        transport = FaultTransport(serve(server), nth, StallError("on purpose"))
        with (
            pytest.raises(StallError, match="on purpose"),
            Stream(transport, path, 0, len(data), cancel=cancel) as chunks,
        ):
            list(chunks)
        with pytest.raises(ConnectError):
            transport.run([])


def test_connection_that_is_cut(tmp_path: Path, cancel: threading.Event) -> None:
    path, data = make_file(tmp_path, 6 * MIB)
    with (
        FaultServer(Path("/"), [sftp_faults.CutAfter(3 * MIB)]) as server,
        pytest.raises(ConnectError),
        Stream(serve(server), path, 0, len(data), cancel=cancel) as chunks,
    ):
        list(chunks)


def test_leaving_early_leaves_a_connection_that_works(tmp_path: Path, cancel: threading.Event) -> None:
    path, data = make_file(tmp_path, 40_000_000)
    with FaultServer(Path("/")) as server:
        engine = serve(server)
        with Stream(engine, path, 0, len(data), cancel=cancel) as chunks:
            assert next(chunks) == data[:MAX_READ]
        assert list(chunks) == []
        assert works(engine, path)
        assert server.handles == {}
        assert engine.traffic.received < stream.BUFFER + MIB
        engine.close()


def test_interrupt_waits_for_no_server(tmp_path: Path, cancel: threading.Event) -> None:
    path, data = make_file(tmp_path, 6 * MIB)
    begun = time.monotonic()
    with FaultServer(Path("/"), [sftp_faults.StallForever(5)]) as server:
        engine = serve(server)
        with pytest.raises(KeyboardInterrupt), Stream(engine, path, 0, len(data), cancel=cancel):
            raise KeyboardInterrupt
        with pytest.raises(ConnectError):
            engine.run([])
    assert time.monotonic() - begun < TIMEOUT / 3


def test_cancel_ends_the_iteration(tmp_path: Path, cancel: threading.Event) -> None:
    path, data = make_file(tmp_path, 6 * MIB)
    with FaultServer(Path("/")) as server:
        engine = serve(server)
        with Stream(engine, path, 0, len(data), cancel=cancel) as chunks:
            next(chunks)
            cancel.set()
            with pytest.raises(CancelledError):
                next(chunks)
        assert works(engine, path)
        engine.close()


def test_cancel_is_seen_while_nothing_comes(
    tmp_path: Path, cancel: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_CANCELLED_SECONDS", 0.1)
    path, data = make_file(tmp_path, 6 * MIB)
    begun = time.monotonic()
    with FaultServer(Path("/"), [sftp_faults.StallForever(3)]) as server:
        timer = threading.Timer(0.1, cancel.set)
        timer.start()
        with (
            pytest.raises(CancelledError),
            Stream(serve(server), path, 0, len(data), cancel=cancel) as chunks,
        ):
            list(chunks)
        timer.join()
    assert time.monotonic() - begun < TIMEOUT / 3


def test_slow_consumer_bounds_what_waits(tmp_path: Path, cancel: threading.Event) -> None:
    path, data = make_file(tmp_path, 60_000_000)
    transport = LocalTransport()
    read = 0
    with Stream(transport, path, 0, len(data), cancel=cancel) as chunks:
        for chunk in chunks:
            read += len(chunk)
            assert chunk == data[read - len(chunk) : read]
            if read // MAX_READ in {1, 30, 70, 200}:
                # Longer than the rest of the file takes, were there no bound.
                time.sleep(0.1)
            assert transport.traffic.received - read <= stream.BUFFER
    assert read == len(data)


@pytest.mark.usefixtures("bulk")
def test_further_channels_share_the_ranges(tmp_path: Path, cancel: threading.Event) -> None:
    path, data = make_file(tmp_path, 50_000_000)
    with FaultServer(Path("/")) as first, FaultServer(Path("/"), [ShortReads(200_000)]) as second:
        more = [serve(second), serve(second)]
        transport = WithMore(serve(first), more)
        with Stream(transport, path, 3, len(data), cancel=cancel) as chunks:
            assert transport.asked.wait(TIMEOUT)
            assert b"".join(chunks) == data[3:]
        reads = [sum(one.kind == sftp_packets.READ for one in server.seen) for server in (first, second)]
        assert reads[0] > 0
        assert reads[1] > 0
        assert all(engine.ended for engine in more)
        assert works(transport, path)
        transport.close()


@pytest.mark.usefixtures("bulk")
@pytest.mark.parametrize(
    "fault",
    [sftp_faults.CutAfter(MIB), sftp_faults.RefuseOpen("file"), sftp_faults.StallForever(0)],
    ids=lambda fault: type(fault).__name__,
)
def test_further_channel_that_fails_leaves_its_ranges_to_the_first(
    tmp_path: Path, cancel: threading.Event, fault: Fault
) -> None:
    path, data = make_file(tmp_path, 30_000_000)
    with FaultServer(Path("/")) as first, FaultServer(Path("/")) as second:
        further = SftpEngine(FdChannel(*second.connect()), timeout=0.5)
        works(further, path)
        second.faults.append(fault)
        transport = WithMore(serve(first), [further])
        with Stream(transport, path, 0, len(data), cancel=cancel) as chunks:
            assert b"".join(chunks) == data
        assert further.ended
        transport.close()


@pytest.mark.usefixtures("bulk")
def test_leaving_early_closes_further_channels(tmp_path: Path, cancel: threading.Event) -> None:
    path, data = make_file(tmp_path, 50_000_000)
    with FaultServer(Path("/")) as first, FaultServer(Path("/"), [sftp_faults.StallForever(4)]) as second:
        further = serve(second)
        transport = WithMore(serve(first), [further])
        begun = time.monotonic()
        with Stream(transport, path, 0, len(data), cancel=cancel) as chunks:
            next(chunks)
            assert transport.asked.wait(TIMEOUT)
        assert time.monotonic() - begun < TIMEOUT / 3
        assert further.ended
        assert works(transport, path)
        transport.close()


@pytest.mark.usefixtures("bulk")
def test_channels_that_come_too_late_are_closed(tmp_path: Path, cancel: threading.Event) -> None:
    path, data = make_file(tmp_path, 3_000_000)
    with FaultServer(Path("/")) as server:
        further = serve(server)
        transport = WithMore(serve(server), [further])
        transport.gate.clear()
        with Stream(transport, path, 0, len(data), cancel=cancel) as chunks:
            assert b"".join(chunks) == data
            transport.gate.set()
        assert further.ended
        assert [one.kind for one in server.seen].count(sftp_packets.OPEN) == 1
        transport.close()


@pytest.mark.usefixtures("bulk")
@pytest.mark.parametrize("kept", [False, True])
def test_further_channels_over_one_login(tmp_path: Path, cancel: threading.Event, kept: bool) -> None:
    path, data = make_file(tmp_path, 60_000_000)
    counts = tmp_path / "counts"
    counts.mkdir()
    found: list[Answer] = []
    with Sshd(subsystem=counting.subsystem_command(counts)) as server:
        engine = connect_ssh(SshTarget(server.host, command=tuple(server.ssh_command)), timeout=TIMEOUT)
        engine.run([ask([Open(path, keep=True)] if kept else [], found)])
        opening = Opening(lambda: cast(Handle, found[0])) if kept else None
        with Stream(engine, path, 0, len(data), cancel=cancel, opening=opening) as chunks:
            assert b"".join(chunks) == data
        job, _ = one_answer(path)
        engine.run([job])
        traffic = engine.traffic
        engine.close()
        assert server.log().count("Accepted") == 1
        counted = counting.read_counts(counts)
        assert counted.sessions == 4
        assert counted.requests["READ"] == -(-len(data) // MAX_READ)
        assert counted.requests["OPEN"] <= 4
        assert counted.total >= traffic.requests - 3
        assert traffic.received > len(data)


def test_long_line_opens_more_and_short_one_does_not(
    tmp_path: Path, cancel: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Far enough apart for a machine that is busy with other tests.
    monkeypatch.setattr(stream, "LONG_LINE", 0.2)
    monkeypatch.setattr(stream, "BULK_FROM", MIB)
    path, data = make_file(tmp_path, 3 * MIB)
    asked = []
    with Sshd() as server, DelayProxy(server.port, rtt=0.25) as line:
        for port in (server.port, line.port):
            command = tuple(server.access.ssh_command(port))
            transport = WithMore(connect_ssh(SshTarget(server.host, command=command), timeout=TIMEOUT), [])
            with Stream(transport, path, 0, len(data), cancel=cancel) as chunks:
                assert b"".join(chunks) == data
            asked.append(transport.asked.is_set())
            transport.close()
    assert asked == [False, True]
