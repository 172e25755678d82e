"""What is special about the local file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runicorn.errors import RequestError
from runicorn.remote_storage.transport import Answer, Attributes, Handle, LocalTransport, Open, OpenDir, Stat
from tests.transport.jobs import ask, list_folder, read_small


def test_relative_paths_start_at_the_root(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    found: dict[str, bytes | RequestError] = {}
    LocalTransport(tmp_path).run([read_small("a", 3, found)])
    assert found == {"a": b"123"}


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    (tmp_path / "target").write_bytes(b"1")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("target")
    found: list[Answer] = []
    LocalTransport().run([ask([Open(str(path))], found)])
    (error,) = found
    assert isinstance(error, RequestError)
    assert error.code == 4
    assert error.path == str(path)


def test_folders_and_attributes_follow_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_bytes(b"123")
    (tmp_path / "link").symlink_to("real")
    listed: dict[str, Attributes] = {}
    found: list[Answer] = []
    LocalTransport(tmp_path).run([list_folder("link", listed), ask([Stat("link/a")], found)])
    assert listed["a"].size == 3
    assert found == [listed["a"]]


def test_handle_of_another_job_is_closed(tmp_path: Path) -> None:
    found: list[Answer] = []
    before = set(Path("/proc/self/fd").iterdir())
    LocalTransport().run(ask([OpenDir(str(tmp_path))], found) for _ in range(3))
    assert all(isinstance(answer, Handle) for answer in found)
    assert set(Path("/proc/self/fd").iterdir()) == before
