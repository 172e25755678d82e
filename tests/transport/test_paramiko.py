"""Beside a paramiko client."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from paramiko import ssh_exception

from runicorn.errors import ConnectError, HostKeyError, ProtocolError, StallError, TransportError, UsageError
from runicorn.remote_storage.transport import Attributes, Job, ParamikoChannel, SftpEngine, Stat, open_beside
from runicorn.remote_storage.transport.paramiko_channel import map_error
from testbed.sshd import Sshd
from tests.transport.jobs import one_answer, read_big

TIMEOUT = 30.0


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


@pytest.fixture
def sftp(sshd: Sshd) -> Iterator[paramiko.SFTPClient]:
    with sshd.paramiko_client() as client, client.open_sftp() as sftp:
        yield sftp


def test_client_works_while_the_engine_is_open(sftp: paramiko.SFTPClient, tmp_path: Path) -> None:
    engine = open_beside(sftp, timeout=TIMEOUT)
    job, found = one_answer(tmp_path)
    assert sftp.listdir(str(tmp_path)) == []
    engine.run([job])
    assert sftp.stat(str(tmp_path)).st_mode == found[0].mode  # type: ignore[union-attr]
    engine.close()
    assert sftp.listdir(str(tmp_path)) == []


def test_further_channels_on_the_connection(sshd: Sshd, sftp: paramiko.SFTPClient, tmp_path: Path) -> None:
    engine = open_beside(sftp, timeout=TIMEOUT)
    before = sshd.log().count("Accepted")
    more = engine.open_more(3)
    assert len(more) == 3
    for each in more:
        job, found = one_answer(tmp_path)
        each.run([job])
        assert isinstance(found[0], Attributes)
    assert sshd.log().count("Accepted") == before
    engine.close()
    for each in more:
        with pytest.raises(ConnectError):
            each.run([])
    assert sftp.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("most", [1, 2, 3])
def test_server_that_allows_fewer_channels(tmp_path: Path, most: int) -> None:
    with Sshd(max_sessions=most) as server, server.paramiko_client() as client, client.open_sftp() as sftp:
        engine = open_beside(sftp, timeout=TIMEOUT)
        assert len(engine.open_more(3)) == max(0, most - 2)
        engine.run([one_answer(tmp_path)[0]])
        engine.close()


def test_own_channel_when_there_is_no_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "runicorn")
    (tmp_path / "big").write_bytes(b"0123456789" * 100_000)
    with Sshd(max_sessions=1) as server, server.paramiko_client() as client, client.open_sftp() as sftp:
        channel = sftp.get_channel()
        assert channel is not None
        channel.settimeout(7.5)
        assert sftp.listdir(str(tmp_path)) == ["big"]
        engine = open_beside(sftp, timeout=TIMEOUT)
        assert "no second channel" in caplog.text
        found: dict[str, bytes | Exception] = {}
        engine.run([read_big(str(tmp_path / "big"), found)])  # type: ignore[arg-type]
        assert found[str(tmp_path / "big")] == (tmp_path / "big").read_bytes()
        # Everything is answered when a run ends: the client finds nothing but its own answers.
        assert sftp.listdir(str(tmp_path)) == ["big"]
        engine.run([one_answer(tmp_path)[0]])
        engine.close()
        assert channel.gettimeout() == 7.5
        assert sftp.listdir(str(tmp_path)) == ["big"]


def test_subsystem_is_refused_on_the_second_channel(
    sftp: paramiko.SFTPClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(channel: paramiko.Channel, name: str) -> None:
        raise paramiko.SSHException(f"{channel.get_id()} {name} refused")

    monkeypatch.setattr(paramiko.Channel, "invoke_subsystem", refuse)
    engine = open_beside(sftp, timeout=TIMEOUT)
    job, found = one_answer(tmp_path)
    engine.run([job])
    assert isinstance(found[0], Attributes)


def test_closed_client(sftp: paramiko.SFTPClient) -> None:
    sftp.close()
    with pytest.raises(UsageError):
        open_beside(sftp)


def test_connection_that_is_gone(tmp_path: Path) -> None:
    with Sshd() as server, server.paramiko_client() as client, client.open_sftp() as sftp:
        engine = open_beside(sftp, timeout=TIMEOUT)

        def job() -> Job:
            yield [Stat(str(tmp_path))]
            server.drop_connections()
            while True:
                yield [Stat(str(tmp_path))]

        with pytest.raises(ConnectError):
            engine.run([job()])
        assert engine.open_more(1) == []
        with pytest.raises(ConnectError, match="nobody but its owner") as caught:
            open_beside(sftp, timeout=TIMEOUT)
        assert "connect a new client" in caught.value.hint


def test_silent_server_is_a_stall(sshd: Sshd) -> None:
    with sshd.paramiko_client() as client:
        transport = client.get_transport()
        assert transport is not None
        channel = transport.open_session()
        channel.exec_command("cat > /dev/null")
        with pytest.raises(StallError):
            SftpEngine(ParamikoChannel(channel), timeout=0.2)
        assert channel.closed


def test_server_that_takes_nothing_is_a_stall(sshd: Sshd) -> None:
    with sshd.paramiko_client() as client:
        transport = client.get_transport()
        assert transport is not None
        channel = transport.open_session()
        channel.exec_command("sleep 5")
        stream = ParamikoChannel(channel)
        data = memoryview(b"x" * 1_000_000)

        def fill() -> None:
            while True:
                if not stream.send(data):
                    stream.recv(10, 0.5, want_room=True)

        # What the server's window and the program's pipe hold is taken, and then nothing.
        with pytest.raises(StallError):
            fill()
        assert stream.send(data) == 0
        stream.close()
        with pytest.raises(OSError, match="closed"):
            stream.send(data)


def kinds() -> list[type[Exception]]:
    found = {
        one for one in vars(ssh_exception).values() if isinstance(one, type) and issubclass(one, Exception)
    }
    return sorted(found | {paramiko.SFTPError, EOFError, OSError, TimeoutError}, key=lambda one: one.__name__)


KEY = paramiko.ECDSAKey.generate()
INSTANCES: dict[type[Exception], Exception] = {
    ssh_exception.BadAuthenticationType: ssh_exception.BadAuthenticationType("bad", ["publickey"]),
    ssh_exception.BadHostKeyException: ssh_exception.BadHostKeyException("host", KEY, KEY),
    ssh_exception.ChannelException: ssh_exception.ChannelException(1, "prohibited"),
    ssh_exception.NoValidConnectionsError: ssh_exception.NoValidConnectionsError(
        {("127.0.0.1", 22): OSError("no")}
    ),
    ssh_exception.ProxyCommandFailure: ssh_exception.ProxyCommandFailure("nc", "gone"),
}
SPECIAL: dict[type[Exception], type[TransportError]] = {
    ssh_exception.BadHostKeyException: HostKeyError,
    paramiko.SFTPError: ProtocolError,
    TimeoutError: StallError,
}


@pytest.mark.parametrize("kind", kinds())
def test_every_exception_of_paramiko_has_its_error(kind: type[Exception]) -> None:
    error = map_error(INSTANCES.get(kind) or kind("said"))
    assert type(error) is SPECIAL.get(kind, ConnectError)


def test_error_of_ours_stays_itself() -> None:
    ours = StallError("x")
    assert map_error(ours) is ours
    assert isinstance(map_error(TimeoutError("t")), StallError)
    assert "ValueError" in str(map_error(ValueError("odd")))
