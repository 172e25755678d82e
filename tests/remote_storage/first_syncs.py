"""A first sync with processes that help, for the tests of them."""

from __future__ import annotations

import os
import select
import sqlite3

from runicorn.remote_storage import SyncOptions, SyncReport, synchronize
from runicorn.remote_storage.report import Observer, ignore
from runicorn.remote_storage.transport import LocalTransport
from runicorn.remote_storage.workers import Workers
from tests.remote_storage.helpers import Site

RUNS = 12
"""Of the root that `framed` publishes, beside the one of every site."""
PATIENCE_MS = 20_000


def first_sync(
    site: Site, workers: Workers | None, observe: Observer = ignore, options: SyncOptions | None = None
) -> SyncReport:
    options = options or SyncOptions(source=str(site.root))
    transport = LocalTransport()
    return synchronize(transport, str(site.root), site.mirror, options, observe, workers=workers).report


def recorded(site: Site) -> list[tuple[object, ...]]:
    """What is remembered of every file, but for the number that the disk gave it."""
    with sqlite3.connect(site.database) as database:
        rows = database.execute(
            "SELECT folder, inner, size, mtime_ns, hashes, listed_size, listed_mtime, listed_mtime_ns,"
            " listed_digest, young_at, epoch, gone FROM files ORDER BY folder, inner"
        ).fetchall()
    database.close()
    return rows


def end_of(pid: int) -> bool:
    """Wait for the end of a process, however it is related to this one."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        return bool(waiting.poll(PATIENCE_MS))
    finally:
        os.close(fd)
