"""A journal on a disk without room: what is put off, cut off, left out, or told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runicorn.cli import main
from runicorn.errors import PublishError
from runicorn.journal.frames import file_name
from runicorn.manifest import read_manifest
from tests.manifest.helpers import (
    append,
    generate,
    inside,
    make_run,
    temps,
)
from tests.manifest.journal_reader import Replica, epochs, head, journal


def no_room(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("runicorn.manifest.journal_writer.write_base", failing)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES])
def test_a_compaction_without_room_is_put_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    run = make_run(tmp_path)
    generate(tmp_path)
    first = epochs(tmp_path)
    with monkeypatch.context() as patch:
        no_room(patch, number)
        for count in range(3):
            append(run / "logs.txt", b"more\n")
            assert generate(tmp_path, compact=True).revision == count + 2
    assert "the journal grows on" in caplog.text
    assert epochs(tmp_path) == first
    assert temps(tmp_path) == []
    replica = Replica()
    replica.sync(tmp_path)
    replica.check(tmp_path)


def test_a_seal_without_room_is_put_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    first, end = epochs(tmp_path), head(tmp_path).end
    full_disk_for(monkeypatch, 100)
    generate(tmp_path, compact=True)
    assert (epochs(tmp_path), head(tmp_path).end) == (first, end)
    assert (journal(tmp_path) / file_name(first[0])).stat().st_size == end.offset


def full_disk_for(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """The next frames behind a commit find so many bytes of room, and then none."""
    left = [room]

    def writing(fd: int, data: bytes) -> None:
        os.write(fd, data[: left[0]])
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("runicorn.manifest.journal_store._write", writing)


def test_what_was_half_appended_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    generate(tmp_path)
    end = head(tmp_path).end
    append(run / "logs.txt", b"more\n")
    with monkeypatch.context() as patch:
        full_disk_for(patch, 100)
        with pytest.raises(PublishError, match="No space left"):
            generate(tmp_path)
    assert (journal(tmp_path) / file_name(end.epoch)).stat().st_size == end.offset
    assert generate(tmp_path).revision == 2


def test_a_first_base_without_room_leaves_the_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    generate(tmp_path)
    (tmp_path / ".runicorn/scan_state.gz").unlink()
    append(run / "logs.txt", b"more\n")
    with monkeypatch.context() as patch:
        no_room(patch, errno.ENOSPC)
        assert main(["generate-manifest", "--root", str(tmp_path)]) == 3
    assert "runicorn: no journal is kept" in capsys.readouterr().err
    assert inside(journal(tmp_path)) == []
    assert read_manifest(tmp_path / ".runicorn/full_manifest.json").revision == 2
    assert main(["generate-manifest", "--root", str(tmp_path)]) == 0
    assert head(tmp_path).identity.revision == 2


@pytest.mark.parametrize("name", ["HEAD", ".journal", "scan_state.gz.next"])
@pytest.mark.parametrize("first", [True, False])
def test_a_full_disk_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, first: bool
) -> None:
    run = make_run(tmp_path)
    replica = Replica()
    if not first:
        generate(tmp_path)
        replica.sync(tmp_path)
        append(run / "logs.txt", b"more\n")
    real = os.fsync

    def failing(fd: int) -> None:
        if name in str(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr("os.fsync", failing)
    if first and name == ".journal":
        generate(tmp_path)  # without a journal
    else:
        with pytest.raises(PublishError, match="No space left on device"):
            generate(tmp_path)
    monkeypatch.undo()
    assert temps(tmp_path) == []
    manifest = generate(tmp_path)
    replica.sync(tmp_path)
    replica.check(tmp_path)
    assert manifest.revision <= 2
