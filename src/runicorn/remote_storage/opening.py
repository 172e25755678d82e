"""Opening a mirror: its tree, its lock, its state."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from runicorn.errors import MirrorBusyError, MirrorError, RequestError, UsageError
from runicorn.manifest.rules import escape
from runicorn.remote_storage.durability import Barrier
from runicorn.remote_storage.mirror import STATE_FOLDER, Mirror
from runicorn.remote_storage.options import SyncOptions
from runicorn.remote_storage.staging_folder import STAGING
from runicorn.remote_storage.state import MirrorState
from runicorn.remote_storage.transport.base import Job, Stat, Transport

log = logging.getLogger(__name__)

_STATE_FILE = "state.db"
_LOCK_FILE = "sync.lock"
_SCAN_STATE = "scan_state.gz"
_SCRATCH_HINT = "set TMPDIR to a folder with room"
_ELSEWHERE_HINT = "name another folder for the mirror"


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
        UsageError: it is no mirror but a root.
        MirrorBusyError: another sync works on it.
        MirrorError: it cannot be used.
    """
    refuse_published(root)
    database = root / STATE_FOLDER / _STATE_FILE
    scratch = root
    if options.dry_run:
        scratch = Path(stack.enter_context(_scratch_folder()))
        root = root if root.exists() else scratch
    tree = stack.enter_context(Mirror(root, read_only=options.dry_run))
    for name in (_LOCK_FILE, _STATE_FILE, *(f"{_STATE_FILE}{suffix}" for suffix in ("-wal", "-shm"))):
        tree.require_plain(f"{STATE_FOLDER}/{name}")
    if options.dry_run:
        database = _copy_of_state(database, scratch)
    else:
        stack.enter_context(_locked(root / STATE_FOLDER / _LOCK_FILE, options.lock_timeout))
        if database.with_name(f"{_STATE_FILE}-wal").exists():
            # A sync was killed. What it put in place will be recorded without another look at the disk.
            Barrier(tree.fd).wait()
        tree.staging.sweep()
    return OpenMirror(tree, stack.enter_context(MirrorState(database)))


def _scratch_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="runicorn-")
    except OSError as error:
        message = f"there is no temporary folder for a dry run: {error.strerror}"
        raise MirrorError(message, hint=_SCRATCH_HINT) from error


def _copy_of_state(database: Path, folder: Path) -> Path:
    """SQLite writes beside a database even when it only reads; a copy can be torn, and is lost then."""
    for part in (database, database.with_name(f"{database.name}-wal")):
        try:
            source = part.open("rb")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise MirrorError(f"cannot read the state of the mirror: {error.strerror}") from error
        with source:
            try:
                with (folder / part.name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)
            except OSError as error:
                message = f"cannot copy the state of the mirror to {folder}: {error.strerror}"
                raise MirrorError(message, hint=_SCRATCH_HINT) from error
    return folder / database.name


def refuse_published(root: Path) -> None:
    """Refuse to make a mirror of a folder that a generator publishes, before anything is written in it.

    Raises:
        UsageError: it is one, and was never synced to.
    """
    folder = root / STATE_FOLDER
    if os.path.lexists(folder / _SCAN_STATE) and not os.path.lexists(folder / _STATE_FILE):
        raise UsageError(
            f"{escape(str(root))} is a root that is published, not a mirror", hint=_ELSEWHERE_HINT
        )


def refuse_itself(mirror: OpenMirror, transport: Transport, remote_root: str) -> None:
    """Refuse to sync a folder with itself, as a host name or a network disk can hide it: a log that somebody
    writes would be replaced. Asks the server only when files lie in a mirror that nothing is known of.

    Args:
        mirror: the mirror, open for writing.
        transport: the connection.
        remote_root: the root on the server.

    Raises:
        UsageError: what is written in the mirror appears in the root.
        TransportError: the connection is lost.
    """
    tree = mirror.tree
    if not mirror.state.is_empty() or tree.is_empty():
        return
    staged, _ = tree.staging.stage_whole(memoryview(b""), 0)
    answers: list[object] = []
    try:
        transport.run(iter([_look(f"{remote_root}/{STAGING}/{staged.name}", answers)]))
    finally:
        staged.discard()
    if not isinstance(answers[0], RequestError):
        raise UsageError(f"the mirror {escape(str(tree.root))} is its own source", hint=_ELSEWHERE_HINT)


def _look(path: str, answers: list[object]) -> Job:
    answers += yield [Stat(path)]


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
