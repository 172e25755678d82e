from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.processes import descendants
from testbed.sshd import Sshd, find_sftp_server


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd() as running:
        yield running


def test_the_systems_ssh_logs_in_and_runs_a_command(server: Sshd) -> None:
    done = subprocess.run(
        [*server.ssh_command, f"{server.user}@{server.host}", "echo there"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "there\n"


def test_paramiko_reads_a_file_through_the_sftp_subsystem(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with (
        contextlib.closing(server.paramiko_client()) as client,
        client.open_sftp() as sftp,
        sftp.open(str(tmp_path / "file")) as remote,
    ):
        assert remote.read() == b"content"


def test_an_unknown_host_key_is_refused(server: Sshd) -> None:
    with Sshd() as other:
        command = [*server.ssh_command[:-1], str(other.port), other.host, "true"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 255


def test_a_server_that_was_stopped_listens_on_the_same_port_again() -> None:
    with Sshd() as server:
        command = [*server.ssh_command, server.host, "true"]
        server.stop()
        assert subprocess.run(command, check=False, capture_output=True).returncode == 255
        server.start_again()
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_forced_text_comes_before_the_first_answer() -> None:
    with Sshd(force_text="Welcome!\n") as talkative:
        done = subprocess.run(
            [*talkative.ssh_command, talkative.host, "-s", "sftp"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    assert done.stdout == b"Welcome!\n"


def test_the_external_server_program_works_as_the_subsystem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        Sshd(subsystem=find_sftp_server()) as external,
        contextlib.closing(external.paramiko_client()) as client,
        client.open_sftp() as sftp,
    ):
        assert sftp.listdir(str(tmp_path)) == ["file"]


def test_leaving_ends_open_sessions_and_removes_the_folder() -> None:
    with Sshd() as server:
        session = subprocess.Popen(
            [*server.ssh_command, server.host, "echo up; exec sleep 600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert session.stdout is not None
        assert session.stdout.readline() == b"up\n"
        assert server._process is not None
        pids = descendants(server._process.pid)
        assert len(pids) >= 2
    assert session.wait(timeout=20) == 255
    session.stdout.close()
    assert not server.directory.exists()


def test_dropped_connections_leave_the_server_up(server: Sshd) -> None:
    with contextlib.closing(server.paramiko_client()) as client:
        server.drop_connections()
        transport = client.get_transport()
        assert transport is not None
        transport.join(timeout=20)
        assert not transport.is_active()
    with contextlib.closing(server.paramiko_client()):
        pass


def test_a_line_that_sshd_does_not_know_is_reported_with_its_log() -> None:
    with pytest.raises(RuntimeError, match="NoSuchOption"), Sshd(extra_config=["NoSuchOption yes"]):
        pass
