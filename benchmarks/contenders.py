"""Who is measured, and the command lines that do the same work."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from testbed.keys import HOST, Access

RSYNC, RCLONE = "rsync -az", "rclone copy, 16 + 16"
HANDSHAKE = "ssh alone"
OURS = "runicorn by {}"


@dataclass(frozen=True)
class Source:
    """The tree on the server, and how to get there: `port` is the slow line's."""

    root: Path
    access: Access
    port: int


class Contender(Protocol):
    """One way to bring a mirror up to date."""

    @property
    def name(self) -> str:
        """What the tables call it."""

    def command(self, source: Source, mirror: Path) -> list[str]:
        """The command that brings `mirror` up to date once."""


@dataclass(frozen=True)
class Rsync:
    """rsync over ssh, archive mode and compression."""

    name: str = RSYNC

    def command(self, source: Source, mirror: Path) -> list[str]:
        """The command that brings `mirror` up to date once."""
        ssh = shlex.join(source.access.ssh_command(source.port))
        return ["rsync", "-az", "--exclude=/.runicorn", "-e", ssh, f"{HOST}:{source.root}/", f"{mirror}/"]


@dataclass(frozen=True)
class Rclone:
    """rclone over SFTP: 16 transfers, 16 checkers, no hashes, which would run a command per file."""

    name: str = RCLONE

    def command(self, source: Source, mirror: Path) -> list[str]:
        """The command that brings `mirror` up to date once."""
        source.access.trust_port(source.port)
        options = {
            "config": "",
            "exclude": "/.runicorn/**",
            "transfers": "16",
            "checkers": "16",
            "sftp-host": HOST,
            "sftp-port": str(source.port),
            "sftp-user": source.access.user,
            "sftp-key-file": str(source.access.client_key),
            "sftp-known-hosts-file": str(source.access.known_hosts),
            "sftp-disable-hashcheck": "true",
        }
        flags = [f"--{option}={value}" for option, value in options.items()]
        return ["rclone", "copy", f":sftp:{source.root}", str(mirror), *flags]


@dataclass(frozen=True)
class Runicorn:
    """`runicorn sync` by one method."""

    method: str
    program: str

    @property
    def name(self) -> str:
        """What the tables call it."""
        return own_name(self.method)

    def command(self, source: Source, mirror: Path) -> list[str]:
        """The command that brings `mirror` up to date once."""
        ssh = shlex.join(source.access.ssh_command(source.port))
        address = f"ssh://{source.access.user}@{HOST}:{source.port}{source.root}"
        return [self.program, "sync", address, str(mirror), "--ssh", ssh, "--method", self.method]


@dataclass(frozen=True)
class Handshake:
    """No sync at all: logging in and out, which every other contender does as well."""

    name: str = HANDSHAKE

    def command(self, source: Source, mirror: Path) -> list[str]:  # noqa: ARG002
        """The command that logs in, does nothing and logs out."""
        return [*source.access.ssh_command(source.port), HOST, "true"]


def own_name(method: str) -> str:
    """What the tables call `runicorn sync` by a method."""
    return OURS.format(method)


def installed_program() -> str:
    """The `runicorn` command of the environment that runs the benchmarks."""
    return str(Path(sys.executable).with_name("runicorn"))
