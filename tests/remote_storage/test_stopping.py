"""Syncs that are stopped: regressions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import CancelledError
from runicorn.remote_storage import (
    LocalCacheManager,
    MetadataSyncService,
    Selection,
    SyncOptions,
    synchronize,
)
from runicorn.remote_storage.report import BytesReceived, TransferStarted
from runicorn.remote_storage.transport import (
    LocalTransport,
    OpenDir,
    Operation,
    ReadDir,
)
from tests.faults.process import COMMAND, PROJECT_ROOT, TIMEOUT, environment
from tests.remote_storage.helpers import (
    RUN,
    Meanwhile,
    Site,
    hollow,
    make_run,
    run_files,
)

pytestmark = pytest.mark.rungs("journal", "manifest")

MIB = 1024 * 1024
FILM = f"{RUN}/media/film.mp4"
RUNS = [f"vision/resnet/runs/r{number}" for number in range(1, 4)]
"""Three runs of six files each."""


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
from testbed import fault_sftp, sftp_faults

class Tells(sftp_faults.StallForever):
    def reply(self, request, packets):
        sent = super().reply(request, packets)
        if self.left == -1:
            print("silent from now on", file=sys.stderr, flush=True)
        return sent

sftp_faults.FAULTS["Tells"] = Tells
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


@pytest.mark.parametrize("nth", [1, 3])
def test_interrupt_just_before_a_file_takes_its_name_leaves_nothing_staged(
    site: Site, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    site.publish()
    site.sync()
    for name in RUNS[1:]:
        make_run(site.root, name)
    site.publish()
    left = [nth]
    rename = os.rename

    def interrupted(*arguments: Any, **options: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        rename(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            site.sync()
    assert not site.staged()
    assert site.sync().failed_count == 0
    site.assert_equal()
