"""JSON that is changed and goes on to be JSON, for mutations that know the structure."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from fuzz.target import Plain
from tests.journal.damage import NUMBERS, OTHERS, PATHS, TOKENS, mutated, places


def change(text: bytes, longest: int, chance: random.Random, plain: Plain) -> bytes:
    """JSON with values changed, moved, added or removed; or bytes changed, also when it is no JSON."""
    if chance.random() < 0.7:
        try:
            made = mutated(text, chance)
        except (ValueError, RecursionError, TypeError, KeyError):
            pass
        else:
            if len(made) <= longest:
                return made
    return plain(text, longest)


def spoiled(text: bytes) -> Iterator[bytes]:
    """JSON with each value in turn in the place of each of the values that attackers try."""
    document = json.loads(text)
    for number, (holder, key) in enumerate(list(places(document))):
        before = holder[key]
        tried: list[Any] = [*OTHERS, {}, [before, before], f"{before}/../x", before]
        tried += PATHS if isinstance(before, str) else NUMBERS if isinstance(before, int | float) else []
        for value in tried:
            holder[key] = copy.deepcopy(value)
            yield json.dumps(document).encode()
        holder[key] = "@@raw@@"
        spoiling = json.dumps(document).encode()
        yield spoiling.replace(b'"@@raw@@"', TOKENS[number % len(TOKENS)][:4000])
        holder[key] = before
        if isinstance(holder, list):
            holder.append(before)
            yield json.dumps(document).encode()
            holder.pop()
        else:
            del holder[key]
            yield json.dumps(document).encode()
            holder[key] = before
    for token in TOKENS:
        yield token[:6000]


def words_of(text: bytes) -> tuple[bytes, ...]:
    """The names and the short values of a JSON text."""
    found: dict[bytes, None] = {}

    def collect(value: object) -> None:
        if isinstance(value, dict):
            for name, each in value.items():
                found[json.dumps(name).encode()] = None
                collect(each)
        elif isinstance(value, list):
            for each in value:
                collect(each)
        elif len(json.dumps(value)) <= 64:
            found[json.dumps(value).encode()] = None

    collect(json.loads(text))
    return tuple(found)
