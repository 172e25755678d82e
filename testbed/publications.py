"""What a root has published, as the oracle remembers it. No code is the product's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Identity = tuple[str | None, int, str]
"""Lineage, revision and snapshot."""


class Entry(NamedTuple):
    """How a file was published."""

    size: int
    digest: str | None
    ended: bool


@dataclass(frozen=True)
class Publication:
    """A state that was published."""

    identity: Identity
    is_full: bool
    complete: bool
    runs: Mapping[str, Mapping[str, Entry]]

    def lists(self, path: str) -> bool:
        """Whether it names a file."""
        return any(path in files for files in self.runs.values())


def identity_of(document: Mapping[str, Any]) -> Identity:
    """The identity of a manifest."""
    return document.get("lineage"), document["revision"], document["snapshot_id"]


def entry_of(raw: Mapping[str, Any], ended: bool) -> Entry:
    """The entry of a file of a manifest."""
    return Entry(raw["size"], raw.get("sha256") or raw.get("block_digest"), ended)
