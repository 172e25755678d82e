"""Bytes that a frame carries: they have to add up, and to be what its entries list."""

from __future__ import annotations

from typing import Any

import pytest

from runicorn.errors import DamagedError, UnsafeError
from runicorn.journal.sections import Carried, decode_files
from tests.journal.forge import FILES, MIB
from tests.journal.sections_helpers import DIGEST, FOLDER, a_log, entry, load, load_one, read, section


def test_data_is_handed_out_in_order_of_the_entries() -> None:
    first = section(entry("meta.json", 2, data=2), entry("status.json", 5), entry("media/a", 0, data=0))
    second = section(a_log(4, **{"data": 3, "from": 1}), entry("summary.json", 1, data=1), folder="runs/q")
    found = [change for each in load(first, second, data=b"abcdef") for change in each.changes]
    held = [None if each.carried is None else bytes(each.carried.data) for each in found]
    assert held == [b"ab", None, b"", b"cde", b"f"]


FEWER = "a frame of the journal has fewer bytes than its files"
MORE = "a frame of the journal has bytes that belong to no file"


def refused(raw: dict[str, Any], data: bytes) -> tuple[str, str]:
    """What is said of one entry that makes no sense, and of which path."""
    with pytest.raises(DamagedError) as error:
        load_one(raw, data)
    return str(error.value), error.value.path


@pytest.mark.parametrize(
    ("data", "message"), [(b"", FEWER), (b"ab", FEWER), (b"abcd", MORE), (b"abc" * 99, MORE)]
)
def test_data_that_does_not_add_up(data: bytes, message: str) -> None:
    assert load_one(entry(size=3, data=3), b"abc")[1] is not None
    assert refused(entry(size=3, data=3), data) == (message, "")


def test_data_without_a_file() -> None:
    with pytest.raises(DamagedError, match=rf"^{MORE}$"):
        load(data=b"x")
    with pytest.raises(DamagedError, match=rf"^{MORE}$"):
        load(section(entry()), data=b"x")


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_state_file_is_carried_whole(size: int) -> None:
    message = "the journal carries another number of bytes than it lists"
    assert refused(entry(size=3, data=size), b"x" * size) == (message, f"{FOLDER}/meta.json")


def without_a_digest(inner: str) -> tuple[str, str]:
    path = f"{FOLDER}/{inner}"
    return f"the journal carries '{path}' without a digest", path


def test_carried_without_a_digest() -> None:
    raw = entry("media/\u200b", data=3)
    del raw["sha256"]
    path = f"{FOLDER}/media/\u200b"
    assert refused(raw, b"abc") == (rf"the journal carries '{FOLDER}/media/\u200b' without a digest", path)
    raw = a_log(3, **{"data": 3, "from": 0})
    del raw["block_digest"]
    assert refused(raw, b"abc") == without_a_digest("events.jsonl")


def test_a_digest_of_the_other_kind_is_none() -> None:
    raw = {**entry(data=3), "sha256": None, "block_digest": DIGEST}
    assert refused(raw, b"abc") == without_a_digest("meta.json")
    raw = {**a_log(3, **{"data": 3, "from": 0}), "block_digest": None, "sha256": DIGEST}
    assert refused(raw, b"abc") == without_a_digest("events.jsonl")


def test_ranges_of_a_log() -> None:
    other = "cd" * 32
    for start, size in ((0, 10), (4, 6), (10, 0)):
        _, carried = load_one(a_log(10, **{"data": size, "from": start}), b"x" * size)
        assert carried == Carried(start, memoryview(b"x" * size), DIGEST)
    for start, size in ((0, 9), (3, 4), (9, 0)):
        _, carried = load_one(a_log(10, **{"data": size, "from": start, "digest": other}), b"x" * size)
        assert carried == Carried(start, memoryview(b"x" * size), other)
        message = "the journal carries a part of a log without a digest"
        raw = a_log(10, **{"data": size, "from": start})
        assert refused(raw, b"x" * size) == (message, f"{FOLDER}/events.jsonl")


@pytest.mark.parametrize(("start", "size"), [(0, 11), (10, 1), (11, 0), (2**63 - 1, 1), (2**63 - 1, 0)])
def test_a_range_beyond_the_listed_size(start: int, size: int) -> None:
    raw = a_log(10, **{"data": size, "from": start, "digest": DIGEST})
    message = "the journal carries more of a log than it lists"
    assert refused(raw, b"x" * size) == (message, f"{FOLDER}/events.jsonl")


def test_a_range_needs_its_start() -> None:
    with pytest.raises(DamagedError, match=r"^the journal lacks the field 'from'$"):
        load_one(a_log(data=10), b"x" * 10)


def test_carried_bytes_of_one_file_are_bounded() -> None:
    most = 4 * MIB
    for raw in (entry(size=most, data=most), a_log(most, **{"data": most, "from": 0})):
        _, carried = load_one(raw, bytes(most))
        assert carried is not None
        assert len(carried.data) == most
    for raw in (entry(size=most + 1, data=most + 1), a_log(most + 1, **{"data": most + 1, "from": 0})):
        with pytest.raises(UnsafeError, match=r"^the field 'data' of the journal is out of bounds$"):
            load_one(raw, bytes(most + 1))


def test_nothing_is_given_of_a_frame_that_is_refused_later() -> None:
    good, bad = section(entry(data=3)), section(entry("../x"))
    with pytest.raises(UnsafeError):
        decode_files(read(FILES, {"runs": [good, bad]}, b"abc"))
    with pytest.raises(DamagedError):
        decode_files(read(FILES, {"runs": [good]}, b"abcd"))
