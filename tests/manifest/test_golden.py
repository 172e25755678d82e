"""A manifest of each format version stays readable for ever."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from runicorn.manifest import ManifestType, read_manifest
from runicorn.manifest.reader import read_header
from tests.manifest.make_golden import HEADER, MANIFEST, texts

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize("name", ["manifest-1.0.json", "manifest-1.0.json.gz"])
def test_every_field_of_format_1_0(name: str) -> None:
    manifest = read_manifest(GOLDEN / name)
    header = manifest.header
    assert header.format_version == "1.0"
    assert manifest.manifest_type is ManifestType.FULL
    assert manifest.revision == 42
    assert manifest.snapshot_id == "550e8400-e29b-41d4-a716-446655440000"
    assert manifest.lineage == "0b9f6a52-6c1e-4d0a-8a55-3f1de8a0c9b7"
    assert manifest.generated_at == 1704067200.0
    assert (header.server_hostname, header.remote_root) == ("ml-server-01", "/data/experiments")
    assert (manifest.total_experiments, manifest.total_files, manifest.total_bytes) == (2, 5, 2129235)
    assert manifest.complete is False
    assert [(each.path, each.kind, each.message) for each in manifest.problems] == [
        ("my_project/locked", "unreadable", "Permission denied"),
        ("my_project/new\\x0aline", "unsafe_name", "it holds the character \\x0a"),
    ]
    assert (header.problem_count, header.active_window, header.generator) == (2, None, "runicorn 0.8.0")
    first, second = manifest.experiments
    assert first.folder == "my_project/experiment_1/runs/20250101_120000_abc123"
    assert (first.run_id, first.project, first.name) == (
        "20250101_120000_abc123",
        "my_project",
        "experiment_1",
    )
    assert (first.status, first.created_at, first.updated_at) == ("completed", 1704060000.0, 1704067000.5)
    assert second.folder == "runs/nlp/bert/base/20250102_080000_öß"
    assert (second.run_id, second.project, second.name) == ("20250102_080000_öß", "nlp", "bert/base")
    status, meta, events, image = first.files
    assert status.path == f"{first.folder}/status.json"
    assert (status.size, status.mtime, status.mtime_ns) == (58, 1704067000.5, 1704067000500000000)
    assert (status.priority, status.is_log, status.sha256) == (1, False, "11" * 32)
    assert (meta.mtime_ns, meta.digest) == (1704060000000000001, "22" * 32)
    assert (events.is_log, events.priority, events.size) == (True, 3, 2097153)
    assert (events.block_digest, events.tail_hash, events.sha256) == ("33" * 32, "44" * 32, None)
    assert (image.path, image.priority) == (f"{first.folder}/media/plots/loss 1.png", 4)
    (bare,) = second.files
    assert (bare.size, bare.mtime_ns, bare.sha256, bare.digest) == (0, None, None, None)


def test_writing_gives_the_same_bytes() -> None:
    text = b"".join(texts())
    assert (GOLDEN / "manifest-1.0.json").read_bytes() == text
    assert gzip.decompress((GOLDEN / "manifest-1.0.json.gz").read_bytes()) == text
    assert read_manifest(GOLDEN / "manifest-1.0.json") == MANIFEST


@pytest.mark.parametrize("name", ["manifest-1.0.json", "manifest-1.0.json.gz"])
def test_the_header_is_found_in_the_first_bytes(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    assert read_header(data) == HEADER
    assert read_header(data[:1024]) == HEADER
    assert read_header(data[:100]) is None


def test_the_example_of_the_interface_document() -> None:
    manifest = read_manifest(GOLDEN / "manifest-1.0-bare.json")
    assert (manifest.revision, manifest.lineage, manifest.complete, manifest.problems) == (
        42,
        None,
        False,
        (),
    )
    assert manifest.total_files == 2340  # without a lineage the sums need not be right
    (run,) = manifest.experiments
    assert run.folder == "my_project/experiment_1/runs/20250101_120000_abc123"
    (entry,) = run.files
    assert (entry.size, entry.mtime, entry.mtime_ns, entry.digest) == (1024, 1704060000.0, None, None)
    assert read_header((GOLDEN / "manifest-1.0-bare.json").read_bytes()) is None
