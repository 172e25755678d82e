"""SFTP through the user's own `ssh`: their configuration, agent, jump hosts and known hosts hold."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from runicorn.errors import ConnectError, LoginError, TransportError, UsageError
from runicorn.remote_storage.transport.channel import FdChannel
from runicorn.remote_storage.transport.sharing import OPENSSH_OPTIONS, Sharing, is_openssh
from runicorn.remote_storage.transport.shown import printable
from runicorn.remote_storage.transport.ssh_stderr import SshStderr

if TYPE_CHECKING:
    from runicorn.remote_storage.transport.engine import SftpEngine

LOGIN_SECONDS: Final = 180.0
"""Seconds that logging in may take: sshd gives a person at a prompt 120."""
_PIPE_BYTES: Final = 1024 * 1024
_LEAVE_SECONDS: Final = 1.0
_FURTHER_SECONDS: Final = 10.0
_NAME: Final = re.compile(r"[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]*")
_HANDLES_HINT: Final = "see `ulimit -n`, and what else this program has open"


@dataclass(frozen=True, slots=True)
class SshTarget:
    """Where to log in, and with which program.

    Attributes:
        host: a host name, an address, or an alias of the user's ssh configuration.
        user: login name, or None for the configured one.
        port: TCP port, or None for the configured one.
        identity: path of a private key, or None for the configured ones.
        command: the ssh program and its first arguments, as of `rsync -e`.
    """

    host: str
    user: str | None = None
    port: int | None = None
    identity: str | None = None
    command: tuple[str, ...] = ("ssh",)

    def argv(self, *, connect_timeout: float, options: Sequence[str] = ()) -> list[str]:
        """The command line that opens the sftp subsystem.

        Args:
            connect_timeout: seconds.
            options: further words for OpenSSH, behind those of ``command``, which hold.

        Raises:
            UsageError: host, user, port or command cannot be used.
        """
        for what, text in (("host", self.host), ("user", self.user)):
            if text is not None and not _NAME.fullmatch(text):
                raise UsageError(f"{printable(text)!r} cannot be a {what}")
        if self.port is not None and not 0 < self.port < 65536:
            raise UsageError(f"{self.port} is no port")
        if not self.command or not self.command[0]:
            raise UsageError("the ssh command is empty")
        argv = list(self.command)
        if is_openssh(self.command[0]):
            argv += [*options, *OPENSSH_OPTIONS, f"-oConnectTimeout={max(1, round(connect_timeout))}"]
        if self.user is not None:
            argv += ["-l", self.user]
        if self.port is not None:
            argv += ["-p", str(self.port)]
        if self.identity is not None:
            argv += ["-i", self.identity]
        return [*argv, "-s", "--", self.host, "sftp"]


class SshConnection:
    """One `ssh` process and the engine on it.

    `start` returns at once, so that the caller can work while ssh logs in; `engine` waits for it.
    ssh asks for passwords and codes on the terminal itself; it stays in the terminal's foreground
    process group for that, so Ctrl-C reaches it too.
    """

    def __init__(
        self,
        target: SshTarget,
        *,
        timeout: float = 60.0,
        login_timeout: float = LOGIN_SECONDS,
        echo_stderr: bool = False,
        share: bool = True,
        keepalive: int = 0,
    ) -> None:
        """Nothing is started yet.

        Args:
            target: where to log in.
            timeout: seconds for the network connection, and of `SftpEngine`.
            login_timeout: seconds until the server must have greeted, prompts included.
            echo_stderr: pass on what ssh writes to its standard error, as it comes.
            share: let the engine's `open_more` use this login, where the program is OpenSSH's.
            keepalive: seconds of silence after which OpenSSH asks whether the server is there; the connection
                ends when three such times have gone by without a sign of it. 0: as the user configured.

        Raises:
            UsageError: the target cannot be used.
        """
        self._options = _alive_options(keepalive)
        self._argv = target.argv(connect_timeout=timeout, options=self._options)
        self._target = target
        self._share = share and is_openssh(self._argv[0])
        self._sharing: Sharing | None = None
        self._timeout = timeout
        self._login_timeout = login_timeout
        self._stderr = SshStderr(echo=echo_stderr)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: FdChannel | None = None
        self._engine: SftpEngine | None = None
        self._is_first = True

    @property
    def pid(self) -> int | None:
        """The process number of ssh while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def start(self) -> SshConnection:
        """Start ssh; it logs in while this process does something else.

        Raises:
            LoginError: the program cannot be started.
            ConnectError: it is started, and cannot be talked to.
        """
        if self._process is not None:
            return self
        if self._share:
            self._sharing = Sharing(self._argv, self._target.host)
            options = (*self._sharing.options, *self._options)
            argv = self._target.argv(connect_timeout=self._timeout, options=options)
        else:
            argv = self._argv
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # The master keeps the other end of a further one open for a round trip after it is gone.
                stderr=subprocess.PIPE if self._is_first else subprocess.DEVNULL,
                bufsize=0,
            )
        except OSError as error:
            self._stop_sharing()
            program = printable(self._argv[0])
            raise LoginError(
                f"cannot start {program}: {error.strerror}",
                hint=f"install OpenSSH's client, or correct {program!r}",
            ) from error
        self._process = process
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            self._channel = _SshChannel(self, process.stdout, process.stdin)
        except OSError as error:
            self._abandon(process)
            program = printable(self._argv[0])
            raise ConnectError(
                f"cannot connect by {program}: {error.strerror}", hint=_HANDLES_HINT
            ) from error
        if process.stderr is not None:
            self._stderr.read(process.stderr)
        return self

    def _abandon(self, process: subprocess.Popen[bytes]) -> None:
        """End an ssh that nobody talks to."""
        self._process = None
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        process.wait()
        self._stop_sharing()

    def engine(self) -> SftpEngine:
        """The engine, as soon as the server has greeted; closing it ends ssh.

        Raises:
            HostKeyError: the host key is unknown or has changed.
            LoginError: the login or the sftp subsystem was refused, in ssh's own words.
            ConnectError: no connection, in ssh's own words.
            ProtocolError: the server does not speak SFTP, or prints text into it.
            StallError: no greeting in time.
        """
        if self._engine is not None:
            return self._engine
        self.start()
        assert self._channel is not None  # noqa: S101 - start() made it
        from runicorn.remote_storage.transport.engine import SftpEngine  # while ssh logs in

        try:
            self._engine = SftpEngine(self._channel, timeout=self._timeout, login_timeout=self._login_timeout)
        except ConnectError as error:
            raise self._explain() from error
        if self._sharing is not None:
            self._engine.offer_more(self._open_more)
        return self._engine

    def close(self) -> None:
        """End ssh. May be called more than once."""
        if self._engine is not None:
            self._engine.close()
        if self._channel is not None:
            self._channel.close()

    def finish(self) -> None:
        """Wait for ssh, whose pipes are closed, and end it when it does not end by itself."""
        try:
            self._end_process()
        finally:
            self._stop_sharing()

    def _end_process(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            # On a signal OpenSSH's takes leave of the server at once; at the end of its input it waits for
            # an answer of the server.
            patience = 0.0 if is_openssh(self._argv[0]) else _LEAVE_SECONDS
            for stop in (process.terminate, process.kill):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
                    break
                stop()
                patience = _LEAVE_SECONDS
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
            self._stderr.wait()

    def diagnosis(self) -> str:
        """The last useful line that ssh wrote, or how it ended."""
        process = self._process
        if process is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LEAVE_SECONDS)
        self._stderr.wait()
        if (said := self._stderr.last_line()) is not None:
            return said
        return "" if process.returncode is None else f"{self._program} ended with status {process.returncode}"

    def _open_more(self, count: int) -> list[SftpEngine]:
        """Engines on further processes, which log in nowhere; they are greeted at the same time."""
        argv = self._sharing.further() if self._sharing is not None else []
        further = [self._further(argv) for _ in range(count)] if argv else []
        threads = [
            threading.Thread(target=each._try, name="runicorn-ssh-more", daemon=True) for each in further
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            for each in further:
                each.close()
            raise
        return [each._engine for each in further if each._engine is not None]

    def _further(self, argv: list[str]) -> SshConnection:
        further = SshConnection(
            self._target, timeout=self._timeout, login_timeout=_FURTHER_SECONDS, share=False
        )
        further._argv = argv
        further._is_first = False
        return further

    def _try(self) -> None:
        with contextlib.suppress(TransportError):
            self.engine()

    def _stop_sharing(self) -> None:
        if self._sharing is not None:
            self._sharing.remove()

    @property
    def _program(self) -> str:
        return printable(os.path.basename(self._argv[0]))

    def _explain(self) -> TransportError:
        said = self.diagnosis()
        if (known := self._stderr.error(said)) is not None:
            return known
        command = printable(shlex.join(self._argv), 400)
        return ConnectError(said or f"{self._program} ended", hint=f"check that `{command}` works")


class _SshChannel(FdChannel):
    """The pipes of an ssh process; closing them ends it."""

    def __init__(self, connection: SshConnection, stdout: IO[bytes], stdin: IO[bytes]) -> None:
        # The descriptors are the channel's from here on, not of objects that close them once more.
        fds = [os.dup(stdout.fileno())]
        try:
            fds.append(os.dup(stdin.fileno()))
        except OSError:
            os.close(fds[0])
            raise
        stdout.close()
        stdin.close()
        for fd in fds:
            _enlarge(fd)
        super().__init__(fds[0], fds[1], diagnose=connection.diagnosis)
        self._connection = connection

    def close(self) -> None:
        super().close()
        self._connection.finish()


def connect_ssh(target: SshTarget, *, timeout: float = 60.0) -> SftpEngine:
    """Log in with the user's `ssh` and speak SFTP; closing the engine ends ssh.

    Args:
        target: where to log in.
        timeout: seconds, as of `SshConnection`.

    Raises:
        UsageError: the target cannot be used.
        TransportError: as of `SshConnection.engine`.
    """
    return SshConnection(target, timeout=timeout).engine()


def _alive_options(keepalive: int) -> tuple[str, ...]:
    # It asks twice; and its clock goes on while the machine sleeps.
    return (f"-oServerAliveInterval={keepalive}", "-oServerAliveCountMax=2") if keepalive else ()


def _enlarge(fd: int) -> None:
    # Measured to make bulk reads up to twice as fast; where it is not allowed they are only slower.
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
