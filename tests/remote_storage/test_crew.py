"""A first sync with the help of other processes: the same mirror, whatever becomes of them."""

from __future__ import annotations

import os
import select
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicorn.errors import UnsafeError
from runicorn.remote_storage import SyncOptions, SyncReport, synchronize
from runicorn.remote_storage.crew import Hand, Hands
from runicorn.remote_storage.report import BytesReceived, FileDone, Observer, ignore
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.transport import LocalTransport
from tests.journal.forge import FILES, chained, content, seed, split, with_content
from tests.remote_storage.helpers import RUN, Site, make_run, put, run_files
from tests.remote_storage.journal_helpers import (
    boundaries,
    by_journal,
    by_manifest,
    change_head,
    epoch_bytes,
    epoch_path,
    head,
    small_frames,
)

RUNS = 12
PATIENCE_MS = 20_000


@pytest.fixture
def framed(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Some runs, published in many small frames; one file is too large to be carried."""
    for number in range(RUNS):
        make_run(site.root, f"runs/nlp/bert/n{number}", state="finished" if number % 2 else "running")
    put(site.root / RUN / "media/large.bin", os.urandom(1024**2 + 1))
    put(site.root / "runs/nlp/bert/n1/logs.txt", "first\nno newline at the end")
    with monkeypatch.context() as patch:
        small_frames(patch)
        site.publish()
    assert len(boundaries(site)) > RUNS
    return site


@pytest.fixture
def hands() -> Iterator[Hands]:
    hands = Hands(2)
    assert len(hands.pids) == 2
    yield hands
    hands.close()


def first_sync(
    site: Site, hands: Hands | None, observe: Observer = ignore, options: SyncOptions | None = None
) -> SyncReport:
    options = options or SyncOptions(source=str(site.root))
    transport = LocalTransport()
    return synchronize(transport, str(site.root), site.mirror, options, observe, hands=hands).report


def recorded(site: Site) -> list[tuple[object, ...]]:
    """What is remembered of every file, but for the number that the disk gave it."""
    with sqlite3.connect(site.database) as database:
        rows = database.execute(
            "SELECT folder, inner, size, mtime_ns, hashes, listed_size, listed_mtime, listed_mtime_ns,"
            " listed_digest, young_at, epoch, gone FROM files ORDER BY folder, inner"
        ).fetchall()
    database.close()
    return rows


def end_of(pid: int) -> bool:
    """Wait for the end of a process, however it is related to this one."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        return bool(waiting.poll(PATIENCE_MS))
    finally:
        os.close(fd)


def test_with_and_without_helpers_the_same_is_in_place_and_recorded(
    framed: Site, hands: Hands, tmp_path: Path
) -> None:
    alone = Site(framed.root, tmp_path / "alone")
    done: list[object] = []
    report = by_journal(first_sync(framed, hands, done.append))
    framed.assert_equal()
    other = by_journal(first_sync(alone, Hands(0)))
    alone.assert_equal()
    assert recorded(framed) == recorded(alone)
    for each in (report, other):
        assert (each.files_synced, each.full_count) == (6 * (RUNS + 1) + 1,) * 2
    assert report.bytes_downloaded == other.bytes_downloaded
    files = [each.path for each in done if isinstance(each, FileDone)]
    assert sorted(files) == sorted(run_files(framed.root))
    assert by_journal(framed.sync()).skipped


def test_they_end_with_the_sync(framed: Site, hands: Hands) -> None:
    pids = hands.pids
    first_sync(framed, hands)
    assert all(end_of(pid) for pid in pids)


def test_only_what_is_selected(framed: Site, hands: Hands) -> None:
    selection = Selection(exclude=("n1/", "logs.txt"), media=False)
    report = first_sync(framed, hands, options=SyncOptions(selection=selection, method="journal"))
    expected = {
        path: data
        for path, data in run_files(framed.root).items()
        if "/n1/" not in path and "/media/" not in path and not path.endswith("logs.txt")
    }
    assert run_files(framed.mirror) == expected
    assert report.files_synced == len(expected)


@pytest.mark.parametrize("frames", [1, 5, 20])
def test_one_that_is_killed_costs_nothing_but_time(framed: Site, hands: Hands, frames: int) -> None:
    seen: list[object] = []
    pid = hands.pids[0]

    def watch(event: object) -> None:
        if isinstance(event, BytesReceived):
            seen.append(event)
            if len(seen) == frames:
                os.kill(pid, signal.SIGKILL)

    by_journal(first_sync(framed, hands, watch))
    framed.assert_equal()


def test_all_gone_before_the_beginning(framed: Site, hands: Hands) -> None:
    for pid in hands.pids:
        os.kill(pid, signal.SIGKILL)
        assert end_of(pid)
    by_journal(first_sync(framed, hands))
    framed.assert_equal()


def test_none_can_be_started(framed: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(framed.root / "none"))
    hands = Hands(2)
    assert hands.pids == []
    by_journal(first_sync(framed, hands))
    framed.assert_equal()


def forge(site: Site, nth: int, old: bytes, new: bytes) -> None:
    """Other content in a files frame, with chains and HEAD that fit."""
    raws = split(epoch_bytes(site))
    at = [number for number, raw in enumerate(raws) if raw.kind == FILES][nth]
    text, data = content(raws[at])
    assert old in text + data
    raws[at] = with_content(raws[at], text.replace(old, new), data.replace(old, new))
    before = head(site)
    ends = boundaries(site)
    made = list(chained(seed(before.epoch), raws))
    epoch_path(site).write_bytes(b"".join(frame for frame, _ in made))
    offset = {0: 0}
    for number, end in enumerate(ends):
        offset[end] = offset[ends[number - 1] if number else 0] + len(made[number][0])
    chain = {end: made[number][1].hex() for number, end in enumerate(ends)}
    media = {"begin": offset[before.media.begin], "end": offset[before.media.end.offset]}
    assert before.manifest is None
    change_head(
        site,
        length=offset[before.end.offset],
        chain=chain[before.end.offset],
        base_length=offset[before.base.offset],
        base_chain=chain[before.base.offset],
        media={**media, "chain": chain[before.media.end.offset]},
    )


def nth_with(site: Site, old: bytes) -> int:
    """The files frame that has a text."""
    raws = [raw for raw in split(epoch_bytes(site)) if raw.kind == FILES]
    return next(number for number, raw in enumerate(raws) if old in b"".join(content(raw)))


def test_bytes_that_are_not_the_listed_ones_are_found_by_whoever_reads_them(
    framed: Site, hands: Hands
) -> None:
    forge(framed, nth_with(framed, b'"loss": 0.5'), b'"loss": 0.5', b'"loss": 0.6')
    by_manifest(first_sync(framed, hands), "events.jsonl", "not the listed ones")
    framed.assert_equal()


def test_what_would_harm_is_refused_whole(framed: Site, hands: Hands) -> None:
    forge(framed, nth_with(framed, b"media/a.png"), b"media/a.png", b"../../a.png")
    with pytest.raises(UnsafeError):
        first_sync(framed, hands)
    assert not framed.staged()
    assert not any(path.endswith("a.png") for path in run_files(framed.mirror))


def test_they_end_when_the_process_that_they_help_is_killed() -> None:
    program = """
import sys
from runicorn.remote_storage.crew import Hand

print(Hand().pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        process.wait(20)
        assert end_of(pid)


def test_one_that_is_ended_twice() -> None:
    hand = Hand()
    hand.end()
    hand.end()
    assert end_of(hand.pid)


def test_without_one_barrier_for_all_each_file_is_flushed(
    framed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        flushed.append(fd)
        real(fd)

    monkeypatch.setattr("runicorn.remote_storage.durability._SYNCFS", None)
    monkeypatch.setattr(os, "fsync", fsync)
    by_journal(first_sync(framed, Hands(0)))
    framed.assert_equal()
    assert len(flushed) > 6 * (RUNS + 1)
