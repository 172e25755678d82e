"""Results as figures: cost against the number of runs and against the round-trip time, light and dark."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.plan import ALL, FEW, MANY, SOME, USUAL
from benchmarks.results import Found, Results, Sample
from benchmarks.scenes import SCENES

RUNS, ROUND_TRIP = "runs", "round-trip"


@dataclass(frozen=True)
class Theme:
    """Colours: of words and axes, of the grid, and of the contenders in the order of `ALL`."""

    name: str
    ink: str
    grid: str
    colours: Sequence[str]


# The palette of Okabe and Ito, which most colour-blind people can tell apart; lighter on dark pages.
THEMES = (
    Theme(
        "light",
        "#24292f",
        "#d0d7de",
        ("#6e7781", "#d55e00", "#0072b2", "#2a9fd6", "#009e73", "#cc79a7", "#b58900"),
    ),
    Theme(
        "dark",
        "#e6edf3",
        "#30363d",
        ("#8b949e", "#ff8c42", "#4da6ff", "#8fd3ff", "#3ddc97", "#f0a0cc", "#f0e442"),
    ),
)
MARKERS = ("", "s", "o", "^", "D", "v", "P")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "runicorn",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Write all figures of the results; returns their paths. The same results give the same bytes."""
    return [path for theme in THEMES for path in _draw(results, folder, theme)]


def names(name: str) -> dict[str, str]:
    """The file of a figure for each theme."""
    return {theme.name: f"{name}-{theme.name}.svg" for theme in THEMES}


def _draw(results: Results, folder: Path, theme: Theme) -> list[Path]:
    with mpl.rc_context({**STYLE, **_coloured(theme)}):
        made = {RUNS: _against_runs(results, theme), ROUND_TRIP: _against_round_trips(results, theme)}
        paths = []
        for name, figure in made.items():
            path = folder / names(name)[theme.name]
            nothing = dict.fromkeys(("Date", "Creator"))
            figure.savefig(path, format="svg", transparent=True, metadata=nothing)
            # The program's version is in the comment before the picture, and no part of it.
            path.write_text(_without_doctype(path.read_text(encoding="utf-8")), encoding="utf-8")
            paths.append(path)
    return paths


def _without_doctype(text: str) -> str:
    lines = (line.rstrip() for line in text[text.index("<svg") :].splitlines())
    return "\n".join(lines) + "\n"


def _coloured(theme: Theme) -> dict[str, Any]:
    words = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {**dict.fromkeys(words, theme.ink), "grid.color": theme.grid}


def _against_runs(results: Results, theme: Theme) -> Figure:
    """One panel for each scene, at the usual line."""
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    acts = [each for each in results.of("Syncs", line=USUAL) if each.tree.files == FEW.files]
    row = figure.subplots(1, len(SCENES), sharey=True)
    row[0].set_ylabel("seconds")
    for axes, scene in zip(row, SCENES, strict=True):
        _panel(axes, acts, scene, theme, lambda found: found.tree.runs)
        axes.set_title(scene)
        axes.set_xscale("log")
        axes.set_xticks([tree.runs for tree in (FEW, SOME, MANY)])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel(f"runs of {FEW.files} files, {USUAL.name}")
    _fit(row)
    _finish(figure, theme)
    return figure


def _against_round_trips(results: Results, theme: Theme) -> Figure:
    """One row for each tree, one panel in it for each scene."""
    trees = (FEW, SOME, MANY)
    figure = Figure(figsize=(9.5, 8.6), layout="constrained")
    rows = figure.subplots(len(trees), len(SCENES), sharex=True, sharey="row")
    for tree, row in zip(trees, rows, strict=True):
        acts = [found for found in results.of("Syncs", tree=tree) if found.line and not found.line.mbit]
        row[0].set_ylabel("seconds")
        for axes, scene in zip(row, SCENES, strict=True):
            _panel(axes, acts, scene, theme, lambda found: found.line.rtt_ms if found.line else 0)
            axes.set_title(f"{scene}, {tree.runs:,} runs")
            axes.set_xticks([0, 50, 200])
            if tree is trees[-1]:
                axes.set_xlabel("round-trip time, ms; no rate limit")
        _fit(row)
    _finish(figure, theme)
    return figure


def _panel(
    axes: Any, acts: Sequence[Found], scene: str, theme: Theme, place: Callable[[Found], float]
) -> None:
    """Medians as lines, the least and the most as bars."""
    axes.set_yscale("log")
    for name, colour, marker in zip(ALL, theme.colours, MARKERS, strict=True):
        points = []
        for found in sorted(acts, key=place):
            seconds = [each.seconds for each in found.samples if _is_of(each, name, scene)]
            if seconds:
                points.append((place(found), statistics.median(seconds), min(seconds), max(seconds)))
        if points:
            x, middle, least, most = zip(*points, strict=True)
            errors = [
                [a - b for a, b in zip(middle, least, strict=True)],
                [a - b for a, b in zip(most, middle, strict=True)],
            ]
            is_floor = not marker
            axes.errorbar(
                *(x, middle, errors),
                label=name,
                color=colour,
                marker=marker or "_",
                markersize=5,
                linewidth=1.6,
                linestyle="--" if is_floor else "-",
                capsize=2,
            )
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(visible=True, which="major", linewidth=0.6)
    axes.set_axisbelow(True)


def _fit(row: Sequence[Any]) -> None:
    """Let the axes end at the values: the library takes bars without length for more than they are."""
    seconds = [float(each) for axes in row for line in axes.lines for each in line.get_ydata()]
    if seconds:
        row[0].set_ylim(min(seconds) / 1.4, max(seconds) * 1.4)


def _is_of(sample: Sample, name: str, scene: str) -> bool:
    return (sample.contender, sample.scene) == (name, scene) and not sample.trouble


def _finish(figure: Figure, theme: Theme) -> None:
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    chosen = [name for name in ALL if name in handles]
    figure.legend(
        [handles[name] for name in chosen],
        chosen,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        labelcolor=theme.ink,
    )
