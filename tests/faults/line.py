"""What a journal was, and that it carries on whatever happens to its writers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runicorn.journal.frames import FrameReader, Kind, Place
from runicorn.journal.head import Head, decode_head
from runicorn.journal.sections import decode_commit, decode_seal
from runicorn.manifest.model import Identity


@dataclass
class Line:
    """What the journal was: it only ever grows, whatever happens to its writers.

    Attributes:
        head: the last HEAD of a generator that was left alone.
        epochs: epochs that were left.
    """

    journal: Path
    head: Head | None = None
    epochs: int = 0
    kills: int = 0

    def carries_on(self) -> None:
        """A generation has ended: same lineage, a greater revision, frames that follow those of before."""
        head = decode_head((self.journal / "HEAD").read_bytes())
        before, self.head = self.head, head
        if before is None:
            return
        assert head.identity.lineage == before.identity.lineage
        assert head.identity.revision > before.identity.revision
        assert self._path(head.epoch).stat().st_size == head.end.offset
        place, identity = before.end, before.identity
        while True:
            found = list(self._frames(place))
            commits = [state for kind, state, _ in found if kind is Kind.COMMIT]
            assert all(
                one.revision < other.revision
                for one, other in zip([identity, *commits], commits, strict=False)
                if one is not None and other is not None
            )
            identity = commits[-1] or identity if commits else identity
            if place.epoch == head.epoch:
                break
            kind, _, leads = found[-1]
            assert kind is Kind.SEAL, "an epoch was left without a seal"
            assert leads is not None
            place = leads
            self.epochs += 1
        assert identity == head.identity

    def _path(self, epoch: str) -> Path:
        return self.journal / f"{epoch}.journal"

    def _frames(self, place: Place) -> Iterator[tuple[Kind, Identity | None, Place | None]]:
        reader = FrameReader(place)
        reader.feed(self._path(place.epoch).read_bytes()[place.offset :])
        for frame in reader.frames():
            if frame.kind is Kind.COMMIT:
                yield frame.kind, decode_commit(frame).identity, None
            elif frame.kind is Kind.SEAL:
                yield frame.kind, None, decode_seal(frame, None).place
            else:
                yield frame.kind, None, None
        assert reader.held == 0
