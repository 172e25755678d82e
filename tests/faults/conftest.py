"""Fixtures of the tests of faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.odd import Commands


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """The command in children of one process."""
    place = tmp_path_factory.mktemp("commands")
    place.chmod(0o777)
    with Commands(place) as running:
        yield running
