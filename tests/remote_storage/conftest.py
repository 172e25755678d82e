"""Fixtures of the client's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.remote_storage.helpers import Site, make_run


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed file is tried again at once."""
    monkeypatch.setattr("runicorn.remote_storage.transfer.BACKOFF", (0.0, 0.0))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A root with one run, and a mirror that does not exist yet."""
    made = Site(tmp_path / "root", tmp_path / "mirror")
    make_run(made.root)
    return made
