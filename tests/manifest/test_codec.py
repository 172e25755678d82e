"""The text of a manifest to the last byte; what its values tell."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runicorn.manifest.codec import (
    MAX_LISTED_PROBLEMS,
    RUNS_LINE,
    encode_entry,
    encode_header,
    encode_run,
    header_fields,
)
from runicorn.manifest.model import (
    FileEntry,
    Header,
    Identity,
    Manifest,
    ManifestType,
    Problem,
    ProblemKind,
    Run,
)

BARE = Header(ManifestType.ACTIVE, Identity(None, 3, "s"), 1.5, 'h"', "/r\u00e4", 1, 2, 7)
FULL = replace(
    BARE,
    manifest_type=ManifestType.FULL,
    identity=Identity("l", 3, "s"),
    complete=True,
    problems=(Problem("p", "link", "m"),),
    problem_count=9,
    active_window=3600,
    generator="g",
)
ENTRY = FileEntry("runs/r/events.jsonl", 4, 1.25, 3, True, 1_250_000_001, None, "a" * 64, "b" * 64)


def test_every_byte_of_an_entry() -> None:
    text = (
        '"size": 4, "mtime": 1.25, "priority": 3, "mtime_ns": 1250000001, '
        f'"block_digest": "{"a" * 64}", "tail_hash": "{"b" * 64}"}}'
    )
    assert encode_entry(ENTRY) == '{"path": "runs/r/events.jsonl", ' + text
    assert encode_entry(ENTRY, "\u00e4\n") == '{"path": "\\u00e4\\n", ' + text
    bare = FileEntry("", 0, 1.0, 1, sha256="c" * 64)
    assert (
        encode_entry(bare)
        == f'{{"path": "", "size": 0, "mtime": 1.0, "priority": 1, "sha256": "{"c" * 64}"}}'
    )


def test_every_byte_of_a_run() -> None:
    run = Run('runs/"', '"', "p\u00e4", "n", "s", 1.0, 2.5, (ENTRY, replace(ENTRY, path="x")))
    assert encode_run(run) == (
        '{"run_id": "\\"", "project": "p\\u00e4", "name": "n", "status": "s", "created_at": 1.0, '
        '"updated_at": 2.5, "folder": "runs/\\"", "files": ['
        f"{encode_entry(ENTRY)}, {encode_entry(ENTRY, 'x')}]}}"
    )


def test_every_field_of_a_header_and_none_that_is_not_set() -> None:
    fields = {
        "format_version": "1.0",
        "manifest_type": "active",
        "revision": 3,
        "snapshot_id": "s",
        "generated_at": 1.5,
        "server_hostname": 'h"',
        "remote_root": "/r\u00e4",
        "complete": False,
        "statistics": {"total_experiments": 1, "total_files": 2, "total_bytes": 7},
        "problem_count": 0,
        "problems": [],
    }
    assert header_fields(BARE) == fields
    assert header_fields(FULL) == {
        **fields,
        "manifest_type": "full",
        "lineage": "l",
        "complete": True,
        "active_window": 3600,
        "generator": "g",
        "problem_count": 9,
        "problems": [{"path": "p", "kind": "link", "message": "m"}],
    }


def test_header_is_one_field_in_a_line_up_to_the_runs() -> None:
    text = encode_header(FULL)
    assert text.endswith(b",\n" + RUNS_LINE)
    assert text.isascii()
    lines = text[: -len(RUNS_LINE)].decode().split("\n")
    assert (lines[0], lines[-1]) == ("{", "")
    fields = header_fields(FULL)
    assert lines[1:-1] == [f"{json.dumps(name)}: {json.dumps(value)}," for name, value in fields.items()]
    assert list(fields)[:2] == ["format_version", "manifest_type"]


def test_problems_are_listed_up_to_their_number() -> None:
    many = replace(FULL, problems=(Problem("p", "link", "m"),) * (MAX_LISTED_PROBLEMS + 1))
    assert len(header_fields(many)["problems"]) == MAX_LISTED_PROBLEMS == 1000


def test_manifest_tells_what_its_header_does() -> None:
    manifest = Manifest(FULL, ())
    assert manifest.manifest_type is ManifestType.FULL
    assert (manifest.revision, manifest.snapshot_id, manifest.lineage) == (3, "s", "l")
    assert (manifest.generated_at, manifest.complete, manifest.problems) == (1.5, True, FULL.problems)
    assert (manifest.total_experiments, manifest.total_files, manifest.total_bytes) == (1, 2, 7)


@pytest.mark.parametrize(
    ("kind", "hides"),
    [
        (ProblemKind.UNREADABLE, True),
        (ProblemKind.CHANGING, True),
        (ProblemKind.TOO_DEEP, True),
        (ProblemKind.TOO_LARGE, True),
        (ProblemKind.UNSAFE_NAME, False),
        (ProblemKind.LINK, False),
        (ProblemKind.SPECIAL, False),
    ],
)
def test_which_problems_hide_files(kind: ProblemKind, hides: bool) -> None:
    assert kind.hides_files is hides


def test_digest_of_an_entry_is_that_of_its_kind() -> None:
    both = replace(ENTRY, sha256="c" * 64)
    assert both.digest == "a" * 64
    assert replace(both, is_log=False).digest == "c" * 64


@pytest.mark.parametrize(("status", "ended"), [("running", False), ("done", True)])
def test_run_has_ended_by_its_status(status: str, ended: bool) -> None:
    assert Run("runs/r", "r", "", "", status, 1.0, 1.0, (ENTRY,)).has_ended is ended
