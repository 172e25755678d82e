"""Processes that help with a first sync are started while ssh logs in, when it looks like one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runicorn.cli.sync import _workers
from runicorn.remote_storage.options import SyncOptions
from tests.remote_storage.helpers import unprivileged


def started(mirror: Path, options: SyncOptions | None = None) -> int:
    workers = _workers(mirror, options or SyncOptions())
    if workers is None:
        return 0
    try:
        return len(workers.pids)
    finally:
        workers.close()


@pytest.fixture(autouse=True)
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as on a machine with two processors."""
    monkeypatch.setattr("runicorn.remote_storage.workers.most_workers", lambda: 2)


def nothing(_mirror: Path) -> None:
    return


def folder(mirror: Path) -> None:
    mirror.mkdir()


def folder_with_something(mirror: Path) -> None:
    mirror.mkdir()
    (mirror / ".runicorn").mkdir()


def file(mirror: Path) -> None:
    mirror.write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "is_first"), [(nothing, True), (folder, True), (folder_with_something, False), (file, False)]
)
def test_where_a_mirror_is_not_there_or_is_an_empty_folder(
    tmp_path: Path, make: Callable[[Path], None], is_first: bool
) -> None:
    make(tmp_path / "mirror")
    assert started(tmp_path / "mirror") == (2 if is_first else 0)


@pytest.mark.parametrize("options", [SyncOptions(dry_run=True), SyncOptions(method="walk")])
def test_not_where_there_is_nothing_for_them_to_do(tmp_path: Path, options: SyncOptions) -> None:
    assert started(tmp_path / "mirror", options) == 0


def test_not_where_nobody_may_look(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir(mode=0o000)
    with unprivileged():
        assert started(tmp_path / "mirror") == 0
