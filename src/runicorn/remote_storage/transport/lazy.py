"""A transport that connects when it is first needed, so that local work overlaps with logging in."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from runicorn.remote_storage.transport.base import Job, Traffic, Transport


class LazyTransport:
    """Connects at the first run.

    Args:
        connect: gives the connected transport; what it raises, `run` raises.
    """

    def __init__(self, connect: Callable[[], Transport]) -> None:
        self._connect = connect
        self._connected: Transport | None = None

    @property
    def traffic(self) -> Traffic:
        """What was done so far; nothing before the first run."""
        return self._connected.traffic if self._connected is not None else Traffic()

    def run(self, jobs: Iterable[Job]) -> None:
        """Run all jobs to their end, see `Transport.run`.

        Raises:
            TransportError: the connection failed, or could not be made.
        """
        if self._connected is None:
            self._connected = self._connect()
        self._connected.run(jobs)

    def open_more(self, count: int) -> list[Transport]:
        """See `Transport.open_more`; none before the first run, as that is what logs in."""
        return self._connected.open_more(count) if self._connected is not None else []

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._connected is not None:
            self._connected.close()
