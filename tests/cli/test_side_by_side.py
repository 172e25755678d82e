"""The sync of all remotes, side by side, and the threads that it works in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runicorn.cli import reach
from runicorn.cli.side_by_side import Work, run_side_by_side, worst
from runicorn.errors import CancelledError
from runicorn.remote_storage.source import parse_source
from testbed.sshd import Sshd
from tests.cli.watching import Watch, grow
from tests.faults.process import COMMAND, TIMEOUT, environment, generate, over, run_files, runicorn
from tests.manifest.helpers import make_run


def add(home: dict[str, str], *arguments: str | Path) -> None:
    runicorn("remote", "add", *arguments, "-q", env=home).expect(0)


def test_sync_without_a_source_syncs_all_side_by_side(
    server: Sshd, tmp_path: Path, home: dict[str, str]
) -> None:
    roots = [tmp_path / f"root{number}" for number in range(3)]
    for number, root in enumerate(roots):
        make_run(root)
        generate(root)
        add(home, f"gpu{number}", f"{server.host}:{root}", tmp_path / f"mirror{number}")
    done = runicorn("sync", *over(server), env=home).expect(0)
    assert sorted(line.split(": ")[0].split()[-1] for line in done.out.splitlines()) == [
        "gpu0",
        "gpu1",
        "gpu2",
    ]
    for number, root in enumerate(roots):
        assert run_files(tmp_path / f"mirror{number}") == run_files(root)
    found = [
        json.loads(line) for line in runicorn("sync", *over(server), "--json", env=home).out.splitlines()
    ]
    assert {(each["remote"], each["event"], each["skipped"]) for each in found} == {
        (f"gpu{number}", "sync", True) for number in range(3)
    }


def test_one_bad_remote_does_not_keep_the_others_and_makes_the_exit_code(
    root: Path, tmp_path: Path, home: dict[str, str]
) -> None:
    add(home, "good", root, tmp_path / "mirror")
    add(home, "gone", tmp_path / "nowhere", tmp_path / "other")
    done = runicorn("sync", env=home).expect(6)
    assert "good: " in done.out
    assert "runicorn: gone: there is no folder" in done.err
    assert run_files(tmp_path / "mirror") == run_files(root)
    done = runicorn("sync", "--json", env=home).expect(6)
    ended = next(each for each in map(json.loads, done.out.splitlines()) if each["event"] == "ended")
    assert (ended["remote"], ended["exit_code"]) == ("gone", 6)


def test_all_remotes_are_watched_and_one_that_ends_leaves_the_others(
    server: Sshd, root: Path, tmp_path: Path, home: dict[str, str]
) -> None:
    add(home, "far", f"{server.host}:{root}", tmp_path / "far")
    add(home, "near", root, tmp_path / "near")
    add(home, "gone", tmp_path / "nowhere", tmp_path / "other")
    with Watch(*over(server), **home) as watch:
        watch.until(watch.err, "gone: there is no folder")
        for _ in range(2):
            watch.until(watch.out, "fetched")
        grow(root)
        names = {watch.until(watch.out, "1 appended").split(": ")[0].split()[-1] for _ in range(2)}
        assert names == {"far", "near"}
        assert watch.end() == 6
    assert run_files(tmp_path / "far") == run_files(tmp_path / "near") == run_files(root)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_sync_of_all_is_130(tmp_path: Path, home: dict[str, str], number: signal.Signals) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho up > "{pipe}"\nexec sleep 1000\n')
    ssh.chmod(0o755)
    add(home, "one", "host:/data", tmp_path / "mirror")
    with subprocess.Popen(
        [*COMMAND, "sync", "--ssh", str(ssh)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**home),
        start_new_session=True,
    ) as process:
        assert pipe.read_text() == "up\n"
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 130


def test_login_that_was_not_begun_when_all_ends_is_never_begun(tmp_path: Path) -> None:
    ssh, started = tmp_path / "ssh", tmp_path / "started"
    ssh.write_text(f'#!/bin/sh\ntouch "{started}"\n')
    ssh.chmod(0o755)
    connect = reach.Connector(parse_source("host:/data"), reach.Ssh(None, None, str(ssh)))
    stop = threading.Event()
    connect.heed(stop)
    stop.set()
    with pytest.raises(CancelledError):
        connect()
    late = reach.Connector(parse_source("host:/data"), reach.Ssh(None, None, str(ssh)))
    late.abort()
    with pytest.raises(CancelledError):
        late()
    assert not started.exists()


def test_results_go_to_stdout_while_a_terminal_shows_progress(
    root: Path, tmp_path: Path, home: dict[str, str]
) -> None:
    add(home, "near", root, tmp_path / "near")
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            [*COMMAND, "sync"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment(**home, TERM="xterm"),
            timeout=TIMEOUT,
            check=True,
        )
        shown = os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"near: " in done.stdout
    assert b"fetched" in done.stdout
    assert b"fetched" not in shown


def test_no_remotes_and_equal_mirrors_are_told(root: Path, tmp_path: Path, home: dict[str, str]) -> None:
    runicorn("sync", env=home).refused(2, "no remotes yet", "hint: ")
    runicorn("status", env=home).refused(2, "no remotes yet")
    add(home, "a", root, tmp_path / "mirror")
    add(home, "b", "host:/x", tmp_path / "mirror")
    runicorn("sync", env=home).refused(2, "same mirror")
    runicorn("sync", "--dry-run", env=home).refused(2)
    runicorn("remote", "remove", "b", env=home).expect(0)
    add(home, "c", "host:/x", tmp_path / "mirror/below/it")
    runicorn("sync", env=home).refused(2, "a and c", "inside each other")


def test_wrong_options_name_the_remote_that_they_do_not_fit(
    root: Path, tmp_path: Path, home: dict[str, str]
) -> None:
    add(home, "far", "ssh://host:2222/x", tmp_path / "far")
    add(home, "near", root, tmp_path / "near")
    for more in ((), ("--watch",)):
        runicorn("sync", "--port", "22", *more, env=home).refused(2, "the remote far", "two different ports")
        runicorn("sync", "--identity", "key", *more, env=home).refused(2, "the remote near", "local source")
    assert not (tmp_path / "near").exists()


def test_verbose_lines_of_several_remotes_begin_with_the_name(
    root: Path, tmp_path: Path, home: dict[str, str]
) -> None:
    add(home, "a", root, tmp_path / "one")
    add(home, "b", root, tmp_path / "two")
    (tmp_path / "two/.runicorn").mkdir(parents=True)
    (tmp_path / "two/.runicorn/state.db").write_bytes(b"no database" * 99)
    done = runicorn("sync", "--verbose", env=home).expect(0)
    named = [line for line in done.lines if line.endswith("/meta.json")]
    assert sorted(line.split(": ")[0] for line in named) == ["a"] * (len(named) // 2) + ["b"] * (
        len(named) // 2
    )
    assert any(line.startswith("runicorn: b: the state of the mirror is damaged") for line in done.lines)


# -- work in threads -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "expected"), [([], 0), ([0, 0], 0), ([0, 3], 3), ([3, 1], 1), ([1, 6, 3], 6), ([9, 3, 4], 9)]
)
def test_worst_exit_code(codes: list[int], expected: int) -> None:
    assert worst(codes) == expected


def test_error_that_nobody_expects_ends_all_work_and_is_raised() -> None:
    began = threading.Event()

    def careless(_stop: threading.Event) -> int:
        assert began.wait(TIMEOUT)
        raise ZeroDivisionError

    def patient(stop: threading.Event) -> int:
        began.set()
        assert stop.wait(TIMEOUT)
        return 0

    def nothing(*_: object) -> None:
        return

    works = [Work(each, nothing, nothing) for each in (careless, patient)]
    with pytest.raises(ZeroDivisionError):
        run_side_by_side(works, lambda: None, signals_end_well=False)
    assert works[1].code == 0


def is_waiting_in(ident: int, function: str) -> bool:
    """Whether a thread is in a function, and in none that it calls but such as wait in C."""
    return sys._current_frames()[ident].f_code.co_name == function


def test_signal_that_another_thread_receives_is_noticed() -> None:
    main = threading.main_thread().ident
    assert main is not None

    def ends_all(stop: threading.Event) -> int:
        deadline = time.monotonic() + TIMEOUT
        while not is_waiting_in(main, run_side_by_side.__name__):
            assert time.monotonic() < deadline
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        return 0 if stop.wait(TIMEOUT / 2) else 1

    def nothing(*_: object) -> None:
        return

    work = Work(ends_all, nothing, nothing)
    assert run_side_by_side([work], lambda: None, signals_end_well=True) == 0


def test_second_signal_within_the_first_is_the_same_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while the lock of an event is held, as `timeout` sends it: to the process and to its group."""
    sent: list[int] = []
    notify = threading.Condition.notify_all

    def and_a_signal(condition: threading.Condition) -> None:
        if threading.get_ident() == threading.main_thread().ident and not sent:
            sent.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        notify(condition)

    def ends_all(stop: threading.Event) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0 if stop.wait(TIMEOUT / 2) else 1

    def nothing(*_: object) -> None:
        return

    monkeypatch.setattr(threading.Condition, "notify_all", and_a_signal)
    work = Work(ends_all, nothing, nothing)
    assert run_side_by_side([work], lambda: None, signals_end_well=True) == 0
    assert sent
