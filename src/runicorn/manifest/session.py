"""Generations under one hold of the generator's lock."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from runicorn._files import sweep_temps
from runicorn.errors import PublishError
from runicorn.manifest.changes import Published, publish_changes
from runicorn.manifest.generation import Order, publish
from runicorn.manifest.generator_lock import now_by_all_clocks
from runicorn.manifest.model import Header, ManifestType, Run
from runicorn.manifest.own_files import require_handles
from runicorn.manifest.publish import standard_name
from runicorn.manifest.rules import escape
from runicorn.manifest.scan_limit import Limit
from runicorn.manifest.scan_state import STATE_NAME

RACY_NS = 2 * 10**9
"""A file that changed this long (ns) before a scan or later is read again by the next one."""

_log = logging.getLogger("runicorn.manifest")


class Session:
    """What can be done while the lock is held.

    Args:
        order: what is to be generated; the time from which files are racy is set for each generation.
        lock: handle of the lock file.

    Attributes:
        lock: the same.
        output: the output folder.

    Raises:
        PublishError: from each generation: the root cannot be read or the output not be written.
    """

    def __init__(self, order: Order, lock: int) -> None:
        self._order = order
        self.lock = lock
        self.output = order.output

    def publish(self, runs: list[Run] | None = None, *, still: bool = False) -> tuple[Header, str]:
        """A whole generation, as `runicorn.manifest.generation.publish`.

        Args:
            runs: see there.
            still: whether what the last scans found is written, without another one.
        """
        with self._told():
            self._sweep()
            return publish(self._timed()._replace(still=still), runs)

    def publish_changes(self, limit: Limit | None, *, renew: bool, began: float | None = None) -> Published:
        """A generation without manifests, as `runicorn.manifest.changes.publish_changes`."""
        with self._told():
            return publish_changes(self._timed(), limit, renew=renew, began=began)

    def _timed(self) -> Order:
        return self._order._replace(racy_from=now_by_all_clocks(self.lock, self._order.root) - RACY_NS)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            require_handles(error, error.filename or self.output)
            name = escape(str(error.filename or self.output))
            raise PublishError(f"cannot write '{name}': {error.strerror}", path=name) from error

    def _sweep(self) -> None:
        names = [standard_name(each) for each in ManifestType]
        for name in sweep_temps(self.output, (*names, *(f"{each}.gz" for each in names), STATE_NAME)):
            _log.debug("removed the rest of a killed generator: %s", name)
