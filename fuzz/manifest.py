"""Manifests, plain and compressed."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Iterator
from dataclasses import replace

from fuzz import documents
from fuzz.artefacts import manifests
from fuzz.target import Plain, Target, attempt, require_harmless
from runicorn.manifest import codec, rules
from runicorn.manifest.model import Header, Manifest, Run
from runicorn.manifest.reader import ManifestReader, read_header

_GZIP = b"\x1f\x8b"


def check(data: bytes) -> None:
    """Read it as it is and, when it is plain, compressed."""
    for text in [data] if data[:2] == _GZIP else [data, gzip.compress(data, 1)]:
        attempt(lambda text=text: read_header(text))  # type: ignore[misc]
        attempt(lambda text=text: read_header(text[:1024]))  # type: ignore[misc]
        attempt(lambda text=text: _require_sound(_read(text)))  # type: ignore[misc]


def _read(text: bytes) -> Manifest:
    reader = ManifestReader(io.BytesIO(text), len(text))
    return Manifest(reader.header, tuple(reader.runs()))


def _require_sound(manifest: Manifest) -> None:
    header, runs = manifest.header, manifest.experiments
    _require_sound_header(header)
    paths = [entry.path for run in runs for entry in run.files]
    assert len(set(paths)) == len(paths)
    assert len({run.folder for run in runs}) == len(runs)
    for run in runs:
        _require_sound_run(run)
    if header.identity.lineage is not None:
        total = sum(entry.size for run in runs for entry in run.files)
        assert (header.total_experiments, header.total_files) == (len(runs), len(paths))
        assert header.total_bytes == total
    text = (
        codec.encode_header(header)
        + b",\n".join(codec.encode_run(run).encode() for run in runs)
        + b"\n]\n}\n"
    )
    assert _read(text) == manifest
    assert _read(gzip.compress(text)) == manifest
    assert read_header(text) == header


def _require_sound_header(header: Header) -> None:
    assert 1 <= header.identity.revision < 2**53
    assert 0 <= header.generated_at <= 2**33
    numbers = (header.total_experiments, header.total_files, header.total_bytes, header.problem_count)
    assert all(0 <= number < 2**63 for number in numbers)
    assert len(header.problems) <= min(1000, header.problem_count)


def _require_sound_run(run: Run) -> None:
    assert rules.project_and_name(run.folder) == (run.project, run.name)
    assert run.folder.rpartition("/")[2] == run.run_id
    assert run.files
    for entry in run.files:
        assert rules.unsafe_path(entry.path) is None
        assert rules.belongs(entry.path, run.folder)
        assert not any(part in ("", ".", "..") for part in entry.path.split("/"))
        assert 0 <= entry.size < 2**63
        assert 0 <= entry.mtime <= 2**33
        assert entry.digest is None or len(entry.digest) == 64
        assert entry.is_log == (entry.path[len(run.folder) + 1 :] in rules.LOG_PRIORITIES)
        require_harmless(rules.escape(entry.path))
        require_harmless(rules.escape(replace(run, files=()).status))


def laid_out(text: bytes) -> bytes:
    """A document in the layout of the generator: a field or a run per line."""
    document = json.loads(text)
    runs = document.pop("experiments")
    fields = "".join(f"{json.dumps(name)}: {json.dumps(value)},\n" for name, value in document.items())
    lines = ",\n".join(json.dumps(run) for run in runs)
    return f'{{\n{fields}"experiments": [\n{lines}\n]\n}}\n'.encode()


def _mutate(data: bytes, longest: int, chance: random.Random, plain: Plain) -> bytes:
    if data[:2] == _GZIP:
        if chance.random() < 0.2:
            return plain(data, longest)
        text = _mutate(gzip.decompress(data)[:longest], longest, chance, plain)
        at = chance.choice([0, len(text) // 2])
        return gzip.compress(text[:at], 1) * bool(at) + gzip.compress(text[at:], 1)
    made = documents.change(data, longest, chance, plain)
    if chance.random() < 0.6:
        try:
            return laid_out(made)
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            return made
    return gzip.compress(made, 1) if chance.random() < 0.05 else made


def _seeds() -> Iterator[bytes]:
    yield from manifests()


def _spoiled() -> Iterator[bytes]:
    """In the layout of the generator, and in another one."""
    smallest = min((text for text in _seeds() if text[:1] == b"{"), key=len)
    for text in documents.spoiled(smallest):
        yield text
        try:
            yield laid_out(text)
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            continue


_FIRST = next(text for text in _seeds() if text[:1] == b"{")
TARGET = Target(check, _seeds, _spoiled, (*documents.words_of(_FIRST), codec.RUNS_LINE), _mutate, 16_384)
