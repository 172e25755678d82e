"""What is remembered of a file: how it was listed, and when two listings are of the same content."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from runicorn.remote_storage.known import Known, Listed
from tests.remote_storage.helpers import a_known, an_entry

ENTRY = replace(an_entry(size=3, sha256="5a" * 32), mtime=1.5, mtime_ns=1_500_000_007)


def a_listing(digest: str | None, ns: int | None = None, *, size: int = 3, mtime: float = 5.0) -> Listed:
    return Listed(size, mtime, ns, digest)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (a_listing("a"), a_listing("a"), True),
        (a_listing("a"), a_listing("b"), False),
        (a_listing("a"), a_listing(None), True),
        (a_listing(None), a_listing("a"), True),
        (a_listing("a"), a_listing("a", size=4), False),
        (a_listing(None, 7), a_listing(None, 7, mtime=6.0), True),
        (a_listing(None, 7), a_listing(None, 8), False),
        (a_listing("a", 7), a_listing("a", 8), False),
        (a_listing(None, 7), a_listing(None, mtime=5.9), True),
        (a_listing(None), a_listing(None, 7, mtime=6.0), False),
        (a_listing(None, mtime=5.2), a_listing(None, mtime=5.7), True),
        (a_listing(None), a_listing(None, mtime=4.9), False),
    ],
)
def test_listings_are_of_the_same_content_as_far_as_both_know(one: Listed, other: Listed, same: bool) -> None:
    assert one.same_as(other) is other.same_as(one) is same


def test_listing_of_an_entry() -> None:
    assert Listed.of(ENTRY) == Listed(3, 1.5, 1_500_000_007, "5a" * 32, None)
    assert ENTRY.time_ns == 1_500_000_007
    assert replace(ENTRY, mtime_ns=None).time_ns == 1_500_000_000
    before = time.time()
    young_at = Listed.of(replace(ENTRY, settled=False)).young_at
    assert young_at is not None
    assert before <= young_at <= time.time()


def test_what_is_listed_again_is_of_the_epoch_that_lists_it() -> None:
    held = a_known(9, (b"hash",), extends=True, gone=True, unpublished=True, epoch=3)
    listed = Listed.of(ENTRY)
    assert held.listed_as(ENTRY, 5) == Known(held.local, held.hashes, listed, 5, extends=True)
    assert held.listed_as(ENTRY, 5, unpublished=True).unpublished is True
