"""Counts the SFTP requests that reach a server.

Run as the sftp subsystem of an sshd, it relays to the real sftp-server and writes one JSON file for each
session:

    with Sshd(subsystem=subsystem_command(directory)) as server:
        ...
    print(read_counts(directory).total)

It needs the standard library only, because sshd starts it by its path and without the project's environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

NAMES = {
    1: "INIT",
    3: "OPEN",
    4: "CLOSE",
    5: "READ",
    6: "WRITE",
    7: "LSTAT",
    8: "FSTAT",
    9: "SETSTAT",
    10: "FSETSTAT",
    11: "OPENDIR",
    12: "READDIR",
    13: "REMOVE",
    14: "MKDIR",
    15: "RMDIR",
    16: "REALPATH",
    17: "STAT",
    18: "RENAME",
    19: "READLINK",
    20: "SYMLINK",
    200: "EXTENDED",
}
OPEN, EXTENDED = 3, 200
CHANGING = {
    "WRITE",
    "SETSTAT",
    "FSETSTAT",
    "REMOVE",
    "MKDIR",
    "RMDIR",
    "RENAME",
    "SYMLINK",
    "OPEN for writing",
}
HARMLESS_EXTENSIONS = {"limits", "statvfs", "fstatvfs", "expand-path", "home-directory", "users-groups-by-id"}
READ_ONLY_FLAGS = 0x01
BLOCK = 256 * 1024


@dataclass
class Counts:
    """Requests by type, and bytes of the SFTP stream (before encryption) from the client and to it.

    `INIT` counts as a request. An extended request counts under its own name (`EXTENDED limits@openssh.com`),
    an open with any flag beside reading as `OPEN for writing`.
    """

    sessions: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())

    @property
    def changing(self) -> int:
        """The requests that would have changed something on the server."""
        return sum(number for name, number in self.requests.items() if _changes(name))


def _changes(name: str) -> bool:
    extension = name.removeprefix("EXTENDED ").partition("@")[0]
    return name in CHANGING or (name.startswith("EXTENDED ") and extension not in HARMLESS_EXTENSIONS)


def subsystem_command(directory: Path, server: str | None = None) -> str:
    """The command for `Sshd(subsystem=...)` that counts into `directory`, which must exist."""
    if server is None:
        from testbed.sshd import find_sftp_server

        server = find_sftp_server()
    words = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(directory.resolve()), server]
    return shlex.join(words)


def read_counts(directory: Path, *, timeout: float = 10.0) -> Counts:
    """The sum of all sessions counted into `directory`.

    Waits for sessions that have not ended; raises TimeoutError if one is still open after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while any(directory.glob("*.open")):
        if time.monotonic() > deadline:
            raise TimeoutError(f"a counted session is still open after {timeout} s")
        time.sleep(0.002)
    total = Counts()
    for path in sorted(directory.glob("*.json")):
        session = json.loads(path.read_text(encoding="utf-8"))
        total.sessions += 1
        total.requests.update(session["requests"])
        total.bytes_up += session["bytes_up"]
        total.bytes_down += session["bytes_down"]
    return total


def reset_counts(directory: Path) -> None:
    """Forget the sessions that have ended."""
    for path in directory.glob("*.json"):
        path.unlink()


class RequestParser:
    """Cuts a stream from the client into SFTP packets and counts them."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Count the packets that end within `data`."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= 4:
            (length,) = struct.unpack_from(">I", self._buffer, start)
            if len(self._buffer) - start < 4 + length:
                break
            self.requests[_name(bytes(self._buffer[start + 4 : start + 4 + length]))] += 1
            start += 4 + length
        del self._buffer[:start]


def _name(packet: bytes) -> str:
    if not packet:
        return "empty"
    kind = packet[0]
    name = NAMES.get(kind, f"type {kind}")
    if kind not in (OPEN, EXTENDED):
        return name
    # type, request id, then a string: the extension's name or the file's path
    with contextlib.suppress(struct.error):
        (length,) = struct.unpack_from(">I", packet, 5)
        if kind == EXTENDED:
            return f"{name} {packet[9 : 9 + length].decode('ascii', 'replace')}"
        (flags,) = struct.unpack_from(">I", packet, 9 + length)
        return name if flags == READ_ONLY_FLAGS else "OPEN for writing"
    return f"malformed {name}"


def _relay(server: str) -> Counts:
    parser = RequestParser()
    counts = Counts(sessions=1)
    child = subprocess.Popen([server], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    to_server, from_server = child.stdin.fileno(), child.stdout.fileno()

    def answers() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(from_server, BLOCK):
                counts.bytes_down += len(data)
                _write_all(1, data)
        os.close(1)

    downward = threading.Thread(target=answers)
    downward.start()
    with contextlib.suppress(OSError):
        while data := os.read(0, BLOCK):
            counts.bytes_up += len(data)
            parser.feed(data)
            _write_all(to_server, data)
    child.stdin.close()
    downward.join()
    child.wait()
    counts.requests = parser.requests
    return counts


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def main() -> None:
    """Relay one session and write its counts."""
    arguments = argparse.ArgumentParser(description="Relay an SFTP session and count its requests.")
    arguments.add_argument("directory", type=Path)
    arguments.add_argument("server")
    chosen = arguments.parse_args()
    # Two names, so that a reader knows of a session that has not ended.
    result = chosen.directory / f"{time.time_ns()}-{os.getpid()}.json"
    result.with_suffix(".open").touch()
    counts = _relay(chosen.server)
    session = {
        "requests": counts.requests,
        "bytes_up": counts.bytes_up,
        "bytes_down": counts.bytes_down,
    }
    temporary = result.with_suffix(".part")
    temporary.write_text(json.dumps(session), encoding="utf-8")
    temporary.rename(result)
    result.with_suffix(".open").unlink()


if __name__ == "__main__":
    main()
