"""What changed since the scan state was written: ``scan_state.delta`` (section A watching generator of the
journal's format).

One gzip member per record: a line with the identity that it follows, one line per run (as in the scan state;
of a run that is gone only its folder), one with the summary.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from runicorn._files import fsync_folder
from runicorn.manifest.model import Identity
from runicorn.manifest.own_files import open_own, require_own
from runicorn.manifest.scan_state import RunState, StateLost, Summary, decode_summary, encode_summary

DELTA_NAME = "scan_state.delta"

_FORM = b"runicorn scan delta 1"
_LEVEL = 1
_CHUNK = 64 * 1024
_APPENDING = os.O_WRONLY | os.O_APPEND
_NEW = _APPENDING | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Record(NamedTuple):
    """The changes of one revision.

    Attributes:
        follows: the identity of the state before.
        runs: the new states by run folder; None for a run that is gone.
        summary: of the scan that found them.
        end: offset behind the record.
    """

    follows: Identity
    runs: dict[str, RunState | None]
    summary: Summary
    end: int


def delta_path(state: Path) -> Path:
    """Where the changes to a state file lie."""
    return state.with_name(DELTA_NAME)


def append_record(
    state: Path, known: Identity, runs: dict[str, RunState | None], summary: Summary, *, first: bool
) -> None:
    """Add a record, durable; when it cannot be written, nothing of it stays.

    Args:
        state: the state file.
        known: the identity that it follows.
        runs: the new states by run folder; None for a run that is gone.
        summary: of the scan that found them.
        first: whether it follows the state file itself.

    Raises:
        OSError: it cannot be written.
        PublishError: something else lies in its place.
    """
    path = delta_path(state)
    lines = [_FORM + b"\t" + _identity_text(known)]
    lines += [folder.encode() if run is None else run.encoded()[:-1] for folder, run in runs.items()]
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    text = b"\n".join(lines) + b"\n" + encode_summary(summary)
    data = packer.compress(text) + packer.flush()
    if first:
        drop_delta(state)
    fd = os.open(path, _NEW, 0o666) if first else open_own(path, _APPENDING)
    try:
        before = os.fstat(fd).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            os.ftruncate(fd, before)
            raise
        os.fsync(fd)
    finally:
        os.close(fd)
    if first:
        fsync_folder(path.parent)


def records(state: Path, base: Identity | None) -> Iterator[Record]:
    """The records that follow a state, in order, up to one that is torn or follows another.

    Args:
        state: the state file.
        base: its identity; None takes the first record for one that follows it.

    Raises:
        PublishError: something else lies in its place.
    """
    try:
        with os.fdopen(open_own(delta_path(state)), "rb") as stream:
            data = stream.read()
    except OSError:
        return
    known, end = base, 0
    while end < len(data):
        text, end = _member(data, end)
        record = _decoded(text, end) if text is not None else None
        if record is None or known not in (None, record.follows):
            return
        known = record.summary.identity
        yield record


def _member(data: bytes, at: int) -> tuple[bytes | None, int]:
    """The text of the gzip member at an offset, None when it is torn, and the offset behind it."""
    unpacker = zlib.decompressobj(wbits=31)
    parts = []
    try:
        while not unpacker.eof and at < len(data):
            piece = data[at : at + _CHUNK]
            parts.append(unpacker.decompress(piece))
            at += len(piece) - len(unpacker.unused_data)
    except zlib.error:
        return None, at
    return (b"".join(parts) if unpacker.eof else None), at


def _decoded(text: bytes, end: int) -> Record | None:
    try:
        first, *lines, last, _ = text.split(b"\n")
        form, _, known = first.partition(b"\t")
        if form != _FORM:
            return None
        runs: dict[str, RunState | None] = {}
        for line in lines:
            run = RunState.decoded(line) if b"\t" in line else None
            runs[line.decode() if run is None else run.folder] = run
        return Record(Identity(*json.loads(known)), runs, decode_summary(last), end)
    except (StateLost, ValueError, TypeError):
        return None


def _identity_text(identity: Identity) -> bytes:
    return json.dumps([identity.lineage, identity.revision, identity.snapshot_id]).encode()


def has_delta(state: Path) -> bool:
    """Whether there are records.

    Raises:
        PublishError: something else lies in their place.
    """
    return require_own(delta_path(state))


def delta_size(state: Path) -> int:
    """Bytes of all records."""
    try:
        return delta_path(state).stat().st_size
    except FileNotFoundError:
        return 0


def changes_since(state: Path) -> tuple[Identity | None, dict[str, RunState | None], Summary | None]:
    """All records together: the identity that they follow, the changes, the summary of the last one.

    Args:
        state: the state file; `settle_delta` was called for it.
    """
    follows, summary = None, None
    changes: dict[str, RunState | None] = {}
    for record in records(state, None):
        follows = follows or record.follows
        changes |= record.runs
        summary = record.summary
    return follows, changes, summary


def cut_delta(state: Path, end: int) -> None:
    """Keep the records up to an offset only; with none left the file goes.

    Raises:
        OSError: it cannot be cut.
    """
    if end == 0:
        drop_delta(state)
        return
    fd = open_own(delta_path(state), os.O_RDWR)
    try:
        if os.fstat(fd).st_size > end:
            os.ftruncate(fd, end)
            os.fsync(fd)
    finally:
        os.close(fd)


def drop_delta(state: Path) -> None:
    """Remove all records, if there are any.

    Raises:
        OSError: they cannot be removed.
        PublishError: something else lies in their place.
    """
    if has_delta(state):
        os.unlink(delta_path(state))


def settle_delta(state: Path, base: Identity | None, journal: Identity | None) -> Identity | None:
    """Keep of the records what was committed (see the head of this module).

    Args:
        state: the state file.
        base: its identity; None when it is lost.
        journal: the state of the journal's last commit; None when there is no journal to go on with.

    Returns:
        The identity of the last record that was there, whole and in line; None when there was none.

    Raises:
        OSError: they cannot be cut.
        PublishError: something else lies in their place.
    """
    if not has_delta(state):
        return None
    last, end = None, 0
    for record in records(state, base) if base is not None else ():
        last = record.summary.identity
        if journal is None or last == journal:
            end = record.end
    cut_delta(state, end)
    return last
