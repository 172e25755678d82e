"""How a command finds a source, its mirror, and a connection."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from runicorn.errors import CancelledError, UsageError

if TYPE_CHECKING:
    from runicorn.remote_storage.remotes import Remotes
    from runicorn.remote_storage.source import Source
    from runicorn.remote_storage.transport import SshConnection, Transport

SSH_VARIABLE = "RUNICORN_SSH"
WATCH_TIMEOUT = 30.0
"""Seconds that the sftp subsystem may be silent for while it is watched."""

KEEPALIVE = 5
"""Seconds, as of `SshConnection`, while a server is watched: a connection that died while an answer is waited
for is noticed after three times as long."""

_CommandT = TypeVar("_CommandT", bound=Callable[..., object])


@dataclass(frozen=True)
class Ssh:
    """How servers are reached.

    Attributes:
        port: TCP port of sources that name none, or None.
        identity: private key, or None.
        command: the ssh program and its options.
    """

    port: int | None
    identity: str | None
    command: str


def ssh_options(function: _CommandT) -> _CommandT:
    """The options of a command that make an `Ssh`: port, identity, ssh_command."""
    options = (
        click.option("--port", type=click.IntRange(1, 65535), help="TCP port of the server."),
        click.option("--identity", type=click.Path(), help="Private key to log in with."),
        click.option(
            "--ssh",
            "ssh_command",
            default="ssh",
            envvar=SSH_VARIABLE,
            show_envvar=True,
            metavar="COMMAND",
            help="ssh program and its options, as of rsync -e.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@dataclass(frozen=True)
class Target:
    """A source and where its mirror lies.

    Attributes:
        source: the source; of a local one the path is absolute.
        mirror: folder of the mirror.
        name: of the remote, or an empty string.
    """

    source: Source
    mirror: Path
    name: str = ""


def remotes() -> Remotes:
    """The remotes of this user."""
    from platformdirs import user_config_path

    from runicorn.remote_storage.remotes import Remotes

    return Remotes(user_config_path("runicorn", appauthor=False) / "remotes.toml")


def target(text: str, mirror: Path | None, port: int | None = None) -> Target:
    """The target of the name of a remote, or of a source as a user writes it.

    Args:
        text: a name goes before a local folder that is called the same; that one is written ``./folder``.
        mirror: where its mirror lies; by default what the remote says, or a folder of the user's data folder.
        port: of a remote source that names none.

    Raises:
        UsageError: it cannot be read, or the file of the remotes cannot.
    """
    from runicorn.remote_storage.source import parse_source

    name = ""
    if ":" not in text and "/" not in text and (found := _remote_of(text)) is not None:
        name, text = found[0], found[1]
        mirror = mirror or found[2]
    parsed = parse_source(text)
    if parsed.is_local:
        parsed = replace(
            parsed, path=os.path.abspath(os.path.expanduser(parsed.path) if name else parsed.path)
        )
    elif parsed.port is None:
        parsed = replace(parsed, port=port)
    return Target(parsed, mirror or default_mirror(parsed), name)


def _remote_of(text: str) -> tuple[str, str, Path | None] | None:
    from runicorn.remote_storage.remotes import is_name

    found = remotes().get(text) if is_name(text) else None
    if found is None:
        return None
    return (
        found.name,
        found.source,
        Path(os.path.expanduser(found.mirror)) if found.mirror is not None else None,
    )


def mirror_of(text: str) -> tuple[str, Path]:
    """The name, or an empty string, and the folder of a mirror that is given as a folder or as a name.

    Raises:
        UsageError: the file of the remotes cannot be read.
    """
    if not any(mark in text for mark in ("/", ":")) and _remote_of(text) is not None:
        return text, target(text, None).mirror
    return "", Path(text)


def all_targets(port: int | None = None) -> list[Target]:
    """The targets of all remotes.

    Raises:
        UsageError: there is none, or one makes no sense; or two mirrors are in each other's way.
    """
    found = [target(each.name, None, port) for each in remotes().all()]
    if not found:
        raise UsageError("there are no remotes yet", hint="`runicorn remote add NAME SOURCE` adds one")
    for one, other in itertools.combinations(found, 2):
        if relation := _relation(one.mirror, other.mirror):
            raise UsageError(f"the remotes {one.name} and {other.name} have {relation}")
    return found


def _relation(one: Path, other: Path) -> str:
    """How two mirrors get into each other's way; empty when they do not."""
    places = [Path(os.path.realpath(each)) for each in (one, other)]
    if places[0] == places[1]:
        return "the same mirror"
    if places[0] in places[1].parents or places[1] in places[0].parents:
        return "mirrors that lie inside each other"
    return ""


