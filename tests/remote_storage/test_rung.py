"""Which rung is the cheaper one, by numbers alone."""

from __future__ import annotations

import dataclasses

import pytest

from runicorn.journal.frames import Place
from runicorn.journal.head import Head, Media, Published
from runicorn.manifest.model import Identity
from runicorn.remote_storage import Selection, rung
from runicorn.remote_storage.published import Listing
from tests.remote_storage.helpers import RUN, a_run, an_entry

MIB = 1024**2
EPOCH, OTHER = "0" * 32, "1" * 32
CHAIN = bytes(32)
STATE = Identity("lineage", 7, "seven")
EVERYTHING = Selection()
PART = Selection(projects=("vision",))
NO_MEDIA = Selection(media=False)


def place(offset: int, epoch: str = EPOCH) -> Place:
    return Place(epoch, offset, CHAIN)


def a_head(
    length: int = 100 * MIB, manifest: int | None = MIB, media: tuple[int, int] = (20 * MIB, 90 * MIB)
) -> Head:
    """A journal of so many bytes beside a compressed manifest of so many."""
    return Head(
        identity=STATE,
        generated_at=1.0,
        end=place(length),
        base=place(min(length, 95 * MIB)),
        base_bytes=1,
        media=Media(media[0], place(media[1])),
        total_experiments=1,
        total_files=1,
        total_bytes=1,
        complete=True,
        problem_count=0,
        manifest=None if manifest is None else Published(STATE, place(length), manifest),
    )


def a_listing(*sizes: int) -> Listing:
    """A manifest of one run with pictures of these sizes."""
    entries = [an_entry(f"{RUN}/media/{number}.png", size) for number, size in enumerate(sizes)]
    return Listing(None, STATE, 1.0, runs=[a_run(*entries)])


@pytest.mark.parametrize(
    ("selection", "part"),
    [
        (EVERYTHING, False),
        (NO_MEDIA, False),
        (PART, True),
        (Selection(include=("*.json",)), True),
        (Selection(exclude=("*.json",)), True),
        (Selection(projects=("vision",), media=False), True),
    ],
)
def test_a_part_is_what_the_journal_cannot_skip(selection: Selection, part: bool) -> None:
    assert rung.takes_part(selection) is part


@pytest.mark.parametrize(
    ("start", "selection", "expected"),
    [
        (None, EVERYTHING, 100 * MIB),
        (None, NO_MEDIA, 30 * MIB),
        (place(10 * MIB), EVERYTHING, 90 * MIB),
        (place(10 * MIB), NO_MEDIA, 20 * MIB),
        (place(50 * MIB), NO_MEDIA, 50 * MIB),
        (place(20 * MIB), NO_MEDIA, 80 * MIB),
        (place(100 * MIB), EVERYTHING, 0),
        (place(10 * MIB, OTHER), EVERYTHING, 5 * MIB),
        (place(10 * MIB, OTHER), NO_MEDIA, 5 * MIB),
    ],
)
def test_bytes_that_are_left_to_read(start: Place | None, selection: Selection, expected: int) -> None:
    assert rung.base_bytes(a_head(), start, selection) == expected


@pytest.mark.parametrize(
    ("head", "selection", "asks"),
    [
        (a_head(), PART, True),
        (a_head(), EVERYTHING, False),
        (a_head(), NO_MEDIA, False),
        (a_head(manifest=None), PART, False),
        (a_head(length=2 * MIB, media=(MIB, MIB)), PART, False),
        (a_head(length=2 * MIB + 1, media=(MIB, MIB)), PART, True),
        (a_head(manifest=99 * MIB), PART, False),
        (a_head(manifest=98 * MIB), PART, True),
        (a_head(manifest=30 * MIB), Selection(projects=("vision",), media=False), False),
    ],
)
def test_the_manifest_is_asked_first_when_it_is_much_shorter(
    head: Head, selection: Selection, asks: bool
) -> None:
    assert rung.asks_for_listing(head, selection) is asks


def test_few_selected_bytes_are_fetched_by_the_manifest() -> None:
    reason = rung.reason_for_listing(a_head(), a_listing(MIB, MIB), PART)
    assert "2 files" in reason
    assert str(2 * MIB) in reason
    assert str(100 * MIB) in reason


def test_as_many_bytes_as_the_journal_has_are_read_from_it() -> None:
    assert rung.reason_for_listing(a_head(), a_listing(99 * MIB), PART) == ""
    assert rung.reason_for_listing(a_head(), a_listing(99 * MIB - rung.REQUEST_COST), PART) != ""


def test_many_small_files_cost_their_requests() -> None:
    head = a_head(length=3 * MIB, media=(MIB, MIB))
    count = 2 * MIB // rung.REQUEST_COST
    assert rung.reason_for_listing(head, a_listing(*[0] * (count - 1)), PART) != ""
    assert rung.reason_for_listing(head, a_listing(*[0] * (count + 1)), PART) == ""


def test_what_is_not_selected_costs_nothing() -> None:
    listing = a_listing(10**12)
    assert rung.reason_for_listing(a_head(), listing, Selection(projects=("nlp",))).startswith("0 files of 0")
    assert rung.reason_for_listing(a_head(), listing, PART) == ""


@pytest.mark.parametrize(
    ("news", "selection", "leaves"),
    [
        (2 * MIB, PART, False),
        (2 * MIB + 1, PART, True),
        (90 * MIB, EVERYTHING, False),
        (90 * MIB, NO_MEDIA, False),
        (0, PART, False),
    ],
)
def test_news_of_others_are_passed_over_when_the_manifest_is_shorter(
    news: int, selection: Selection, leaves: bool
) -> None:
    head = a_head()
    reason = rung.reason_to_leave(head, place(head.end.offset - news), selection)
    assert bool(reason) is leaves
    assert not leaves or str(news) in reason


def test_without_a_manifest_or_in_an_older_epoch_nobody_leaves() -> None:
    assert rung.reason_to_leave(a_head(manifest=None), place(0), PART) == ""
    assert rung.reason_to_leave(a_head(), place(0, OTHER), PART) == ""
    head = dataclasses.replace(a_head(), manifest=Published(STATE, place(1), 98 * MIB))
    assert rung.reason_to_leave(head, place(0), PART) != ""
    assert rung.reason_to_leave(head, place(2 * MIB), PART) == ""
