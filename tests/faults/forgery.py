"""Revisions and bases of a journal as a hostile server writes them: every chain and checksum fits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.journal.forge import COMMIT, FILES, HEADER, Raw, chained, checksummed, content, frame, seed, split

Document = dict[str, Any]


def section(folder: str, *files: Document, removed: Sequence[str] = ()) -> Document:
    """A section of a files frame."""
    times = {"created_at": 1704060000.0, "updated_at": 1704060000.0}
    return {"folder": folder, "status": "running", **times, "files": list(files), "removed": list(removed)}


def entry(path: str, size: int = 5, **more: Any) -> Document:
    """An entry that is only listed, unless more is said."""
    return {"path": path, "size": size, "mtime": 1704060000.0, "priority": 2, **more}


def files_frame(*sections: Document, data: bytes = b"", raw: str = "null", codec: int = 0) -> Raw:
    """A files frame; a value ``@@raw@@`` stands for the text ``raw``."""
    text = json.dumps({"runs": list(sections)}).replace('"@@raw@@"', raw)
    return frame(FILES, text.encode(), data, codec)


class Forgery:
    """The journal of a root, and what is put in its place."""

    def __init__(self, root: Path) -> None:
        self.folder = root / ".runicorn/journal"
        self.fields: Document = json.loads((self.folder / "HEAD").read_bytes().partition(b"\n")[0])
        self.path = self.folder / f"{self.fields['epoch']}.journal"
        self.frames = split(self.path.read_bytes()[: self.fields["length"]])
        self.commit: Document = json.loads(
            content(next(raw for raw in self.frames[::-1] if raw.kind == COMMIT))[0]
        )

    def append(self, *frames: Raw, head: Document | None = None, **commit: Any) -> None:
        """One more revision: these frames, and a commit with these fields."""
        made = {"revision": self.commit["revision"] + 1, "snapshot_id": "forged", **commit}
        self.commit |= made
        self.frames += [*frames, frame(COMMIT, self.commit)]
        self._write(made | (head or {}))

    def into_base(self, *frames: Raw, head: Document | None = None) -> None:
        """These frames behind the first files of the base, where a new client comes by."""
        self.frames[2:2] = frames
        moved = sum(HEADER + len(raw.stored) for raw in frames)
        ends = self._ends()
        for where, offset, chain in (
            (self.fields, "base_length", "base_chain"),
            (self.fields["media"], "end", "chain"),
            (self.fields["manifest"], "offset", "chain"),
        ):
            where[offset] += moved
            where[chain] = ends[where[offset]]
        self.fields["media"]["begin"] += moved
        self._write(head or {})

    def _ends(self) -> dict[int, str]:
        at, found = 0, {}
        for data, chain in chained(seed(self.fields["epoch"]), self.frames):
            at += len(data)
            found[at] = chain.hex()
        return found

    def _write(self, head: Document) -> None:
        """Under the inode that is there, as a generator writes it."""
        length, chain = list(self._ends().items())[-1]
        data = b"".join(each for each, _ in chained(seed(self.fields["epoch"]), self.frames))
        self.path.write_bytes(data)
        self.fields |= {"length": length, "chain": chain}
        self.fields |= {name: value for name, value in head.items() if name in self.fields}
        (self.folder / "HEAD").write_bytes(checksummed(self.fields))
