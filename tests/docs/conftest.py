"""Fixtures of the tests of the documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.arena import Arena


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with Arena(tmp_path_factory.mktemp("arena")).serve() as made:
        yield made


@pytest.fixture
def arena(served: Arena, tmp_path: Path) -> Arena:
    served.begin(tmp_path)
    return served
