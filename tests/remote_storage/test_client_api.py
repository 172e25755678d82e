"""The documented Python interface, over a real sshd with paramiko."""

from __future__ import annotations

import logging
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runicorn.manifest
import runicorn.remote_storage
from runicorn.errors import CancelledError, NoSuchRootError, UsageError
from runicorn.remote_storage import (
    LocalCacheManager,
    ManifestSyncClient,
    MetadataSyncService,
    Selection,
    SyncOptions,
    manifest_sync,
)
from runicorn.remote_storage.report import Event, SyncFailed
from runicorn.remote_storage.transport import LocalTransport, Open, StatusCode
from testbed import fault_sftp
from testbed.sshd import Sshd
from testbed.trees import make_tree
from tests.remote_storage.helpers import (
    NO_JOURNAL,
    RUN,
    TIMEOUT,
    Meanwhile,
    Refuse,
    Site,
    append,
    lines,
    make_run,
    run_files,
)

pytestmark = pytest.mark.rungs("journal", "manifest")

paramiko = pytest.importorskip("paramiko")

GENERATOR_EXAMPLE = """
from pathlib import Path
from runicorn.manifest import ManifestGenerator, ManifestType

# Create generator
generator = ManifestGenerator(
    remote_root=Path("/data/experiments"),
    output_dir=None,  # Default: {remote_root}/.runicorn
    active_window_seconds=3600,  # 1 hour
    incremental=True
)

# Generate full manifest
manifest, output_path = generator.generate(
    manifest_type=ManifestType.FULL
)

print(f"Generated manifest with {manifest.total_experiments} experiments")
print(f"Output: {output_path}")
"""

CLIENT_EXAMPLE = """
from pathlib import Path
import paramiko
from runicorn.remote_storage.manifest_sync import ManifestSyncClient

# Create SFTP client
ssh = paramiko.SSHClient()
ssh.connect("server.example.com", username="user", key_filename="~/.ssh/id_rsa")
sftp = ssh.open_sftp()

# Create sync client
client = ManifestSyncClient(
    sftp_client=sftp,
    remote_root="/data/experiments",
    cache_dir=Path("/local/cache"),
    jitter_max=5.0  # Random 0-5s delay
)

# Perform sync with progress callback
def progress_callback(completed, total, current_file):
    percent = (completed / total) * 100
    print(f"[{completed}/{total}] ({percent:.1f}%) {current_file}")

stats = client.sync(progress_callback=progress_callback)

# Check results
if stats.get("skipped"):
    print(f"Sync skipped: {stats['reason']}")
else:
    print(f"Synced {stats['files_synced']} files")
    print(f"Downloaded {stats['bytes_downloaded'] / (1024*1024):.2f} MB")
"""

SERVICE_EXAMPLE = """
from runicorn.remote_storage import MetadataSyncService

# Create service (manifest sync enabled by default)
service = MetadataSyncService(
    ssh_session=ssh_client,
    sftp_client=sftp,
    remote_root="/data/experiments",
    cache_manager=cache,
    use_manifest_sync=True,      # Default: True
    manifest_sync_jitter=5.0      # Default: 5.0 seconds
)

# Sync - automatically tries manifest, falls back to legacy
success = service.sync_all()
"""

STATISTICS = {
    "skipped",
    "reason",
    "files_synced",
    "bytes_downloaded",
    "incremental_count",
    "full_count",
    "failed_count",
    "removed_count",
    "duration",
    "manifest_revision",
    "method",
    "generated_at",
}


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


@pytest.fixture
def ssh(sshd: Sshd) -> Iterator[Any]:
    with sshd.paramiko_client() as client:
        yield client


