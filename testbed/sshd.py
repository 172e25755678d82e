"""A private OpenSSH server on 127.0.0.1, for one test, benchmark or demo."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from testbed.keys import HOST, Access, current_user
from testbed.processes import kill_tree

if TYPE_CHECKING:
    import paramiko

READY_SECONDS = 10.0
SFTP_SERVER_PLACES = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib/ssh/sftp-server",
)


def find_sftp_server() -> str:
    """The path of OpenSSH's own sftp-server program. Raises FileNotFoundError if there is none."""
    for place in SFTP_SERVER_PLACES:
        if os.access(place, os.X_OK):
            return place
    raise FileNotFoundError("no sftp-server found; it comes with the OpenSSH server")


def find_sshd() -> str:
    """The absolute path of sshd, which refuses to start by any other.

    Raises FileNotFoundError if there is none.
    """
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise FileNotFoundError("no sshd found; install the OpenSSH server")
    return found


class Sshd:
    """Context manager: an sshd of its own keys, run by the current user, gone with all its sessions at exit.

    `subsystem` is the command of the sftp subsystem (`find_sftp_server()` and `counting.subsystem_command()`
    give others than the built-in one). `force_text` is printed before the subsystem starts, as a talkative
    shell start-up file does. `extra_config` holds further lines of sshd_config. `max_sessions` is the
    channels of one connection.

    Entering raises RuntimeError, with the server's log, if it does not listen within READY_SECONDS.
    """

    def __init__(
        self,
        *,
        subsystem: str = "internal-sftp",
        max_sessions: int = 10,
        force_text: str | None = None,
        extra_config: Sequence[str] = (),
    ) -> None:
        self.host = HOST
        self.port = 0
        self.user = current_user()
        self._subsystem = subsystem
        self._max_sessions = max_sessions
        self._force_text = force_text
        self._extra_config = tuple(extra_config)
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sshd:
        with contextlib.ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="testbed-sshd-")))
            self.log_path = self.directory / "sshd.log"
            self._make_access()
            stack.callback(self.stop)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def ssh_command(self) -> list[str]:
        """The `ssh` command line, without a host, that logs in to this server by its own keys alone."""
        return self.access.ssh_command(self.port)

    def paramiko_client(self) -> paramiko.SSHClient:
        """A connected paramiko client that checked the host key; the caller closes it."""
        return self.access.paramiko_client(self.port)

    def log(self) -> str:
        """What the server wrote so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def drop_connections(self) -> None:
        """Kill every session at once, as when the machine dies; new connections are still accepted."""
        if self._process is not None:
            kill_tree(self._process.pid, include_root=False)

    def stop(self) -> None:
        """Kill the server and every session of it."""
        if self._process is not None:
            kill_tree(self._process.pid)
            self._process.wait()
            self._process = None

    def start_again(self) -> None:
        """Listen again on the port of before, after `stop`.

        Raises RuntimeError, with the server's log, if it does not listen within READY_SECONDS.
        """
        deadline = time.monotonic() + READY_SECONDS
        while True:
            self._launch()
            if self._listens():
                return
            self.stop()
            if "Address already in use" not in self.log() or time.monotonic() > deadline:
                raise RuntimeError(f"sshd did not start again; its log:\n{self.log()}")
            time.sleep(0.1)

    def _make_access(self) -> None:
        client_key = self.directory / "client_key"
        host_key = self.directory / "host_key"
        for path in (client_key, host_key):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", path], check=True
            )
        public = host_key.with_suffix(".pub").read_text(encoding="ascii").split()
        shutil.copyfile(client_key.with_suffix(".pub"), self.directory / "authorized_keys")
        self.client_key = client_key
        self.known_hosts = self.directory / "known_hosts"
        self.access = Access(self.user, client_key, self.known_hosts, " ".join(public[:2]))

    def _start(self) -> None:
        if os.geteuid() == 0:
            # sshd wants it for privilege separation; other servers share it, so it stays.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for _ in range(5):
            self.port = _free_port()
            self._launch()
            if self._listens():
                self.access.trust_port(self.port)
                return
            self.stop()
            if "Address already in use" not in self.log():
                break
        raise RuntimeError(f"sshd did not start; its log:\n{self.log()}")

    def _launch(self) -> None:
        config = self.directory / "sshd_config"
        config.write_text("\n".join(self._config_lines()) + "\n", encoding="utf-8")
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command([find_sshd(), "-D", "-e", "-f", str(config)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _command(self, sshd: list[str]) -> list[str]:
        """What is started, for a class that derives from this one to put something around it."""
        return sshd

    def _listens(self) -> bool:
        """Whether the server came up. Its own log tells: a connection could reach another process's port."""
        assert self._process is not None
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if f"Server listening on {HOST} port {self.port}" in self.log():
                return True
            if self._process.poll() is not None:
                return False
            time.sleep(0.002)
        return False

    def _config_lines(self) -> list[str]:
        lines = [
            f"ListenAddress {HOST}:{self.port}",
            f"HostKey {self.directory / 'host_key'}",
            f"AuthorizedKeysFile {self.directory / 'authorized_keys'}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin yes",
            "PubkeyAuthentication yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UseDNS no",
            "PrintMotd no",
            "PrintLastLog no",
            "LogLevel INFO",
            "MaxStartups 500",
            f"MaxSessions {self._max_sessions}",
            f"Subsystem sftp {self._subsystem_command()}",
        ]
        if _openssh_version() >= (9, 8):
            lines.append("PerSourcePenalties no")
        # A `Match` block among the extra lines would swallow whatever came after it.
        return lines + list(self._extra_config)

    def _subsystem_command(self) -> str:
        if self._force_text is None:
            return self._subsystem
        server = find_sftp_server() if self._subsystem == "internal-sftp" else self._subsystem
        text = self.directory / "force_text"
        text.write_text(self._force_text, encoding="utf-8")
        wrapper = self.directory / "talkative-sftp-server"
        wrapper.write_text(f"#!/bin/sh\ncat {shlex.quote(str(text))}\nexec {server}\n", encoding="utf-8")
        wrapper.chmod(0o755)
        return str(wrapper)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _openssh_version() -> tuple[int, int]:
    answer = subprocess.run(["ssh", "-V"], check=True, capture_output=True, text=True).stderr
    match = re.search(r"OpenSSH_(\d+)\.(\d+)", answer)
    return (int(match[1]), int(match[2])) if match else (0, 0)
