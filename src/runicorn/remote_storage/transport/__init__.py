"""Read-only access to a root: over SFTP, or in the local file system."""

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
from runicorn.remote_storage.transport.stream import Stream
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
