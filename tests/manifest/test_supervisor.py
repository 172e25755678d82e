"""What a service manager is told: on a real socket, by a real watch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runicorn.manifest.supervisor import Supervisor
from tests.manifest.helpers import make_run

LONG = 30.0


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """A service manager that listens; an address with ``@`` in front is an abstract one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address[0] == "@" else address)
        listener.settimeout(LONG)
        yield listener


def addresses(folder: Path) -> list[str]:
    return [str(folder / "notify"), f"@runicorn-test-{os.getpid()}-{folder.name}"]


@pytest.mark.parametrize("which", [0, 1], ids=["path", "abstract"])
def test_watching_command_tells_how_it_goes(tmp_path: Path, which: int) -> None:
    root = tmp_path / "root"
    make_run(root)
    address = addresses(tmp_path)[which]
    with (
        manager(address) as listener,
        subprocess.Popen(
            [sys.executable, "-m", "runicorn", "generate-manifest", "--watch", "--root", str(root)],
            env=os.environ | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"},
            stdout=subprocess.DEVNULL,
        ) as process,
    ):
        heard: list[str] = []
        while heard.count("WATCHDOG=1") < 3 or "READY=1" not in heard:
            heard += listener.recv(4096).decode().split("\n")
        process.terminate()
        while "STOPPING=1" not in heard:
            heard += listener.recv(4096).decode().split("\n")
        assert process.wait(LONG) == 0
    status = "STATUS=revision 1, 1 runs, 5 files, 0 problems"
    assert status in heard
    assert heard.index("EXTEND_TIMEOUT_USEC=600000000") < heard.index("READY=1")
    assert "EXTEND_TIMEOUT_USEC=600000000" not in heard[heard.index("READY=1") :]


def test_status_is_one_line(tmp_path: Path) -> None:
    address = addresses(tmp_path)[0]
    with manager(address) as listener:
        Supervisor({"NOTIFY_SOCKET": address}).status("a\nREADY=1")
        assert listener.recv(4096) == b"STATUS=a READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nothing/there", "vsock:2:1"])
def test_manager_that_does_not_listen_is_no_trouble(address: str) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": address})
    supervisor.ready()
    supervisor.beat()
    supervisor.stopping()


@pytest.mark.parametrize(
    ("environment", "period"),
    [
        ({}, 10.0),
        ({"WATCHDOG_USEC": "3000000"}, 1.0),
        ({"WATCHDOG_USEC": "600000000"}, 10.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 10.0),
        ({"WATCHDOG_USEC": "soon"}, 10.0),
    ],
)
def test_period_of_the_watchdog(environment: dict[str, str], period: float) -> None:
    assert Supervisor(environment).period == period
