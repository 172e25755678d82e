"""SFTP beside a paramiko client that the caller has opened."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from runicorn.errors import ConnectError, HostKeyError, ProtocolError, StallError, TransportError, UsageError
from runicorn.remote_storage.transport.channel import stalled
from runicorn.remote_storage.transport.engine import SftpEngine
from runicorn.remote_storage.transport.shown import printable

if TYPE_CHECKING:
    import paramiko

_LOG = logging.getLogger(__name__)
_ROOM_SECONDS: Final = 0.02
_SEND_BYTES: Final = 32 * 1024


class ParamikoChannel:
    """A `ByteChannel` over a session channel of paramiko."""

    def __init__(self, channel: paramiko.Channel, *, borrowed: bool = False) -> None:
        """``borrowed``: the channel belongs to someone else, and stays open."""
        self._channel = channel
        self._borrowed = borrowed
        self._closed = False
        self._timeout = channel.gettimeout()

    def send(self, data: memoryview) -> int:
        """See `ByteChannel.send`."""
        # Without room in the server's window paramiko would wait for some, and nobody would read.
        if not self._channel.send_ready():
            if self._channel.closed or self._channel.eof_sent:
                raise BrokenPipeError("the channel is closed")
            return 0
        try:
            return self._channel.send(bytes(data[:_SEND_BYTES]))
        except OSError:
            raise
        except Exception as error:
            raise map_error(error) from error

    def recv(self, max_bytes: int, timeout: float, *, want_room: bool = False) -> bytes | None:
        """See `ByteChannel.recv`."""
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            self._channel.settimeout(min(left, _ROOM_SECONDS) if want_room else left)
            try:
                return self._channel.recv(max_bytes)
            except TimeoutError:
                if want_room and self._channel.send_ready():
                    return None
                if not want_room or time.monotonic() >= deadline:
                    raise stalled(timeout) from None
            except Exception as error:
                raise map_error(error) from error
            finally:
                self._channel.settimeout(self._timeout)

    def close(self) -> None:
        """See `ByteChannel.close`."""
        if not self._closed:
            self._closed = True
            if not self._borrowed:
                self._channel.close()

    def diagnosis(self) -> str:
        """See `ByteChannel.diagnosis`."""
        transport = self._channel.get_transport()
        error = transport.get_exception()
        if error is not None:
            return printable(str(error) or type(error).__name__)
        return "" if transport.is_active() else "the connection to the server was closed"


def open_beside(client: paramiko.SFTPClient, *, timeout: float = 60.0) -> SftpEngine:
    """An engine on the connection of a paramiko client, in a channel of its own.

    When the server allows no second channel, the engine works on the client's own one. Then nobody
    else may use the client until the engine is closed; afterwards it works as before.

    Args:
        client: an open client; it stays the caller's, who closes it after the engine.
        timeout: seconds to open the channel, and of `SftpEngine`.

    Raises:
        UsageError: the client is not open.
        TransportError: the connection failed.
    """
    own = client.get_channel()
    if own is None:
        raise UsageError("the paramiko client has no channel")
    transport = own.get_transport()
    if not transport.is_active():
        raise ConnectError(
            "the paramiko client's connection has ended, and nobody but its owner can log in again",
            hint="connect a new client, and make a new ManifestSyncClient or MetadataSyncService with it",
        )
    if own.closed:
        raise UsageError("the paramiko client is closed")
    second = _second_channel(transport, timeout)
    if second is not None:
        engine = SftpEngine(ParamikoChannel(second), timeout=timeout)
        engine.offer_more(lambda count: _further(transport, count, timeout))
        return engine
    _LOG.info("the server allows no second channel; the paramiko client's own is used")
    return SftpEngine(ParamikoChannel(own, borrowed=True), timeout=timeout, initialised=True)


def _further(transport: paramiko.Transport, count: int, timeout: float) -> list[SftpEngine]:
    """Engines in further channels, as many as the server allows."""
    engines: list[SftpEngine] = []
    with contextlib.suppress(TransportError):
        while len(engines) < count and (channel := _second_channel(transport, timeout)) is not None:
            engines.append(SftpEngine(ParamikoChannel(channel), timeout=timeout))
    return engines


def _second_channel(transport: paramiko.Transport, timeout: float) -> paramiko.Channel | None:
    """A new channel with the sftp subsystem, or None when the server refuses it."""
    import paramiko

    channel = None
    try:
        channel = transport.open_session(timeout=timeout)
        # invoke_subsystem() waits for ever for the server's answer.
        watchdog = threading.Timer(timeout, channel.close)
        watchdog.daemon = True
        watchdog.start()
        try:
            channel.invoke_subsystem("sftp")
        finally:
            watchdog.cancel()
    except paramiko.SSHException as error:
        if channel is not None:
            channel.close()
        if not transport.is_active():
            raise map_error(error) from error
        return None
    except Exception as error:
        raise map_error(error) from error
    return channel


def map_error(error: Exception) -> TransportError:
    """The error of our tree for whatever paramiko raises; raise it ``from`` that."""
    import paramiko

    said = printable(str(error)) or type(error).__name__
    if isinstance(error, TransportError):
        return error
    if isinstance(error, paramiko.BadHostKeyException):
        return HostKeyError(f"the host key was refused: {said}")
    if isinstance(error, paramiko.SFTPError):
        return ProtocolError(f"paramiko: {said}")
    if isinstance(error, TimeoutError):
        return StallError(f"the server did not answer: {said}")
    if isinstance(error, paramiko.SSHException | EOFError | OSError):
        return ConnectError(f"the connection failed: {said}")
    return ProtocolError(f"paramiko failed: {type(error).__name__}: {said}")
