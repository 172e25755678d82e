"""What fuzzers have found, and inputs that reach as much as they did: each is decoded or refused, soon."""

from __future__ import annotations

import hashlib
import logging
import resource
from pathlib import Path

import pytest

from fuzz.target import MEMORY, require_harmless
from fuzz.targets import TARGETS
from tests.faults.tally import Tried, count

CORPUS = Path(__file__).parents[1] / "corpus"
LARGEST = 1024**2
"""Bytes of the whole corpus."""


@pytest.fixture(autouse=True)
def _no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("runicorn"), "disabled", True)


@pytest.mark.parametrize("name", TARGETS)
def test_input_of_the_corpus_is_decoded_or_refused(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    files = sorted((CORPUS / name).iterdir())
    assert len(files) >= 5
    for path in files:
        try:
            TARGETS[name].check(path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path}: {error!r}") from error
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < MEMORY
    count(Tried.HOSTILE_INPUTS, len(files))


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.spoiled is not tuple])
def test_input_that_lies_in_one_place_is_decoded_or_refused(name: str) -> None:
    tried = 0
    for number, text in enumerate(TARGETS[name].spoiled()):
        try:
            TARGETS[name].check(text)
        except Exception as error:
            raise AssertionError(f"number {number}, {text[:300]!r}: {error!r}") from error
        tried += 1
    assert tried >= 30
    count(Tried.HOSTILE_INPUTS, tried)


@pytest.mark.parametrize("name", TARGETS)
def test_honest_input_is_decoded(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    assert len(seeds) >= 3
    for seed in seeds:
        TARGETS[name].check(seed)


def test_corpus_is_small_and_named_by_its_content() -> None:
    files = [path for folder in CORPUS.iterdir() for path in folder.iterdir()]
    assert {path.parent.name for path in files} == set(TARGETS)
    for path in files:
        digest = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
        assert digest.startswith(path.name), path
        assert len(path.name) >= 12
    assert sum(path.stat().st_size for path in files) < LARGEST


@pytest.mark.parametrize(
    "text", ["a\x1b[2J", "\u202e", "\u061c", "\x85", "\ud800", "\u200b", "\n", "\U000e0041"]
)
def test_what_a_terminal_acts_on_is_told_from_text(text: str) -> None:
    with pytest.raises(AssertionError):
        require_harmless(text)
    require_harmless("öß 漢字\u3000\u00a0 \U0001f600 \u0601")
