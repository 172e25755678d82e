"""What commits may hold, and how much of it is written; commits, seals and beginnings are read as written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runicorn.errors import DamagedError, UnsafeError
from runicorn.journal.frames import Place
from runicorn.journal.sections import (
    MAX_PROBLEM_TEXT,
    Seal,
    decode_begin,
    decode_commit,
    decode_seal,
    encode_begin,
    encode_commit,
    encode_seal,
)
from runicorn.manifest.model import Header, Identity, ManifestType, Problem
from tests.journal.forge import BEGIN, COMMIT, LINEAGE, ONE, SEAL, TWO
from tests.journal.sections_helpers import COMMITTED, TEXT, changed, read


def test_a_commit_is_that_of_a_full_manifest_with_a_lineage() -> None:
    header = changed("commit", "manifest_type", "active")
    assert isinstance(header, Header)
    assert header.manifest_type is ManifestType.FULL
    with pytest.raises(DamagedError, match="lineage"):
        changed("commit", "lineage", None)


@pytest.mark.parametrize("complete", [1, "true", None, [True], False])
def test_only_true_is_complete(complete: object) -> None:
    header = changed("commit", "complete", complete)
    assert isinstance(header, Header)
    assert header.complete is False


def test_problems_of_a_commit_are_bounded() -> None:
    problem = COMMITTED["problems"][0]
    header = changed("commit", "problems", [problem] * 100)
    assert isinstance(header, Header)
    assert (len(header.problems), header.problem_count) == (100, 100)
    with pytest.raises(UnsafeError, match=r"^a commit of the journal lists more than 100 problems$"):
        changed("commit", "problems", [problem] * 101)
    wrong: list[object] = [[1], [None], [[]], {"a": 1}]
    for bad in wrong:
        with pytest.raises(DamagedError):
            changed("commit", "problems", bad)


HEADER = Header(ManifestType.FULL, Identity(LINEAGE, 3, "s"), 1.5, "h", "/r", 1, 2, 3, True, generator="g")


def written(header: Header) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode_commit(header))
    return found


def test_a_written_commit_has_what_the_page_says() -> None:
    fields = written(replace(HEADER, active_window=5))
    assert not {"manifest_type", "experiments", "active_window"} & set(fields)
    assert decode_commit(read(COMMIT, fields)) == HEADER
    problems = tuple(Problem(f"p{at}", "link", "m") for at in range(150))
    header = decode_commit(read(COMMIT, written(replace(HEADER, problems=problems))))
    assert (header.problems, header.problem_count) == (problems[:100], 150)
    header = decode_commit(read(COMMIT, written(replace(HEADER, problems=problems, problem_count=999))))
    assert header.problem_count == 999


def test_problem_texts_of_a_written_commit_are_bounded() -> None:
    problems = tuple(Problem("x" * 4000, "link", "y" * 96) for _ in range(50))
    listed = written(replace(HEADER, problems=problems))["problems"]
    assert sum(len(value) for each in listed for value in each.values()) <= MAX_PROBLEM_TEXT
    assert len(listed) == 15


def test_problem_texts_of_a_written_commit_are_counted_to_the_last_byte() -> None:
    fits = Problem("p" * 1000, "k" * 100, "m" * (MAX_PROBLEM_TEXT - 1100))
    assert len(written(replace(HEADER, problems=(fits,)))["problems"]) == 1
    for part in ("path", "kind", "message"):
        longer = replace(fits, **{part: getattr(fits, part) + "x"})
        fields = written(replace(HEADER, problems=(longer, Problem("p", "k", "m"))))
        assert (fields["problems"], fields["problem_count"]) == ([], 2)
    half = Problem("p" * (MAX_PROBLEM_TEXT // 2), "", "")
    assert len(written(replace(HEADER, problems=(half, half, Problem("", "", ""))))["problems"]) == 3
    assert len(written(replace(HEADER, problems=(half, half, Problem("p", "", ""), half)))["problems"]) == 2


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 2**53 - 1), TEXT, st.integers(0, 2**53 - 1), st.binary(min_size=32, max_size=32), st.data()
)
def test_round_trip_of_seal_begin_and_commit(
    revision: int, text: str, offset: int, chain: bytes, data: st.DataObject
) -> None:
    seal = Seal(Identity(LINEAGE, revision, text), Place(TWO, offset, chain))
    assert decode_seal(read(SEAL, encode_seal(seal)), LINEAGE) == seal
    when = data.draw(st.floats(0, 2**33))
    assert decode_begin(read(BEGIN, encode_begin(ONE, text, when))) == (ONE, text)
    problems = tuple(data.draw(st.lists(st.builds(Problem, TEXT, TEXT, TEXT), max_size=5)))
    header = replace(HEADER, generated_at=when, problems=problems, problem_count=len(problems) + 1)
    assert decode_commit(read(COMMIT, encode_commit(header))) == header
