from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from testbed.proxy import HOST, DelayProxy, wait_until_idle


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets, one thread per connection."""
    server = socket.create_server((HOST, 0))

    def echo(peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(65536):
                    peer.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(peer,), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    accepting.join()


def connect(proxy: DelayProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=20)


def receive(peer: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = peer.recv(1 << 20)
        if not chunk:
            break
        data += chunk
    return bytes(data)


def test_bytes_arrive_unchanged_and_are_counted_each_way(echo_port: int) -> None:
    payload = bytes(range(256)) * 20_000
    with DelayProxy(echo_port) as proxy:
        with connect(proxy) as peer:
            sender = threading.Thread(target=peer.sendall, args=(payload,))
            sender.start()
            assert receive(peer, len(payload)) == payload
            sender.join()
        traffic = wait_until_idle(proxy)
    assert (traffic.up, traffic.down, traffic.connections) == (len(payload), len(payload), 1)


def test_each_exchange_takes_a_round_trip_and_so_does_opening(echo_port: int) -> None:
    with DelayProxy(echo_port, rtt=0.1) as proxy:
        begin = time.monotonic()
        with connect(proxy) as peer:
            for _ in range(3):
                peer.sendall(b"x")
                assert peer.recv(1) == b"x"
        took = time.monotonic() - begin
    assert took >= 0.4


def test_chunks_sent_together_share_one_delay(echo_port: int) -> None:
    with DelayProxy(echo_port, rtt=1.0) as proxy, connect(proxy) as peer:
        begin = time.monotonic()
        for _ in range(20):
            peer.sendall(b"x" * 1000)
        assert len(receive(peer, 20_000)) == 20_000
        assert time.monotonic() - begin < 10


def test_the_rate_limits_all_connections_together(echo_port: int) -> None:
    with DelayProxy(echo_port, rate=1_000_000) as proxy, connect(proxy) as one, connect(proxy) as two:
        begin = time.monotonic()
        for peer in (one, two):
            threading.Thread(target=peer.sendall, args=(b"x" * 200_000,), daemon=True).start()
        assert len(receive(one, 200_000)) + len(receive(two, 200_000)) == 400_000
        assert time.monotonic() - begin >= 0.39


def test_cut_drops_every_connection_and_new_ones_are_accepted(echo_port: int) -> None:
    with DelayProxy(echo_port) as proxy:
        with connect(proxy) as peer:
            peer.sendall(b"x")
            assert peer.recv(1) == b"x"
            proxy.cut()
            with contextlib.suppress(ConnectionResetError):
                assert peer.recv(1) == b""
        with connect(proxy) as peer:
            peer.sendall(b"y")
            assert peer.recv(1) == b"y"


def test_a_stalled_line_delivers_only_after_resume(echo_port: int) -> None:
    with DelayProxy(echo_port) as proxy, connect(proxy) as peer:
        proxy.stall()
        peer.sendall(b"x")
        peer.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.recv(1)
        proxy.resume()
        peer.settimeout(20)
        assert peer.recv(1) == b"x"


def test_the_end_of_one_side_reaches_the_other(echo_port: int) -> None:
    with DelayProxy(echo_port, rtt=0.01) as proxy, connect(proxy) as peer:
        peer.sendall(b"last")
        peer.shutdown(socket.SHUT_WR)
        assert receive(peer, 100) == b"last"
