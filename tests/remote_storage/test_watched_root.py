"""Clients of a root that a watching generator publishes: its manifests are older than its journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from runicorn.remote_storage import SyncOptions, SyncReport, synchronize
from runicorn.remote_storage.transport.local import LocalTransport
from tests.manifest.helpers import append, make_run, replace
from tests.manifest.journal_reader import head
from tests.manifest.watching import Told, watching


class Client:
    """A mirror of a root."""

    def __init__(self, root: Path, mirror: Path) -> None:
        self.root = root
        self.mirror = mirror

    def sync(self, method: str = "auto") -> SyncReport:
        options = SyncOptions(method=method)
        return synchronize(LocalTransport(), str(self.root), self.mirror, options).report

    def files(self) -> dict[str, bytes]:
        return contents(self.mirror)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".runicorn" not in path.parts
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    for number in range(3):
        make_run(folder, f"p/n/runs/r{number}", status="running")
    return folder


def grow(root: Path, told: Told, revision: int) -> None:
    append(root / "p/n/runs/r1/logs.txt", b"line %d\n" % revision)
    told.until(lambda each: each.identity.revision == revision)


def test_client_follows_the_journal(root: Path, tmp_path: Path) -> None:
    client = Client(root, tmp_path / "mirror")
    with watching(root, interval=3600) as (_, told):
        client.sync()
        for revision in (2, 3, 4):
            grow(root, told, revision)
            report = client.sync()
            assert (report.method, report.manifest_revision) == ("journal", revision)
            assert client.files() == contents(root)
        assert client.sync().skipped


def test_first_sync_by_the_older_manifest_carries_on_in_the_journal(root: Path, tmp_path: Path) -> None:
    client = Client(root, tmp_path / "mirror")
    with watching(root, interval=3600) as (_, told):
        grow(root, told, 2)
        replace(root / "p/n/runs/r0/summary.json", '{"new": 1}')
        told.until(lambda each: each.identity.revision == 3)
        report = client.sync("manifest")
        assert report.manifest_revision == 1
        assert report.failed_count == 0
        client.sync()  # learns its place in the journal
        after = client.sync()
        assert (after.method, after.manifest_revision) == ("journal", 3)
        assert client.files() == contents(root)


def test_client_of_the_journal_meets_the_older_manifest(root: Path, tmp_path: Path) -> None:
    client = Client(root, tmp_path / "mirror")
    with watching(root, interval=3600) as (_, told):
        client.sync()
        grow(root, told, 2)
        client.sync()
        before = client.files()
        client.sync("manifest")
        assert client.files() == before, "nothing is taken back"
        grow(root, told, 3)
        client.sync()  # learns its place in the journal
        assert client.sync().method == "journal"
        assert client.files() == contents(root)
    client.sync("manifest")
    assert client.files() == contents(root)
    assert head(root).manifest is not None
