"""What a target is, and what every target asserts of an error."""

from __future__ import annotations

import random
import time
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runicorn.errors import RunicornError

SECONDS = 5.0
"""Processor time that no input may take; inputs are of some KiB, and most take a millisecond."""

MEMORY = 512 * 1024**2
"""Bytes that the process may have at any time."""

_LONGEST_MESSAGE = 4096
_INVISIBLE = {"BN", "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
_MARKS = "\u200e\u200f\u061c"

Plain = Callable[[bytes, int], bytes]
"""The fuzzer's own mutation: data, and bytes of the longest result."""

Mutate = Callable[[bytes, int, random.Random, Plain], bytes]
"""A mutation that knows the structure. Where there is none it may raise: the plain one takes its place."""


@dataclass(frozen=True)
class Target:
    """Something that decodes.

    Attributes:
        check: decodes an input and asserts what it may come to.
        seeds: honest inputs, one small one first.
        spoiled: inputs that each lie in one place.
        words: what the format is made of, for a fuzzer to put together.
        mutate: changes an input so that checksums and lengths go on to fit.
        longest: bytes of the longest input that a fuzzer tries.
    """

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    spoiled: Callable[[], Iterable[bytes]] = tuple
    words: tuple[bytes, ...] = ()
    mutate: Mutate | None = None
    longest: int = 8192


def is_raw(character: str) -> bool:
    """Whether a terminal would act on a character, or people would not see it."""
    kind, bidirectional = unicodedata.category(character), unicodedata.bidirectional(character)
    if kind == "Cf":
        return bidirectional in _INVISIBLE or character in _MARKS
    return kind in ("Cc", "Cs", "Zl", "Zp")


def require_harmless(text: str) -> None:
    """A text can be shown on a terminal."""
    raw = [character for character in text if is_raw(character)]
    assert not raw, f"{raw} in {text!r}"


def require_refusal(error: RunicornError) -> None:
    """What an error says can be shown, and is not without end."""
    require_harmless(str(error))
    require_harmless(error.hint)
    assert len(str(error)) <= _LONGEST_MESSAGE, f"a message of {len(str(error))} characters"
    assert str(error)


def attempt(decode: Callable[[], object]) -> BaseException | None:
    """Decode, and give the error that it ended with: one of runicorn's own, and in time."""
    begun = time.process_time()
    try:
        decode()
    except RunicornError as error:
        require_refusal(error)
        return error
    finally:
        taken = time.process_time() - begun
        assert taken < SECONDS, f"it takes {taken:.1f} s"
    return None
