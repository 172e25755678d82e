from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest

from testbed.counting import Counts, RequestParser, read_counts, reset_counts, subsystem_command
from testbed.sshd import Sshd


def packet(kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">IB", 1 + len(body), kind) + body


def string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def test_requests_are_counted_by_type_at_the_server(tmp_path: Path) -> None:
    counts_directory = tmp_path / "counts"
    counts_directory.mkdir()
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    with Sshd(subsystem=subsystem_command(counts_directory)) as server:
        with contextlib.closing(server.paramiko_client()) as client, client.open_sftp() as sftp:
            sftp.lstat(str(tmp_path / "file"))
            with sftp.open(str(tmp_path / "file")) as remote:
                assert remote.read(5) == b"xxxxx"
        counts = read_counts(counts_directory)
        assert counts.sessions == 1
        assert counts.requests["INIT"] == 1
        assert counts.requests["LSTAT"] == 1
        assert counts.requests["OPEN"] == 1
        assert counts.requests["CLOSE"] == 1
        assert counts.requests["READ"] >= 1
        assert counts.changing == 0
        assert counts.total == sum(counts.requests.values())
        assert counts.bytes_down > 5
        reset_counts(counts_directory)
        assert read_counts(counts_directory) == Counts()


def test_sessions_are_summed_and_changing_requests_are_told_apart(tmp_path: Path) -> None:
    counts_directory = tmp_path / "counts"
    counts_directory.mkdir()
    with Sshd(subsystem=subsystem_command(counts_directory)) as server:
        for name in ("one", "two"):
            with contextlib.closing(server.paramiko_client()) as client, client.open_sftp() as sftp:
                sftp.mkdir(str(tmp_path / name))
        counts = read_counts(counts_directory)
    assert (counts.sessions, counts.requests["MKDIR"], counts.changing) == (2, 2, 2)


def test_packets_are_found_wherever_the_stream_is_cut() -> None:
    stream = (
        packet(1, struct.pack(">I", 3))
        + packet(200, struct.pack(">I", 1) + string(b"limits@openssh.com"))
        + packet(3, struct.pack(">I", 2) + string(b"/a") + struct.pack(">II", 1, 0))
        + packet(3, struct.pack(">I", 3) + string(b"/a") + struct.pack(">II", 0x1A, 0))
    )
    expected = {"INIT": 1, "EXTENDED limits@openssh.com": 1, "OPEN": 1, "OPEN for writing": 1}
    for size in range(1, len(stream)):
        parser = RequestParser()
        for start in range(0, len(stream), size):
            parser.feed(stream[start : start + size])
        assert parser.requests == expected


def test_a_session_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1.open").touch()
    with pytest.raises(TimeoutError):
        read_counts(tmp_path, timeout=0.05)
