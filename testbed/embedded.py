"""A read-only SFTP server inside this process, for the demo on a machine without an OpenSSH server.

It shows one folder as `/`, takes one key that it made itself, and offers nothing but the sftp subsystem.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import paramiko
from paramiko import common, sftp

from testbed.keys import HOST, Access, current_user


class EmbeddedServer:
    """Context manager: serves `root` read-only on a free port of 127.0.0.1. Needs the paramiko extra.

    A client sees `root` as `/`; links that lead out of it do not open.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.host = HOST
        self.port = 0
        self.user = current_user()
        self._stack = contextlib.ExitStack()
        self._transports: list[paramiko.Transport] = []
        self._host_key = paramiko.ECDSAKey.generate()
        self._client_key = paramiko.ECDSAKey.generate()

    def __enter__(self) -> EmbeddedServer:
        with contextlib.ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="testbed-sftp-")))
            self.client_key = self.directory / "client_key"
            self._client_key.write_private_key_file(str(self.client_key))
            self.known_hosts = self.directory / "known_hosts"
            host_key = f"{self._host_key.get_name()} {self._host_key.get_base64()}"
            self.access = Access(self.user, self.client_key, self.known_hosts, host_key)
            self._listener = stack.enter_context(socket.create_server((HOST, 0), backlog=64))
            self.port = self._listener.getsockname()[1]
            self.access.trust_port(self.port)
            self._thread = threading.Thread(target=self._accept, name="embedded-sftp", daemon=True)
            self._thread.start()
            stack.callback(self._stop)
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

    @property
    def ssh_to_any_host(self) -> str:
        """The same for a shell or `RUNICORN_SSH`; whatever host it is given, it leads to this server."""
        return shlex.join([*self.ssh_command, "-o", f"HostName={self.host}"])

    def paramiko_client(self) -> paramiko.SSHClient:
        """A connected paramiko client that checked the host key; the caller closes it."""
        return self.access.paramiko_client(self.port)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(peer)
            transport.add_server_key(self._host_key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, ReadOnlyFolder, self.root)
            self._transports.append(transport)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                # With an event it returns at once, so that one slow client does not hold up the next.
                transport.start_server(event=threading.Event(), server=OneKeyServer(self._client_key))

    def _stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for transport in self._transports:
            transport.close()
        for transport in self._transports:
            transport.join(timeout=5)


class OneKeyServer(paramiko.ServerInterface):
    """Lets in whoever holds one key, for sessions only."""

    def __init__(self, key: paramiko.PKey) -> None:
        self._key = key

    def get_allowed_auths(self, username: str) -> str:
        """Public keys only."""
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        """Whether this is the one key."""
        return common.AUTH_SUCCESSFUL if key == self._key else common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        """Sessions, nothing else."""
        if kind == "session":
            return common.OPEN_SUCCEEDED
        return common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED


class ReadOnlyFolder(paramiko.SFTPServerInterface):
    """One folder as the root of an SFTP server; what would change something is refused by the base class."""

    def __init__(self, server: paramiko.ServerInterface, root: Path, *args: Any, **kwargs: Any) -> None:
        super().__init__(server, *args, **kwargs)
        self._root = root

    def list_folder(self, path: str) -> list[paramiko.SFTPAttributes] | int:
        """The attributes of what a folder holds, links not followed, or an SFTP error code."""
        try:
            with os.scandir(self._real(path)) as entries:
                return [_attributes(entry.stat(follow_symlinks=False), entry.name) for entry in entries]
        except OSError as error:
            return _error_code(error)

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        """The attributes of what a path leads to, or an SFTP error code."""
        try:
            return _attributes(self._real(path).stat())
        except OSError as error:
            return _error_code(error)

    def lstat(self, path: str) -> paramiko.SFTPAttributes | int:
        """The attributes of a path itself, or an SFTP error code."""
        parent, _, name = self.canonicalize(path).rpartition("/")
        try:
            return _attributes((self._real(parent) / name).lstat())
        except OSError as error:
            return _error_code(error)

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> paramiko.SFTPHandle | int:
        """A handle for reading, or an SFTP error code."""
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
            return sftp.SFTP_PERMISSION_DENIED
        try:
            return ReadHandle(self._real(path))
        except OSError as error:
            return _error_code(error)

    def _real(self, path: str) -> Path:
        found = Path(f"{self._root}/{self.canonicalize(path)}").resolve()
        if found != self._root and self._root not in found.parents:
            raise PermissionError(errno.EACCES, "leads out of the folder that is served", path)
        return found


class ReadHandle(paramiko.SFTPHandle):
    """An open file; reads do not share a position, so requests in any order are right."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)

    def read(self, offset: int, length: int) -> bytes | int:
        """The bytes at `offset`, none at the end, or an SFTP error code."""
        try:
            return os.pread(self._file, length, offset)
        except OSError as error:
            return _error_code(error)

    def stat(self) -> paramiko.SFTPAttributes | int:
        """The attributes of the open file, or an SFTP error code."""
        try:
            return _attributes(os.fstat(self._file))
        except OSError as error:
            return _error_code(error)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _attributes(result: os.stat_result, name: str | None = None) -> paramiko.SFTPAttributes:
    return paramiko.SFTPAttributes.from_stat(result, name)


def _error_code(error: OSError) -> int:
    return paramiko.SFTPServer.convert_errno(error.errno or errno.EIO)
