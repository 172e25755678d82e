"""Which identity a generation publishes under (section Identity of the format)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from runicorn.manifest.checks import MAX_REVISION
from runicorn.manifest.model import Header, Identity


def random_uuid() -> str:
    """A random UUID (RFC 9562, version 4)."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def random_name() -> str:
    """32 random hex digits."""
    return os.urandom(16).hex()


def _next(known: Identity, revision: int) -> Identity:
    """The identity of a new state after this revision."""
    if revision >= MAX_REVISION:
        return Identity(random_uuid(), 1, random_uuid())
    return Identity(known.lineage, revision + 1, random_uuid())


def identity_after(
    known: Identity,
    stored: Sequence[Header],
    *,
    changed: bool,
    journal: Sequence[Identity] = (),
    unread: int = 0,
) -> Identity:
    """The identity to publish under when the last scan's is known.

    Args:
        known: what the scan state tells.
        stored: the headers of the manifests that are there.
        changed: whether the scan found something else.
        journal: the states that the journal has.
        unread: number of states after these in the journal that cannot be read.

    Returns:
        ``known`` itself when nothing is new. A manifest or journal of the same lineage that is ahead, or has
        the same revision for another state, means that an older scan state was put back: the revision then
        goes beyond both.
    """
    told = [*(header.identity for header in stored), *journal]
    seen = [each for each in told if each.lineage == known.lineage]
    ahead = any(each.revision >= known.revision and each != known for each in seen)
    if not changed and not ahead and not unread:
        return known
    return _next(known, max([known.revision, *(each.revision for each in seen)]) + unread)


def identity_without_state(
    stored: Sequence[Header],
    same: Callable[[Header], bool],
    journal: Sequence[Identity] = (),
    unread: int = 0,
) -> Identity:
    """The identity to publish under when the scan state is lost.

    Args:
        stored: the headers of the manifests that are there, those to trust first in front.
        same: whether a manifest lists exactly what the scan found.
        journal: the states that the journal has.
        unread: number of states after these in the journal that cannot be read.
    """
    told = [*(header.identity for header in stored), *journal]
    lineage = next((each.lineage for each in told if each.lineage is not None), None)
    if lineage is None:
        return Identity(random_uuid(), 1, random_uuid())
    ours = [each for each in told if each.lineage == lineage]
    newest = max(ours, key=lambda each: each.revision)
    split = any(each != newest for each in ours if each.revision == newest.revision)
    header = next((header for header in stored if header.identity == newest), None)
    if not (split or unread) and header is not None and same(header):
        return newest
    return _next(newest, newest.revision + unread)
