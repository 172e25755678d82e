"""Reading ``scan_state.gz`` as a stream, with the changes of ``scan_state.delta`` laid over it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from runicorn.manifest.model import Identity
from runicorn.manifest.own_files import open_own
from runicorn.manifest.scan_delta import changes_since
from runicorn.manifest.scan_state import FORM, STATE_NAME, RunState, StateLost, Summary, decode_summary

_CHUNK = 256 * 1024


class StateReader:
    """One pass over a state file, with the changes laid over it that follow it.

    Args:
        path: the state file.

    Attributes:
        summary: known after `runs` has ended.

    Raises:
        StateLost: it is missing, torn or of another form.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.summary: Summary | None = None

    def runs(self) -> Iterator[RunState]:
        """The runs in order of run folder.

        Raises:
            StateLost: also after some runs, when what follows them is torn.
        """
        if self._path.name != STATE_NAME:
            yield from self._stored()
            return
        known, changes, summary = changes_since(self._path)
        yield from _laid_over(self._stored(), changes)
        if self.summary is not None and known is not None and summary is not None:
            if self.summary.identity != known:
                raise StateLost("its changes follow another one")
            self.summary = summary

    def _stored(self) -> Iterator[RunState]:
        lines = _lines(self._path)
        if next(lines, None) != FORM.rstrip(b"\n"):
            raise StateLost("it has another form")
        count = 0
        held = next(lines, None)
        for line in lines:
            if held is not None:
                yield RunState.decoded(held)
                count += 1
            held = line
        self.summary = decode_summary(held)
        if self.summary.runs != count:
            raise StateLost("it lacks runs")


def _laid_over(stored: Iterator[RunState], changes: dict[str, RunState | None]) -> Iterator[RunState]:
    """The runs of a state with changes laid over it, in order of run folder."""
    waiting = iter(sorted(changes, key=_in_order))
    changed = next(waiting, None)
    for run in stored:
        while changed is not None and _in_order(changed) < _in_order(run.folder):
            yield from _if_there(changes[changed])
            changed = next(waiting, None)
        if changed == run.folder:
            yield from _if_there(changes[changed])
            changed = next(waiting, None)
        else:
            yield run
    while changed is not None:
        yield from _if_there(changes[changed])
        changed = next(waiting, None)


def _in_order(folder: str) -> str:
    return folder + "/"


def _if_there(run: RunState | None) -> Iterator[RunState]:
    if run is not None:
        yield run


def stored_identity(path: Path) -> Identity | None:
    """The identity of a state file that is whole, without what follows it.

    Args:
        path: the state file, or one that was prepared.
    """
    try:
        summary = None
        for line in _lines(path):
            summary = line
        return decode_summary(summary).identity
    except StateLost:
        return None


def _lines(path: Path) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)
    rest = b""
    try:
        with os.fdopen(open_own(path), "rb") as stream:
            while data := stream.read(_CHUNK):
                lines = (rest + unpacker.decompress(data)).split(b"\n")
                rest = lines.pop()
                yield from lines
    except (OSError, zlib.error) as error:
        raise StateLost(str(error)) from error
    if not unpacker.eof or unpacker.unused_data or rest:
        raise StateLost("it is torn")


def kept_runs(path: Path, count: int) -> Iterator[RunState]:
    """The first ``count`` runs of a state file that was read to there before.

    Raises:
        StateLost: there are fewer.
    """
    if count == 0:
        return
    for taken, state in enumerate(StateReader(path).runs(), 1):
        yield state
        if taken == count:
            return
    raise StateLost("it has changed meanwhile")