def default_mirror(source: Source) -> Path:
    """The folder in the user's data folder that a source is mirrored to when nothing else is said."""
    from platformdirs import user_data_path

    return user_data_path("runicorn", appauthor=False) / "mirrors" / source.folder_name()


def connection(
    source: Source, ssh: Ssh, *, echo: bool = False, timeout: float = 60.0, keepalive: int = 0
) -> SshConnection | None:
    """The user's ssh, not started yet; None for a local source.

    Args:
        source: where to.
        ssh: how.
        echo: whether what ssh says is passed on.
        timeout: seconds that the server may be silent for.
        keepalive: seconds, as of `SshConnection`.

    Raises:
        UsageError: the options do not fit together.
    """
    if source.is_local:
        if ssh.port is not None or ssh.identity is not None:
            raise UsageError("--port and --identity mean nothing for a local source")
        return None
    from runicorn.remote_storage.transport import SshConnection, SshTarget

    if source.port is not None and ssh.port is not None and source.port != ssh.port:
        raise UsageError("the source and --port name two different ports")
    try:
        command = tuple(shlex.split(ssh.command))
    except ValueError as error:
        raise UsageError(f"cannot read the ssh command: {error}") from error
    if source.host is None or not command:
        raise UsageError("the ssh command is empty")
    where = SshTarget(source.host, source.user, source.port or ssh.port, ssh.identity, command)
    return SshConnection(where, timeout=timeout, echo_stderr=echo, keepalive=keepalive)


@contextlib.contextmanager
def transport(made: SshConnection | None) -> Iterator[Transport]:
    """The transport over a connection, or of the local file system."""
    from runicorn.remote_storage.transport import LazyTransport, LocalTransport

    opened = LocalTransport() if made is None else LazyTransport(made.engine)
    try:
        yield opened
    finally:
        opened.close()


_ASKING = threading.Lock()


class Connector:
    """Logs in, as often as it is called, in any thread.

    Where ssh could ask on a terminal, one logs in after the other: two questions at once would be answered by
    chance.

    Args:
        source: where to.
        ssh: how.
        echo: whether what ssh says is passed on.
        is_watch: whether the connection is to stay: then one that died is noticed soon.
    """

    def __init__(self, source: Source, ssh: Ssh, *, echo: bool = False, is_watch: bool = False) -> None:
        self._source, self._ssh, self._echo, self._is_watch = source, ssh, echo, is_watch
        self._made: SshConnection | None = None
        self._guard = threading.Lock()
        self._stop = threading.Event()

    def heed(self, stop: threading.Event) -> None:
        """Do not begin to log in once an event is set."""
        self._stop = stop

    def _connection(self) -> SshConnection | None:
        if not self._is_watch:
            return connection(self._source, self._ssh, echo=self._echo)
        return connection(
            self._source, self._ssh, echo=self._echo, timeout=WATCH_TIMEOUT, keepalive=KEEPALIVE
        )

    def __call__(self) -> Transport:
        """A transport that is logged in; closing it ends ssh.

        Raises:
            CancelledError: it is not wanted any more.
            RunicornError: as of `connection`, and of `SshConnection.engine`.
        """
        from runicorn.remote_storage.transport import LocalTransport

        made = self._made = self._connection()
        if made is None:
            return LocalTransport()
        with _ASKING if sys.stdin is not None and sys.stdin.isatty() else contextlib.nullcontext():
            try:
                self._start(made)
                return made.engine()
            except BaseException:
                made.close()
                raise

    def _start(self, made: SshConnection) -> None:
        with self._guard:
            if self._stop.is_set():
                raise CancelledError("the login was stopped")
            made.start()

    def abort(self) -> None:
        """End the connection that was made last, or that is being made, and make no other one; may be called
        in any thread."""
        with self._guard:
            self._stop.set()
            made = self._made
        if made is not None:
            made.close()


def check(where: Target, ssh: Ssh) -> None:
    """Refuse what is known to be wrong before anything is begun; of a remote its name is told.

    Args:
        where: what is synced.
        ssh: how servers are reached.

    Raises:
        UsageError: the options do not fit, or source and mirror lie inside each other.
    """
    try:
        refuse_overlap(where.source, where.mirror)
        connection(where.source, ssh)
    except UsageError as error:
        if not where.name:
            raise
        raise UsageError(f"the remote {where.name}: {error}", hint=error.hint) from error


def refuse_overlap(source: Source, mirror: Path) -> None:
    """Refuse a local source and a mirror that lie inside each other.

    Raises:
        UsageError: they do.
    """
    if not source.is_local:
        return
    root, folder = Path(source.path).resolve(), mirror.resolve()
    if root == folder or root in folder.parents or folder in root.parents:
        raise UsageError("the mirror and its source lie inside each other")
