"""Manifests: what a root of runs holds, published by a server and read by its clients.

Only the standard library is needed, so that a generator runs on any server. The names are loaded when they
are used: who reads manifests does not load the scanner.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runicorn.manifest.generator import ManifestGenerator
    from runicorn.manifest.model import FileEntry, Header, Identity, Manifest, ManifestType, Problem, Run
    from runicorn.manifest.reader import read_manifest

__all__ = [
    "FileEntry",
    "Header",
    "Identity",
    "Manifest",
    "ManifestGenerator",
    "ManifestType",
    "Problem",
    "Run",
    "read_manifest",
]

_HOMES = {"ManifestGenerator": "generator", "read_manifest": "reader"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'model')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
