"""Staging what a base carries: folders of staged files, and what is left of a frame that fails."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from runicorn.errors import DamagedError, DiskFullError
from runicorn.journal.frames import FrameReader, Kind, beginning
from runicorn.remote_storage import SyncOptions, SyncReport, stager, synchronize
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.stager import StagedEntry, StagedSection, packed, unpacked
from runicorn.remote_storage.staging import discard_folder, stage_file
from runicorn.remote_storage.transport import LocalTransport
from runicorn.remote_storage.workers import WorkerPool, Workers
from tests.remote_storage.helpers import Site, make_run, run_files
from tests.remote_storage.journal_helpers import by_journal, epoch_bytes, head

RUNS = 5


@pytest.fixture
def published(site: Site) -> Site:
    for number in range(RUNS):
        make_run(site.root, f"runs/nlp/bert/n{number}")
    site.publish()
    return site


def first_sync(site: Site, method: str = "auto") -> SyncReport:
    options = SyncOptions(source=str(site.root), method=method)
    transport = LocalTransport()
    return synchronize(transport, str(site.root), site.mirror, options, workers=Workers(0)).report


def test_one_folder_holds_no_more_than_so_many(published: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: Counter[str] = Counter()

    def counted(folder_fd: int, *rest: object) -> object:
        folders[str(Path(f"/proc/self/fd/{folder_fd}").readlink())] += 1
        return stage_file(folder_fd, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stager, "stage_file", counted)
    monkeypatch.setattr(stager, "FOLDER_FILES", 7)
    by_journal(first_sync(published))
    published.assert_equal()
    files = len(run_files(published.root))
    assert sorted(folders.values(), reverse=True) == [7] * (files // 7) + [files % 7] * bool(files % 7)
    assert not published.staged()


def refusing(number: int, refused: list[str], refusals: int) -> Callable[..., None]:
    """A mkdir that refuses the first folders for staged files, and tells which."""
    mkdir = os.mkdir

    def refuse(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if "-own-" in str(path) and len(refused) < refusals:
            refused.append(path)
            raise OSError(number, os.strerror(number))
        mkdir(path, mode, dir_fd=dir_fd)

    return refuse


def test_files_that_get_no_folder_are_fetched_afterwards(
    published: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stager, "FOLDER_FILES", 1)
    refused: list[str] = []
    monkeypatch.setattr(os, "mkdir", refusing(errno.EACCES, refused, 3))
    report = by_journal(first_sync(published))
    assert (len(refused), report.failed_count) == (3, 0)
    published.assert_equal()


def test_no_room_for_a_folder_is_a_full_disk(published: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "mkdir", refusing(errno.ENOSPC, [], 1))
    with pytest.raises(DiskFullError):
        first_sync(published)
    assert not published.staged()


def test_nothing_is_left_of_a_frame_that_fails(published: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    staged: list[str] = []
    left: list[list[Path]] = []
    close = WorkerPool.close

    def failing(folder_fd: int, name: str, *rest: object) -> object:
        if len(staged) == 9:
            raise DamagedError("found by the test")
        staged.append(name)
        return stage_file(folder_fd, name, *rest)  # type: ignore[arg-type]

    def looked(pool: WorkerPool) -> None:
        left.append([each for each in (published.mirror / ".runicorn/staging").rglob("*") if each.is_file()])
        close(pool)

    monkeypatch.setattr(stager, "FOLDER_FILES", 4)
    monkeypatch.setattr(stager, "stage_file", failing)
    monkeypatch.setattr(WorkerPool, "close", looked)
    with pytest.raises(DamagedError, match="by the test"):
        first_sync(published, method="journal")
    assert len(staged) == 9
    assert left == [[]]


def test_who_outlives_its_sync_begins_no_other_folder_when_its_own_is_swept(
    published: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stager, "FOLDER_FILES", 4)
    reader = FrameReader(beginning(head(published).epoch))
    reader.feed(epoch_bytes(published))
    frames = [frame for frame in reader.stored_frames() if frame.kind is Kind.FILES]
    staging = tmp_path / "staging"
    staging.mkdir()
    fd = os.open(staging, os.O_RDONLY)
    left = stager.Stager(fd, "left", Selection(), 1)
    try:
        sections = left.stage(frames[0])
        assert all(entry.name for section in sections for entry in section.entries)
        assert len(list(staging.iterdir())) > 1
        for folder in staging.iterdir():
            discard_folder(fd, folder.name)
        sections = [section for frame in frames for section in left.stage(frame)]
        assert not any(entry.name for section in sections for entry in section.entries)
    finally:
        left.close()
        os.close(fd)
    assert list(staging.iterdir()) == []


def test_what_was_staged_comes_to_the_other_process_as_it_was() -> None:
    entry = StagedEntry(
        ("a/b/runs/r/x\udcff", 3, 1.5, 1, False, None, "0" * 64, None, None), 3, "s/1", ("r", 1, b"h")
    )
    wanted = StagedEntry(("a/b/runs/r/y", 3, 1.5, 1, True, 5, None, "0" * 64, "t"), 0, "", ())
    sections = [StagedSection(("a/b/runs/r", "r", "a", "b", "running", 1.0, 2.0), [entry, wanted], ("gone",))]
    found = unpacked(packed(sections))
    assert found == sections
    assert found is not None
    assert (found[0].folder, found[0].entries[1].priority) == ("a/b/runs/r", 1)
    assert unpacked(packed(None)) is None
    assert unpacked(packed([])) == []
