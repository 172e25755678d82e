"""A watching generator in trouble: roots that go away, generators that work already, signals."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from runicorn.errors import GeneratorBusy, PublishError
from runicorn.manifest import read_manifest, scan_log, scan_read
from runicorn.manifest.generator_lock import generator_lock
from runicorn.manifest.watch import Watch
from tests.manifest.helpers import append, generate, write
from tests.manifest.journal_reader import Replica, head
from tests.manifest.watching import LONG, Told, same, three_runs, watching


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return three_runs(tmp_path / "root")


def test_second_generator_is_told_that_one_works(root: Path) -> None:
    with watching(root), pytest.raises(GeneratorBusy):
        generate(root, lock_timeout=0)


def test_root_that_goes_away_is_waited_for_and_never_published_empty(root: Path) -> None:
    with watching(root) as (_, told):
        away = root.rename(root.with_name("away"))
        root.mkdir()  # as the place of a mount looks
        assert "waiting until it is back" in told.line("has gone away")
        assert list(root.iterdir()) == []
        append(away / "p/n/runs/r1/logs.txt", b"meanwhile\n")
        root.rmdir()
        away.rename(root)
        told.line("is back")
        header = told.until(lambda each: each.identity.revision == 2)
        assert header.total_experiments == 3
    same(root)


def test_root_that_goes_away_during_a_scan_is_not_published(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runicorn.manifest.scan import Scanner

    real = Scanner.scan
    gone: list[Path] = []

    def scan(self: Scanner, previous: Iterator[object]) -> Iterator[object]:
        if not gone and (root / "p/n/runs/r9").exists():
            gone.append(root.rename(root.with_name("away")))
            shutil.copytree(gone[0] / ".runicorn", root / ".runicorn")
        return iter(list(real(self, previous)))  # type: ignore[arg-type]

    monkeypatch.setattr(Scanner, "scan", scan)
    with watching(root, interval=3600) as (_, told):
        write(root / "p/n/runs/r9/meta.json", "{}")
        told.line("has gone away")
        assert head(gone[0]).identity.revision == 1


def test_own_folder_that_was_removed_is_made_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicorn.manifest.pace.SIGN_S", 0.1)
    with watching(root) as (_, told):
        (root / ".runicorn").rename(root.with_name("removed"))
        told.line("has gone away")
        told.line("is back")
        append(root / "p/n/runs/r1/logs.txt", b"line\n")
        told.until(lambda each: each.identity.revision == 2)
    same(root)


def test_same_trouble_is_told_each_time_it_comes_and_its_end_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runicorn.manifest.session import Session

    full = threading.Event()

    def unless_full(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if full.is_set():
                raise PublishError("no room")
            return real(*arguments, **options)

        return call

    for name in ("publish", "publish_changes"):
        monkeypatch.setattr(Session, name, unless_full(getattr(Session, name)))
    monkeypatch.setattr("runicorn.manifest.pace._RETRY_S", 0.05)
    with watching(root, interval=3600) as (_, told):
        for _each in range(2):
            full.set()
            append(root / "p/n/runs/r1/logs.txt", b"line\n")
            told.line("no room")
            full.clear()
            told.line("published again")
        assert told.lines.empty(), "each was said once"


def test_too_many_open_files_are_told_and_tried_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, opened = threading.Event(), scan_read.opened

    def opened_if_there_are_handles(name: str, folder: int) -> tuple[int, os.stat_result]:
        if few.is_set():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)
        return opened(name, folder)

    monkeypatch.setattr(scan_log, "opened", opened_if_there_are_handles)
    monkeypatch.setattr("runicorn.manifest.pace._RETRY_S", 0.05)
    with watching(root, interval=3600) as (_, told):
        few.set()
        append(root / "p/n/runs/r1/logs.txt", b"line\n")
        told.line("Too many open files")
        few.clear()
        header = told.until(lambda each: each.identity.revision > 1)
        assert (header.identity.revision, header.problem_count) == (2, 0)
        told.line("published again")
        same(root)


def test_generator_that_works_already_is_waited_for(root: Path) -> None:
    (root / ".runicorn").mkdir()
    told = Told()
    watch = Watch(root, lock_timeout=0, observer=told)
    thread = threading.Thread(target=watch.run)
    try:
        with generator_lock(root / ".runicorn", 0, lambda: None):
            thread.start()
            assert "waiting until it has ended" in told.line("another generator")
        assert told.until(lambda _: True).identity.revision == 1
    finally:
        watch.stop()
        thread.join(LONG)
        watch.close()
    assert not thread.is_alive()


def test_first_generation_that_fails_ends_the_watch(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "nothing")
    try:
        with pytest.raises(PublishError, match="does not exist"):
            watch.run()
    finally:
        watch.close()


# -- the command ----------------------------------------------------------------------------


def command(root: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "runicorn", "generate-manifest", "--watch", "--root", str(root), *options]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_stops_the_command_cleanly(root: Path, how: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        command(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"watching {root}: revision 1, 3 runs, ")
        replica = Replica()
        append(root / "p/n/runs/r1/logs.txt", b"line\n")
        while head(root).identity.revision == 1:
            assert process.poll() is None
        process.send_signal(how)
        assert process.communicate(timeout=LONG) == ("", "")
    assert process.returncode == code
    assert read_manifest(root / ".runicorn/full_manifest.json").revision == 2
    replica.sync(root)
    replica.check(root)


def opens(process: subprocess.Popen[str], path: Path) -> bool:
    """Whether a process holds a file open; it must be alive."""
    assert process.poll() is None
    held = Path(f"/proc/{process.pid}/fd")
    for each in held.iterdir():
        with suppress(OSError):
            if each.samefile(path):
                return True
    return False


def test_first_scan_that_lasts_beats_and_can_be_stopped(root: Path) -> None:
    endless = write(root / "p/n/runs/r1/media/endless.bin", b"")
    os.truncate(endless, 2**42)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        TemporaryDirectory(prefix="r-") as short,
    ):
        manager.bind(f"{short}/notify")
        told = os.environ | {"NOTIFY_SOCKET": f"{short}/notify", "WATCHDOG_USEC": "30000"}
        with subprocess.Popen(command(root), stdout=subprocess.DEVNULL, text=True, env=told) as process:
            try:
                while not opens(process, endless):
                    pass
                manager.setblocking(False)
                with suppress(BlockingIOError):
                    while True:
                        manager.recv(4096)
                manager.settimeout(LONG)
                for _ in range(3):
                    assert manager.recv(4096).startswith(b"WATCHDOG=1\nEXTEND_TIMEOUT_USEC=")
                assert opens(process, endless)
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=LONG) == 0
            finally:
                process.kill()
    assert not (root / ".runicorn/full_manifest.json").exists()
    endless.unlink()
    assert generate(root).revision == 1


def test_signal_ends_the_waiting_for_another_generator(root: Path) -> None:
    (root / ".runicorn").mkdir()
    with (
        generator_lock(root / ".runicorn", 0, lambda: None),
        subprocess.Popen(
            command(root, "--lock-timeout", "3600"), stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stderr is not None
        assert "another generator works" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(timeout=LONG) == 0
        finally:
            process.kill()
