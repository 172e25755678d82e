"""Messages between two processes over a socket: lengths, then a head and a body. Each is copied once on its
way in, into memory of its own."""

from __future__ import annotations

import select
import socket
import struct

_LENGTHS = struct.Struct("=II")


class Messages:
    """Sends and takes messages. Sending and taking may be done by two threads.

    Args:
        connection: a stream socket that blocks; it is closed here.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)

    def send(self, body: bytes, head: bytes = b"") -> None:
        """Send a message whole.

        Raises:
            OSError: the other end is gone, or takes nothing for as long as the socket waits.
        """
        left = [memoryview(each) for each in (_LENGTHS.pack(len(head), len(body)), head, body)]
        while left:
            done = self._connection.sendmsg(left)
            while left and done >= len(left[0]):
                done -= len(left.pop(0))
            if left:
                left[0] = left[0][done:]

    def is_ready(self, seconds: float) -> bool:
        """Whether a message, or the end, comes within so many seconds."""
        return bool(self._readable.poll(seconds * 1000))

    def receive(self) -> tuple[bytes, bytes]:
        """Head and body of the next message.

        Raises:
            EOFError: the other end is gone.
            OSError: as of `send`.
        """
        head, body = _LENGTHS.unpack(self._take(_LENGTHS.size))
        return self._take(head), self._take(body)

    def _take(self, size: int) -> bytes:
        data = self._connection.recv(size, socket.MSG_WAITALL) if size else b""
        while len(data) < size:  # a signal, or a time limit of the socket
            more = self._connection.recv(size - len(data), socket.MSG_WAITALL)
            if not more:
                raise EOFError("the other process is gone")
            data += more
        return data

    def close(self) -> None:
        """Close the socket. May be called again."""
        self._connection.close()
