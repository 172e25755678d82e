"""Importing the server side loads the standard library and nothing else."""

from __future__ import annotations

import subprocess
import sys

import runicorn.manifest

SHOW = """
import sys
import runicorn.manifest
for name in runicorn.manifest.__all__:
    getattr(runicorn.manifest, name)
print("\\n".join(sys.modules))
"""
EARLY = "import sys; import runicorn.manifest.rules; print('\\n'.join(sys.modules))"


def modules(code: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(result.stdout.split())


def test_only_the_standard_library_is_loaded() -> None:
    loaded = {name.partition(".")[0] for name in modules(SHOW)}
    assert loaded - sys.stdlib_module_names <= {"runicorn", "__main__", "__mp_main__"}
    assert "runicorn" in loaded


def test_reading_rules_does_not_load_the_scanner() -> None:
    loaded = modules(EARLY)
    assert "runicorn.manifest.rules" in loaded
    assert not {"runicorn.manifest.scan", "runicorn.manifest.generator"} & loaded


def test_exported_names() -> None:
    assert runicorn.manifest.__all__ == [
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
    assert set(runicorn.manifest.__all__) <= set(dir(runicorn.manifest))
    assert not hasattr(runicorn.manifest, "nothing")
