"""Repairing a mirror: what differs is forgotten, so that the next sync fetches it, and nothing else anew.

Nothing is removed. A file that the server publishes with a digest stays until its replacement is proven; of
what nobody can prove by a digest the next sync would believe size and time, so these are taken from it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from runicorn.manifest import rules
from runicorn.remote_storage.known import Cursor
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.opening import OpenMirror, open_mirror
from runicorn.remote_storage.options import SyncOptions
from runicorn.remote_storage.sync import mapped_failures
from runicorn.remote_storage.verify import CHANGED, EXTRA, SHORT, Difference

MOST_AT_ONCE = 100_000
"""Differences that are repaired in one go."""


def forget_differences(root: Path, differences: Sequence[Difference], options: SyncOptions) -> None:
    """Make the next sync fetch what differs.

    Args:
        root: the folder of the mirror.
        differences: what `runicorn.remote_storage.verify` found.
        options: of the sync that follows.

    Raises:
        MirrorBusyError: a sync works on it.
        MirrorError: it cannot be written.
    """
    with mapped_failures(), contextlib.ExitStack() as stack:
        mirror = open_mirror(stack, root, options)
        for each in differences:
            with contextlib.suppress(FileNotFoundError):
                _distrust(mirror, each)
        # Without a cursor everything is compared. In one commit: with the old cursor nobody would look again.
        cursor = Cursor(None, options.selection.key, None, forgot=True)
        mirror.state.record((), [(each.folder, each.inner) for each in differences], cursor=cursor)


def _distrust(mirror: OpenMirror, difference: Difference) -> None:
    known = mirror.state.known(difference.folder, [difference.inner]).get(difference.inner)
    is_log = difference.inner in rules.LOG_PRIORITIES
    is_proven = known is not None and known.listed is not None and known.listed.digest is not None
    loses_its_end = difference.kind == EXTRA or (difference.kind in (CHANGED, SHORT) and not is_proven)
    if is_log and loses_its_end:
        _cut(mirror.tree, difference.path, difference.intact)
    elif difference.kind == CHANGED and not is_proven:
        fd = mirror.tree.open_file(difference.path, os.O_RDWR)
        try:
            os.utime(fd, ns=(0, 0))
            os.fsync(fd)
        finally:
            os.close(fd)


def _cut(tree: Mirror, path: str, size: int) -> None:
    """Cut a log to the beginning that is as published, which is a prefix of the server's."""
    fd = tree.open_file(path, os.O_RDWR)
    try:
        os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)
