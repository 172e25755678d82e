"""Which rung of the ladder is the cheaper one, by numbers that are known before anything is fetched. Pure."""

from __future__ import annotations

from runicorn.journal.frames import Place
from runicorn.journal.head import Head
from runicorn.remote_storage.published import Listing
from runicorn.remote_storage.selection import Selection

REQUEST_COST = 600
"""Bytes that a file costs on the lower rungs beside its content: three requests and their answers."""

SLACK = 1024**2
"""Bytes that the journal may cost more than a manifest before the change of rung pays."""


def takes_part(selection: Selection) -> bool:
    """Whether a selection leaves out more than media, which the journal can skip by itself."""
    return bool(selection.projects or selection.include or selection.exclude)


def base_bytes(head: Head, place: Place | None, selection: Selection) -> int:
    """Bytes of the journal from the beginning, or from a place in its base, to its end."""
    start = 0
    if place is not None:
        start = place.offset if place.epoch == head.epoch else head.base.offset
    size = head.end.offset - start
    if not selection.media and start < head.media.begin:
        size -= head.media.end.offset - head.media.begin
    return size


def asks_for_listing(head: Head, selection: Selection) -> bool:
    """Whether it pays to read the manifest first, and to count what is selected of it, before the journal
    is read from its beginning."""
    if not takes_part(selection) or head.manifest is None:
        return False
    return head.manifest.size + SLACK < base_bytes(head, None, selection)


def reason_for_listing(head: Head, listing: Listing, selection: Selection) -> str:
    """Why what is selected is fetched by the manifest and not out of the journal; empty when it is not."""
    wanted = [entry.size for run in listing.runs for entry in run.files if selection.wants(run, entry)]
    by_manifest = sum(wanted) + REQUEST_COST * len(wanted)
    by_journal = base_bytes(head, None, selection)
    if by_manifest + SLACK > by_journal:
        return ""
    return f"{len(wanted)} files of {sum(wanted)} bytes are selected, the journal has {by_journal}"


def reason_to_leave(head: Head, place: Place, selection: Selection) -> str:
    """Why a client that could go on in the journal had better read the manifest; empty when it had not."""
    if not takes_part(selection) or head.manifest is None or place.epoch != head.epoch:
        return ""
    news = head.end.offset - place.offset
    if news <= head.manifest.size + SLACK:
        return ""
    return f"a part of the root is selected, and the journal has {news} new bytes of all of it"
