"""Honest artefacts: the golden files, and what the generator writes of a small root."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

from runicorn.manifest import ManifestGenerator, ManifestType
from testbed.trees import append_run, make_tree, replace_file

GOLDEN = Path(__file__).parents[1] / "tests/golden"


@dataclass(frozen=True)
class Journal:
    """HEAD, and the files of the epochs by their names."""

    head: bytes
    epochs: dict[str, bytes]

    @classmethod
    def of(cls, folder: Path) -> Journal:
        """The journal in a folder."""
        epochs = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.journal"))}
        return cls((folder / "HEAD").read_bytes(), epochs)


@functools.cache
def _made() -> tuple[tuple[Journal, ...], tuple[bytes, ...]]:
    """Journals and manifests of a root with a short life."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        runs = make_tree(root, 2, files=6, running=1)
        journals, manifests = [], []
        for step in range(3):
            ManifestGenerator(root, compact=step == 2).generate()
            journals.append(Journal.of(root / ".runicorn/journal"))
            append_run(runs[0], 2)
            replace_file(runs[1] / "summary.json", b'{"best": %d}' % step)
            if step == 1:
                (runs[1] / "assets.json").unlink(missing_ok=True)
        ManifestGenerator(root).generate(ManifestType.ACTIVE)
        manifests = [path.read_bytes() for path in sorted((root / ".runicorn").glob("*_manifest.json*"))]
        return tuple(journals), tuple(manifests)


def journals() -> tuple[Journal, ...]:
    """Honest journals, the golden one first."""
    return (Journal.of(GOLDEN / "journal-1.0"), *_made()[0])


def manifests() -> tuple[bytes, ...]:
    """Honest manifests, plain and compressed, the golden ones first."""
    return (*(path.read_bytes() for path in sorted(GOLDEN.glob("manifest-*"))), *_made()[1])
