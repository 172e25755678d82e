"""The states that a journal has published, read off docs/journal-format.md anew. No code is the product's."""

from __future__ import annotations

import importlib
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

MAGIC = b"RJ\x01\n"
HEADER = 48
FILES, COMMIT = 2, 3


class Frame(NamedTuple):
    """One frame: its kind, the object of its payload, and the offset behind it."""

    kind: int
    content: dict[str, Any]
    end: int


@dataclass
class Epoch:
    """One epoch, as far as it has been read.

    Attributes:
        path: its file.
        offset: behind the last commit that was read.
        runs: the entries of that state, by run folder and path within it, and the status of each run.
    """

    path: Path
    offset: int = 0
    runs: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    _chain: bytes = b""

    def __post_init__(self) -> None:
        self._chain = sha256(f"runicorn journal 1\n{self.path.stem}\n".encode()).digest()

    def commits(self) -> Iterator[dict[str, Any]]:
        """The states that were committed since the last call, each like a full manifest."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        runs = dict(self.runs)
        for frame, chain in _frames(content, self.offset, self._chain):
            if frame.kind == FILES:
                for section in frame.content["runs"]:
                    runs[section["folder"]] = _laid_over(runs.get(section["folder"]), section)
            elif frame.kind == COMMIT:
                self.offset, self._chain, self.runs = frame.end, chain, dict(runs)
                yield {
                    **frame.content,
                    "manifest_type": "full",
                    "experiments": [_run(folder, *run) for folder, run in runs.items() if run[1]],
                }


def _frames(content: bytes, at: int, chain: bytes) -> Iterator[tuple[Frame, bytes]]:
    """The whole frames from an offset on, each with the chain behind it."""
    while len(content) >= at + HEADER and content[at : at + 4] == MAGIC:
        kind, codec, _, stored, _ = struct.unpack(">BBHII", content[at + 4 : at + 16])
        payload = content[at + HEADER : at + HEADER + stored]
        chain = sha256(chain + content[at : at + 16] + payload).digest()
        if len(payload) < stored or chain != content[at + 16 : at + HEADER]:
            return
        at += HEADER + stored
        expanded = _expanded(codec, payload)
        (length,) = struct.unpack(">I", expanded[:4])
        yield Frame(kind, json.loads(expanded[4 : 4 + length]), at), chain


def _expanded(codec: int, payload: bytes) -> bytes:
    if codec == 0:
        return payload
    if codec == 1:
        return zlib.decompress(payload)
    zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    return bytes(zstd.decompress(payload))


def _laid_over(
    before: tuple[str, dict[str, Any]] | None, section: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    files = dict(before[1]) if before else {}
    files.update({entry["path"]: entry for entry in section["files"]})
    for path in section.get("removed", ()):
        files.pop(path, None)
    return section.get("status") or (before[0] if before else "unknown"), files


def _run(folder: str, status: str, files: dict[str, Any]) -> dict[str, Any]:
    entries = [{**entry, "path": f"{folder}/{path}"} for path, entry in files.items()]
    return {"folder": folder, "status": status, "files": entries}
