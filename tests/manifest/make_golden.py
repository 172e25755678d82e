"""Writes the manifests of ``tests/golden``; done once per format version and never again.

``python -m tests.manifest.make_golden FOLDER``
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from runicorn.manifest.codec import encode_header, encode_run
from runicorn.manifest.model import FileEntry, Header, Identity, Manifest, ManifestType, Problem, Run

A_FOLDER = "my_project/experiment_1/runs/20250101_120000_abc123"
B_FOLDER = "runs/nlp/bert/base/20250102_080000_öß"

RUNS = (
    Run(
        folder=A_FOLDER,
        run_id="20250101_120000_abc123",
        project="my_project",
        name="experiment_1",
        status="completed",
        created_at=1704060000.0,
        updated_at=1704067000.5,
        files=(
            FileEntry(f"{A_FOLDER}/status.json", 58, 1704067000.5, 1, False, 1704067000500000000, "11" * 32),
            FileEntry(f"{A_FOLDER}/meta.json", 1024, 1704060000.0, 1, False, 1704060000000000001, "22" * 32),
            FileEntry(
                f"{A_FOLDER}/events.jsonl",
                2097153,
                1704066999.25,
                3,
                True,
                1704066999250000000,
                block_digest="33" * 32,
                tail_hash="44" * 32,
            ),
            FileEntry(
                f"{A_FOLDER}/media/plots/loss 1.png",
                31000,
                1704066000.0,
                4,
                False,
                1704066000000000000,
                "55" * 32,
            ),
        ),
    ),
    Run(
        folder=B_FOLDER,
        run_id="20250102_080000_öß",
        project="nlp",
        name="bert/base",
        status="running",
        created_at=1704146400.0,
        updated_at=1704150000.0,
        files=(FileEntry(f"{B_FOLDER}/meta.json", 0, 1704150000.0, 1),),
    ),
)

HEADER = Header(
    manifest_type=ManifestType.FULL,
    identity=Identity("0b9f6a52-6c1e-4d0a-8a55-3f1de8a0c9b7", 42, "550e8400-e29b-41d4-a716-446655440000"),
    generated_at=1704067200.0,
    server_hostname="ml-server-01",
    remote_root="/data/experiments",
    total_experiments=2,
    total_files=5,
    total_bytes=58 + 1024 + 2097153 + 31000,
    complete=False,
    problems=(
        Problem("my_project/locked", "unreadable", "Permission denied"),
        Problem(r"my_project/new\x0aline", "unsafe_name", r"it holds the character \x0a"),
    ),
    problem_count=2,
    generator="runicorn 0.8.0",
)

MANIFEST = Manifest(HEADER, RUNS)


def texts() -> tuple[bytes, bytes]:
    """Header and body."""
    return encode_header(HEADER), b"".join(encode_body(map(encode_run, RUNS)))


def encode_body(lines: Iterable[str]) -> Iterator[bytes]:
    """The text from the first run to the end, as the format document lays it out."""
    yield ",\n".join(lines).encode("ascii")
    yield b"\n]\n}\n"


def packed(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "manifest-1.0.json").write_bytes(b"".join(texts()))
    (folder / "manifest-1.0.json.gz").write_bytes(b"".join(map(packed, texts())))
