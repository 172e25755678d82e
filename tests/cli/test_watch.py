"""`runicorn sync --watch` and the sync of all remotes, as processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from runicorn.cli import reach
from runicorn.cli.side_by_side import Work, run_side_by_side, worst
from runicorn.errors import CancelledError
from runicorn.remote_storage.source import parse_source
from testbed.proxy import DelayProxy
from testbed.sshd import Sshd
from tests.faults.process import (
    COMMAND,
    TIMEOUT,
    environment,
    generate,
    left_behind,
    over,
    run_files,
    runicorn,
    sync,
)
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN, append, make_run


class Watch:
    """A watching command; its lines can be waited for."""

    def __init__(self, *arguments: str | Path, **env: str) -> None:
        self._arguments = [*COMMAND, "sync", *map(str, arguments), "--watch", "--interval", "0.05"]
        self._env = environment(**env)
        self.out: queue.Queue[str] = queue.Queue()
        self.err: queue.Queue[str] = queue.Queue()
        self.said: list[str] = []

    def __enter__(self) -> Watch:
        self.process = subprocess.Popen(
            self._arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._env,
            text=True,
            start_new_session=True,
        )
        pairs = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._threads = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in pairs]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        for thread in self._threads:
            thread.join(TIMEOUT)

    def _read(self, stream: Any, lines: queue.Queue[str]) -> None:
        with stream:
            for line in stream:
                lines.put(line.rstrip("\n"))

    def until(self, lines: queue.Queue[str], word: str) -> str:
        """The next line that holds a word."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
            self.said.append(line)
            if word in line:
                return line

    def event(self, name: str) -> dict[str, Any]:
        """The next object of a kind on stdout."""
        while True:
            found: dict[str, Any] = json.loads(self.until(self.out, "{"))
            if found["event"] == name:
                return found

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT)
        for thread in self._threads:
            thread.join(TIMEOUT)
        return code


def grow(root: Path, text: bytes = b'{"step": 2}\n') -> None:
    append(root / PROJECT_RUN / "events.jsonl", text)
    generate(root)


# -- one root ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watch_brings_each_change_and_ends_well_by_a_signal(
    server: Sshd, root: Path, mirror: Path, number: signal.Signals
) -> None:
    with Watch(f"{server.host}:{root}", mirror, *over(server)) as watch:
        assert "10 fetched, 0 appended of 10 files" in watch.until(watch.out, "fetched")
        assert run_files(mirror) == run_files(root)
        for count in range(3):
            grow(root, b'{"step": %d}\n' % count)
            assert "0 fetched, 1 appended" in watch.until(watch.out, "appended")
            assert run_files(mirror) == run_files(root)
        assert watch.end(number) == 0
        assert watch.err.empty()
        assert watch.out.empty()
    assert left_behind(mirror) == []
    assert (
        sync(f"{server.host}:{root}", mirror, *over(server)).expect(0).out.startswith("No changes (journal")
    )


def test_signal_that_comes_twice_at_once_ends_it_well_too(root: Path, mirror: Path) -> None:
    with Watch(root, mirror) as watch:
        watch.until(watch.out, "fetched")
        watch.process.send_signal(signal.SIGTERM)
        assert watch.end() == 0
        assert watch.err.empty()


def test_one_login_is_enough_for_many_changes(root: Path, mirror: Path) -> None:
    with Sshd() as server, Watch(f"{server.host}:{root}", mirror, *over(server)) as watch:
        watch.until(watch.out, "fetched")
        for count in range(3):
            grow(root, b'{"step": %d}\n' % count)
            watch.until(watch.out, "appended")
        assert watch.end() == 0
        assert server.log().count("Accepted publickey") == 1


def test_watch_says_no_age_by_two_clocks_and_no_note_twice(root: Path, mirror: Path) -> None:
    long_ago = time.time() - 10 * 86400
    with pytest.MonkeyPatch.context() as patch, Watch(root, mirror) as watch:
        patch.setattr("runicorn.manifest.generation.time.time", lambda: long_ago)
        watch.until(watch.out, "fetched")
        (root / PATH_RUN / "logs.txt").unlink()
        for count in range(3):
            grow(root, b'{"step": %d}\n' % count)
            watch.until(watch.out, "appended")
        assert watch.end() == 0
    said = list(watch.err.queue)
    assert not any("clocks" in line for line in said), said
    assert sum("are kept" in line for line in said) == 1, said


def test_cut_connection_is_said_made_anew_and_loses_nothing(root: Path, mirror: Path) -> None:
    with Sshd() as server, DelayProxy(server.port) as proxy:
        server.access.trust_port(proxy.port)
        command = shlex.join(server.access.ssh_command(proxy.port))
        with Watch(f"{server.host}:{root}", mirror, "--ssh", command) as watch:
            watch.until(watch.out, "fetched")
            for count in range(2):
                proxy.cut()
                assert "trying again in" in watch.until(watch.err, "no connection")
                watch.until(watch.err, "connected again")
                grow(root, b'{"step": %d}\n' % count)
                watch.until(watch.out, "1 appended")
                assert run_files(mirror) == run_files(root)
            assert watch.end() == 0


def test_server_that_goes_and_comes_back_is_waited_for(root: Path, mirror: Path) -> None:
    with Sshd() as server, Watch(f"{server.host}:{root}", mirror, *over(server), "--json") as watch:
        assert watch.event("connected")["away"] is None
        assert watch.event("sync")["files_synced"] == 10
        server.drop_connections()
        lost = watch.event("connection_lost")
        assert lost["error"]
        assert lost["retry_in"] > 0
        assert watch.event("connected")["away"] > 0
        grow(root)
        found = watch.event("sync")
        assert (found["incremental_count"], found["mirror"]) == (1, str(mirror))
        assert watch.end() == 0
        assert watch.err.empty()


