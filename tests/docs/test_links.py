"""What the documents name exists: pages, headings, make targets, paths, tests; no page is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, PROJECT_ROOT, read, table


def _anchors(page: Path) -> set[str]:
    titles = re.findall(
        r"^#+ (.+)$",
        re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL),
        re.MULTILINE,
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = PROJECT_ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in _anchors(found), f"{page} links to {target}"


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_make_targets_and_paths_that_are_named_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    text = read(page)
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.MULTILINE)) <= targets
    folders = "src|tests|testbed|benchmarks|demo|docs|scripts|examples"
    for name in re.findall(rf"`((?:{folders})(?:/[\w./-]+)?)`", text):
        is_written = name in ("benchmarks/results/", "docs/performance.json")  # by the benchmarks
        assert (PROJECT_ROOT / name).exists() or is_written, f"{page} names {name}"


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_tests_that_are_named_exist(page: str) -> None:
    for name, test in re.findall(r"`(tests/[\w./-]+\.py)::(\w+)`", read(page)):
        source = (PROJECT_ROOT / name).read_text(encoding="utf-8")
        assert f"\ndef {test}(" in source, f"{page} names {name}::{test}"


def test_every_class_of_attacks_has_its_tests() -> None:
    rows = table("docs/reliability.md", "Attack classes and their tests")
    assert len(rows) >= 16
    for name, _, tests in rows:
        assert "::test_" in tests, name


def test_every_page_is_named_in_the_contents() -> None:
    named = set(re.findall(r"^- \[[^]]+\]\(([\w/-]+\.md)\)", read("docs/index.md"), re.MULTILINE))
    pages = {page.removeprefix("docs/") for page in PAGES} - {"README.md", "index.md"}
    assert pages == named
