"""Defects that were found after the fact; each test fails on the code that had the defect."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import CancelledError, DiskFullError, MirrorError
from runicorn.manifest import ManifestType
from runicorn.remote_storage import (
    LocalCacheManager,
    MetadataSyncService,
    Selection,
    SyncOptions,
    synchronize,
)
from runicorn.remote_storage.collisions import NameClaims
from runicorn.remote_storage.fetch import has_to_parse
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.published import Listing
from runicorn.remote_storage.report import BytesReceived, TransferStarted
from runicorn.remote_storage.source import Source, parse_source
from runicorn.remote_storage.transport import (
    Answer,
    FdChannel,
    LocalTransport,
    OpenDir,
    Operation,
    Read,
    ReadDir,
    SftpEngine,
    Transport,
)
from runicorn.remote_storage.walk import Walker
from testbed.sshd import find_sftp_server
from tests.faults.process import COMMAND, PROJECT_ROOT, TIMEOUT, environment, sync_here
from tests.remote_storage.helpers import (
    NOBODY,
    OLD,
    RUN,
    Meanwhile,
    Relay,
    Site,
    an_entry,
    append,
    lines,
    make_run,
    names,
    open_site,
    put,
    run_files,
    status,
)

KIB, MIB = 1024, 1024 * 1024
EVENTS = f"{RUN}/events.jsonl"
SUMMARY = f"{RUN}/summary.json"
FILM = f"{RUN}/media/film.mp4"
RUNS = [f"vision/resnet/runs/r{number}" for number in range(1, 4)]
"""Three runs of six files each."""


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def hollow(path: Path, size: int, mtime: int = OLD) -> None:
    """A file of zeros that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)
    os.utime(path, (mtime, mtime))


def edit_manifest(site: Site, change: Callable[[dict[str, Any]], object], kind: str = "full") -> None:
    """Publish the manifest with a change and sums that fit."""
    plain = site.root / f".runicorn/{kind}_manifest.json"
    document = json.loads(plain.read_bytes())
    change(document)
    entries = [entry for run in document["experiments"] for entry in run["files"]]
    document["statistics"] = {
        "total_experiments": len(document["experiments"]),
        "total_files": len(entries),
        "total_bytes": sum(entry["size"] for entry in entries),
    }
    put(plain, json.dumps(document))
    plain.with_name(plain.name + ".gz").unlink(missing_ok=True)


def walked(site: Site, transport: Transport | None = None) -> Listing:
    return Walker(transport or LocalTransport(), str(site.root), Selection()).walk()


# -- published states ------------------------------------------------------------------------


def test_sync_when_the_full_manifest_comes_up_to_the_active_one_is_not_skipped(site: Site) -> None:
    site.publish()
    make_run(site.root, RUNS[1], mtime=int(time.time()))
    make_run(site.root, RUNS[2], mtime=OLD)  # an old run that was moved here: no active manifest has it
    active = site.publish(ManifestType.ACTIVE).header.identity
    site.sync()
    assert not (site.mirror / RUNS[2]).exists()
    assert site.publish().header.identity == active
    assert not site.sync().skipped
    site.assert_equal()
    assert site.sync().skipped


