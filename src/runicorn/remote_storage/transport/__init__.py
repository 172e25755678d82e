"""Read-only access to a root: over SFTP, or in the local file system.

The names below are imported when they are used, so that a command can start to log in first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runicorn.remote_storage.transport.base import (
        MAX_READ,
        Answer,
        Attributes,
        Close,
        DirectoryEntry,
        Fstat,
        Handle,
        Job,
        Open,
        OpenDir,
        Operation,
        Read,
        ReadDir,
        Stat,
        Traffic,
        Transport,
    )
    from runicorn.remote_storage.transport.channel import ByteChannel, FdChannel
    from runicorn.remote_storage.transport.engine import SftpEngine
    from runicorn.remote_storage.transport.lazy import LazyTransport
    from runicorn.remote_storage.transport.local import LocalTransport
    from runicorn.remote_storage.transport.paramiko_channel import ParamikoChannel, open_beside
    from runicorn.remote_storage.transport.ssh import SshConnection, SshTarget, connect_ssh
    from runicorn.remote_storage.transport.stream import Opening, Stream
    from runicorn.remote_storage.transport.wire import StatusCode

__all__ = [
    "MAX_READ",
    "Answer",
    "Attributes",
    "ByteChannel",
    "Close",
    "DirectoryEntry",
    "FdChannel",
    "Fstat",
    "Handle",
    "Job",
    "LazyTransport",
    "LocalTransport",
    "Open",
    "OpenDir",
    "Opening",
    "Operation",
    "ParamikoChannel",
    "Read",
    "ReadDir",
    "SftpEngine",
    "SshConnection",
    "SshTarget",
    "Stat",
    "StatusCode",
    "Stream",
    "Traffic",
    "Transport",
    "connect_ssh",
    "open_beside",
]

_MODULES = {
    "Answer": "base",
    "Attributes": "base",
    "ByteChannel": "channel",
    "Close": "base",
    "DirectoryEntry": "base",
    "FdChannel": "channel",
    "Fstat": "base",
    "Handle": "base",
    "Job": "base",
    "LazyTransport": "lazy",
    "LocalTransport": "local",
    "MAX_READ": "base",
    "Open": "base",
    "OpenDir": "base",
    "Operation": "base",
    "ParamikoChannel": "paramiko_channel",
    "Read": "base",
    "ReadDir": "base",
    "SftpEngine": "engine",
    "SshConnection": "ssh",
    "SshTarget": "ssh",
    "Stat": "base",
    "StatusCode": "wire",
    "Opening": "stream",
    "Stream": "stream",
    "Traffic": "base",
    "Transport": "base",
    "connect_ssh": "ssh",
    "open_beside": "paramiko_channel",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
