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


def _next(known: Identity, revision: int) -> Identity:
    """The identity of a new state after this revision."""
    if revision >= MAX_REVISION:
        return Identity(random_uuid(), 1, random_uuid())
    return Identity(known.lineage, revision + 1, random_uuid())


def identity_after(known: Identity, stored: Sequence[Header], *, changed: bool) -> Identity:
    """The identity to publish under when the last scan's is known.

    Args:
        known: what the scan state tells.
        stored: the headers of the manifests that are there.
        changed: whether the scan found something else.

    Returns:
        ``known`` itself when nothing is new. A manifest of the same lineage that is ahead, or has the same
        revision for another state, means that an older scan state was put back: the revision then goes
        beyond both.
    """
    seen = [header.identity for header in stored if header.identity.lineage == known.lineage]
    ahead = any(each.revision >= known.revision and each != known for each in seen)
    if not changed and not ahead:
        return known
    return _next(known, max([known.revision, *(each.revision for each in seen)]))


def identity_without_state(stored: Sequence[Header], same: Callable[[Header], bool]) -> Identity:
    """The identity to publish under when the scan state is lost.

    Args:
        stored: the headers of the manifests that are there, those to trust first in front.
        same: whether a manifest lists exactly what the scan found.
    """
    ours = [header for header in stored if header.identity.lineage is not None]
    if not ours:
        return Identity(random_uuid(), 1, random_uuid())
    lineage = ours[0].identity.lineage
    heads = [header for header in ours if header.identity.lineage == lineage]
    newest = max(heads, key=lambda header: header.identity.revision)
    same_revision = [each for each in heads if each.identity.revision == newest.identity.revision]
    split = any(each.identity != newest.identity for each in same_revision)
    if not split and same(newest):
        return newest.identity
    return _next(newest.identity, newest.identity.revision)
