"""Who is measured, and the command lines that do the same work."""

from __future__ import annotations

import compileall
import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import runicorn
from testbed.keys import HOST, Access

FLOOR, TAR = "floor", "tar of it all"
RSYNC, RCLONE, LFTP = "rsync -az", "rclone, 16 transfers", "lftp, 8 parallel"
OURS = "runicorn by {}"
JOURNAL, MANIFEST, WALK = "journal", "manifest", "walk"
METHODS = (JOURNAL, MANIFEST, WALK)
SSH, PARAMIKO = "ssh", "paramiko"


@dataclass(frozen=True)
class Source:
    """The tree on the server, and how to get there: `port` is the slow line's."""

    root: Path
    access: Access
    port: int

    @property
    def address(self) -> str:
        """What `runicorn sync` calls it."""
        return f"ssh://{self.access.user}@{HOST}:{self.port}{self.root}"


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
        return [
            self.program,
            "sync",
            source.address,
            str(mirror),
            "--ssh",
            ssh,
            "--method",
            self.method,
        ]


@dataclass(frozen=True)
class Library:
    """A program with a `ManifestSyncClient`, which syncs `syncs` times over one open connection.

    It reaches the server through the system's ssh or a paramiko client (`through`), and writes the seconds of
    each sync to the file `times`. It uses the package of the environment that runs the benchmarks.
    """

    method: str
    through: str
    syncs: int = 1
    times: Path = Path(os.devnull)

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"{own_name(self.method)}, client through {self.through}"

    def command(self, source: Source, mirror: Path) -> list[str]:
        """The command that syncs into `mirror`."""
        access = source.access
        access.trust_port(source.port)
        settings = {
            "access": [access.user, str(access.client_key), str(access.known_hosts), access.host_key],
            "port": source.port,
            "root": str(source.root),
            "address": source.address,
            "mirror": str(mirror),
            "method": self.method,
            "through": self.through,
            "syncs": self.syncs,
            "times": str(self.times),
        }
        return [sys.executable, "-m", "benchmarks.library", json.dumps(settings)]


@dataclass(frozen=True)
class Lftp:
    """lftp over SFTP through the same ssh, 8 files at once."""

    name: str = LFTP

    def command(self, source: Source, mirror: Path) -> list[str]:
        """The command that brings `mirror` up to date once."""
        ssh = shlex.join([*source.access.ssh_command(source.port), "-a", "-x"])
        script = (
            f"set sftp:connect-program {json.dumps(ssh)}; set cmd:fail-exit true; set net:max-retries 2; "
            # The password is never asked for: the key logs in.
            f"open -u {source.access.user},none -p {source.port} sftp://{HOST}; "
            f"mirror --parallel=8 --exclude ^\\.runicorn/ {source.root} {mirror}"
        )
        return ["lftp", "--norc", "-c", script]


@dataclass(frozen=True)
class Floor:
    """Logging in, and the bytes of the file `payload` on the server: nobody can do with less."""

    payload: Path
    name: str = FLOOR

    def command(self, source: Source, mirror: Path) -> list[str]:  # noqa: ARG002
        """The command that logs in, throws the bytes away and logs out."""
        ssh = shlex.join([*source.access.ssh_command(source.port), HOST, f"cat {self.payload}"])
        return ["sh", "-c", f"exec {ssh} >/dev/null"]


@dataclass(frozen=True)
class Tar:
    """All files as an archive that was made and compressed beforehand, unpacked by programs in C.

    They begin anew each time, prove nothing, and leave the files in memory.
    """

    payload: Path
    name: str = TAR

    def command(self, source: Source, mirror: Path) -> list[str]:
        """The command that unpacks the archive into `mirror`."""
        ssh = shlex.join([*source.access.ssh_command(source.port), HOST, f"cat {archive(self.payload)}"])
        unpack = shlex.join(["tar", "-x", "-C", str(mirror), "-f", "-"])
        return ["bash", "-c", f"set -o pipefail; {ssh} | zstd -dc | {unpack}"]


def archive(payload: Path) -> Path:
    """Where `Tar` has its archive, beside the file of the floor."""
    return payload.with_name(f"{payload.name}.tar.zst")


def own_name(method: str) -> str:
    """What the tables call `runicorn sync` by a method."""
    return OURS.format(method)


def own_contender(name: str, program: str) -> Runicorn:
    """The method of ours that the tables call so."""
    return next(each for each in (Runicorn(method, program) for method in METHODS) if each.name == name)


def installed_program() -> str:
    """The `runicorn` command of the environment that runs the benchmarks.

    Its package is compiled, as installers do with one that is no checkout: else each start would do so where
    the environment says that Python writes no bytecode.
    """
    compileall.compile_dir(Path(runicorn.__file__).parent, quiet=1)
    return str(Path(sys.executable).with_name("runicorn"))
