"""Small roots, and faults with a name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runicorn.manifest import FileEntry, Manifest, ManifestGenerator, ManifestType, Run, base
from runicorn.manifest.model import Header, Identity

PROJECT_RUN = "vision/resnet/runs/r1"
PATH_RUN = "runs/nlp/bert/base/r2"
NOBODY = 65534


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)


def replace(path: Path, data: bytes | str) -> None:
    """As a training script does: a new file takes the name."""
    temp = write(path.with_name(path.name + ".tmp"), data)
    temp.replace(path)


def make_run(root: Path, folder: str = PROJECT_RUN, status: str | None = "completed", **files: str) -> Path:
    """A run with meta, status, both logs and a picture; more files by name without ending."""
    run = root / folder
    write(run / "meta.json", json.dumps({"created_at": 1704060000.0}))
    if status is not None:
        write(run / "status.json", json.dumps({"status": status, "started_at": 1704060001.0}))
    write(run / "events.jsonl", '{"step": 1}\n')
    write(run / "logs.txt", "begin\n")
    write(run / "media/a.png", b"\x89PNG")
    for name, text in files.items():
        write(run / f"{name}.json", text)
    return run


def generate(
    root: Path, kind: ManifestType = ManifestType.FULL, *, output: Path | None = None, **options: object
) -> Manifest:
    return ManifestGenerator(root, **options).generate(kind, output)[0]  # type: ignore[arg-type]


def paths(manifest: Manifest) -> list[str]:
    return [entry.path for run in manifest.experiments for entry in run.files]


def entries(manifest: Manifest) -> dict[str, FileEntry]:
    return {entry.path: entry for run in manifest.experiments for entry in run.files}


def runs(manifest: Manifest) -> dict[str, Run]:
    return {run.folder: run for run in manifest.experiments}


def problems(manifest: Manifest) -> list[tuple[str, str]]:
    return [(problem.path, problem.kind) for problem in manifest.problems]


def inside(folder: Path) -> list[str]:
    """The names in a folder."""
    return [path.name for path in folder.iterdir()]


def remove(path: Path) -> None:
    """Remove a file, or a folder with what is in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def temps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*") if path.name.endswith(".tmp"))


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every file for old enough, so that no test has to wait for the clock."""
    monkeypatch.setattr("runicorn.manifest.session.RACY_NS", -3600 * 10**9)


def a_header(**changes: object) -> Header:
    fields: dict[str, object] = {
        "manifest_type": ManifestType.FULL,
        "identity": Identity("lineage-1", 7, "snapshot-7"),
        "generated_at": 1704067200.25,
        "server_hostname": "ml-server-01",
        "remote_root": "/data/experiments",
        "total_experiments": 0,
        "total_files": 0,
        "total_bytes": 0,
        "complete": True,
    }
    return Header(**{**fields, **changes})  # type: ignore[arg-type]


class ReadCounter:
    """Which regular files a scan opens, by name; a base of the journal reads all of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.in_base = False
        real = os.open
        real_base = base.write_base

        def writing(*args: Any) -> object:
            self.in_base = True
            try:
                return real_base(*args)
            finally:
                self.in_base = False

        def counting(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if dir_fd is not None and not flags & os.O_DIRECTORY and not self.in_base:
                self.opened.append(os.fsdecode(path))  # type: ignore[arg-type]
            return real(path, flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]

        monkeypatch.setattr("runicorn.manifest.scan_read.os.open", counting)
        monkeypatch.setattr("runicorn.manifest.journal_writer.write_base", writing)

    def take(self) -> list[str]:
        """The names since the last time, sorted."""
        taken, self.opened[:] = sorted(self.opened), []
        return taken


class WhileReading:
    """Does something when a file is read: after the first ``times`` reads of it, each time once."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, path: Path, action: Callable[[], object], times: int = 1
    ) -> None:
        self.left = times
        real = os.read

        def reading(fd: int, size: int) -> bytes:
            mine = self.left > 0 and path.exists() and os.fstat(fd).st_ino == path.stat().st_ino
            data = real(fd, size)
            if mine:
                self.left -= 1
                action()
            return data

        monkeypatch.setattr("runicorn.manifest.scan_read.os.read", reading)


class FailingOpen:
    """Opening a name below the root fails with an error number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
        real = os.open

        def failing(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if dir_fd is not None and path == name:
                raise OSError(number, os.strerror(number), name)
            return real(path, flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]

        monkeypatch.setattr("os.open", failing)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without the rights of root, when the tests have them."""
    if os.geteuid() != 0:
        yield
        return
    group = os.getegid()
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everybody can write to and reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o777)
        shutil.rmtree(folder)
