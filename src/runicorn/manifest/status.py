"""What is published of a root, and how long ago: read from the artefacts, without a scan."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from runicorn.errors import DamagedError, NoManifestError, NoSuchRootError, PublishError, UnsafeError
from runicorn.journal.frames import FOLDER
from runicorn.journal.head import HEAD_NAME, MAX_HEAD, Head, decode_head
from runicorn.manifest.model import Header, Identity, ManifestType, Problem
from runicorn.manifest.own_files import open_own
from runicorn.manifest.publish import gz_path, standard_name, stored_header
from runicorn.manifest.rules import ARTEFACT_FOLDER, escape

_EPOCH_SUFFIX = ".journal"


class JournalStatus(NamedTuple):
    """The journal.

    Attributes:
        epoch: name of the current epoch.
        length: its committed bytes.
        base_length: how many of them are its base.
        epochs: number of epochs that are kept.
        size: bytes of all of them.
    """

    epoch: str
    length: int
    base_length: int
    epochs: int
    size: int


class ManifestStatus(NamedTuple):
    """The full manifest.

    Attributes:
        revision: of the state that it lists.
        generated_at: when the server looked for it, seconds since the epoch.
        size: bytes of its compressed form.
    """

    revision: int
    generated_at: float
    size: int


class RootStatus(NamedTuple):
    """What is published of a root.

    Attributes:
        root: its path, as it was named.
        identity: of the newest state.
        generated_at: when the server last looked, seconds since the epoch.
        age: seconds since then, by this machine's clock; never negative.
        runs: number of runs.
        files: number of files.
        size: sum of their sizes, bytes.
        complete: whether no problem hides a file.
        problem_count: number of problems.
        problems: those that the manifest names; it may be older than ``problem_count``.
        duration: how long the last look at the whole root took, seconds; None when that is not known.
        journal: None when there is none.
        journal_trouble: why it cannot be read although it is there; empty otherwise.
        manifest: None when there is none.
    """

    root: str
    identity: Identity
    generated_at: float
    age: float
    runs: int
    files: int
    size: int
    complete: bool
    problem_count: int
    problems: tuple[Problem, ...]
    duration: float | None
    journal: JournalStatus | None
    journal_trouble: str
    manifest: ManifestStatus | None


def root_status(root: Path, now: Callable[[], float] = time.time) -> RootStatus:
    """What is published of a root.

    Args:
        root: the folder that holds all runs.
        now: the time, seconds since the epoch.

    Raises:
        NoSuchRootError: there is no such folder.
        NoManifestError: nothing is published.
        PublishError: what is published cannot be read.
    """
    if not root.is_dir():
        message = f"there is no folder '{escape(str(root))}'"
        raise NoSuchRootError(message, hint="check the path", path=str(root))
    output = root / ARTEFACT_FOLDER
    with _told(output):
        head, trouble = _head(output / FOLDER)
        header, size = _manifest(output)
        journal = _journal(output / FOLDER, head) if head is not None else None
    newest = _newest(head, header)
    if newest is None:
        raise NoManifestError(f"nothing is published of '{escape(str(root))}'", path=str(root))
    return RootStatus(
        root=str(root),
        identity=newest.identity,
        generated_at=newest.generated_at,
        age=max(0.0, now() - newest.generated_at),
        runs=newest.total_experiments,
        files=newest.total_files,
        size=newest.total_bytes,
        complete=newest.complete,
        problem_count=newest.problem_count,
        problems=header.problems if header is not None else (),
        duration=head.duration if head is not None else None,
        journal=journal,
        journal_trouble=trouble,
        manifest=ManifestStatus(header.identity.revision, header.generated_at, size) if header else None,
    )


@contextmanager
def _told(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = escape(str(error.filename or output))
        raise PublishError(f"cannot read '{name}': {error.strerror}", path=name) from error


def _newest(head: Head | None, header: Header | None) -> Head | Header | None:
    if head is None or header is None:
        return head or header
    return header if header.generated_at > head.generated_at else head


def _head(folder: Path) -> tuple[Head | None, str]:
    try:
        with os.fdopen(open_own(folder / HEAD_NAME), "rb") as stream:
            return decode_head(stream.read(MAX_HEAD + 1)), ""
    except FileNotFoundError:
        return None, ""
    except (DamagedError, UnsafeError) as error:
        return None, str(error)


def _manifest(output: Path) -> tuple[Header | None, int]:
    path = output / standard_name(ManifestType.FULL)
    for each in (gz_path(path), path):
        header = stored_header(each)
        if header is not None:
            return header, each.stat().st_size
    return None, 0


def _journal(folder: Path, head: Head) -> JournalStatus:
    sizes = []
    for each in folder.iterdir():
        if each.name.endswith(_EPOCH_SUFFIX):
            with suppress(FileNotFoundError):  # a generator that works just now removes old ones
                sizes.append(each.stat().st_size)
    return JournalStatus(head.epoch, head.end.offset, head.base.offset, len(sizes), sum(sizes))
