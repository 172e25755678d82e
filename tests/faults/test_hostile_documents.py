"""In the place of a manifest: what is none or cut, what expands without end, what costs out of proportion."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import pytest

from runicorn.errors import DamagedError
from tests.faults.attacks import calls
from tests.faults.lab import Lab, an_entry, run_named
from tests.faults.process import run_files
from tests.remote_storage.helpers import NO_JOURNAL


@pytest.mark.parametrize("fill", [b" ", b"1", b"a"], ids=["spaces", "number", "text"])
def test_archive_that_expands_without_end_is_refused_before_it_fills_anything(lab: Lab, fill: bytes) -> None:
    published = lab.root / ".runicorn/full_manifest.json.gz"
    head, line, _ = gzip.decompress(published.read_bytes()).partition(b'"experiments": [\n')
    packed = gzip.compress(head + line + b'"'[: fill == b"a"] + fill * (150 * 1024**2), 9)
    assert len(packed) < 200_000
    published.write_bytes(packed)
    assert "expands to more than" in lab.refuses().err
    lab.recovers()


def test_archive_of_many_members_that_expands_without_end_is_refused(lab: Lab) -> None:
    packed = gzip.compress(b"{" + b" " * 1024**2) + gzip.compress(b" " * 1024**2, 9) * 150
    (lab.root / ".runicorn/full_manifest.json.gz").write_bytes(packed)
    assert "expands to more than" in lab.refuses().err
    lab.recovers()


DOCUMENTS = {
    "deep-list": b"[" * 200_000,
    "deep-object": b'{"a":' * 200_000,
    "deep-run": b'{\n"format_version": "1.0",\n"experiments": [\n' + b"[" * 200_000 + b"\n]\n}\n",
    "nothing": b"",
    "null": b"null",
    "list": b"[]",
    "text": b'"manifest"',
    "no-fields": b"{}",
    "not-json": b"\x7fELF\x02\x01\x01",
    "not-utf-8": b'{"format_version": "\xff\xfe"}',
    "html": b"<!doctype html><title>404</title>",
}


@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=list(DOCUMENTS))
def test_document_that_is_no_manifest_is_not_used(quick: Lab, text: bytes) -> None:
    quick.publish_bytes(text)
    quick.refuses()
    quick.attack(method="auto").expect(0)
    quick.matches()


def test_walk_in_place_of_a_damaged_manifest_says_why(lab: Lab) -> None:
    lab.publish_bytes(b"<!doctype html>\x1b[2J")
    done = lab.attack("--json", method="auto").expect(0)
    assert f"walking the server's folders: {NO_JOURNAL}; the manifest is not JSON" in done.err
    assert done.statistics["method"] == "walk"
    assert "not JSON" in done.statistics["fallback_reason"]
    lab.matches()


def test_manifest_cut_anywhere_is_not_used(lab: Lab) -> None:
    whole = (lab.root / ".runicorn/full_manifest.json.gz").read_bytes()
    before = run_files(lab.mirror)
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        (lab.root / ".runicorn/full_manifest.json.gz").write_bytes(whole[:end])
        with pytest.raises(DamagedError):
            lab.sync_quietly(method="manifest")
    assert run_files(lab.mirror) == before
    lab.attack(method="auto").expect(0)
    lab.matches()


def test_manifest_of_an_unknown_major_version_is_refused_with_a_hint(lab: Lab) -> None:
    lab.publish({**lab.document, "format_version": "2.0"})
    done = lab.refuses()
    assert "2.0" in done.err
    assert "hint: update runicorn" in done.err


# -- algorithmic blow-up -------------------------------------------------------------------


def _same_names(size: int) -> list[dict[str, Any]]:
    # Every part is the run's name, so that every folder may be the run's.
    folder = "runs/" + "/".join(["a"] * 30)
    paths = [f"{folder}/media/{'a/' * 30}{number}.png" for number in range(size)]
    return [{"run_id": "a", "files": [an_entry(path) for path in [f"{folder}/meta.json", *paths]]}]


def _many_runs(size: int) -> list[dict[str, Any]]:
    folders = ["runs/" + "/".join(["a"] * 30) + f"/{number}" for number in range(size)]
    return [
        {"run_id": folder.rpartition("/")[2], "files": [an_entry(f"{folder}/meta.json")]}
        for folder in folders
    ]


def _deep_media(size: int) -> list[dict[str, Any]]:
    paths = [f"a/b/runs/r/media/{number}/{'x/' * 30}y.png" for number in range(size)]
    return [{"run_id": "r", "files": [an_entry(path) for path in paths]}]


@pytest.mark.parametrize("shape", [_same_names, _many_runs, _deep_media])
def test_reading_and_planning_ten_times_as_much_is_ten_times_the_work(
    lab: Lab, shape: Callable[[int], list[dict[str, Any]]]
) -> None:
    work = []
    for size in (40, 400):
        run = {key: value for key, value in run_named(lab.document).items() if key != "folder"}
        lab.publish({**lab.document, "experiments": [{**run, **each} for each in shape(size)]})
        work.append(calls(lambda: lab.sync_quietly(method="manifest", dry_run=True)))
    assert work[1] < 11 * work[0]
