"""What is read and what is inherited; files that change while they are read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from runicorn.manifest import Manifest
from runicorn.manifest.scan_read import look
from tests.manifest.helpers import (
    PROJECT_RUN,
    ReadCounter,
    WhileReading,
    append,
    entries,
    generate,
    make_run,
    paths,
    problems,
    replace,
    settle,
    write,
)

ALL = ["a.png", "events.jsonl", "logs.txt", "meta.json", "status.json"]
BLOCK = 1024 * 1024


def digest_of(manifest: Manifest, name: str) -> str | None:
    return entries(manifest)[f"{PROJECT_RUN}/{name}"].digest


def log_digest(data: bytes) -> str:
    blocks = [hashlib.sha256(data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
    return hashlib.sha256(b"".join(blocks)).hexdigest()


def test_unchanged_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    make_run(tmp_path)
    counter = ReadCounter(monkeypatch)
    first = generate(tmp_path)
    assert counter.take() == ALL
    second = generate(tmp_path)
    assert counter.take() == []
    assert second.experiments == first.experiments


def test_young_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)
    counter = ReadCounter(monkeypatch)
    first = generate(tmp_path)
    counter.take()
    state = (tmp_path / ".runicorn/scan_state.gz").stat()
    second = generate(tmp_path)
    assert counter.take() == ALL
    assert (tmp_path / ".runicorn/scan_state.gz").stat().st_ino == state.st_ino
    assert second.revision == first.revision
    settle(monkeypatch)
    generate(tmp_path)
    assert counter.take() == ALL
    assert (tmp_path / ".runicorn/scan_state.gz").stat().st_ino != state.st_ino
    generate(tmp_path)
    assert counter.take() == []


def test_a_young_file_that_changed_without_a_trace_is_found(tmp_path: Path) -> None:
    run = make_run(tmp_path, summary='{"loss": 1}')
    generate(tmp_path)
    before = (run / "summary.json").stat()
    write(run / "summary.json", '{"loss": 2}')
    os.utime(run / "summary.json", ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert digest_of(generate(tmp_path), "summary.json") == hashlib.sha256(b'{"loss": 2}').hexdigest()


def test_no_incremental_reads_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    make_run(tmp_path)
    first = generate(tmp_path)
    counter = ReadCounter(monkeypatch)
    second = generate(tmp_path, incremental=False)
    assert counter.take() == ALL
    assert (second.revision, second.experiments) == (first.revision, first.experiments)


@pytest.mark.parametrize("name", ["meta.json", "status.json", "summary.json", "media/a.png"])
def test_only_the_changed_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path, summary="{}")
    first = generate(tmp_path)
    counter = ReadCounter(monkeypatch)
    replace(run / name, b'{"new": 1}')
    second = generate(tmp_path)
    assert counter.take() == [Path(name).name]
    assert digest_of(second, name) == hashlib.sha256(b'{"new": 1}').hexdigest()
    assert second.revision == first.revision + 1
    assert second.experiments[0].created_at == (1704060001.0 if name == "meta.json" else 1704060000.0)
    assert second.experiments[0].status == ("unknown" if name == "status.json" else "completed")


def test_times_alone_make_a_file_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path)
    first = generate(tmp_path)
    counter = ReadCounter(monkeypatch)
    (run / "meta.json").chmod(0o600)
    second = generate(tmp_path)
    assert counter.take() == ["meta.json"]
    assert second.revision == first.revision


class BytesRead:
    """How many bytes of one file a scan reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.total = 0
        real = os.read

        def reading(fd: int, size: int) -> bytes:
            data = real(fd, size)
            self.total += len(data) if os.fstat(fd).st_ino == path.stat().st_ino else 0
            return data

        monkeypatch.setattr("runicorn.manifest.scan_read.os.read", reading)


