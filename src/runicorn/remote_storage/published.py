"""Reading what a server has published: the heads first, the whole manifest only when it is new."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from runicorn.errors import (
    ChangedError,
    DamagedError,
    NoManifestError,
    RequestError,
    RunicornError,
    UnsafeError,
)
from runicorn.manifest.model import Header, Identity, ManifestType, Problem, Run
from runicorn.manifest.reader import ManifestReader, read_header
from runicorn.manifest.rules import ARTEFACT_FOLDER, escape
from runicorn.remote_storage.fetch import Part, checked, read_all
from runicorn.remote_storage.transport.base import (
    MAX_READ,
    Attributes,
    Close,
    Fstat,
    Handle,
    Job,
    Open,
    Read,
    Transport,
)

log = logging.getLogger(__name__)

MAX_COMPRESSED = 1024**3
HEAD_SIZE = 32 * 1024
READS_AT_FIRST = 4
SPOOLED = 32 * 1024**2
"""Bytes of a manifest that are kept in memory; what is beyond goes to a temporary file."""

_NO_SUCH_FILE = 2


@dataclass(slots=True)
class _Artefact:
    """One manifest of the server, as far as it has been read."""

    kind: ManifestType
    header: Header | None = None
    stream: BinaryIO | None = None
    size: int = 0
    refusal: RequestError | None = None
    failure: RunicornError | None = None


@dataclass(slots=True)
class Listing:
    """What a root holds, whatever way it was learned.

    Attributes:
        header: what the manifest says of itself; None after a walk.
        identity: which published state it is; None after a walk.
        generated_at: when the server looked, seconds since the epoch; None after a walk.
        base: identity of the full manifest below it; None after a walk.
        runs: the runs; empty when nothing is new.
        complete: whether no problem hides a file.
        problem_paths: escaped paths of what could not be listed.
        problems: the first of them.
        problem_count: how many there are.
        unchanged: whether it is the state that the client has already.
        total_experiments: how many runs there are.
    """

    header: Header | None
    identity: Identity | None
    generated_at: float | None
    base: Identity | None = None
    runs: list[Run] = field(default_factory=list)
    complete: bool = False
    problem_paths: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    problem_count: int = 0
    unchanged: bool = False
    total_experiments: int = 0


def read_published(
    transport: Transport, remote_root: str, current: Identity | None = None, base: Identity | None = None
) -> Listing:
    """The state that the server has published.

    Args:
        transport: the connection.
        remote_root: the root on the server, without a slash at its end.
        current: the state that the client has already; when it is the published one, the
            listing comes back ``unchanged`` and without runs.
        base: the full manifest that ``current`` came from, when an active one was laid over it;
            by default ``current`` itself.

    Raises:
        NoManifestError: nothing usable is published.
        DamagedError: what is published makes no sense.
        UnsafeError: what is published would harm this machine.
        TransportError: the connection failed.
    """
    full, active = _Artefact(ManifestType.FULL), _Artefact(ManifestType.ACTIVE)
    try:
        return _read_both(
            transport, remote_root, full, active, () if current is None else (current, base or current)
        )
    finally:
        for each in (full, active):
            if each.stream is not None:
                each.stream.close()


def _read_both(
    transport: Transport,
    remote_root: str,
    full: _Artefact,
    active: _Artefact,
    known: tuple[Identity | None, ...],
) -> Listing:
    transport.run(iter([_read_job(each, remote_root, known) for each in (full, active)]))
    _raise_failures(full, active)
    needed = [full, active] if _is_newer(active, full) else [full]
    newest = cast(Header, needed[-1].header)
    if known and _is_known(newest, full, known):
        return _unchanged(newest, full)
    # A manifest that is known is passed over at first; it is needed when the other one is new.
    missing = [each for each in needed if each.stream is None]
    if missing:
        transport.run(iter([_read_job(each, remote_root, ()) for each in missing]))
        _raise_failures(full, active)
    return _merge(full, active)


def _is_known(newest: Header, full: _Artefact, known: tuple[Identity | None, ...]) -> bool:
    """Whether both are what the client has: a full manifest may have come up to the active one since,
    and then lists runs that the active one left out."""
    return full.header is not None and (newest.identity, full.header.identity) == known


def _raise_failures(full: _Artefact, active: _Artefact) -> None:
    if full.failure is not None:
        raise full.failure
    if full.refusal is not None:
        raise _no_manifest(full.refusal)
    if isinstance(active.failure, UnsafeError):
        raise active.failure
    if active.failure is not None:
        log.warning("the active manifest is not used: %s", escape(str(active.failure)))


def _no_manifest(refusal: RequestError) -> NoManifestError:
    if refusal.code == _NO_SUCH_FILE:
        return NoManifestError("the server publishes no manifest")
    return NoManifestError(f"the manifest cannot be read: {refusal}")


def _is_newer(active: _Artefact, full: _Artefact) -> bool:
    if active.failure is not None or active.header is None or full.header is None:
        return False
    mine, other = active.header.identity, full.header.identity
    return mine.lineage is not None and mine.lineage == other.lineage and mine.revision > other.revision


def _unchanged(newest: Header, full: _Artefact) -> Listing:
    return Listing(
        header=newest,
        identity=newest.identity,
        base=full.header.identity if full.header else None,
        generated_at=max(newest.generated_at, full.header.generated_at if full.header else 0.0),
        complete=newest.complete,
        problem_count=newest.problem_count,
        unchanged=True,
        total_experiments=full.header.total_experiments if full.header else 0,
    )


def _read_job(artefact: _Artefact, remote_root: str, known: tuple[Identity | None, ...]) -> Job:
    base = f"{remote_root}/{ARTEFACT_FOLDER}/{artefact.kind.value}_manifest.json"
    try:
        (answer,) = yield [Open(base + ".gz")]
        if isinstance(answer, RequestError):
            (answer,) = yield [Open(base)]
        if isinstance(answer, RequestError):
            artefact.refusal = answer
            return
        yield from _read_artefact(artefact, cast(Handle, answer), known)
    except (DamagedError, UnsafeError) as error:
        artefact.failure = error
    except (ChangedError, RequestError) as error:
        artefact.failure = DamagedError(f"the manifest cannot be read to its end: {error}")


def _read_artefact(artefact: _Artefact, handle: Handle, known: tuple[Identity | None, ...]) -> Part[None]:
    if known:
        (head,) = yield [Read(handle, 0, HEAD_SIZE)]
        artefact.header = read_header(cast(bytes, checked(head, artefact.kind.value)))
        if artefact.header is not None and artefact.header.identity in known:
            yield [Close(handle)]
            return
    stream = cast(BinaryIO, tempfile.SpooledTemporaryFile(SPOOLED))  # noqa: SIM115 - read after this job
    try:
        artefact.size = yield from _read_whole(handle, stream, artefact.kind.value)
    except BaseException:
        stream.close()
        raise
    stream.seek(0)
    artefact.stream = stream
    if artefact.header is None:
        artefact.header = ManifestReader(stream, artefact.size).header
        stream.seek(0)


def _read_whole(handle: Handle, stream: BinaryIO, name: str) -> Part[int]:
    """Most manifests come with the first batch; only a large one costs more round trips."""
    reads = [Read(handle, index * MAX_READ, MAX_READ, once=True) for index in range(READS_AT_FIRST)]
    first, *answers = yield [Fstat(handle), *reads]
    size = cast(Attributes, checked(first, name)).size
    if size is None or size > MAX_COMPRESSED:
        raise UnsafeError(f"the manifest has {size} bytes; at most {MAX_COMPRESSED} are read")
    end = 0
    for answer in answers:
        data = cast(bytes, checked(answer, name))
        end += stream.write(data)
        if len(data) < MAX_READ:
            break
    if end < size:
        end = yield from read_all(handle, name, end, size, lambda data, _: _ignore(stream.write(data)))
    yield [Close(handle)]
    return end


def _ignore(_written: int) -> None:
    return


def _runs(artefact: _Artefact) -> Iterator[Run]:
    if artefact.stream is None or artefact.header is None:
        raise DamagedError(f"the {artefact.kind.value} manifest could not be read")
    reader = ManifestReader(artefact.stream, artefact.size)
    if reader.header.manifest_type is not artefact.kind:
        said = reader.header.manifest_type.value
        raise DamagedError(f"the {artefact.kind.value} manifest says of itself that it is '{said}'")
    artefact.header = reader.header
    yield from reader.runs()


def _lay_over(runs: dict[str, Run], newer: dict[str, Run]) -> None:
    """Lay newer runs over older ones; an older run inside or around a newer one gives way to it."""
    around = {parent for folder in newer for parent in parents(folder)}
    for folder in list(runs):
        if folder in around or any(parent in newer for parent in parents(folder)):
            del runs[folder]
    runs.update(newer)


def parents(folder: str) -> Iterator[str]:
    """The folders above a path, the nearest first."""
    while folder := folder.rpartition("/")[0]:
        yield folder


def _merge(full: _Artefact, active: _Artefact) -> Listing:
    runs = {run.folder: run for run in _runs(full)}
    headers = [full.header] if full.header else []
    if _is_newer(active, full) and active.stream is not None:
        _lay_over(runs, {run.folder: run for run in _runs(active)})
        headers += [active.header] if active.header else []
    newest = headers[-1]
    problems = tuple(dict.fromkeys(problem for header in headers for problem in header.problems))
    return Listing(
        header=newest,
        identity=newest.identity,
        base=headers[0].identity,
        generated_at=max(header.generated_at for header in headers),
        runs=list(runs.values()),
        complete=all(header.complete for header in headers),
        problem_paths=frozenset(problem.path for problem in problems),
        problems=problems,
        problem_count=max(header.problem_count for header in headers),
        total_experiments=len(runs),
    )
