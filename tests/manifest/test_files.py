"""Putting a file in place: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from runicorn._files import fsync_folder, new_file, replace_file, scratch_file, sweep_temps
from tests.manifest.helpers import inside


class Calls:
    """Notes in which order the system is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.made: list[str] = []
        for name in names:
            monkeypatch.setattr(f"runicorn._files.os.{name}", self._noting(name, getattr(os, name)))

    def _noting(self, name: str, real: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            self.made.append(name)
            return real(*args, **kwargs)  # type: ignore[operator]

        return call


def test_a_new_file_and_a_replaced_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"two"):
        with replace_file(path) as stream:
            stream.write(data)
            assert path.exists() == (data == b"two")
        assert path.read_bytes() == data
        assert inside(tmp_path) == ["file"]


def test_the_order_is_sync_rename_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, "fsync", "replace")
    with replace_file(tmp_path / "file") as stream:
        stream.write(b"x")
    assert calls.made == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), ValueError()])
def test_any_exit_leaves_the_old_file_and_no_temp(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_and_fail() -> None:
        with replace_file(path) as stream:
            stream.write(b"new" * 100_000)
            raise error

    with pytest.raises(type(error)):
        write_and_fail()
    assert path.read_bytes() == b"old"
    assert inside(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace", "fdopen"])
def test_a_failing_step_leaves_the_old_file_and_no_temp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def failing(*args: object, **kwargs: object) -> None:
        del args, kwargs
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"runicorn._files.os.{step}", failing)
    with pytest.raises(OSError, match="No space"), replace_file(path) as stream:
        stream.write(b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert inside(tmp_path) == ["file"]


def refusing(number: int) -> Callable[..., object]:
    """A call of the system that fails."""

    def call(*args: object, **kwargs: object) -> object:
        del args, kwargs
        raise OSError(number, os.strerror(number))

    return call


def test_a_new_file_takes_the_place_of_another_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"two"):
        before = path.stat().st_ino if path.exists() else None
        with path.open("rb") if before else contextlib.nullcontext(), new_file(path) as stream:
            stream.write(data)
            assert inside(tmp_path) == ["file"]
            assert path.stat().st_ino != before
        assert path.read_bytes() == data


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), ValueError()])
def test_a_new_file_that_is_not_finished_is_removed(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_and_fail(*, gone: bool) -> None:
        with new_file(path) as stream:
            stream.write(b"new")
            if gone:
                path.unlink()
            raise error

    for gone in (False, True):
        with pytest.raises(type(error)):
            write_and_fail(gone=gone)
        assert inside(tmp_path) == []


def test_a_new_file_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runicorn._files.os.open", refusing(28))
    for make in (new_file, replace_file):
        with pytest.raises(OSError, match="No space"), make(tmp_path / "file"):
            pass
    monkeypatch.undo()
    assert inside(tmp_path) == []


def test_a_folder_that_cannot_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicorn._files.os.open", refusing(13))
    fsync_folder(tmp_path)


def test_a_system_that_cannot_sync_folders_is_not_asked_to() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "name", "nt")
        fsync_folder("no/such/folder")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "no/file"):
        pass


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"safe")
    (tmp_path / "file").symlink_to(target)
    with replace_file(tmp_path / "file") as stream:
        stream.write(b"new")
    assert target.read_bytes() == b"safe"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_mode(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with replace_file(tmp_path / "file"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_temps_are_hidden_beside_the_file_and_unique(tmp_path: Path) -> None:
    with replace_file(tmp_path / "file"), replace_file(tmp_path / "file"):
        names = inside(tmp_path)
    assert len(names) == 2
    assert all(name.startswith(".file.") and name.endswith(".tmp") for name in names)


def test_a_long_name_still_has_a_temp(tmp_path: Path) -> None:
    with replace_file(tmp_path / ("x" * 255)) as stream:
        stream.write(b"x")
    assert inside(tmp_path) == ["x" * 255]


@pytest.mark.parametrize("nameless", [True, False])
def test_a_scratch_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool) -> None:
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    with scratch_file(tmp_path) as stream:
        assert inside(tmp_path) == []
        stream.write(b"abc")
        stream.seek(0)
        assert stream.read() == b"abc"


def test_sweeping(tmp_path: Path) -> None:
    ours = [".m.json.0123456789ab.tmp", ".scratch.ffffffffffff.tmp"]
    others = [
        ".m.json.0123456789aB.tmp",
        ".mxjson.0123456789ab.tmp",
        "m.json.0123456789ab.tmp",
        ".m.json.tmp",
        "m.json",
    ]
    for name in ours + others:
        (tmp_path / name).write_bytes(b"")
    assert sorted(sweep_temps(tmp_path, ["m.json"])) == ours
    assert sorted(inside(tmp_path)) == sorted(others)


def test_a_folder_that_knows_no_sync_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicorn._files.os.fsync", refusing(22))
    fsync_folder(tmp_path)
    monkeypatch.setattr("runicorn._files.os.fsync", refusing(5))
    with pytest.raises(OSError, match="Input/output"):
        fsync_folder(tmp_path)