@pytest.mark.parametrize("before", [0, 10, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("more", [1, BLOCK, 2 * BLOCK + 7])
def test_an_append_reads_at_most_one_old_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, more: int
) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path, status="running")
    old, new = os.urandom(before), os.urandom(more)
    write(run / "events.jsonl", old)
    generate(tmp_path)
    append(run / "events.jsonl", new)
    counter = BytesRead(monkeypatch, run / "events.jsonl")
    manifest = generate(tmp_path)
    assert counter.total <= more + min(BLOCK, before)
    assert digest_of(manifest, "events.jsonl") == log_digest(old + new)
    assert digest_of(generate(tmp_path, incremental=False), "events.jsonl") == log_digest(old + new)


def test_a_log_rewritten_longer_in_place_is_hashed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path, status="running")
    write(run / "events.jsonl", b"a" * (BLOCK + 10))
    generate(tmp_path)
    data = b"b" * (2 * BLOCK)
    write(run / "events.jsonl", data)  # keeps the inode
    assert digest_of(generate(tmp_path), "events.jsonl") == log_digest(data)


def test_a_log_replaced_by_a_longer_one_is_hashed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path, status="running")
    tail = b"t" * 100
    write(run / "events.jsonl", b"a" * BLOCK + tail)
    generate(tmp_path)
    data = b"b" * BLOCK + tail + b"more"
    replace(run / "events.jsonl", data)
    assert digest_of(generate(tmp_path), "events.jsonl") == log_digest(data)


def test_a_log_that_shrank_is_hashed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path, status="running")
    write(run / "events.jsonl", b"a" * (2 * BLOCK))
    generate(tmp_path)
    write(run / "events.jsonl", b"a" * 5)
    assert digest_of(generate(tmp_path), "events.jsonl") == log_digest(b"a" * 5)


def spoil_start(path: Path) -> None:
    """Change the first block of a log and append to it: only a full reading can tell."""
    with path.open("r+b") as stream:
        stream.write(b"SPOILT")
    append(path, b"more")


def test_the_end_of_a_run_hashes_a_changed_log_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path, status="running")
    write(run / "events.jsonl", b"a" * (2 * BLOCK))
    generate(tmp_path)
    spoil_start(run / "events.jsonl")
    real = log_digest((run / "events.jsonl").read_bytes())
    assert digest_of(generate(tmp_path), "events.jsonl") != real  # the append alone cannot tell
    replace(run / "status.json", '{"status": "completed"}')
    counter = ReadCounter(monkeypatch)
    assert digest_of(generate(tmp_path), "events.jsonl") == real
    assert counter.take() == ["events.jsonl", "status.json"]  # logs.txt was read from its start before
    generate(tmp_path)
    assert counter.take() == []


def test_a_log_of_an_ended_run_that_grows_is_hashed_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path, status="completed")
    write(run / "events.jsonl", b"a" * (2 * BLOCK))
    generate(tmp_path)
    spoil_start(run / "events.jsonl")
    expected = log_digest((run / "events.jsonl").read_bytes())
    assert digest_of(generate(tmp_path), "events.jsonl") == expected


def test_status_is_read_before_the_logs_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path, status="running")
    generate(tmp_path)
    replace(run / "status.json", '{"status": "completed", "started_at": 1704060001.0}')
    WhileReading(monkeypatch, run / "status.json", lambda: append(run / "events.jsonl", b"last\n"))
    manifest = generate(tmp_path)
    assert manifest.experiments[0].status == "completed"
    assert entries(manifest)[f"{PROJECT_RUN}/events.jsonl"].size == (run / "events.jsonl").stat().st_size


def test_a_growing_log_is_listed_with_its_size_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, status="running")
    data = os.urandom(3 * BLOCK)
    log = write(run / "events.jsonl", data)
    WhileReading(monkeypatch, log, lambda: append(log, b"x" * 1000), times=3)
    manifest = generate(tmp_path)
    assert entries(manifest)[f"{PROJECT_RUN}/events.jsonl"].size == 3 * BLOCK
    assert digest_of(manifest, "events.jsonl") == log_digest(data)
    assert log.stat().st_size == 3 * BLOCK + 3000


