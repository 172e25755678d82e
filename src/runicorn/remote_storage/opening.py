"""Opening a mirror: its tree, its lock, its state."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from runicorn.errors import MirrorBusyError, MirrorError
from runicorn.remote_storage.mirror import STATE_FOLDER, Mirror
from runicorn.remote_storage.options import SyncOptions
from runicorn.remote_storage.state import MirrorState

log = logging.getLogger(__name__)

_STATE_FILE = "state.db"
_LOCK_FILE = "sync.lock"


@dataclass(frozen=True, slots=True)
class OpenMirror:
    """A mirror that is worked on.

    Attributes:
        tree: its files.
        state: what is remembered of them.
    """

    tree: Mirror
    state: MirrorState


def open_mirror(stack: contextlib.ExitStack, root: Path, options: SyncOptions) -> OpenMirror:
    """Open a mirror for one sync, under its lock; a dry run takes no lock and writes nothing.

    Args:
        stack: closes everything again.
        root: the folder of the mirror.
        options: how the sync is done.

    Raises:
        MirrorBusyError: another sync works on it.
        MirrorError: it cannot be used.
    """
    database = root / STATE_FOLDER / _STATE_FILE
    scratch = root
    if options.dry_run:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runicorn-")))
        root = root if root.exists() else scratch
    tree = stack.enter_context(Mirror(root, read_only=options.dry_run))
    for name in (_LOCK_FILE, _STATE_FILE, *(f"{_STATE_FILE}{suffix}" for suffix in ("-wal", "-shm"))):
        tree.require_plain(f"{STATE_FOLDER}/{name}")
    if options.dry_run:
        database = _copy_of_state(database, scratch)
    else:
        stack.enter_context(_locked(root / STATE_FOLDER / _LOCK_FILE, options.lock_timeout))
        tree.sweep_staging()
    return OpenMirror(tree, stack.enter_context(MirrorState(database)))


def _copy_of_state(database: Path, folder: Path) -> Path:
    """SQLite writes beside a database even when it only reads; a copy can be torn, and is lost then."""
    for part in (database, database.with_name(f"{database.name}-wal")):
        try:
            shutil.copyfile(part, folder / part.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise MirrorError(f"cannot read the state of the mirror: {error.strerror}") from error
    return folder / database.name


@contextlib.contextmanager
def _locked(path: Path, timeout: float) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another sync works on this mirror; waiting up to %g s", timeout)
        try:
            lock.acquire(timeout=timeout)
        except Timeout as error:
            raise MirrorBusyError(f"another sync works on the mirror {path.parent.parent}") from error
    try:
        yield
    finally:
        lock.release()
