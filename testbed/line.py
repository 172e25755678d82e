"""The process behind `testbed.proxy.DelayProxy`: threads that hold every chunk back until it is due.

Started with one JSON argument, it answers one JSON line for each command on its standard input.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

HOST = "127.0.0.1"
# Small where a rate is set, so that several connections share the line fairly.
CHUNK, RATED_CHUNK = 256 * 1024, 16 * 1024
# What may wait on an unlimited line: more than 1 GB/s fills during 50 ms.
UNLIMITED_BACKLOG = 64 * 1024 * 1024
# What a router in front of a limited line would hold, in seconds of its rate.
ROUTER_SECONDS = 0.05


class Direction:
    """One way of the line, shared by all connections: delay, rate, and the count of what was delivered."""

    def __init__(self, delay: float, rate: float | None) -> None:
        self.delivered = 0
        self.open = threading.Event()
        self.open.set()
        self.chunk = RATED_CHUNK if rate else CHUNK
        self.backlog = UNLIMITED_BACKLOG if not rate else int(rate * (delay + ROUTER_SECONDS)) + RATED_CHUNK
        self._delay = delay
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def due(self, size: int) -> float:
        """When `size` bytes that enter the line now will leave it, on the monotonic clock."""
        now = time.monotonic()
        if not self._rate:
            return now + self._delay
        with self._lock:
            self._free_at = max(now, self._free_at) + size / self._rate
            return self._free_at + self._delay

    def count(self, size: int) -> None:
        """Add `size` bytes to what was delivered."""
        with self._lock:
            self.delivered += size


class Pump:
    """Carries bytes from one socket to the other in one direction of the line."""

    def __init__(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        self._source, self._target, self._direction = source, target, direction
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = threading.Condition()

    def run(self) -> None:
        """Carry until the source ends or either socket fails; returns when all is delivered."""
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        with contextlib.suppress(OSError):
            self._write()
        # A failed target must not leave the reader waiting for room.
        with contextlib.suppress(OSError):
            self._source.shutdown(socket.SHUT_RD)
        with self._changed:
            self._size = -(1 << 62)
            self._changed.notify_all()
        reader.join()

    def _read(self) -> None:
        chunk = b"-"
        while chunk:
            try:
                chunk = self._source.recv(self._direction.chunk)
            except OSError:
                chunk = b""
            with self._changed:
                self._changed.wait_for(lambda: self._size < self._direction.backlog)
                self._waiting.append((self._direction.due(len(chunk)), chunk))
                self._size += len(chunk)
                self._changed.notify_all()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                due, chunk = self._waiting.popleft()
                self._size -= len(chunk)
                self._changed.notify_all()
            pause = due - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            self._direction.open.wait()
            if not chunk:
                self._target.shutdown(socket.SHUT_WR)
                return
            self._target.sendall(chunk)
            self._direction.count(len(chunk))


@dataclass
class Line:
    """All connections between the clients and the port behind the line."""

    target_port: int
    rtt: float
    rate: float | None

    def __post_init__(self) -> None:
        self.up = Direction(self.rtt / 2, self.rate)
        self.down = Direction(self.rtt / 2, self.rate)
        self.connections = 0
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()

    def accept(self, server: socket.socket) -> None:
        """Take connections for ever, each in a thread of its own."""
        while True:
            client, _ = server.accept()
            with self._lock:
                self.connections += 1
                self._sockets.add(client)
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def cut(self) -> None:
        """Drop every connection."""
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Hold everything back."""
        self.up.open.clear()
        self.down.open.clear()

    def resume(self) -> None:
        """Let everything go on."""
        self.up.open.set()
        self.down.open.set()

    def traffic(self) -> dict[str, int]:
        """What went through so far, in bytes."""
        return {"up": self.up.delivered, "down": self.down.delivered, "connections": self.connections}

    def _connect(self, client: socket.socket) -> None:
        time.sleep(self.rtt)
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection((HOST, self.target_port)) as target,
        ):
            for each in (client, target):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets.add(target)
            try:
                upward = threading.Thread(target=Pump(client, target, self.up).run, daemon=True)
                upward.start()
                Pump(target, client, self.down).run()
                upward.join()
            finally:
                with self._lock:
                    self._sockets.discard(target)
        with self._lock:
            self._sockets.discard(client)


def main() -> None:
    """Serve until the standard input ends."""
    line = Line(**json.loads(sys.argv[1]))
    with socket.create_server((HOST, 0), backlog=256) as server:
        threading.Thread(target=line.accept, args=(server,), daemon=True).start()
        print(json.dumps({"port": server.getsockname()[1]}), flush=True)
        actions: dict[str, Callable[[], None]] = {
            "cut": line.cut,
            "stall": line.stall,
            "resume": line.resume,
            "traffic": lambda: None,
        }
        for command in sys.stdin:
            actions[command.strip()]()
            print(json.dumps(line.traffic()), flush=True)


if __name__ == "__main__":
    main()