def test_delete_by_another_manifest_of_the_same_revision_removes_nothing(site: Site) -> None:
    for folder in RUNS:
        make_run(site.root, folder)
    site.publish()
    site.sync()
    before = run_files(site.mirror)

    def other(document: dict[str, Any]) -> None:
        document["snapshot_id"] = "another"
        document["experiments"].pop()

    edit_manifest(site, other)
    report = site.sync(delete=True, force_delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert "is another one" in report.kept_reason
    assert run_files(site.mirror) == before


@pytest.mark.parametrize(("method", "new_runs"), [("manifest", 6), ("walk", 6), ("walk", 14)])
def test_delete_of_more_than_half_when_more_is_new_needs_leave(
    site: Site, method: str, new_runs: int
) -> None:
    """15 of 18 files are gone; the files that come, be it in the same sync, are none of the 18."""
    for folder in RUNS:
        make_run(site.root, folder)
    site.publish()
    site.sync(method=method)
    for folder in RUNS[1:]:
        shutil.rmtree(site.root / folder)
    for name in ("summary.json", "logs.txt", "media/a.png"):
        (site.root / RUN / name).unlink()
    for number in range(new_runs):
        make_run(site.root, f"speech/whisper/runs/s{number}")
    site.publish()
    report = site.sync(method=method, delete=True)
    assert (report.removed_count, report.gone_count) == (0, 15)
    assert "15 of 18" in report.kept_reason
    assert len(run_files(site.mirror)) == 18 + 6 * new_runs


def test_project_that_the_manifest_makes_up_selects_nothing(site: Site) -> None:
    make_run(site.root, "secret/net/runs/r1")
    site.publish()

    def lie(document: dict[str, Any]) -> None:
        for run in document["experiments"]:
            run["project"] = "public"

    edit_manifest(site, lie)
    report = site.sync(projects=("public",))
    assert (report.total_files, run_files(site.mirror)) == (0, {})
    site.sync(projects=("secret",))
    assert {path.split("/")[0] for path in run_files(site.mirror)} == {"secret"}


def test_state_file_restored_after_a_newer_one_was_taken_is_fetched_again(site: Site) -> None:
    listed = (site.root / SUMMARY).read_bytes()
    site.publish()
    put(site.root / SUMMARY, '{"best": 2, "more": "than was listed"}')
    site.sync()
    site.assert_equal()
    put(site.root / SUMMARY, listed, OLD)
    put(site.root / RUN / "meta.json", "{}", OLD + 1)  # the root is at a new revision
    site.publish()
    site.sync()
    site.assert_equal()


def test_log_restored_after_another_one_was_taken_is_fetched_again(site: Site) -> None:
    listed = (site.root / EVENTS).read_bytes()
    site.publish()
    put(site.root / EVENTS, b'{"rotated": true}\n')
    site.sync()
    site.assert_equal()
    put(site.root / EVENTS, listed, OLD)
    put(site.root / RUN / "meta.json", "{}", OLD + 1)  # the root is at a new revision
    site.publish()
    site.sync()
    site.assert_equal()


def test_problems_are_looked_up_not_searched() -> None:
    class NotSearched(frozenset[str]):
        def __iter__(self) -> Iterator[str]:
            raise AssertionError

    listing = Listing(None, None, None, problem_paths=NotSearched({"vision/resnet", "speech"}))
    assert listing.has_problem_at(f"{RUN}/meta.json")
    assert listing.has_problem_at("speech")
    assert not listing.has_problem_at("vision/resnet2/runs/r1/meta.json")


# -- walks -----------------------------------------------------------------------------------

ROOT = Source("/data/runs", "gpu1", None, 22)


@pytest.mark.parametrize(
    "other",
    [
        replace(ROOT, host="gpu2"),
        replace(ROOT, port=23),
        replace(ROOT, path="/data"),
        replace(ROOT, user="me"),
    ],
    ids=["host", "port", "path", "user"],
)
def test_delete_by_a_walk_of_another_source_removes_nothing(site: Site, other: Source) -> None:
    for folder in RUNS:
        make_run(site.root, folder)
    site.sync(method="walk", source=ROOT.identity)
    before = run_files(site.mirror)
    shutil.rmtree(site.root / RUN)
    report = site.sync(method="walk", source=other.identity, delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert run_files(site.mirror) == before
    site.sync(method="walk", source=ROOT.identity)


@contextmanager
def sftp_server_as_nobody() -> Iterator[SftpEngine]:
    """The real sftp-server, to which rights mean something."""
    who = NOBODY if os.geteuid() == 0 else None
    groups: list[int] | None = [] if os.geteuid() == 0 else None
    with subprocess.Popen(
        [find_sftp_server()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=who,
        group=who,
        extra_groups=groups,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        fds = os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno())
        process.stdin.close()
        engine = SftpEngine(FdChannel(*fds), timeout=TIMEOUT)
        try:
            yield engine
        finally:
            engine.close()
            process.wait(TIMEOUT)


@pytest.mark.parametrize("name", ["vision", "vision/resnet/runs", RUN, f"{RUN}/media"])
def test_delete_by_a_walk_that_may_not_look_into_a_folder_removes_nothing(name: str) -> None:
    """OpenSSH lists nothing of a folder that may be read and not be entered, and reports no error."""
    with open_site() as site:
        for folder in [*RUNS, *(f"speech/whisper/runs/s{number}" for number in range(4))]:
            make_run(site.root, folder)
        site.sync(method="walk")
        before = run_files(site.mirror)
        (site.root / name).chmod(0o444)
        with sftp_server_as_nobody() as engine:
            listing = walked(site, engine)
            report = site.sync(engine, method="walk", delete=True, force_delete=True)
        assert (listing.complete, set(listing.problem_paths)) == (False, {name})
        assert (report.removed_count, report.gone_count > 0) == (0, True)
        assert run_files(site.mirror) == before


class Modeless(Relay):
    """The server does not say what some names of a folder are."""

    def __init__(self, folder: str, part: str) -> None:
        super().__init__()
        self.folder, self.part = folder, part

    def after(self, operation: Operation, answer: Answer) -> Answer:
        mine = isinstance(operation, ReadDir) and self.path_of(operation).endswith(self.folder)
        if not mine or not isinstance(answer, tuple):
            return answer
        return tuple(
            replace(each, attributes=replace(each.attributes, mode=None)) if self.part in each.name else each
            for each in answer
        )


MODELESS = [
    ("/root", "vision"),
    ("/runs", "r2"),
    ("/runs/r2", ""),
    ("/runs/r2", "media"),
    ("/runs/r2", ".json"),
    ("/r2/media", "a.png"),
    ("/base/r7", ""),
]


@pytest.mark.parametrize(("folder", "part"), MODELESS)
def test_delete_by_a_walk_that_is_not_told_kinds_removes_nothing(site: Site, folder: str, part: str) -> None:
    for each in [*RUNS, "runs/nlp/bert/base/r7", *(f"speech/whisper/runs/s{number}" for number in range(4))]:
        make_run(site.root, each)
    site.sync(method="walk")
    before = run_files(site.mirror)
    assert not walked(site, Modeless(folder, part)).complete
    report = site.sync(Modeless(folder, part), method="walk", delete=True, force_delete=True)
    assert (report.removed_count, report.gone_count > 0) == (0, True)
    assert run_files(site.mirror) == before


def test_delete_by_a_walk_in_which_a_folder_is_missing_for_a_moment_removes_nothing(site: Site) -> None:
    for folder in RUNS:
        make_run(site.root, folder)
    site.sync(method="walk")
    before = run_files(site.mirror)
    away = site.root.with_name("away")
    move = Meanwhile("/runs/r2", lambda: (site.root / RUNS[1]).rename(away), OpenDir)
    report = site.sync(move, method="walk", delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert run_files(site.mirror) == before


def test_append_by_walk_when_the_run_ends_meanwhile_leaves_no_torn_record(site: Site) -> None:
    site.sync(method="walk")
    record = lines(1, 20)
    append(site.root / EVENTS, record[:9])
    put(site.root / RUN / "status.json", status("running"))

    def end() -> None:
        append(site.root / EVENTS, record[9:] + lines(1, 21))
        put(site.root / RUN / "status.json", status("completed"))

    assert site.sync(Meanwhile("status.json", end), method="walk").failed_count == 0
    assert (site.mirror / EVENTS).read_text() == lines(20)
    site.sync(method="walk")
    site.assert_equal()


def test_walk_of_an_old_tree_fetches_nothing_again(site: Site) -> None:
    site.sync(method="walk")
    relay = Relay()
    for _ in range(2):
        assert site.sync(relay, method="walk").files_synced == 0
    assert all(Path(path).is_dir() for path in relay.opened)


def test_walk_of_a_young_tree_fetches_a_file_again_until_it_is_settled(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(site.root / SUMMARY, '{"best": 2}')
    assert site.sync(method="walk").files_synced == 6
    assert site.sync(method="walk").files_synced == 1
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 10)
    assert site.sync(method="walk").files_synced == 1
    assert site.sync(method="walk").files_synced == 0
    site.assert_equal()


def test_large_file_by_walk_does_not_enter_memory(site: Site) -> None:
    hollow(site.root / FILM, 200 * MIB)
    tracemalloc.start()
    try:
        site.sync(method="walk")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (site.mirror / FILM).stat().st_size == 200 * MIB
    assert peak < 100 * MIB


# -- logs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [0, 20], ids=["new", "append"])
@pytest.mark.parametrize("method", ["manifest", "walk"])
@pytest.mark.parametrize("content", [lines(3, 900), "", lines(21, 700)], ids=["shorter", "empty", "longer"])
def test_log_rotated_after_the_listing_is_replaced_in_the_same_sync(
    site: Site, method: str, content: str, held: int
) -> None:
    site.sync(method="walk", exclude=() if held else ("events.jsonl",))
    append(site.root / EVENTS, lines(20, 20))
    site.publish()
    rotate = Meanwhile("events.jsonl", lambda: put(site.root / EVENTS, content))
    report = site.sync(rotate, method=method)
    assert (report.failed_count, report.vanished_count) == (0, 0)
    site.assert_equal()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("taken", [0, 5, 300])
def test_append_that_fails_within_a_write_leaves_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, taken: int
) -> None:
    """The disk takes some bytes of the third write, then no more."""
    before = put(tmp_path / "mirror" / EVENTS, lines(20)).read_bytes()
    write, calls = os.pwrite, iter(range(100))

    def failing(fd: int, data: memoryview, offset: int) -> int:
        call = next(calls)
        if call < 2:
            return write(fd, data, offset)
        if call == 2 and taken:
            return write(fd, data[:taken], offset)
        raise refused(number)

    with Mirror(tmp_path / "mirror") as mirror:
        expected = mirror.signature(EVENTS)
        monkeypatch.setattr(os, "pwrite", failing)
        with pytest.raises(DiskFullError if number == errno.ENOSPC else MirrorError):
            mirror.append(EVENTS, expected, iter([lines(900, 20).encode()]))
        monkeypatch.undo()
    after = (tmp_path / "mirror" / EVENTS).read_bytes()
    assert len(before) < len(after)
    assert lines(920).encode().startswith(after)
    assert after.endswith(b"\n")


# -- room ------------------------------------------------------------------------------------


def leave(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """The mirror's disk has so many bytes free."""
    monkeypatch.setattr(Mirror, "free_bytes", lambda _mirror: room)


@pytest.mark.parametrize("method", ["manifest", "walk"])
def test_file_grown_beyond_the_free_space_is_refused_before_it_is_read(
    site: Site, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    hollow(site.root / FILM, 300 * KIB)
    site.publish()
    leave(monkeypatch, 2 * MIB)
    grow = Meanwhile("film.mp4", lambda: hollow(site.root / FILM, 50 * MIB))
    received: list[int] = []

    def watch(event: object) -> None:
        received.extend([event.count] if isinstance(event, BytesReceived) else [])

    with pytest.raises(DiskFullError, match=r"film\.mp4"):
        synchronize(grow, str(site.root), site.mirror, SyncOptions(method=method), watch)
    assert sum(received) < 2 * MIB
    assert not site.staged()


class Stop(BaseException):
    """Raised out of nowhere, as a signal is."""


def stop() -> None:
    raise Stop


def test_partial_download_counts_against_the_space_that_is_needed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    hollow(site.root / FILM, 12 * MIB)
    site.publish()
    with pytest.raises(Stop):
        site.sync(Meanwhile("film.mp4", stop, Read, nth=40))
    (partial,) = (site.mirror / ".runicorn/staging").iterdir()
    left = 12 * MIB - partial.stat().st_size
    assert 0 < left < 10 * MIB
    leave(monkeypatch, left + 1024)
    assert site.sync().failed_count == 0
    site.assert_equal()


LIMITED = """
import resource, sys
from runicorn.cli import main
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def no_ssh(tmp_path: Path) -> str:
    """A program in the place of ssh that starts the real sftp-server on this machine."""
    program = tmp_path / "no-ssh"
    server = shlex.quote(find_sftp_server())
    program.write_text(f'#!/bin/sh\nulimit -n "$(ulimit -H -n)"\nexec {server}\n', encoding="utf-8")
    program.chmod(0o755)
    return str(program)


def test_many_files_that_are_staged_at_once_need_few_descriptors(site: Site, no_ssh: str) -> None:
    for number in range(400):
        hollow(site.root / RUN / f"media/{number}.png", 400 * KIB)
    site.publish()
    arguments = ["sync", f"host:{site.root}", str(site.mirror), "--ssh", no_ssh, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert (report["failed_count"], report["files_synced"]) == (0, 406)
    assert names(site.mirror / RUN / "media") == names(site.root / RUN / "media")
    assert not site.staged()


def _names_full(patch: pytest.MonkeyPatch) -> None:
    _open_fails(patch, "\u00e9", errno.ENOSPC)


def _lock_full(patch: pytest.MonkeyPatch) -> None:
    _open_fails(patch, "sync.lock", errno.ENOSPC)


def _lock_over_quota(patch: pytest.MonkeyPatch) -> None:
    _open_fails(patch, "sync.lock", errno.EDQUOT)


def _open_fails(patch: pytest.MonkeyPatch, ending: str, number: int) -> None:
    opened = os.open

    def failing(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT and os.fsdecode(path).endswith(ending):
            raise refused(number)
        return opened(path, flags, mode, dir_fd=dir_fd)

    patch.setattr(os, "open", failing)


def _sweeping_broken(patch: pytest.MonkeyPatch) -> None:
    def failing(_folder: object) -> None:
        raise refused(errno.EIO)

    patch.setattr(os, "scandir", failing)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (_names_full, DiskFullError),
        (_lock_full, DiskFullError),
        (_lock_over_quota, DiskFullError),
        (_sweeping_broken, MirrorError),
    ],
)
def test_error_of_the_disk_around_the_transfers_is_told_as_such(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch], None],
    kind: type[MirrorError],
) -> None:
    site.publish()
    with monkeypatch.context() as patch:
        fault(patch)
        with pytest.raises(MirrorError) as caught:
            site.sync()
    assert type(caught.value) is kind
    assert site.sync().failed_count == 0
    site.assert_equal()


# -- stopping --------------------------------------------------------------------------------


def test_cancel_within_one_large_file_ends_the_sync(site: Site) -> None:
    hollow(site.root / FILM, 64 * MIB)
    cancel = threading.Event()
    received: list[int] = []

    def watch(event: object) -> None:
        if isinstance(event, BytesReceived):
            received.append(event.count)
            cancel.set()

    options = SyncOptions(method="walk", selection=Selection(include=("film.mp4",)))
    with pytest.raises(CancelledError):
        synchronize(LocalTransport(), str(site.root), site.mirror, options, watch, cancel)
    assert sum(received) < MIB
    assert run_files(site.mirror) == {}
    assert not site.staged()


@pytest.mark.parametrize(("kind", "most"), [(OpenDir, 2), (ReadDir, 3)])
def test_cancel_during_a_walk_ends_it_at_the_next_folder(
    site: Site, kind: type[Operation], most: int
) -> None:
    for number in range(20):
        make_run(site.root, f"vision/resnet/runs/s{number}")
    site.sync(method="walk")
    cancel = threading.Event()
    relay = Meanwhile("/resnet/runs", cancel.set, kind)
    with pytest.raises(CancelledError):
        synchronize(relay, str(site.root), site.mirror, SyncOptions(method="walk"), cancel=cancel)
    assert not any("/runs/" in path for path in relay.opened)
    assert len(relay.opened) <= most + 2


def test_cancel_while_files_are_compared_ends_the_sync(site: Site) -> None:
    """The mirror is compared run by run, which reads files that the state does not know."""
    site.publish()
    site.sync()
    site.lose_state()
    cancel = threading.Event()
    events: list[object] = []

    def watch(event: object) -> None:
        events.append(event)
        cancel.set()

    with pytest.raises(CancelledError):
        synchronize(LocalTransport(), str(site.root), site.mirror, SyncOptions(), watch, cancel)
    assert not any(isinstance(event, TransferStarted) for event in events)


@contextmanager
def killed_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """No wait for the process is longer; the server would be waited for much longer than that."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()


SILENT = """#!{python}
import os, sys
sys.path.insert(0, {project!r})
from testbed import fault_sftp

class Tells(fault_sftp.StallForever):
    def reply(self, request, packets):
        sent = super().reply(request, packets)
        if self.left == -1:
            print("silent from now on", file=sys.stderr, flush=True)
        return sent

fault_sftp.FAULTS["Tells"] = Tells
sys.exit(fault_sftp.main(["--fault", "Tells:" + os.environ["ANSWERS"]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("answers", [2, 12])
def test_signal_while_the_server_is_silent_ends_the_command_at_once(
    site: Site, tmp_path: Path, number: signal.Signals, answers: int
) -> None:
    program = tmp_path / "silent-ssh"
    text = SILENT.format(python=sys.executable, project=str(PROJECT_ROOT))
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    process = subprocess.Popen(
        [*COMMAND, "sync", f"host:{site.root}", str(site.mirror), "--ssh", str(program), "-v"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(ANSWERS=str(answers)),
    )
    with process, killed_after(process, TIMEOUT / 3):
        assert process.stderr is not None
        shown = next((line for line in process.stderr if b"silent" in line), b"")
        assert shown
        process.send_signal(number)
        last = list(process.stderr)[-1:]
        process.wait(TIMEOUT)
    assert (process.returncode, last) == (130, [b"runicorn: stopped\n"])


def a_service(site: Site) -> MetadataSyncService:
    cache = LocalCacheManager(root_dir=site.mirror)
    return MetadataSyncService(None, LocalTransport(), str(site.root), cache, manifest_sync_jitter=0.0)


def thread_of(service: MetadataSyncService) -> threading.Thread:
    assert service._thread is not None
    return service._thread


def test_background_sync_stopped_from_a_callback_can_be_started_again(site: Site) -> None:
    site.publish()
    service = a_service(site)

    def stop_once(*_step: object) -> None:
        service.remove_progress_callback(stop_once)
        service.stop_background_sync()

    service.add_progress_callback(stop_once)
    service.start_background_sync(interval_seconds=600)
    first = thread_of(service)
    first.join(TIMEOUT)
    assert not first.is_alive()
    make_run(site.root, RUNS[1])
    site.publish()
    ended = threading.Event()
    service.add_progress_callback(lambda done, total, _path: ended.set() if done == total else None)
    service.start_background_sync(interval_seconds=600)
    assert ended.wait(TIMEOUT)
    service.stop_background_sync()
    assert service.sync_all()
    site.assert_equal()


def test_background_sync_stopped_from_a_callback_of_the_foreground_ends(site: Site) -> None:
    """The thread in the background waits for the very sync that stops it."""
    site.publish()
    service = a_service(site)
    arrived, stopped = threading.Event(), threading.Event()
    lock = service._syncing

    class Waiting:
        def __enter__(self) -> None:
            if threading.current_thread() is not threading.main_thread():
                arrived.set()
            lock.acquire()

        def __exit__(self, *_error: object) -> None:
            lock.release()

    service._syncing = Waiting()  # type: ignore[assignment]

    def stop_once(*_step: object) -> None:
        service.remove_progress_callback(stop_once)
        service.start_background_sync(interval_seconds=600)
        assert arrived.wait(TIMEOUT)
        service.stop_background_sync()
        stopped.set()

    service.add_progress_callback(stop_once)
    service.sync_all()
    assert stopped.is_set()
    thread_of(service).join(TIMEOUT)
    assert not thread_of(service).is_alive()
    assert service.sync_all()
    site.assert_equal()


# -- names that a disk takes for the same ------------------------------------------------------

COMPOSED, APART = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def test_claims_of_names_that_look_the_same_go_to_the_first() -> None:
    claims = NameClaims()
    assert claims.claim("a/B/c.png") is None
    assert claims.claim("a/B/d.png") is None
    assert claims.claim("a/B/C.png") == "a/B/c.png"
    assert claims.claim("a/b/e.png") == "a/B"
    assert claims.claim("A/x") == "a"
    assert claims.claim(f"a/{COMPOSED}") is None
    assert claims.claim(f"a/{APART}") == f"a/{COMPOSED}"
    assert claims.claim(f"a/{APART.upper()}/x") == f"a/{COMPOSED}"
    assert claims.claim("a/B2/c.png") is None


def test_disk_that_tells_names_apart_is_seen_as_such(site: Site) -> None:
    with Mirror(site.mirror) as mirror:
        assert not mirror.takes_names_for_the_same()
    assert not site.staged()
    for name in ("A.png", f"{COMPOSED}.png", f"{APART}.png"):
        put(site.root / RUN / "media" / name, name, OLD)
    site.publish()
    assert site.sync().failed_count == 0
    site.assert_equal()


@pytest.mark.parametrize("method", ["manifest", "walk"])
@pytest.mark.parametrize(
    "folder", ["Vision/resnet/runs/r1", "vision/resnet/runs/R1", f"vision/{APART}/runs/r1"]
)
def test_names_that_the_disk_takes_for_the_same_fail_before_anything_is_written(
    site: Site, monkeypatch: pytest.MonkeyPatch, method: str, folder: str
) -> None:
    make_run(site.root, f"vision/{COMPOSED}/runs/r1")
    make_run(site.root, folder, state="another")
    for name in ("b.png", "B.png"):
        put(site.root / RUN / "media" / name, name, OLD)
    site.publish()
    monkeypatch.setattr(Mirror, "takes_names_for_the_same", lambda _mirror: True)
    report = site.sync(method=method)
    mirrored, failed = run_files(site.mirror), {each.path for each in report.failed}
    assert report.failed_count == len(report.failed) == len(failed)
    assert mirrored.keys() | failed == run_files(site.root).keys()
    assert not mirrored.keys() & failed
    claims = NameClaims()
    assert [claims.claim(path) for path in mirrored] == [None] * len(mirrored)
    assert not site.sync(method=method).skipped


@pytest.mark.parametrize(
    ("name", "size", "parse"),
    [
        ("summary.json", 10, True),
        ("media/table.json", 10, True),
        ("summary.json", 10**9, False),
        ("events.jsonl", 10, False),
        ("logs.txt", 10, False),
        ("media/a.png", 10, False),
        ("media/a.json.png", 10, False),
    ],
)
def test_only_small_json_has_to_parse(name: str, size: int, parse: bool) -> None:
    assert has_to_parse(an_entry(f"{RUN}/{name}", size), size) is parse


# -- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("me@[::1]:/p", Source("/p", "::1", "me")),
        ("[::1]:/p", Source("/p", "::1")),
        ("ssh://h/~", Source(".", "h")),
        ("ssh://h/~/", Source(".", "h")),
        ("@host:path", Source("@host:path")),
    ],
)
def test_source_of_a_rare_form_is_read(text: str, source: Source) -> None:
    assert parse_source(text) == source


def test_source_without_runs_is_pointed_out(site: Site) -> None:
    done = sync_here(site.root / "vision/resnet/runs/r1/media", site.mirror).expect(0)
    assert "no run below the source" in done.err
    assert "no run below" not in sync_here(site.root, site.mirror).expect(0).err


@pytest.mark.parametrize(
    "option", [("--project", "none"), ("--include", "none"), ("--exclude", "*")], ids=" ".join
)
def test_selection_of_nothing_is_pointed_out(site: Site, option: tuple[str, str]) -> None:
    site.publish()
    done = sync_here(site.root, site.mirror, *option).expect(0)
    assert "no file is selected" in done.err
    assert run_files(site.mirror) == {}


def default_mirror(*arguments: str) -> Path:
    return Path(sync_here(*arguments, "--json").expect(0).statistics["mirror"])


def test_default_mirrors_of_local_roots_are_never_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    roots = [tmp_path / name for name in ("one/root", "two/root", "a_b/root", "a/b/root", "a b/root")]
    found = []
    for number, root in enumerate(roots):
        make_run(root, f"vision/resnet/runs/r{number}")
        monkeypatch.chdir(root.parent)
        found.append(default_mirror("root"))
        assert run_files(found[-1]) == run_files(root)
        assert default_mirror(str(root)) == found[-1]
    assert len(set(found)) == len(roots)


def test_default_mirrors_of_other_users_and_ports_are_never_shared(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_ssh: str
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    root = str(site.root)
    sources = [
        (f"host:{root}",),
        (f"me@host:{root}",),
        (f"other:{root}",),
        (f"host:{root}", "--port", "2222"),
        (f"ssh://host:2223{root}",),
    ]
    found = [default_mirror(*each, "--ssh", no_ssh) for each in sources]
    assert len(set(found)) == len(sources)
    assert default_mirror(f"host:{root}", "--port", "2223", "--ssh", no_ssh) == found[-1]


def test_delete_by_a_walk_through_another_port_removes_nothing(site: Site, no_ssh: str) -> None:
    for folder in RUNS:
        make_run(site.root, folder)
    arguments = (f"localhost:{site.root}", site.mirror, "--ssh", no_ssh, "--method", "walk")
    sync_here(*arguments, "--port", "2222").expect(0)
    before = run_files(site.mirror)
    shutil.rmtree(site.root / RUN)
    done = sync_here(*arguments, "--port", "2223", "--delete").expect(3)
    assert "6 files that the server does not list are kept" in done.err
    assert run_files(site.mirror) == before
