"""What a client needs to reach a server of the testbed: a key, a known host, and no user configuration."""

from __future__ import annotations

import getpass
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import paramiko

HOST = "127.0.0.1"


@dataclass
class Access:
    """How to log in to one server: `user`, the private key, and the server's public key in `known_hosts`.

    `host_key` is the server's public key as `type base64`. The two files must lie in a folder of their own.
    """

    user: str
    client_key: Path
    known_hosts: Path
    host_key: str
    _trusted: set[int] = field(default_factory=set, init=False)

    def trust_port(self, port: int) -> None:
        """Accept the server's host key on `port` of 127.0.0.1 too, for a proxy in front."""
        if port not in self._trusted:
            with self.known_hosts.open("a", encoding="ascii") as lines:
                lines.write(f"[{HOST}]:{port} {self.host_key}\n")
            self._trusted.add(port)

    def ssh_command(self, port: int) -> list[str]:
        """The `ssh` command line, without a host, that uses nothing of the user's own configuration."""
        self.trust_port(port)
        options = [
            f"IdentityFile={self.client_key}",
            f"UserKnownHostsFile={self.known_hosts}",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "UpdateHostKeys=no",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
            f"User={self.user}",
        ]
        flags = [word for option in options for word in ("-o", option)]
        return ["ssh", "-F", "none", *flags, "-p", str(port)]

    def paramiko_client(self, port: int) -> paramiko.SSHClient:
        """A connected paramiko client; the caller closes it.

        Raises paramiko.SSHException or OSError if the server cannot be reached or is not the expected one.
        """
        import paramiko

        self.trust_port(port)
        client = paramiko.SSHClient()
        client.load_host_keys(str(self.known_hosts))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(
            HOST,
            port=port,
            username=self.user,
            key_filename=str(self.client_key),
            allow_agent=False,
            look_for_keys=False,
            timeout=10,
        )
        return client


def current_user() -> str:
    """The name of the user that runs this process."""
    return getpass.getuser()
