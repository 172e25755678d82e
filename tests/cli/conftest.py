"""What the tests of commands begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.sshd import Sshd
from tests.faults.process import generate
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN, make_run


@pytest.fixture(scope="session")
def server() -> Iterator[Sshd]:
    """An OpenSSH server."""
    with Sshd() as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A published root: a run under way in each layout."""
    root = tmp_path / "root"
    for folder in (PROJECT_RUN, PATH_RUN):
        make_run(root, folder, "running")
    generate(root)
    return root


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Where the mirror of a test goes."""
    return tmp_path / "mirror"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Environment variables that give a command folders of its own for configuration and data."""
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_DATA_HOME": str(tmp_path / "data")}
