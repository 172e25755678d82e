"""Epochs of a journal: when one is left for the next, and how long the sealed ones stay."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from pathlib import Path

import pytest

from runicorn.journal.frames import file_name
from runicorn.journal.head import encode_head
from tests.manifest.helpers import (
    append,
    generate,
    make_run,
    replace,
    settle,
    write,
)
from tests.manifest.journal_reader import epochs, head, journal

MIB = 1024 * 1024


def test_the_newest_sealed_epochs_stay_while_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, status="running")
    generate(tmp_path)
    seen = [epochs(tmp_path)[0]]
    for _ in range(4):
        append(run / "logs.txt", b"more\n")
        generate(tmp_path, compact=True)
        seen += [each for each in epochs(tmp_path) if each not in seen]
    generate(tmp_path)
    assert sorted(epochs(tmp_path)) == sorted(seen)
    sizes = [(journal(tmp_path) / file_name(each)).stat().st_size for each in seen]
    monkeypatch.setattr("runicorn.manifest.journal_store.KEPT_BASES", 0)
    monkeypatch.setattr("runicorn.manifest.journal_store.KEPT_BYTES", sum(sizes[-3:-1]))
    generate(tmp_path)
    assert sorted(epochs(tmp_path)) == sorted(seen[-3:])
    monkeypatch.setattr("runicorn.manifest.journal_store.KEPT_BASES", 1)
    monkeypatch.setattr("runicorn.manifest.journal_store.KEPT_BYTES", 0)
    generate(tmp_path)
    assert epochs(tmp_path) == [seen[-1]]


def test_sealed_epochs_go_after_a_day(tmp_path: Path) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    old = epochs(tmp_path)[0]
    generate(tmp_path, compact=True)
    file = journal(tmp_path) / file_name(old)
    for hours, stays in ((23, True), (25, False)):
        then = time.time() - hours * 3600
        os.utime(file, (then, then))
        generate(tmp_path)
        assert file.exists() == stays
    assert head(tmp_path).manifest is not None


def test_an_epoch_is_left_when_it_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path)
    chance = random.Random(3)
    write(run / "media/a.png", chance.randbytes(200_000))
    generate(tmp_path)
    monkeypatch.setattr("runicorn.manifest.journal_writer.SMALL_EPOCH", 0)
    base, first = head(tmp_path).base.offset, epochs(tmp_path)
    lengths = []
    while epochs(tmp_path) == first:
        lengths.append(head(tmp_path).end.offset)
        replace(run / "summary.json", chance.randbytes(30_000))
        generate(tmp_path)
    assert 1.6 * base < lengths[-1] <= 2 * base * 1.2
    assert len(epochs(tmp_path)) == 2


def test_an_epoch_that_began_nearly_empty_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicorn.manifest.journal_writer.SMALL_EPOCH", 0)
    run = make_run(tmp_path)
    generate(tmp_path)
    chance = random.Random(4)
    lengths = []
    for number in range(30):
        write(run / f"media/{number % 3}.bin", chance.randbytes(50_000))
        generate(tmp_path)
        lengths.append(head(tmp_path).end.offset)
    assert max(lengths) < 3 * 200_000
    at = head(tmp_path)
    generate(tmp_path, compact=True)
    fresh = head(tmp_path)
    assert fresh.written == fresh.base_bytes + 256 * fresh.total_files
    assert at.written is not None
    assert at.written <= 2 * fresh.written


def test_many_small_changes_do_not_end_an_epoch(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"p/n/runs/r{number}", status="running") for number in range(10)]
    for run in runs:
        write(run / "logs.txt", b"x" * MIB + b"y\n")
    generate(tmp_path)
    first = epochs(tmp_path)
    chance = random.Random(5)
    for _ in range(8):
        for run in runs:
            append(run / "logs.txt", chance.randbytes(4000).hex().encode() + b"\n")
        generate(tmp_path)
    assert epochs(tmp_path) == first


def test_the_weight_is_told_by_head(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="running")
    generate(tmp_path)
    before = head(tmp_path).written
    assert before is not None
    append(run / "logs.txt", b"12345")
    append(run / "logs.txt", b"\n")
    (run / "media/a.png").unlink()
    generate(tmp_path)
    assert head(tmp_path).written == before + 256 + 6 + 256


def test_an_epoch_of_unknown_weight_is_left(tmp_path: Path) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    first = epochs(tmp_path)
    file = journal(tmp_path) / "HEAD"
    file.write_bytes(encode_head(dataclasses.replace(head(tmp_path), written=None)))
    generate(tmp_path)
    assert len(epochs(tmp_path)) == 2
    generate(tmp_path)
    assert len(epochs(tmp_path)) == 2
    assert head(tmp_path).epoch not in first


def test_a_small_epoch_is_not_left(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    generate(tmp_path)
    first = epochs(tmp_path)
    for number in range(30):
        replace(run / "summary.json", f"{number}" * 1000)
        generate(tmp_path)
    assert epochs(tmp_path) == first
