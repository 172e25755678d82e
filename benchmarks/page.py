"""`python -m benchmarks.page`: write the measured blocks of docs/performance.md, and its figures, anew.

They come from docs/performance.json alone; nothing is measured. What stands outside the blocks is written by
hand and stays.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks import figures, tables
from benchmarks.results import Results, load

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, OF_THE_DOCS, FIGURES = DOCS / "performance.md", DOCS / "performance.json", DOCS / "figures"
RESULTS = Path(__file__).with_name("results")
_BLOCK = re.compile(r"(<!-- measured: ([\w-]+) -->\n).*?(<!-- end of measured -->)", re.DOTALL)
_ALTERNATIVES = {
    figures.RUNS: "Seconds against the number of runs, for each scene and contender",
    figures.ROUND_TRIP: "Seconds against the round-trip time, for each scene and contender",
}


def page(text: str, results: Results | None) -> str:
    """The text with all its blocks written anew. Raises KeyError if it has one that nobody writes."""
    blocks = {} if results is None else tables.blocks(results) | _figures()

    def fill(found: re.Match[str]) -> str:
        content = tables.NOT_MEASURED if results is None else blocks[found[2]]
        return f"{found[1]}\n{content}\n\n{found[3]}"

    return _BLOCK.sub(fill, text)


def measured(text: str) -> dict[str, str]:
    """The blocks of a page by their names, as they stand there."""
    return {found[2]: found[0] for found in _BLOCK.finditer(text)}


def by_hand(text: str) -> str:
    """What stands outside the blocks."""
    return _BLOCK.sub("", text)


def _figures() -> dict[str, str]:
    found = {}
    for name, alternative in _ALTERNATIVES.items():
        files = figures.names(name)
        found[f"figure-{name}"] = (
            f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="figures/{files["dark"]}">\n'
            f'  <img src="figures/{files["light"]}" alt="{alternative}">\n</picture>'
        )
    return found


def for_terminal(results: Results) -> str:
    """All tables, one below the other."""
    found = tables.blocks(results).items()
    return "\n\n".join(f"## {name}\n\n{text}" for name, text in found if text != tables.NOT_MEASURED)


def render(results: Results | None) -> None:
    """Write the page, and the figures where there are results."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    if results is not None:
        FIGURES.mkdir(exist_ok=True)
        figures.draw(results, FIGURES)


def main() -> int:
    """Render what the file of the docs holds."""
    render(load(OF_THE_DOCS) if OF_THE_DOCS.exists() else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
