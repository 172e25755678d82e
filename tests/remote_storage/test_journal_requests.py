"""What the journal costs a real server: requests counted at it, over ssh and over paramiko."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runicorn.manifest import ManifestGenerator
from runicorn.remote_storage import ManifestSyncClient, SyncOptions, SyncReport, journal_reader, synchronize
from runicorn.remote_storage.transport import MAX_READ, SshTarget, connect_ssh, stream
from testbed.counting import Counts, read_counts, reset_counts, subsystem_command
from testbed.sshd import Sshd
from testbed.trees import append_run, make_tree
from tests.remote_storage.helpers import Site, run_files
from tests.remote_storage.journal_helpers import by_journal, damage, epoch_path, folder


@pytest.fixture(scope="module")
def counts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("counts")


@pytest.fixture(scope="module")
def server(counts_folder: Path) -> Iterator[Sshd]:
    with Sshd(subsystem=subsystem_command(counts_folder)) as running:
        yield running


@pytest.fixture
def counted(server: Sshd, counts_folder: Path) -> Counted:
    reset_counts(counts_folder)
    return Counted(server, counts_folder)


class Counted:
    """Syncs over a server that counts."""

    def __init__(self, server: Sshd, directory: Path) -> None:
        self.server, self._directory = server, directory

    def sync(self, site: Site) -> tuple[SyncReport, Counts]:
        """One sync over a connection of its own, and what the server has counted."""
        reset_counts(self._directory)
        target = SshTarget(self.server.host, command=tuple(self.server.ssh_command))
        with closing(connect_ssh(target)) as transport:
            wanted = SyncOptions(source="it")
            report = synchronize(transport, str(site.root), site.mirror, wanted).report
        return report, self.since()

    def since(self) -> Counts:
        counts = read_counts(self._directory)
        assert counts.changing == 0
        return counts


@pytest.fixture
def lab(tmp_path: Path) -> Site:
    """A hundred experiments; the journal of them is below 10 MB."""
    site = Site(tmp_path / "root", tmp_path / "mirror")
    make_tree(site.root, 100, files=9, running=5)
    ManifestGenerator(site.root).publish()
    assert epoch_path(site).stat().st_size < 10_000_000
    return site


def test_further_channels_of_a_first_sync_wait_for_no_measuring(
    lab: Site, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BULK_FROM", 1)
    monkeypatch.setattr(stream, "LONG_LINE", -1.0)
    monkeypatch.setattr(journal_reader, "_READS_OF_BEGINNING", 1)
    assert epoch_path(lab).stat().st_size > MAX_READ
    report, counts = counted.sync(lab)
    by_journal(report)
    assert counts.sessions > 1
    assert counts.requests["FSTAT"] == 1  # beside HEAD
    lab.assert_equal()


def test_first_sync_then_nothing_new_then_five_runs(lab: Site, counted: Counted) -> None:
    report, counts = counted.sync(lab)
    by_journal(report)
    assert report.files_synced == 900
    assert counts.total <= 60, counts.requests
    lab.assert_equal()
    report, counts = counted.sync(lab)
    assert by_journal(report).skipped
    assert counts.total <= 8, counts.requests
    for run in sorted(path.parent for path in lab.root.rglob("meta.json"))[:5]:
        append_run(run, 10)
    ManifestGenerator(lab.root).publish()
    report, counts = counted.sync(lab)
    assert by_journal(report).files_synced == 20
    assert counts.total <= 10, counts.requests
    assert counts.bytes_down < 60_000
    lab.assert_equal()


def test_a_large_journal_of_a_hundred_runs(tmp_path: Path, counted: Counted) -> None:
    """25 MB of which media are most, in few requests of a quarter of a megabyte."""
    site = Site(tmp_path / "root", tmp_path / "mirror")
    make_tree(site.root, 100, files=15)
    ManifestGenerator(site.root).publish()
    size = epoch_path(site).stat().st_size
    report, counts = counted.sync(site)
    by_journal(report)
    assert counts.total <= 20 + size // 200_000, counts.requests
    site.assert_equal()


def test_polls_over_a_kept_connection(lab: Site, counted: Counted) -> None:
    runs = sorted(path.parent for path in lab.root.rglob("meta.json"))
    with (
        counted.server.paramiko_client() as ssh,
        ssh.open_sftp() as sftp,
        ManifestSyncClient(
            sftp, str(lab.root), lab.mirror, jitter_max=0, options=SyncOptions(source="it", delete=True)
        ) as client,
    ):
        client.sync()
        for _ in range(3):
            statistics = client.sync()
            assert (statistics["requests"], statistics["skipped"]) == (2, True)
            assert statistics["method"] == "journal"
        before = client.sync()["requests"]
        assert before == 2
        for number in range(3):
            append_run(runs[number], 5)
            ManifestGenerator(lab.root, compact=number == 1).publish()
            statistics = client.sync()
            assert (statistics["method"], statistics["failed_count"]) == ("journal", 0)
            assert not statistics["skipped"]
            assert statistics["requests"] <= (2 if number != 1 else 12)
            assert run_files(lab.mirror) == run_files(lab.root)
        assert client.sync()["requests"] == 2
    counts = counted.since()
    # INIT and limits of both channels, the first sync, and the polls.
    assert counts.requests["STAT"] == 3 + 1 + 3 + 1
    assert counts.requests["OPENDIR"] == 0


def test_damage_over_a_real_connection_goes_one_rung_down(tmp_path: Path, counted: Counted) -> None:
    """While more of the journal is still on its way: the connection has to stay usable."""
    site = Site(tmp_path / "root", tmp_path / "mirror")
    make_tree(site.root, 40, files=15)
    ManifestGenerator(site.root).publish()
    damage(epoch_path(site), 300)
    report, _ = counted.sync(site)
    assert (report.method, report.failed_count) == ("manifest", 0)
    assert "damaged" in report.fallback_reason
    site.assert_equal()
    report, counts = counted.sync(site)
    assert by_journal(report).skipped
    assert counts.total <= 8
    assert folder(site).is_dir()
