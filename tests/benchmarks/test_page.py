"""docs/performance.md is what docs/performance.json gives, and no page tells a speed from elsewhere."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import figures, tables
from benchmarks.budgets import budgets
from benchmarks.contenders import JOURNAL, RCLONE, RSYNC, own_name
from benchmarks.page import FIGURES, OF_THE_DOCS, PAGE, by_hand, measured, page
from benchmarks.plan import FAR, LONG_SOME, NEAR, USUAL, Syncs, Tree
from benchmarks.profiling import FIRST_SYNC, GENERATION
from benchmarks.results import Found, LeftOut, Results, Sample, load
from benchmarks.scenes import FIRST

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([PROJECT_ROOT / "README.md", *(PROJECT_ROOT / "docs").rglob("*.md")])

NOTHING = Results("full", {"memory_bytes": 0, "processor": "", "cores": 0, "kernel": "", "python": ""}, {})
BY_JOURNAL = own_name(JOURNAL)

_NUMBER = r"(?<![\w.,-])(\d[\d,]*(?:\.\d+)?)"
_UNIT = r"\s*(?:x|\u00d7|%|s|ms|seconds?|minutes?|[KM]B(?:/s)?|Mbit/s|requests|times|fold)(?!\w)"
_TOOLS = r"\b(?:rsync|rclone|lftp|mutagen|syncthing|wandb)\b"
_FACTOR = (
    r"\s*(?:x|\u00d7|%|times|-?fold)\s+"
    r"(?:faster|slower|cheaper|quicker|as fast|as slow|fewer|less|the time|rsync|rclone|lftp)"
)


@pytest.fixture(scope="module")
def results() -> Results | None:
    return load(OF_THE_DOCS) if OF_THE_DOCS.exists() else None


def test_tables_of_the_page_are_those_of_the_file(results: Results | None) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, results) == text, "make docs writes it anew"


def test_file_is_that_of_the_full_plan_and_nothing_in_it_has_failed(results: Results | None) -> None:
    if results is not None:
        assert results.plan == "full"
        assert [trouble for found in results.found.values() for trouble in found.troubles] == []


def test_page_has_every_block() -> None:
    names = {*tables.blocks(NOTHING), *(f"figure-{name}" for name in (figures.RUNS, figures.ROUND_TRIP))}
    assert set(measured(PAGE.read_text(encoding="utf-8"))) == names


def test_figures_are_those_of_the_file(results: Results | None, tmp_path: Path) -> None:
    drawn = figures.draw(results, tmp_path) if results else []
    there = sorted(FIGURES.iterdir()) if FIGURES.exists() else []
    assert [path.name for path in there] == sorted(path.name for path in drawn)
    for path in drawn:
        assert (FIGURES / path.name).read_bytes() == path.read_bytes(), "make docs draws it anew"


def test_every_missed_budget_has_its_reason(results: Results | None) -> None:
    reasons = by_hand(PAGE.read_text(encoding="utf-8"))
    missed = [each.name for each in budgets(results) if each.verdict == "missed"] if results else []
    without = [name for name in missed if f"**{name}**" not in reasons]
    assert without == [], "below the table of budgets, by hand: - **name**: why"


def test_largest_costs_of_each_profile_and_no_others_have_their_reasons(results: Results | None) -> None:
    _, _, section = PAGE.read_text(encoding="utf-8").partition("\n## Where the time goes\n")
    found = tables.profiles(results) if results else {}
    for what, block in zip(
        (GENERATION, FIRST_SYNC), section.split("\nWhy the largest stay:\n")[1:], strict=True
    ):
        reasons = re.findall(r"^- `([^`]+)`", block, re.MULTILINE)
        assert len(reasons) == tables.TOP
        if what in found:
            assert set(reasons) == {name for name, _ in tables.top_costs(found[what])}, (
                "by hand: - `module` why"
            )


def _first_syncs(journal: list[float], rsync: list[float], trouble: str = "") -> Results:
    act = Syncs(LONG_SOME, USUAL)
    samples = [
        Sample(name, FIRST, repetition, seconds, 1.0, 10**6, 1.0, 10**6, 10**6, 10**6, trouble)
        for name, each in ((BY_JOURNAL, journal), (RSYNC, rsync))
        for repetition, seconds in enumerate(each)
    ]
    left_out = [LeftOut(RCLONE, FIRST, "ended after 100 s")]
    found = Found("Syncs", act.tree, act.line, samples=samples, left_out=left_out)
    return dataclasses.replace(NOTHING, found={act.name: found})


@pytest.mark.parametrize(("journal", "verdict"), [([1.0, 1.4, 9.0], "held"), ([1.0, 1.6, 9.0], "missed")])
def test_budget_goes_by_the_median_of_the_ratios_in_each_repetition(
    journal: list[float], verdict: str
) -> None:
    results = _first_syncs(journal, [1.0, 2.0, 30.0])
    (found,) = [each for each in budgets(results) if "no rate limit, to rsync" in each.name]
    assert found.value == pytest.approx(sorted([1.0, journal[1] / 2, 0.3])[1])
    assert found.verdict == verdict


def test_budget_of_memory_goes_by_the_largest_process_whatever_the_line() -> None:
    found = {
        f"{runs} {line.name}": Found(
            "Syncs",
            Tree(runs),
            line,
            samples=[Sample(name, FIRST, 0, 1.0, 1.0, peak * 10**6, 1.0, 10**6, 10**6, 10**6, trouble)],
        )
        for runs, line, name, peak, trouble in (
            (100, USUAL, BY_JOURNAL, 260, ""),
            (100, NEAR, BY_JOURNAL, 90, ""),
            (100, FAR, RSYNC, 300, ""),
            (1_000, USUAL, BY_JOURNAL, 100, ""),
            (10_000, USUAL, BY_JOURNAL, 400, "exit 1"),
        )
    }
    each = next(x for x in budgets(dataclasses.replace(NOTHING, found=found)) if "Client memory" in x.name)
    assert (each.name, each.value) == ("Client memory, any sync, up to 1,000 runs", 260)
    assert each.verdict == "missed"


def test_tables_show_spread_ratios_failures_and_what_is_left_out_in_words() -> None:
    table = tables.blocks(_first_syncs([1.0, 1.4, 9.0], [1.0, 2.0, 30.0]))["first-sync"]
    assert "| 1,000 x 15 | 50 ms, no rate limit | 3 | 2 (1 to 30) | 1.40 (1 to 9) | left out |" in table
    assert "| 1,000 x 15 | 50 ms, no rate limit | 0.70 (0.30 to 1) | - |" in table
    assert f"- {RCLONE}, 1,000 x 15, 50 ms, no rate limit: ended after 100 s." in table
    failed = tables.blocks(_first_syncs([1.0], [1.0], trouble="exit 1"))["first-sync"]
    assert "| failed | failed | left out |" in failed


def _sentences(text: str) -> Iterator[str]:
    """Of prose and tables, without what stands in fences, addresses and names of files."""
    text = re.sub(r"^```.*?^```$|^    .*?$|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for paragraph in re.split(r"\n\s*\n|\n(?=[-|] )", text):
        yield from re.split(r"(?<=[.;:?!])\s", " ".join(paragraph.split()))


def claims(text: str) -> Iterator[tuple[str, str]]:
    """Numbers that tell how fast something is, each with its sentence: factors, and amounts beside a tool."""
    for sentence in _sentences(text):
        patterns = [_NUMBER + _FACTOR]
        if re.search(_TOOLS, sentence, re.IGNORECASE):
            patterns.append(_NUMBER + _UNIT)
        for pattern in patterns:
            for found in re.finditer(pattern, sentence):
                yield found[1], sentence


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("It is 15 x faster than before.", ["15"]),
        ("A sync takes 0.9 s; `rsync -az` takes 9.2 s for that.", ["9.2"]),
        ("rclone needs\n31 s\nfor the same.", ["31"]),
        ("30 % less", ["30"]),
        ("rsync 3.5.0 was used, through port 22.", []),
        ("A drop is noticed within 15 seconds.", []),
        ("```console\nrsync took 3 s\n```", []),
    ],
)
def test_claims_are_found(text: str, numbers: list[str]) -> None:
    assert [number for number, _ in claims(text)] == numbers


def _tokens() -> set[str]:
    """All numbers in the measured blocks."""
    blocks = "".join(measured(PAGE.read_text(encoding="utf-8")).values())
    return {found[1] for found in re.finditer(_NUMBER, blocks)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_page_tells_a_speed_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path == PAGE:
        text = re.sub(
            r"^## How it is measured\n.*?^(?=## )", "", by_hand(text), flags=re.DOTALL | re.MULTILINE
        )
    known = _tokens()
    assert [found for found in claims(text) if found[0] not in known] == [], (
        "no number of the measured tables"
    )
