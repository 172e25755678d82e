"""`runicorn sync --watch`, as a process of its own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from testbed.proxy import DelayProxy
from testbed.sshd import Sshd
from tests.cli.watching import Watch, grow
from tests.faults.process import (
    COMMAND,
    TIMEOUT,
    environment,
    left_behind,
    over,
    run_files,
    runicorn,
    sync,
)
from tests.manifest.helpers import PATH_RUN


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
    sync(root, mirror.with_name("new"), "--interval", "1").refused(2, "--interval goes with --watch")
    assert not mirror.with_name("new").exists()
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
