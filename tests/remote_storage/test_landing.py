"""Where downloads land: in memory or staged, the same in both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher
from runicorn.remote_storage import landing as landing_module
from runicorn.remote_storage.landing import IN_MEMORY, Landing
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.staging import StagedFile
from tests.remote_storage.helpers import names

START = 1000


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path) as made:
        yield made


def staged(mirror: Mirror) -> list[str]:
    return names(mirror.root / ".runicorn/staging")


def landed(mirror: Mirror, data: bytes, *, size: int, start: int = START, step: int = 700) -> Landing:
    landing = Landing(mirror, start, size)
    for at in range(0, len(data), step):
        landing(data[at : at + step], start + at)
    return landing


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(data=st.binary(max_size=5000), size=st.sampled_from([10, IN_MEMORY + 1]), keep=st.integers(0, 5000))
def test_memory_and_disk_are_the_same(mirror: Mirror, data: bytes, size: int, keep: int) -> None:
    landing = landed(mirror, data, size=size)
    assert landing.end == START + len(data)
    assert landing.read(START, landing.end) == data
    assert b"".join(landing.chunks(START, landing.end)) == data
    assert landing.last_record_end() == START + data.rfind(b"\n") + 1
    landing.cut(START + min(keep, len(data)))
    data = data[:keep]
    assert (landing.end, landing.read(START, START + 9999)) == (START + len(data), data)
    file = landing.to_staged()
    assert (mirror.root / ".runicorn/staging" / file.name).read_bytes() == data
    file.discard()
    landing.discard()
    assert staged(mirror) == []


def test_more_than_expected_moves_to_disk(mirror: Mirror) -> None:
    data = os.urandom(IN_MEMORY + 5000)
    landing = landed(mirror, data, size=10, step=40_000)
    assert len(staged(mirror)) == 1
    assert landing.read(START + 39_990, START + 40_010) == data[39_990:40_010]
    landing.discard()
    assert staged(mirror) == []


def test_last_record_is_found_across_steps(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing_module, "_SEARCH_STEP", 3)
    for data in (b"", b"abcdefgh", b"\nabcdefgh", b"ab\ncdefgh", b"abcdefgh\n"):
        assert landed(mirror, data, size=10).last_record_end() == START + data.rfind(b"\n") + 1


def test_hashes_after_a_cut(mirror: Mirror) -> None:
    data = os.urandom(2 * BLOCK_SIZE + 77)
    whole = BlockHasher()
    whole.update(data)
    landing = landed(mirror, data, size=len(data), start=0, step=BLOCK_SIZE)
    for end in (len(data), 2 * BLOCK_SIZE, BLOCK_SIZE + 5, 0):
        landing.cut(end)
        expected = BlockHasher()
        expected.update(data[:end])
        assert landing.hashes(whole.hashes()) == tuple(expected.hashes())
    landing.discard()


def test_kept_download_is_resumed(mirror: Mirror) -> None:
    first = Landing(mirror, 0, IN_MEMORY + 1, "key")
    first(b"half", 0)
    first.keep()
    assert staged(mirror) == ["key.partial"]
    again, taken = Landing(mirror, 0, IN_MEMORY + 1, "key"), bytearray()
    again.resume(100, taken.extend)
    assert (bytes(taken), again.end) == (b"half", 4)
    again(b" rest", 4)
    file = again.to_staged()
    assert (mirror.root / ".runicorn/staging" / file.name).read_bytes() == b"half rest"
    file.discard()


def test_kept_download_that_is_too_long_is_begun_anew(mirror: Mirror) -> None:
    first = Landing(mirror, 0, IN_MEMORY + 1, "key")
    first(b"too long", 0)
    first.keep()
    again, taken = Landing(mirror, 0, IN_MEMORY + 1, "key"), bytearray()
    again.resume(3, taken.extend)
    assert (bytes(taken), again.end) == (b"", 0)
    again.discard()


def test_what_an_interrupted_download_left_behind_the_new_end_is_cut_off(mirror: Mirror) -> None:
    first = Landing(mirror, 0, IN_MEMORY + 1, "key")
    first(b"much longer", 0)
    first.keep()
    again = Landing(mirror, 0, IN_MEMORY + 1, "key")
    again(b"new", 0)
    file = again.to_staged()
    assert (mirror.root / ".runicorn/staging" / file.name).read_bytes() == b"new"
    file.discard()


@pytest.mark.parametrize("size", [4, IN_MEMORY + 1])
def test_what_was_handed_over_is_touched_no_more(mirror: Mirror, size: int) -> None:
    landing = landed(mirror, b"text", size=size)
    file = landing.to_staged()
    place = mirror.root / ".runicorn/staging" / file.name
    landing.cut(START)
    landing(b"x", START)
    landing.discard()
    assert place.read_bytes() == b"text"
    file.discard()


def test_nothing_is_read_of_a_large_download_that_was_handed_over(mirror: Mirror) -> None:
    landing = landed(mirror, b"text", size=IN_MEMORY + 1)
    file = landing.to_staged()
    assert landing.read(START, START + 4) == b""
    assert list(landing.chunks(START, START + 4)) == []
    file.discard()


def test_download_in_memory_that_cannot_be_staged_leaves_nothing(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    landing = landed(mirror, b"text", size=4)
    monkeypatch.setattr(StagedFile, "write", failing)
    with pytest.raises(OSError, match="No space"):
        landing.to_staged()
    assert staged(mirror) == []


def test_download_without_key_is_not_kept(mirror: Mirror) -> None:
    landed(mirror, b"x", size=IN_MEMORY + 1).keep()
    landed(mirror, b"x", size=1).keep()
    assert staged(mirror) == []
