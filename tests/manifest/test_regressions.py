"""Defects of reading that were found after the fact; each test fails on the code that had the defect."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runicorn.errors import UnsafeError
from runicorn.manifest import ManifestType, checks
from runicorn.manifest.codec import MAX_LISTED_PROBLEMS
from runicorn.manifest.reader import ManifestReader
from tests.manifest.make_golden import texts

MIB = 1024 * 1024
HEAD = texts()[0]


@contextmanager
def memory(most: int) -> Iterator[None]:
    """What is done needs at most so many bytes at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most


class Padded(io.RawIOBase):
    """A beginning, then spaces without end."""

    def __init__(self, start: bytes) -> None:
        self.start, self.at = start, 0

    def read(self, size: int = -1) -> bytes:
        begin, self.at = self.at, self.at + size
        return self.start[begin : self.at].ljust(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence == 0
        self.at = offset
        return offset


def read_all(stream: Any, size: int) -> None:
    list(ManifestReader(stream, size).runs())


@pytest.mark.parametrize(
    "bomb",
    [
        b"{" + b" " * (60 * MIB),
        b'{"a": [' + b"[]," * (20 * MIB),
        HEAD + b'{"' + b" " * (60 * MIB),
        HEAD + b'{"run_id": [' + b"[]," * (20 * MIB),
    ],
    ids=["layout", "lists", "line", "lists in a line"],
)
def test_reading_a_small_bomb_is_refused_within_little_memory(bomb: bytes) -> None:
    packed = gzip.compress(bomb)
    assert len(packed) < 256 * 1024
    with memory(96 * MIB), pytest.raises(UnsafeError, match="expands"):
        read_all(io.BytesIO(packed), len(packed))


def test_reading_a_run_without_end_stops_at_the_bound() -> None:
    stream = Padded(HEAD + b'{"')
    with pytest.raises(UnsafeError, match="longer"):
        read_all(stream, MIB)
    assert stream.at < 72 * MIB


def test_reading_another_layout_without_end_stops_at_the_bound() -> None:
    stream = Padded(b"{")
    with pytest.raises(UnsafeError, match="this text layout"):
        read_all(stream, MIB)
    assert stream.at < 140 * MIB


def test_header_with_more_problems_than_are_ever_listed_is_refused() -> None:
    document = json.loads(HEAD + b"]}")
    assert document["manifest_type"] == ManifestType.FULL.value
    problem = {"path": "a", "kind": "unreadable", "message": "no"}
    document["problems"] = [problem] * MAX_LISTED_PROBLEMS
    assert len(checks.header(document).problems) == MAX_LISTED_PROBLEMS == 1000
    document["problems"].append(problem)
    with pytest.raises(UnsafeError, match="problems"):
        checks.header(document)


def test_run_has_the_project_and_name_of_its_folder() -> None:
    entry = {"path": "secret/net/runs/r/meta.json", "size": 1, "mtime": 1, "priority": 1}
    fields = {"run_id": "r", "project": "public", "name": "other", "status": "running", "files": [entry]}
    run = checks.run({**fields, "created_at": 1, "updated_at": 1})
    assert (run.project, run.name) == ("secret", "net")
