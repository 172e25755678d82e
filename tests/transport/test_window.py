"""How many handles may be open at once, learned from what the server refuses."""

from __future__ import annotations

import pytest

from runicorn.remote_storage.transport.window import FIRST_HANDLES, FIRST_HANDLES_KNOWN, HandleWindow


def opened(window: HandleWindow, count: int) -> HandleWindow:
    for _ in range(count):
        window.accepted()
    return window


@pytest.mark.parametrize(
    ("most", "told", "limit"),
    [
        (512, None, FIRST_HANDLES),
        (10, None, 10),
        (2000, 0, FIRST_HANDLES_KNOWN),
        (2000, 4096, FIRST_HANDLES_KNOWN),
        (512, 100, 50),
        (512, 1, 1),
        (512, 3, 1),
    ],
)
def test_limit_at_the_beginning(most: int, told: int | None, limit: int) -> None:
    window = HandleWindow(most)
    if told is not None:
        window.allow(told)
    assert window.limit == limit


def test_each_job_that_ends_well_allows_one_more_up_to_the_ceiling() -> None:
    window = HandleWindow(512)
    window.limit = FIRST_HANDLES - 1
    window.grow()
    window.grow()
    assert window.limit == FIRST_HANDLES


def test_refusal_lowers_the_limit_to_what_is_open_and_the_word_of_the_server_comes_too_late() -> None:
    window = opened(HandleWindow(512), 3)
    window.opening = 1
    assert window.refused(0) == 3
    assert window.limit == 3
    window.allow(1000)
    window.grow()
    assert window.limit == 3
    window.held, window.opening, window.closing = 2, 0, 1
    assert not window.room(0)  # a server may open before it has closed
    window.closing = 0
    assert window.room(0)
    assert not window.room(2)


def test_refusal_below_what_was_open_before_lowers_nothing() -> None:
    window = opened(HandleWindow(512), 8)
    window.held = 4
    assert window.refused(0) == 4
    assert window.refused(4) == 2
    assert window.limit == FIRST_HANDLES
    window.held, window.closing = 1, 0
    assert window.refused(2) == 1


def test_refusal_counts_when_no_other_handle_is_open_or_asked_for() -> None:
    window = HandleWindow(512)
    assert window.refused(0) == 0
    window.opening = 1
    assert window.refused(0) == 1
    assert window.limit == 1


def test_more_than_the_limit_is_taken_when_it_is_given() -> None:
    window = HandleWindow(70)
    assert opened(window, FIRST_HANDLES + 3).limit == FIRST_HANDLES + 3
    assert opened(window, 10).limit == 70