@pytest.fixture
def sftp(ssh: Any) -> Iterator[Any]:
    with ssh.open_sftp() as client:
        yield client


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random delay is as short as it can be."""
    monkeypatch.setattr("random.uniform", lambda low, _high: low)


def a_client(site: Site, sftp: Any, **options: Any) -> ManifestSyncClient:
    return ManifestSyncClient(sftp, str(site.root), site.mirror, 0.0, SyncOptions(**options))


# -- calls as programs write them -------------------------------------------------------------------


class Machine:
    """The server and the client of the examples. Replaced are: where `connect` logs in, where the folders
    `/data/experiments` and `/local/cache` of the local side lie, and the length of the random delay.

    The server shows ``folder`` as ``/``, so that the path on the server is the documented one.
    """

    def __init__(self, folder: Path, server: Sshd, patch: pytest.MonkeyPatch) -> None:
        self.site = Site(folder / "data/experiments", folder / "local/cache")
        self.logins: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._connect = paramiko.SSHClient.connect
        self._server = server
        log_in = self._log_in
        patch.setattr(
            paramiko.SSHClient, "connect", lambda client, *args, **options: log_in(client, args, options)
        )
        patch.setattr(runicorn.manifest, "ManifestGenerator", self._generator, raising=False)
        patch.setattr(manifest_sync, "ManifestSyncClient", self._client)

    def _log_in(self, client: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.logins.append((arguments, options))
        client.load_host_keys(str(self._server.known_hosts))
        self._connect(
            client,
            self._server.host,
            port=self._server.port,
            username=self._server.user,
            key_filename=str(self._server.client_key),
            allow_agent=False,
            look_for_keys=False,
        )

    def _generator(self, remote_root: Path, **options: Any) -> Any:
        from runicorn.manifest.generator import ManifestGenerator

        assert remote_root == Path("/data/experiments")
        return ManifestGenerator(remote_root=self.site.root, **options)

    def _client(self, cache_dir: Path, **options: Any) -> ManifestSyncClient:
        assert cache_dir == Path("/local/cache")
        return ManifestSyncClient(cache_dir=self.site.mirror, **options)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    words = [sys.executable, "-I", "-S", str(Path(fault_sftp.__file__)), "--root", str(tmp_path)]
    with Sshd(subsystem=shlex.join(words)) as server:
        yield Machine(tmp_path, server, monkeypatch)


def test_examples_of_the_interface_document_run(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    site = machine.site
    make_tree(site.root, 3)
    exec(GENERATOR_EXAMPLE, {})
    assert capsys.readouterr().out.splitlines() == [
        "Generated manifest with 3 experiments",
        f"Output: {site.root}/.runicorn/full_manifest.json",
    ]
    names: dict[str, Any] = {}
    exec(CLIENT_EXAMPLE, names)
    site.assert_equal()
    shown = capsys.readouterr().out.splitlines()
    assert machine.logins == [
        (("server.example.com",), {"username": "user", "key_filename": "~/.ssh/id_rsa"})
    ]
    assert [line.split()[0] for line in shown[:45]] == [f"[{number}/45]" for number in range(1, 46)]
    assert shown[44].split()[1] == "(100.0%)"
    assert shown[45:] == ["Synced 45 files", f"Downloaded {site_bytes(site) / 1024**2:.2f} MB"]
    names["ssh"].close()
    again: dict[str, Any] = {}
    exec(CLIENT_EXAMPLE, again)
    assert capsys.readouterr().out == "Sync skipped: no changes\n"
    append(next(site.root.rglob("events.jsonl")), lines(3))
    exec(GENERATOR_EXAMPLE, {})
    service = {
        "ssh_client": again["ssh"],
        "sftp": again["sftp"],
        "cache": LocalCacheManager(root_dir=site.mirror),
    }
    exec(SERVICE_EXAMPLE, service)
    assert service["success"] is True
    site.assert_equal()
    again["ssh"].close()


def site_bytes(site: Site) -> int:
    return sum(map(len, run_files(site.root).values()))


# -- ManifestSyncClient ------------------------------------------------------------------------


def test_sync_gives_the_documented_statistics(site: Site, sftp: Any) -> None:
    manifest = site.publish()
    client = a_client(site, sftp)
    first, second = client.sync(), client.sync()
    site.assert_equal()
    for stats in (first, second):
        assert set(stats) >= STATISTICS
        assert stats["manifest_revision"] == manifest.revision
        assert stats["requests"] > 0
        assert stats["bytes_received"] > 0
        assert stats["duration"] > 0
    assert (first["skipped"], first["files_synced"], first["full_count"]) == (False, 6, 6)
    assert (second["skipped"], second["reason"], second["files_synced"]) == (True, "no changes", 0)
    assert second["requests"] <= 8


def test_sync_leaves_the_users_client_usable_and_no_channel_open(site: Site, ssh: Any, sftp: Any) -> None:
    site.publish()
    client = a_client(site, sftp)
    for _ in range(12):  # the server allows ten channels
        client.sync()
    assert sftp.listdir(str(site.root)) == sftp.listdir(str(site.root))
    assert ssh.get_transport().is_active()


def test_sync_works_when_the_server_allows_one_channel_only(site: Site) -> None:
    site.publish()
    with Sshd(max_sessions=1) as server, server.paramiko_client() as ssh, ssh.open_sftp() as sftp:
        client = a_client(site, sftp)
        assert client.sync()["files_synced"] == 6
        assert client.sync()["skipped"]
        assert sftp.listdir(str(site.root))
    site.assert_equal()


def test_progress_callback_counts_up_to_the_total(site: Site, sftp: Any) -> None:
    site.publish()
    seen: list[tuple[int, int, str]] = []
    a_client(site, sftp).sync(lambda *step: seen.append(step))
    assert [step[:2] for step in seen] == [(number, 6) for number in range(1, 7)]
    assert {step[2] for step in seen} == set(run_files(site.root))


def test_progress_callback_of_a_walk_never_passes_the_total(site: Site, sftp: Any) -> None:
    seen: list[tuple[int, int, str]] = []
    a_client(site, sftp, method="walk").sync(lambda *step: seen.append(step))
    assert [step[0] for step in seen] == list(range(1, 7))
    assert all(0 < completed <= total for completed, total, _ in seen)


def test_remote_root_relative_to_the_home_folder(site: Site, sftp: Any) -> None:
    site.publish()
    depth = len(Path(sftp.normalize(".")).parts) - 1
    relative = "../" * depth + str(site.root).lstrip("/")
    stats = ManifestSyncClient(sftp, relative, site.mirror, 0.0).sync()
    assert stats["files_synced"] == 6
    site.assert_equal()


def test_sync_of_a_missing_root_says_so(site: Site, sftp: Any) -> None:
    with pytest.raises(NoSuchRootError, match="there is no folder"):
        ManifestSyncClient(sftp, f"{site.root}/none", site.mirror, 0.0).sync()


def test_sync_options_are_used(site: Site, sftp: Any) -> None:
    site.publish()
    a_client(site, sftp, selection=Selection(media=False)).sync()
    assert len(run_files(site.mirror)) == 5


def test_jitter_is_waited_for_and_can_be_cancelled(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    def long(low: float, high: float) -> float:
        asked.append((low, high))
        return 600.0

    monkeypatch.setattr("random.uniform", long)
    client = ManifestSyncClient(LocalTransport(), str(site.root), site.mirror, jitter_max=5.0)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        client.sync(cancel=cancel)
    assert asked == [(0, 5.0)]
    assert not site.mirror.exists()


def test_arguments_that_mean_nothing_are_refused(site: Site) -> None:
    with pytest.raises(UsageError):
        ManifestSyncClient(LocalTransport(), "/", site.mirror, jitter_max=-1)
    with pytest.raises(UsageError):
        ManifestSyncClient(LocalTransport(), "/", site.mirror, options=SyncOptions(method="telepathy"))


def test_given_transport_is_used_and_left_open(site: Site) -> None:
    site.publish()
    transport = LocalTransport()
    client = ManifestSyncClient(transport, str(site.root), site.mirror, 0.0)
    assert client.sync()["files_synced"] == 6
    assert client.sync()["skipped"]


def test_cache_manager_knows_its_folder(tmp_path: Path) -> None:
    assert LocalCacheManager(root_dir=tmp_path).root_dir == tmp_path
    assert LocalCacheManager(Path("~/mirror")).root_dir == Path.home() / "mirror"


# -- MetadataSyncService -------------------------------------------------------------------------


class Steps:
    """Counts calls of a progress callback; may hold the sync up at the first one."""

    def __init__(self, *, hold: bool = False) -> None:
        self.calls: list[tuple[int, int, str]] = []
        self.arrived = threading.Event()
        self.go_on = threading.Event()
        if not hold:
            self.go_on.set()

    def __call__(self, completed: int, total: int, current_file: str) -> None:
        self.calls.append((completed, total, current_file))
        self.arrived.set()
        assert self.go_on.wait(TIMEOUT)


class Ends:
    """Lets a test wait for the end of each sync of a service."""

    def __init__(self, service: MetadataSyncService, monkeypatch: pytest.MonkeyPatch) -> None:
        self._done = threading.Semaphore(0)
        real = service.sync_all

        def sync_all() -> bool:
            try:
                return real()
            finally:
                self._done.release()

        monkeypatch.setattr(service, "sync_all", sync_all)

    def wait(self) -> None:
        assert self._done.acquire(timeout=TIMEOUT)


def a_service(site: Site, sftp: Any = None, ssh: Any = None, **options: Any) -> MetadataSyncService:
    cache = LocalCacheManager(root_dir=site.mirror)
    return MetadataSyncService(
        ssh, sftp or LocalTransport(), str(site.root), cache, manifest_sync_jitter=0.0, **options
    )


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_sync_all_brings_everything(site: Site, ssh: Any, sftp: Any) -> None:
    site.publish()
    service = a_service(site, sftp, ssh)
    steps = Steps()
    service.add_progress_callback(steps)
    assert service.sync_all()
    site.assert_equal()
    progress = service.get_progress()
    assert (progress.running, progress.completed, progress.total, progress.percent) == (False, 6, 6, 100.0)
    assert progress.last_stats is not None
    assert progress.last_stats["method"] == site.method
    assert [step[0] for step in steps.calls] == [1, 2, 3, 4, 5, 6]
    service.remove_progress_callback(steps)
    append(site.root / RUN / "logs.txt", "more\n")
    site.publish()
    assert service.sync_all()
    assert len(steps.calls) == 6


@pytest.mark.parametrize("options", [{}, {"options": SyncOptions(method="walk")}])
def test_use_manifest_sync_chooses_the_way(site: Site, options: dict[str, Any]) -> None:
    site.publish()
    for use, method in ((True, site.method), (False, "walk")):
        service = a_service(site, use_manifest_sync=use, **options)
        assert service.sync_all()
        stats = service.get_progress().last_stats
        assert stats is not None
        assert stats["method"] == method


@pytest.mark.rungs("manifest")
def test_service_without_a_manifest_walks(site: Site, ssh: Any, sftp: Any) -> None:
    service = a_service(site, sftp, ssh)
    assert service.sync_all()
    stats = service.get_progress().last_stats
    assert stats is not None
    assert stats["method"] == "walk"
    assert stats["fallback_reason"] == f"{NO_JOURNAL}; the server publishes no manifest"
    site.assert_equal()


def test_failing_sync_says_why_and_recovers(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    service = a_service(site)
    site.root.rename(site.root.with_name("away"))
    assert not service.sync_all()
    progress = service.get_progress()
    assert (progress.running, progress.last_stats) == (False, None)
    assert "there is no folder" in progress.last_error
    assert "there is no folder" in caplog.text
    site.root.with_name("away").rename(site.root)
    assert service.sync_all()
    assert service.get_progress().last_error == ""
    site.assert_equal()


@pytest.mark.rungs("listed", "manifest")
def test_failed_file_makes_sync_all_false(site: Site) -> None:
    site.publish()
    service = a_service(site, Refuse("summary.json", StatusCode.FAILURE, Open, times=3))
    assert not service.sync_all()
    progress = service.get_progress()
    assert progress.last_stats is not None
    assert [each["path"] for each in progress.last_stats["failed"]] == [f"{RUN}/summary.json"]
    assert service.sync_all()


def test_progress_is_told_to_another_thread(site: Site) -> None:
    site.publish()
    service = a_service(site)
    steps = Steps(hold=True)
    service.add_progress_callback(steps)
    thread = in_thread(service.sync_all)
    assert steps.arrived.wait(TIMEOUT)
    progress = service.get_progress()
    assert (progress.running, progress.completed, progress.total) == (True, 1, 6)
    assert progress.current_file == steps.calls[0][2]
    steps.go_on.set()
    thread.join(TIMEOUT)
    assert not service.get_progress().running


def test_background_sync_goes_on_until_it_is_stopped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    service = a_service(site)
    ends = Ends(service, monkeypatch)
    site.publish()
    service.start_background_sync(interval_seconds=0.01)
    ends.wait()
    site.assert_equal()
    make_run(site.root, "vision/resnet/runs/r2")
    site.publish()
    for _ in range(3):  # one may have begun before
        ends.wait()
    service.stop_background_sync()
    site.assert_equal()
    make_run(site.root, "vision/resnet/runs/r3")
    site.publish()
    assert len(run_files(site.mirror)) == 12
    service.start_background_sync(interval_seconds=600)
    for _ in range(2):
        ends.wait()
        if len(run_files(site.mirror)) == 18:
            break
    service.stop_background_sync()
    site.assert_equal()


def test_background_sync_is_started_once(site: Site) -> None:
    service = a_service(site)
    with pytest.raises(UsageError):
        service.start_background_sync(interval_seconds=0)
    service.start_background_sync(interval_seconds=600)
    try:
        with pytest.raises(UsageError):
            service.start_background_sync()
    finally:
        service.stop_background_sync()
    service.stop_background_sync()


def test_background_sync_over_ssh(site: Site, ssh: Any, sftp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish()
    service = a_service(site, sftp, ssh)
    ends = Ends(service, monkeypatch)
    service.start_background_sync(interval_seconds=0.01)
    for _ in range(3):
        ends.wait()
    service.stop_background_sync()
    stats = service.get_progress().last_stats
    assert stats is not None
    assert stats["skipped"]
    site.assert_equal()


@pytest.mark.rungs("listed", "manifest")
def test_stop_during_a_sync_ends_it_at_the_next_file(site: Site) -> None:
    make_tree(site.root, 4)
    site.publish()
    steps = Steps(hold=True)
    service = a_service(site, Meanwhile("summary.json", lambda: steps(0, 0, "")))
    service.start_background_sync(interval_seconds=600)
    assert steps.arrived.wait(TIMEOUT)
    stopping = in_thread(service.stop_background_sync)
    assert service._stop.wait(TIMEOUT)
    steps.go_on.set()
    stopping.join(TIMEOUT)
    assert not stopping.is_alive()
    progress = service.get_progress()
    assert (progress.running, progress.last_error) == (False, "the sync was stopped")
    assert 0 < len(run_files(site.mirror)) < len(run_files(site.root))
    assert service.sync_all()
    site.assert_equal()


def test_stop_from_within_a_callback_does_not_wait_for_itself(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish()
    service = a_service(site)
    ends = Ends(service, monkeypatch)
    service.add_progress_callback(lambda *_step: service.stop_background_sync())
    service.start_background_sync(interval_seconds=600)
    thread = service._thread
    assert thread is not None
    ends.wait()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_background_sync_outlives_a_failing_sync(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    service = a_service(site)
    ends = Ends(service, monkeypatch)
    site.root.rename(site.root.with_name("away"))
    service.start_background_sync(interval_seconds=0.01)
    ends.wait()
    site.root.with_name("away").rename(site.root)
    for _ in range(2):
        ends.wait()
    service.stop_background_sync()
    site.assert_equal()


def test_background_sync_outlives_a_channel_that_fails_in_a_way_nobody_expects(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = a_service(site)
    ends, events = Ends(service, monkeypatch), list[Event]()
    service.add_observer(events.append)
    failing, real = [EOFError("no channel")], ManifestSyncClient.connect

    def connect(client: ManifestSyncClient) -> None:
        if failing:
            raise failing.pop()
        real(client)

    monkeypatch.setattr(ManifestSyncClient, "connect", connect)
    with caplog.at_level(logging.CRITICAL, "runicorn"):
        service.start_background_sync(interval_seconds=0.01)
        ends.wait()
        service.stop_background_sync()
    assert [each.error for each in events if isinstance(each, SyncFailed)] == ["EOFError: no channel"]
    site.assert_equal()


def test_background_sync_outlives_a_callback_that_raises(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = a_service(site)
    ends = Ends(service, monkeypatch)

    def careless(_completed: int, _total: int, current_file: str) -> None:
        service.remove_progress_callback(careless)
        raise ZeroDivisionError(current_file)

    service.add_progress_callback(careless)
    with caplog.at_level(logging.ERROR):
        service.start_background_sync(interval_seconds=0.01)
        for _ in range(3):
            ends.wait()
        service.stop_background_sync()
    assert "ZeroDivisionError" in caplog.text
    site.assert_equal()


def test_callback_that_raises_is_the_callers_affair_in_the_foreground(site: Site) -> None:
    service = a_service(site)

    def careless(completed: int, _total: int, _file: str) -> None:
        raise ZeroDivisionError(completed)

    service.add_progress_callback(careless)
    with pytest.raises(ZeroDivisionError):
        service.sync_all()
    assert service.get_progress().last_error == "interrupted"
    assert not service.get_progress().running
