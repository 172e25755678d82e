"""Fixtures of the tests of faults."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicorn.remote_storage import fetch, transfer
from tests.faults.lab import Lab
from tests.faults.odd import Commands
from tests.faults.process import sync_here
from tests.faults.scene import scenes_folder


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """The command in children of one process."""
    place = tmp_path_factory.mktemp("commands")
    place.chmod(0o777)
    with Commands(place) as running:
        yield running


@pytest.fixture
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tries again at once; files of some kilobytes take the way of large ones. Nothing is logged: pytest
    would keep the errors that are told there, and they what they hold open."""
    monkeypatch.setattr(transfer, "BACKOFF", (0.0, 0.0))
    monkeypatch.setattr(transfer, "RESUME_FROM", 8_000)
    monkeypatch.setattr(fetch, "MAX_READ", 4_096)
    monkeypatch.setattr(fetch, "READS_AT_ONCE", 1)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A new folder for a scene."""
    made = Path(tempfile.mkdtemp(prefix="runicorn-scene-", dir=scenes_folder(tmp_path)))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A lab without a journal, for one module; nobody changes it."""
    return Lab.build(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def lab(built: Lab, tmp_path: Path) -> Lab:
    """A lab of its own for a test."""
    return built.moved(tmp_path)


@pytest.fixture
def quick(lab: Lab) -> Lab:
    """For long tables: the command runs in this process."""
    lab.run = sync_here
    return lab
