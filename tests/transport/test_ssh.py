"""The user's own ssh, against a private server."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicorn.errors import (
    ConnectError,
    HostKeyError,
    LoginError,
    ProtocolError,
    StallError,
    TransportError,
    UsageError,
)
from runicorn.remote_storage.transport import Attributes, Job, SshConnection, SshTarget, Stat, connect_ssh
from testbed import fault_sftp
from testbed.proxy import DelayProxy
from testbed.sshd import Sshd
from tests.transport.jobs import one_answer, read_small

TIMEOUT = 30.0


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


def target_of(sshd: Sshd, *options: str) -> SshTarget:
    # The first value of an option holds in ssh.
    first, *rest = sshd.ssh_command
    return SshTarget(sshd.host, command=(first, *options, *rest))


def refused(target: SshTarget) -> TransportError:
    connection = SshConnection(target, timeout=TIMEOUT, login_timeout=TIMEOUT).start()
    with pytest.raises(TransportError) as caught:
        connection.engine()
    assert connection.pid is None
    assert str(caught.value).isprintable()
    return caught.value


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_two_runs_and_no_process_left(sshd: Sshd, tmp_path: Path) -> None:
    connection = SshConnection(target_of(sshd), timeout=TIMEOUT)
    assert connection.pid is None
    pid = connection.start().pid
    assert pid is not None
    engine = connection.engine()
    assert connection.engine() is engine
    for _ in range(2):
        job, found = one_answer(tmp_path)
        engine.run([job])
        assert isinstance(found[0], Attributes)
    connection.close()
    connection.close()
    assert gone(pid)
    assert connection.pid is None


def test_user_port_and_identity_of_the_target(sshd: Sshd, tmp_path: Path) -> None:
    command = ("ssh", "-F", "none", "-oIdentityAgent=none", "-oBatchMode=yes")
    known = (f"-oUserKnownHostsFile={sshd.known_hosts}", "-oGlobalKnownHostsFile=/dev/null")
    target = SshTarget(sshd.host, sshd.user, sshd.port, str(sshd.client_key), (*command, *known))
    engine = connect_ssh(target, timeout=TIMEOUT)
    job, found = one_answer(tmp_path)
    engine.run([job])
    engine.close()
    assert isinstance(found[0], Attributes)


def test_unknown_host_key(sshd: Sshd, tmp_path: Path) -> None:
    error = refused(target_of(sshd, f"-oUserKnownHostsFile={tmp_path / 'none'}"))
    assert isinstance(error, HostKeyError)
    assert "No ED25519 host key is known" in str(error)
    assert error.exit_code == 5


def test_changed_host_key(sshd: Sshd, tmp_path: Path) -> None:
    other = tmp_path / "known_hosts"
    key = sshd.client_key.with_suffix(".pub").read_text().split()
    other.write_text(f"[{sshd.host}]:{sshd.port} {key[0]} {key[1]}\n")
    error = refused(target_of(sshd, f"-oUserKnownHostsFile={other}"))
    assert isinstance(error, HostKeyError)
    assert "has changed" in str(error)


def test_login_refused_says_permission_denied(sshd: Sshd) -> None:
    error = refused(target_of(sshd, "-oPubkeyAuthentication=no"))
    assert type(error) is LoginError
    assert "Permission denied" in str(error)
    assert "ssh-add" in error.hint


def saying(words: str, folder: Path) -> SshTarget:
    """By an ssh that ends with some words."""
    ssh = folder / "ssh"
    ssh.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 255\n")
    ssh.chmod(0o755)
    return SshTarget("host", command=(str(ssh),))


def test_login_with_too_many_tries_is_refused_and_not_a_lost_connection(tmp_path: Path) -> None:
    said = "Received disconnect from ::1 port 22:2: Too many authentication failures\nDisconnected from ::1"
    error = refused(saying(said, tmp_path))
    assert type(error) is LoginError
    assert "Too many authentication failures" in str(error)
    assert "--identity" in error.hint


def test_system_that_denies_the_connection_is_no_refused_login(tmp_path: Path) -> None:
    said = "ssh: connect to host gpu1 port 22: Permission denied"
    error = refused(saying(said, tmp_path))
    assert type(error) is ConnectError
    assert said in str(error)


def test_connection_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = refused(SshTarget("127.0.0.1", port=unused.getsockname()[1], command=("ssh", "-F", "none")))
    assert type(error) is ConnectError
    assert "Connection refused" in str(error)


def test_program_missing(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="cannot start") as caught:
        connect_ssh(SshTarget("host", command=(str(tmp_path / "no-ssh"),)))
    assert "install" in caught.value.hint


def test_no_subsystem() -> None:
    with Sshd(subsystem="/bin/false") as server:
        error = refused(target_of(server))
    assert type(error) is ConnectError


def test_text_from_a_start_up_file() -> None:
    with Sshd(force_text="module load cuda/12\n") as server:
        error = refused(target_of(server))
    assert isinstance(error, ProtocolError)
    assert "module load cuda/12" in str(error)
    assert "ssh HOST true" in error.hint


def test_server_that_says_nothing_is_a_stall() -> None:
    program = (sys.executable, "-c", "import sys; sys.stdin.read()")
    connection = SshConnection(SshTarget("host", command=program), login_timeout=0.2)
    pid = connection.start().pid
    with pytest.raises(StallError):
        connection.engine()
    assert pid is not None
    assert gone(pid)


def test_program_that_ignores_the_end_of_its_input_is_killed() -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(end='!', flush=True); "
    )
    program = (sys.executable, "-c", script + "time.sleep(600)")
    connection = SshConnection(SshTarget("host", command=program), login_timeout=TIMEOUT)
    pid = connection.start().pid
    with pytest.raises(ProtocolError, match="!"):
        connection.engine()
    assert pid is not None
    assert gone(pid)


def test_connection_that_dies_while_it_is_used(tmp_path: Path) -> None:
    with Sshd() as server:
        engine = connect_ssh(target_of(server), timeout=TIMEOUT)

        def job() -> Job:
            yield [Stat(str(tmp_path))]
            server.drop_connections()
            while True:
                yield [Stat(str(tmp_path))]

        with pytest.raises(ConnectError, match="connection ended"):
            engine.run([job()])
        with pytest.raises(ConnectError):
            engine.run([])


def test_ssh_killed_from_outside(sshd: Sshd, tmp_path: Path) -> None:
    connection = SshConnection(target_of(sshd), timeout=TIMEOUT)
    engine = connection.engine()
    pid = connection.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ConnectError, match="status -9"):
        engine.run([one_answer(tmp_path)[0]])


def test_fault_server_behind_sshd(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10_000)
    program = f"{sys.executable} {fault_sftp.__file__} --root / --fault ShortReads:999 --fault OneHandle"
    with Sshd(subsystem=program) as server:
        engine = connect_ssh(target_of(server), timeout=TIMEOUT)
        found: dict[str, object] = {}
        engine.run([read_small(str(tmp_path / "a"), 10_000, found)])  # type: ignore[arg-type]
        assert found == {str(tmp_path / "a"): b"x" * 10_000}
        assert engine.traffic.requests == 4 + 12
        engine.close()


def test_echo_of_stderr(sshd: Sshd, capsys: pytest.CaptureFixture[str]) -> None:
    connection = SshConnection(target_of(sshd, "-v"), timeout=TIMEOUT, echo_stderr=True)
    connection.engine()
    connection.close()
    assert "debug1: Authenticat" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["", "-oProxyCommand=touch /tmp/x", "a b", "a\nb", "a\0b"])
def test_host_that_is_none(host: str) -> None:
    with pytest.raises(UsageError, match="cannot be a host"):
        SshTarget(host).argv(connect_timeout=1)


@pytest.mark.parametrize(
    "target",
    [SshTarget("h", user="-x"), SshTarget("h", user=""), SshTarget("h", port=0), SshTarget("h", command=())],
)
def test_target_that_cannot_be_used(target: SshTarget) -> None:
    with pytest.raises(UsageError):
        target.argv(connect_timeout=1)


def test_network_that_goes_in_the_middle_of_a_request_is_noticed_soon(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with Sshd() as sshd, DelayProxy(sshd.port) as proxy:
        sshd.access.trust_port(proxy.port)
        command = tuple(sshd.access.ssh_command(proxy.port))
        connection = SshConnection(
            SshTarget(sshd.host, command=command), timeout=TIMEOUT * 10, login_timeout=TIMEOUT, keepalive=1
        )
        engine = connection.engine()
        try:
            job, found = one_answer(tmp_path / "a")
            engine.run([job])
            assert len(found) == 1
            proxy.stall()
            with pytest.raises(TransportError, match="not responding"):
                engine.run([one_answer(tmp_path / "a")[0]])
        finally:
            connection.close()


def test_argv_of_openssh_and_of_another_program() -> None:
    argv = SshTarget("h", "u", 22, "/k", ("/usr/bin/ssh", "-v")).argv(connect_timeout=9.6)
    assert argv[:2] == ["/usr/bin/ssh", "-v"]
    assert "-oClearAllForwardings=yes" in argv
    assert "-oConnectTimeout=10" in argv
    assert argv[-10:] == ["-l", "u", "-p", "22", "-i", "/k", "-s", "--", "h", "sftp"]
    assert not any("StrictHostKeyChecking" in word or "UserKnownHostsFile" in word for word in argv)
    assert SshTarget("h", command=("dbclient",)).argv(connect_timeout=1) == [
        "dbclient",
        "-s",
        "--",
        "h",
        "sftp",
    ]
