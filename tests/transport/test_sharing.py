"""Further connections over the login of one ssh."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicorn.errors import ConnectError
from runicorn.remote_storage.transport import (
    Attributes,
    LazyTransport,
    SshConnection,
    SshTarget,
    Transport,
    sharing,
)
from runicorn.remote_storage.transport.sharing import Sharing
from testbed.processes import descendants
from testbed.sshd import Sshd
from tests.transport.jobs import one_answer

TIMEOUT = 30.0


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for sockets; its path is short, and it is empty again at the end."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


def connection_to(sshd: Sshd, *options: str, share: bool = True) -> SshConnection:
    first, *rest = sshd.ssh_command
    target = SshTarget(sshd.host, command=(first, *options, *rest))
    return SshConnection(target, timeout=TIMEOUT, login_timeout=TIMEOUT, share=share)


def logins(sshd: Sshd) -> int:
    return sshd.log().count("Accepted publickey")


def ssh_processes() -> list[int]:
    found = []
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "ssh\n":
                found.append(pid)
    return found


def works(transport: Transport) -> bool:
    job, found = one_answer("/")
    transport.run([job])
    return isinstance(found[0], Attributes)


def test_three_more_over_one_login(sshd: Sshd, place: Path) -> None:
    before = logins(sshd)
    assert ssh_processes() == []
    connection = connection_to(sshd)
    engine = connection.engine()
    (directory,) = place.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    more = engine.open_more(3)
    assert len(more) == 3
    assert len(ssh_processes()) == 4
    assert all(works(each) for each in (engine, *more, engine))
    assert logins(sshd) == before + 1
    more[0].close()
    assert [works(each) for each in more[1:]] == [True, True]
    connection.close()
    assert list(place.iterdir()) == []
    assert ssh_processes() == []
    for each in more:
        each.close()
    assert engine.open_more(1) == []


def test_lazy_transport_passes_on(sshd: Sshd, place: Path) -> None:
    del place
    transport = LazyTransport(connection_to(sshd).engine)
    assert transport.open_more(2) == []
    assert works(transport)
    assert [works(each) for each in transport.open_more(2)] == [True, True]
    transport.close()


@pytest.mark.parametrize("most", [1, 2])
def test_server_that_allows_fewer_channels(place: Path, most: int) -> None:
    del place
    with Sshd(max_sessions=most) as server:
        connection = connection_to(server)
        engine = connection.engine()
        more = engine.open_more(3)
        assert len(more) == most - 1
        assert all(works(each) for each in (engine, *more))
        # What the master says of it is not why a connection ends later.
        server.drop_connections()
        assert "open failed" not in connection.diagnosis()
        assert logins(server) == 1
        connection.close()


def test_master_that_was_killed(sshd: Sshd, place: Path) -> None:
    connection = connection_to(sshd)
    engine = connection.engine()
    before = logins(sshd)
    assert connection.pid is not None
    os.kill(connection.pid, signal.SIGKILL)
    begun = time.monotonic()
    assert engine.open_more(3) == []
    assert time.monotonic() - begun < TIMEOUT / 3
    assert logins(sshd) == before
    assert len(list(place.iterdir())) == 1
    connection.close()


def test_login_that_failed_leaves_nothing(sshd: Sshd, place: Path) -> None:
    connection = connection_to(sshd, "-oPubkeyAuthentication=no")
    with pytest.raises(Exception, match="Permission denied"):
        connection.engine()
    assert list(place.iterdir()) == []


def test_hint_names_a_command_that_can_be_tried() -> None:
    with Sshd(subsystem="/bin/false") as server, pytest.raises(ConnectError) as caught:
        connection_to(server).engine()
    assert "check that `ssh " in caught.value.hint
    assert "-oControl" not in caught.value.hint


def test_master_that_would_ask_is_left_alone(sshd: Sshd, place: Path) -> None:
    options = "-oControlMaster=autoask", f"-oControlPath={place}/asks"
    connection = connection_to(sshd, *options)
    engine = connection.engine()
    assert engine.open_more(1) == []
    connection.close()


def test_sharing_of_the_user_is_used_and_left(sshd: Sshd, place: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as own:
        options = f"-oControlPath={own}/%%-%p", "-oControlMaster=yes"
        connection = connection_to(sshd, *options)
        engine = connection.engine()
        before = logins(sshd)
        assert list(place.iterdir()) == []
        assert [path.name for path in Path(own).iterdir()] == [f"%-{sshd.port}"]
        assert [works(each) for each in engine.open_more(2)] == [True, True]
        assert logins(sshd) == before
        connection.close()


def test_configured_socket_without_a_master_shares_nothing(sshd: Sshd, place: Path) -> None:
    connection = connection_to(sshd, f"-oControlPath={place}/none")
    engine = connection.engine()
    assert engine.open_more(2) == []
    assert works(engine)
    connection.close()


def test_refused_sharing_is_respected(sshd: Sshd, place: Path) -> None:
    del place
    connection = connection_to(sshd, "-oControlMaster=no")
    engine = connection.engine()
    assert engine.open_more(2) == []
    connection.close()
    connection = connection_to(sshd, share=False)
    assert connection.engine().open_more(2) == []
    connection.close()


def test_other_program_shares_nothing() -> None:
    assert not sharing.is_openssh("/usr/bin/dbclient")
    assert not sharing.is_openssh("my-ssh")
    assert sharing.is_openssh("/opt/openssh/bin/ssh")
    with pytest.raises(ConnectError) as caught:
        SshConnection(SshTarget("host", command=("false", "ssh"))).engine()
    assert "Control" not in caught.value.hint


def test_no_place_for_a_socket(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(directory: str) -> None:
        raise OSError(directory)

    monkeypatch.setattr(sharing, "_try_socket", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    connection = connection_to(sshd)
    engine = connection.engine()
    assert engine.open_more(1) == []
    assert works(engine)
    connection.close()
    assert list(tmp_path.iterdir()) == []


def test_long_path_is_no_place_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    found = Sharing(["ssh", "-F", "none", "-s", "--", "h", "sftp"], "h")
    assert "/xxx" not in " ".join(found.options)
    found.remove()
    assert list(deep.iterdir()) == []


def test_place_that_is_not_there_is_no_place_for_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    directory = sharing._private_directory()
    assert directory.startswith("/tmp/runicorn-")
    Path(directory).rmdir()


@pytest.mark.parametrize(
    ("answer", "path"),
    [
        ("echo hostname h; echo controlpath /x", "/x"),
        ("echo hostname h; echo controlpath none", ""),
        ("echo hostname h", ""),
        ("echo hostname h; echo controlpath /x; echo controlmaster ask", None),
        ("echo unknown option -- G", None),
        ("exit 1", None),
    ],
)
def test_socket_is_that_of_a_configuration_that_can_be_told(
    tmp_path: Path, answer: str, path: str | None
) -> None:
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    assert sharing._control_path([str(program), "h"]) == path
    assert sharing._control_path([str(tmp_path / "missing"), "h"]) is None


@pytest.mark.parametrize(
    ("words", "may"),
    [
        (["-F", "none", "-i", "/S/F", "h"], False),
        (["-F", "none", "-S", "/x", "h"], True),
        (["-F", "none", "-vS/x", "h"], True),
        (["-F", "none", "-ocontrolpath=/x", "h"], True),
        (["-F", "/some/file", "h"], True),
        (["-iFS", "-lSF", "-F", "none", "h"], False),
    ],
)
def test_ssh_is_asked_only_where_it_may_know_of_a_socket(words: list[str], may: bool) -> None:
    assert sharing._may_name_a_socket(["ssh", *words]) is may


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_user_without_an_entry_hears_what_ssh_says() -> None:
    program = (
        "import os\n"
        "import runicorn.remote_storage.transport.engine\n"
        "from runicorn.remote_storage.transport import SshConnection, SshTarget\n"
        "from runicorn.errors import RunicornError\n"
        "os.setuid(54321)\n"
        "try:\n"
        "    SshConnection(SshTarget('h'), timeout=10).engine()\n"
        "except RunicornError as error:\n"
        "    print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert "uid 54321" in told.stdout


@pytest.mark.parametrize(
    ("config", "may"),
    [
        ("Host *\n  User me\n", False),
        ("Host *\n  CONTROLPATH ~/x\n", True),
        ("Include other*.conf none\n", True),
        ('include "other.conf"\n', True),
        ('"Include" other.conf\n', True),
        ("=Include other.conf\n", True),
        ('"Include" none\n', False),
        ("Include=other.conf\n", True),
        ("Include %d/x\n", True),
        ("Include a'b\n", True),
        ("Include self\n", True),
    ],
)
def test_configuration_is_searched_with_all_it_includes(tmp_path: Path, config: str, may: bool) -> None:
    (tmp_path / "self").write_text(config)
    (tmp_path / "other.conf").write_text("Host x\n\tControlPath /x\n")
    assert sharing._mentions_socket(str(tmp_path / "self"), str(tmp_path), 0) is may
    assert sharing._mentions_socket(str(tmp_path / "missing"), str(tmp_path), 0) is False
    assert sharing._mentions_socket(str(tmp_path), str(tmp_path), 0) is True
