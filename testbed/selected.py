"""The files of runs in a root, read off docs/manifest-format.md anew. It shares no code with the product."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

MARKERS = ("meta.json", "status.json")
NAMES = (
    *MARKERS,
    "summary.json",
    "environment.json",
    "artifacts_created.json",
    "artifacts_used.json",
    "assets.json",
    "events.jsonl",
    "logs.txt",
)
UNFINISHED = (".lock", ".tmp", ".temp", ".part", ".partial", ".swp", "~")
DEEPEST = 32
_REFUSED = re.compile("[\x00-\x1f\x7f-\x9f\\\\\ud800-\udfff]")


def selected_files(root: Path) -> dict[str, bytes]:
    """The content of each file that belongs to a run, by its path relative to the root."""
    paths = [path for run in run_folders(root) for path in _files(run)]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(paths)}


def run_folders(root: Path) -> Iterator[Path]:
    """The folders of all runs, in both layouts."""
    for project in _folders(root):
        if project.name == "runs":
            yield from _runs_below(project, DEEPEST)
            continue
        for name in _folders(project):
            runs = [each for each in _folders(name) if each.name == "runs"]
            yield from (run for each in runs for run in _folders(each) if _is_run(run))


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    for each in _folders(folder):
        if _is_run(each):
            yield each
        elif depth:
            yield from _runs_below(each, depth - 1)


def _is_run(folder: Path) -> bool:
    return any(_is_file(folder / name) for name in MARKERS)


def _files(run: Path) -> Iterator[Path]:
    yield from (run / name for name in NAMES if _is_file(run / name))
    media = run / "media"
    if media.is_dir() and not media.is_symlink():
        yield from _media(media, DEEPEST)


def _media(folder: Path, depth: int) -> Iterator[Path]:
    for path in folder.iterdir():
        if _may(path.name) and not path.name.lower().endswith(UNFINISHED) and _is_file(path):
            yield path
    if depth:
        for each in _folders(folder):
            yield from _media(each, depth - 1)


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        found = [each.path for each in entries if _may(each.name) and each.is_dir(follow_symlinks=False)]
    return [Path(path) for path in sorted(found)]


def _may(name: str) -> bool:
    return not name.startswith(".") and not _REFUSED.search(name)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