def test_watch_that_cannot_connect_yet_tries_on(
    server: Sshd, root: Path, mirror: Path, tmp_path: Path
) -> None:
    ssh = tmp_path / "ssh"
    gate = tmp_path / "gate"
    real = shlex.join(server.ssh_command)
    refuse = "echo 'ssh: connect to host x port 22: Connection refused' >&2; exit 255"
    ssh.write_text(f'#!/bin/sh\n[ -e "{gate}" ] || {{ {refuse}; }}\nexec {real} "$@"\n')
    ssh.chmod(0o755)
    with Watch(f"{server.host}:{root}", mirror, "--ssh", str(ssh)) as watch:
        assert "Connection refused" in watch.until(watch.err, "no connection")
        gate.touch()
        watch.until(watch.out, "fetched")
        assert watch.end() == 0


def test_stalled_server_does_not_keep_the_watch_from_ending(root: Path, mirror: Path) -> None:
    with Sshd() as server, DelayProxy(server.port) as proxy:
        server.access.trust_port(proxy.port)
        command = shlex.join(server.access.ssh_command(proxy.port))
        with Watch(f"{server.host}:{root}", mirror, "--ssh", command) as watch:
            watch.until(watch.out, "fetched")
            proxy.stall()
            assert watch.end() == 0


def test_ssh_of_a_watch_asks_whether_the_server_is_there(
    server: Sshd, root: Path, mirror: Path, tmp_path: Path
) -> None:
    real, words = shlex.join(server.ssh_command), tmp_path / "words"
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> "{words}"\nexec {real} "$@"\n')
    ssh.chmod(0o755)
    with Watch(f"{server.host}:{root}", mirror, "--ssh", str(ssh)) as watch:
        watch.until(watch.out, "fetched")
        assert watch.end() == 0
    assert "-oServerAliveInterval=5 -oServerAliveCountMax=2" in words.read_text()
    words.unlink()
    sync(f"{server.host}:{root}", mirror, "--ssh", str(ssh)).expect(0)
    assert "ServerAlive" not in words.read_text()


def test_refused_login_and_unknown_host_key_end_the_watch(
    server: Sshd, root: Path, mirror: Path, tmp_path: Path
) -> None:
    source = f"{server.host}:{root}"
    denied = [*server.ssh_command, "-o", "PubkeyAuthentication=no"]
    sync(source, mirror, "--watch", "--ssh", shlex.join(denied)).refused(4, "Permission denied")
    (tmp_path / "known").touch()
    unknown = [word.replace(str(server.known_hosts), str(tmp_path / "known")) for word in server.ssh_command]
    sync(source, mirror, "--watch", "--ssh", shlex.join(unknown)).refused(5, "host key")
    sync(source, mirror, "--watch", "--ssh", "/no/such/ssh").refused(4, "cannot start")


def test_missing_root_and_wrong_usage_end_the_watch(root: Path, mirror: Path) -> None:
    sync(root / "nowhere", mirror, "--watch", "-q").refused(6, "there is no folder")
    sync(root, mirror, "--watch", "--dry-run").refused(2, "--dry-run")
    assert sync(root, mirror, "--watch", "--interval", "0").code == 2
    done = sync(root / "nowhere", mirror, "--watch", "--json", "-q").refused(6)
    assert json.loads(done.out.splitlines()[-1])["exit_code"] == 6


def test_second_watch_of_a_mirror_ends_at_once(root: Path, mirror: Path) -> None:
    with Watch(root, mirror) as watch:
        watch.until(watch.out, "fetched")
        sync(root, mirror, "--watch", "--lock-timeout", "0", "-q").refused(8, "another sync")
        sync(root, mirror, "--lock-timeout", "0", "-q").refused(8, "another sync")
        status = json.loads(runicorn("status", mirror, "--json").expect(0).out)
        assert status["syncing"] is True
        assert watch.end() == 0


def test_killed_watch_leaves_a_mirror_that_goes_on(root: Path, mirror: Path) -> None:
    with Watch(root, mirror) as watch:
        watch.until(watch.out, "fetched")
        assert watch.end(signal.SIGKILL) == -signal.SIGKILL
    grow(root)
    sync(root, mirror).expect(0)
    assert run_files(mirror) == run_files(root)


def test_reader_of_the_output_that_goes_away_ends_the_watch(root: Path, mirror: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "sync", str(root), str(mirror), "--watch", "--interval", "0.05"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        grow(root)
        assert process.wait(TIMEOUT) == 1


# -- all remotes ---------------------------------------------------------------------------


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


def test_second_signal_insists_and_leaves_no_ssh_behind(mirror: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ssh = tmp_path / "ssh"
    # One that neither greets nor cares for the end of its input, as while it asks for a password.
    ssh.write_text(f'#!/bin/sh\necho $$ > "{pipe}"\nwhile :; do sleep 0.1; done\n')
    ssh.chmod(0o755)
    with Watch("host:/data", mirror, "--ssh", str(ssh)) as watch:
        number = int(pipe.read_text())
        watch.process.send_signal(signal.SIGTERM)
        watch.until(watch.err, "a further signal")
        began = time.monotonic()
        assert watch.end(signal.SIGINT) == 130
        assert time.monotonic() - began < 3
        assert "stopped" in watch.until(watch.err, "stopped")
        assert "Traceback" not in "".join(watch.said)
        assert not Path(f"/proc/{number}").exists()


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
    """Whether a thread waits for an event that a function waits for."""
    frame = sys._current_frames()[ident]
    callers = [each.f_code.co_name for each, _ in traceback.walk_stack(frame)]
    return callers[:3] == ["wait", "wait", function]


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
