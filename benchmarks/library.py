"""The program behind `benchmarks.contenders.Library`: some syncs by one client object on one connection."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import PARAMIKO
from runicorn.errors import RunicornError
from runicorn.remote_storage import ManifestSyncClient, SyncOptions
from runicorn.remote_storage.source import parse_source
from runicorn.remote_storage.transport import SshTarget, Transport, connect_ssh
from testbed.keys import HOST, Access

if TYPE_CHECKING:
    from paramiko import SFTPClient


@contextlib.contextmanager
def connected(access: Access, port: int, through: str) -> Iterator[SFTPClient | Transport]:
    """An open connection to the server."""
    if through == PARAMIKO:
        with access.paramiko_client(port) as ssh, ssh.open_sftp() as sftp:
            yield sftp
        return
    transport = connect_ssh(SshTarget(HOST, command=tuple(access.ssh_command(port))))
    try:
        yield transport
    finally:
        transport.close()


def main() -> int:
    """Sync as the one JSON argument says; 1 if a sync fails or is not by the method that was asked for."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    access = Access(
        settings["access"][0],
        Path(settings["access"][1]),
        Path(settings["access"][2]),
        settings["access"][3],
    )
    seconds = []
    try:
        options = SyncOptions(
            method=settings["method"], source=parse_source(settings["address"]).identity, lock_timeout=0
        )
        with connected(access, settings["port"], settings["through"]) as connection:
            client = ManifestSyncClient(connection, settings["root"], Path(settings["mirror"]), 0, options)
            for _ in range(settings["syncs"]):
                begin = time.perf_counter()
                statistics = client.sync()
                seconds.append(time.perf_counter() - begin)
                if statistics["method"] != settings["method"] or statistics["failed_count"]:
                    sys.exit(f"by {statistics['method']}, {statistics['failed_count']} files failed")
    except RunicornError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    Path(settings["times"]).write_text(json.dumps(seconds), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
