"""What the user wants."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from pathspec import GitIgnoreSpec

from runicorn.errors import UsageError
from runicorn.remote_storage.selection import Selection
from tests.remote_storage.helpers import RUN, a_run, an_entry

NAMES = ("meta.json", "summary.json", "events.jsonl", "media/a.png", "media/deep/b.jpg")


def wanted(selection: Selection) -> list[str]:
    entries = [an_entry(f"{RUN}/{name}") for name in NAMES]
    run = a_run(*entries)
    taken = [name for name, entry in zip(NAMES, entries, strict=True) if selection.wants(run, entry)]
    assert [name for name in NAMES if selection.wants_known(RUN, name)] == taken
    return taken


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), list(NAMES)),
        (Selection(projects=("vision",)), list(NAMES)),
        (Selection(projects=("speech",)), []),
        (Selection(projects=("speech", "vision")), list(NAMES)),
        (Selection(media=False), list(NAMES[:3])),
        (Selection(include=("*.json",)), ["meta.json", "summary.json"]),
        (Selection(exclude=("*.json",)), list(NAMES[2:])),
        (Selection(include=("*.json",), exclude=("meta.json",)), ["summary.json"]),
        (Selection(exclude=("media/",)), list(NAMES[:3])),
        (Selection(include=("/vision/**/media/*.png",)), ["media/a.png"]),
        (Selection(exclude=("/media",)), list(NAMES)),
        (Selection(include=("*.json", "!meta.json")), ["summary.json"]),
        (Selection(include=("r[12]/",)), list(NAMES)),
        (Selection(include=("# a comment", "*.png")), ["media/a.png"]),
    ],
)
def test_selection_takes_what_is_wanted(selection: Selection, expected: list[str]) -> None:
    selection.check()
    assert wanted(selection) == expected


def test_key_tells_selections_apart() -> None:
    each = [
        Selection(),
        Selection(media=False),
        Selection(projects=("a",)),
        Selection(projects=("a", "b")),
        Selection(include=("a",)),
        Selection(exclude=("a",)),
    ]
    assert len({selection.key for selection in each}) == len(each)
    assert Selection(include=("a",)).key == Selection(include=("a",)).key


def test_everything_is_only_what_leaves_nothing_out() -> None:
    assert Selection().is_everything
    assert not Selection(media=False).is_everything


def test_file_of_the_mirror_that_is_in_no_run_is_selected_by_everything_alone() -> None:
    assert Selection().wants_known("no/run", "meta.json")
    assert not Selection(exclude=("none",)).wants_known("no/run", "meta.json")


def test_media_is_what_lies_in_the_folder() -> None:
    selection = Selection(media=False)
    assert selection.wants_known(RUN, "mediator")
    assert selection.wants_known(RUN, "media")
    assert not selection.wants_known(RUN, "media/x")


@pytest.mark.parametrize("selection", [Selection(include=("!",)), Selection(exclude=("!",))])
def test_pattern_that_cannot_be_read_is_refused_before_a_sync(selection: Selection) -> None:
    with pytest.raises(UsageError, match=r"^cannot read the pattern: .*'!'"):
        selection.check()


@pytest.mark.parametrize("pattern", ["!", "a/**b/["])
def test_pattern_that_means_nothing_is_refused_or_matches_nothing(pattern: str) -> None:
    selection = Selection(include=(pattern,))
    with contextlib.suppress(UsageError):
        selection.check()
        assert wanted(selection) == []


HOSTILE = [
    ("*_*_*_*_*_*_*_*_x.png", "_" * 240 + ".png"),
    ("*[ab]*[ab]*[ab]*[ab]*[ab]*[ab]*x", "ab" * 120),
    ("***_***_***_***_x", "_" * 240),
    ("*?_*?_*?_*?_*?_*?_*x", "_" * 240),
    ("/vision/*a*a*a*a*a*a*a*b/**", "a" * 240),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("pattern", "name"), HOSTILE)
def test_name_made_against_a_pattern_takes_no_time(pattern: str, name: str) -> None:
    """Going back into each `*` takes ages, beyond any timeout."""
    for path in (f"{RUN}/media/{name}", f"vision/{name}/runs/r1/meta.json"):
        assert not Selection(include=(pattern,)).wants_path(path)


PIECES = ["a", "b", "_", "*", "*", "?", "/", "[ab]", "[a-b]", "[!a]", "**/", "\\*", "."]


@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=10).map("".join),
    st.lists(st.text("ab_.*", min_size=1, max_size=7), min_size=1, max_size=4).map("/".join),
)
def test_pattern_selects_what_it_selects_in_gitignore(pattern: str, path: str) -> None:
    try:
        there = GitIgnoreSpec.from_lines([pattern])
    except ValueError:
        reject()
    assert Selection(include=(pattern,)).wants_path(path) == there.match_file(path)
