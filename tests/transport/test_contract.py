"""Every transport against the one contract."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runicorn.errors import StallError
from runicorn.remote_storage.transport import (
    FdChannel,
    LazyTransport,
    LocalTransport,
    SftpEngine,
    SshTarget,
    Transport,
    connect_ssh,
    open_beside,
)
from testbed.fault_sftp import FaultServer
from testbed.fault_transport import FaultTransport
from testbed.sftp_faults import Fault, NoLimits, OneHandle, ReorderReplies, ShortReads
from testbed.sshd import Sshd, find_sftp_server
from tests.transport.contract import TransportContract
from tests.transport.jobs import one_answer

TIMEOUT = 30.0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


@pytest.fixture(scope="module")
def narrow_sshd() -> Iterator[Sshd]:
    with Sshd(max_sessions=1) as server:
        yield server


class TestLocal(TransportContract):
    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        before = set(Path("/proc/self/fd").iterdir())
        transport = LocalTransport()
        yield transport
        transport.close()
        assert set(Path("/proc/self/fd").iterdir()) == before


class TestLazy(TransportContract):
    @pytest.fixture
    def transport(self, tree: Path) -> Iterator[Transport]:
        transport = LazyTransport(LocalTransport)
        assert transport.open_more(1) == []
        transport.run([one_answer(tree)[0]])
        yield transport
        transport.close()


class TestFaultTransport(TransportContract):
    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        transport = FaultTransport(LocalTransport(), 1_000_000, StallError("never"))
        yield transport
        transport.close()


class TestPipes(TransportContract):
    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        with subprocess.Popen([find_sftp_server()], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            fds = os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno())
            process.stdin.close()
            engine = SftpEngine(FdChannel(*fds), timeout=TIMEOUT)
            yield engine
            engine.close()
            assert process.wait(TIMEOUT) is not None


class TestSsh(TransportContract):
    @pytest.fixture
    def transport(self, sshd: Sshd) -> Iterator[Transport]:
        engine = connect_ssh(SshTarget(sshd.host, command=tuple(sshd.ssh_command)), timeout=TIMEOUT)
        yield engine
        engine.close()


class TestParamikoSecondChannel(TransportContract):
    @pytest.fixture
    def transport(self, sshd: Sshd) -> Iterator[Transport]:
        with sshd.paramiko_client() as client, client.open_sftp() as sftp:
            engine = open_beside(sftp, timeout=TIMEOUT)
            yield engine
            engine.close()
            assert sftp.listdir("/")


class TestParamikoOwnChannel(TransportContract):
    @pytest.fixture
    def transport(self, narrow_sshd: Sshd) -> Iterator[Transport]:
        with narrow_sshd.paramiko_client() as client, client.open_sftp() as sftp:
            engine = open_beside(sftp, timeout=TIMEOUT)
            yield engine
            engine.close()
            assert sftp.listdir("/")


class _FaultContract(TransportContract):
    faults: tuple[Callable[[], Fault], ...] = ()

    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        with FaultServer(Path("/"), [fault() for fault in self.faults]) as server:
            engine = SftpEngine(FdChannel(*server.connect()), timeout=TIMEOUT)
            yield engine
            engine.close()


class TestReorderReplies(_FaultContract):
    faults = (ReorderReplies,)


class TestShortReads(_FaultContract):
    faults = (ShortReads,)


class TestOneHandle(_FaultContract):
    faults = (OneHandle,)


class TestNoLimits(_FaultContract):
    faults = (NoLimits,)


class TestAllAtOnce(_FaultContract):
    faults = (ReorderReplies, ShortReads, lambda: OneHandle(20), NoLimits)
