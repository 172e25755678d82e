"""One target under atheris: `python -m fuzz.run TARGET [options of libFuzzer] FOLDERS...`.

With a file in the place of the folders it is checked once, which repeats a finding.
"""

from __future__ import annotations

import importlib
import logging
import random
import sys
from typing import Any

import atheris


def _instrumented() -> Any:
    with atheris.instrument_imports(include=["runicorn"]):
        return importlib.import_module("fuzz.targets").TARGETS


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer ends the process."""
    logging.disable()
    target = _instrumented()[arguments[1]]

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        try:
            made = target.mutate(data, longest, random.Random(seed), atheris.Mutate)
        except Exception:  # noqa: BLE001 - what has no structure any more is changed byte by byte
            made = atheris.Mutate(data, longest)
        return bytes(made[:longest])

    more = {} if target.mutate is None else {"custom_mutator": mutate}
    # It is what libFuzzer starts again, by a shell, to merge.
    program = f"{sys.executable} -m fuzz.run {arguments[1]}"
    atheris.Setup([program, *arguments[2:]], target.check, **more)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
