"""Whatever a journal is damaged with: the format layer gives values or refuses, and soon."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from fuzz.journal import read
from runicorn.errors import DamagedError, UnsafeError
from runicorn.journal.frames import Frame, FrameReader, beginning
from runicorn.journal.head import decode_head
from tests.journal.damage import ALL, damages
from tests.journal.forge import ONE, TWO
from tests.journal.test_golden import EXPECTED, GOLDEN, epoch

COUNT = int(os.environ.get("RUNICORN_DAMAGES", "1500"))
PARTS = 10
SECONDS = 5.0
EPOCHS = {ONE: epoch(ONE), TWO: epoch(TWO)}
HEAD = (GOLDEN / "HEAD").read_bytes()


def frames_of(name: str, data: bytes) -> Iterator[Frame]:
    reader = FrameReader(beginning(name))
    for at in range(0, len(data), 4096):
        reader.feed(data[at : at + 4096])
        yield from reader.frames()


def _require_harmless(message: str) -> None:
    assert message.isprintable(), repr(message)


def outcome(epochs: dict[str, bytes], head: bytes) -> str:
    """How reading ends: HEAD first, then each epoch on its own account."""
    ends = []
    try:
        decode_head(head)
    except (DamagedError, UnsafeError) as error:
        ends.append(f"HEAD {type(error).__name__}")
    for name, data in epochs.items():
        try:
            for frame in frames_of(name, data):
                read(frame)
        except (DamagedError, UnsafeError) as error:
            ends.append(f"epoch {type(error).__name__}")
            _require_harmless(str(error))
    return ", ".join(ends) or "read"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_values_or_a_refusal_and_nothing_else(part: int) -> None:
    for name, epochs, head in itertools.islice(damages(EPOCHS, HEAD, part), COUNT // PARTS):
        begun = time.process_time()
        try:
            outcome(epochs, head)
        except Exception as error:
            raise AssertionError(f"{name}: {error!r}") from error
        taken = time.process_time() - begun
        assert taken < SECONDS, f"{name} takes {taken:.1f} s"


def test_what_is_not_damaged_is_read() -> None:
    assert outcome(EPOCHS, HEAD) == "read"
    assert [each["revision"] for each in EXPECTED["states"]] == [7, 8, 9, 9, 10]


def test_damages_are_the_same_for_the_same_seed_and_of_all_kinds() -> None:
    first = list(itertools.islice(damages(EPOCHS, HEAD, 1), 400))
    assert first == list(itertools.islice(damages(EPOCHS, HEAD, 1), 400))
    assert first != list(itertools.islice(damages(EPOCHS, HEAD, 2), 400))
    kinds = Counter(name.split()[1] for name, _, _ in first)
    assert set(kinds) == {each.__name__ for each in ALL}


def test_damages_of_a_hostile_writer_are_read_by_their_chains() -> None:
    """They get behind the chain: what refuses them is not it."""
    messages = []
    for name, epochs, _ in itertools.islice(damages(EPOCHS, HEAD, 3), 600):
        if name.split()[1].startswith("chained_json"):
            messages += [message for each in epochs if (message := refusal(each, epochs[each]))]
    assert len(messages) > 50
    assert not [message for message in messages if "chain does not fit" in message]


def refusal(name: str, data: bytes) -> str:
    try:
        for frame in frames_of(name, data):
            read(frame)
    except (DamagedError, UnsafeError) as error:
        return str(error)
    return ""