@pytest.mark.parametrize(("times", "trouble"), [(1, False), (2, False), (99, True)])
def test_a_log_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, trouble: bool
) -> None:
    run = make_run(tmp_path, status="running")
    log = write(run / "events.jsonl", b"a" * (4 * BLOCK))
    WhileReading(monkeypatch, log, lambda: os.truncate(log, log.stat().st_size // 2), times)
    manifest = generate(tmp_path)
    if trouble:
        assert problems(manifest) == [(f"{PROJECT_RUN}/events.jsonl", "changing")]
        assert not manifest.complete
    else:
        assert digest_of(manifest, "events.jsonl") == log_digest(log.read_bytes())


@pytest.mark.parametrize("how", ["in place", "by rename", "longer", "shorter"])
@pytest.mark.parametrize(("times", "trouble"), [(1, False), (2, False), (99, True)])
def test_a_state_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, times: int, trouble: bool
) -> None:
    run = make_run(tmp_path)
    path = write(run / "summary.json", b"x" * 5000)
    changes = [0]

    def change() -> None:
        changes[0] += 1
        if how == "by rename":
            replace(path, b"%05d" % changes[0] * 1000)
        elif how == "longer":
            append(path, b"more")
        elif how == "shorter":
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.write_bytes(b"%05d" % changes[0] * 1000)
            os.utime(path, (changes[0], changes[0]))

    WhileReading(monkeypatch, path, change, times)
    manifest = generate(tmp_path)
    if trouble:
        assert problems(manifest) == [(f"{PROJECT_RUN}/summary.json", "changing")]
        assert not manifest.complete
        assert changes[0] == 3
    else:
        assert digest_of(manifest, "summary.json") == hashlib.sha256(path.read_bytes()).hexdigest()
        assert manifest.problems == ()


@pytest.mark.parametrize("name", ["status.json", "meta.json", "events.jsonl", "media/a.png"])
def test_a_file_that_vanishes_between_listing_and_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = make_run(tmp_path)
    real = os.scandir

    def vanishing(path: object = ".") -> object:
        listing = real(path)  # type: ignore[call-overload]
        (run / name).unlink(missing_ok=True)
        return listing

    monkeypatch.setattr("runicorn.manifest.scan.os.scandir", vanishing)
    manifest = generate(tmp_path)
    assert manifest.problems == ()
    assert f"{PROJECT_RUN}/{name}" not in paths(manifest)
    assert len(paths(manifest)) == 4


def test_a_media_file_replaced_by_a_fifo_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    real = os.open

    def swapping(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "a.png":
            (run / "media/a.png").unlink()
            os.mkfifo(run / "media/a.png")
        return real(path, flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]

    monkeypatch.setattr("os.open", swapping)
    assert problems(generate(tmp_path)) == [(f"{PROJECT_RUN}/media/a.png", "special")]


def test_a_file_that_becomes_a_device_before_it_is_opened_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    counter = ReadCounter(monkeypatch)
    real = look

    def swapping(name: str, folder: int) -> os.stat_result:
        status = real(name, folder)
        if name == "a.png":
            (run / "media/a.png").unlink()
            os.mkfifo(run / "media/a.png")
        return status

    monkeypatch.setattr("runicorn.manifest.scan_run.look", swapping)
    assert problems(generate(tmp_path)) == [(f"{PROJECT_RUN}/media/a.png", "special")]
    assert "a.png" not in counter.take()


def test_a_run_that_vanishes_leaves_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    kept = ["a/n/runs/r", "c/n/runs/r", "e/n/runs/r"]
    for folder in [*kept, "b/n/runs/r", "d/n/runs/r", "f/n/runs/r"]:
        make_run(tmp_path, folder)
    first = generate(tmp_path)
    for project in "bdf":
        (tmp_path / project).rename(tmp_path / f".{project}")
    second = generate(tmp_path)
    assert [run.folder for run in second.experiments] == kept
    assert (second.revision, second.complete) == (first.revision + 1, True)
    for project in "bdf":
        (tmp_path / f".{project}").rename(tmp_path / project)
    third = generate(tmp_path)
    assert third.experiments == first.experiments
    assert third.revision == first.revision + 2
    assert generate(tmp_path).revision == third.revision


def test_a_renamed_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path)
    generate(tmp_path)
    (run / "media/a.png").rename(run / "media/b.png")
    assert f"{PROJECT_RUN}/media/b.png" in paths(generate(tmp_path))
