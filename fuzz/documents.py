"""JSON that is changed and goes on to be JSON, for mutations that know the structure."""

from __future__ import annotations

import json
import random

from fuzz.target import Plain
from tests.journal.damage import mutated


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
