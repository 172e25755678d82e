"""HEAD of the journal. The checksum is made here, so that it stops no fuzzer."""

from __future__ import annotations

import random
from collections.abc import Iterator

from fuzz import documents
from fuzz.artefacts import journals
from fuzz.target import Plain, Target, attempt
from runicorn.journal.head import MAX_HEAD, Head, decode_head, encode_head
from tests.journal.forge import checksummed


def check(data: bytes) -> None:
    """Decode it as it is, and with a checksum that fits."""
    attempt(lambda: decode_head(data))
    attempt(lambda: _require_sound(decode_head(checksummed(data.partition(b"\n")[0]))))


def _require_sound(head: Head) -> None:
    places = [head.media.end, head.base, head.end]
    offsets = [head.media.begin, *(place.offset for place in places)]
    assert offsets == sorted(offsets)
    assert all(0 <= offset < 2**53 for offset in offsets)
    for place in [*places, *([head.manifest.place] if head.manifest else [])]:
        assert len(place.chain) == 32
        assert len(place.epoch) == 32
        assert set(place.epoch) <= set("0123456789abcdef")
    assert head.identity.lineage
    assert 1 <= head.identity.revision < 2**53
    assert 0 <= head.generated_at <= 2**33
    numbers = (head.base_bytes, head.total_experiments, head.total_files, head.total_bytes)
    assert all(0 <= number < 2**63 for number in (*numbers, head.problem_count, head.written or 0))
    text = encode_head(head)
    if len(text) <= MAX_HEAD:
        assert decode_head(text) == head


def _seeds() -> Iterator[bytes]:
    for journal in journals():
        yield journal.head


def _spoiled() -> Iterator[bytes]:
    return documents.spoiled(next(_seeds()).partition(b"\n")[0])


def _mutate(data: bytes, longest: int, chance: random.Random, plain: Plain) -> bytes:
    line, _, rest = data.partition(b"\n")
    if chance.random() < 0.05:
        return plain(data, longest)
    return documents.change(line, longest, chance, plain) + b"\n" + rest


_WORDS = documents.words_of(next(_seeds()).partition(b"\n")[0])
TARGET = Target(check, _seeds, _spoiled, _WORDS, _mutate, 4096)
