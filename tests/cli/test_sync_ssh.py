"""`runicorn sync` through ssh, as a process of its own, with real servers."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from pathlib import Path

import pytest

from testbed.sshd import Sshd, find_sftp_server
from tests.faults.process import PROJECT_ROOT, generate, over, run_files, sync
from tests.manifest.helpers import make_run


def without(command: list[str], *options: str) -> str:
    """An ssh command line without some options and their values."""
    words = iter(command)
    kept = []
    for word in words:
        value = next(words) if word in ("-o", "-p", "-F") else ""
        if word in options or value.partition("=")[0] in options:
            continue
        kept += [word, value] if value else [word]
    return shlex.join(kept)


BEFORE_THE_LOGIN = """
import os, subprocess, sys
REAL = subprocess.Popen.__init__
def started(self, *arguments, **options):
    subprocess.Popen.__init__ = REAL
    with open(os.environ["MODULES"], "w") as file:
        file.write("\\n".join(sys.modules))
    return REAL(self, *arguments, **options)
subprocess.Popen.__init__ = started
"""


def test_little_is_imported_before_the_login(server: Sshd, root: Path, mirror: Path, tmp_path: Path) -> None:
    """What is imported later costs no time: the server has to answer anyhow."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch/sitecustomize.py").write_text(BEFORE_THE_LOGIN, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "watch"), str(PROJECT_ROOT)])
    modules = tmp_path / "modules"
    sync(
        *over(server), f"{server.host}:{root}", mirror, env={"PYTHONPATH": path, "MODULES": str(modules)}
    ).expect(0)
    loaded = set(modules.read_text(encoding="utf-8").split())
    assert "runicorn.remote_storage.transport.ssh" in loaded
    later = {
        "hashlib",
        "logging",
        "rich",
        "sqlite3",
        "runicorn.manifest.model",
        "runicorn.remote_storage.sync",
        "runicorn.remote_storage.transport.engine",
    }
    assert not later & loaded


# -- reaching a server ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["manifest", "walk"])
def test_server_is_reached_with_the_users_ssh(server: Sshd, root: Path, mirror: Path, method: str) -> None:
    done = sync(f"{server.user}@{server.host}:{root}", mirror, *over(server), "--method", method).expect(0)
    assert f"({method}, " in done.out
    assert done.err == ""
    assert run_files(mirror) == run_files(root)


def test_second_sync_over_ssh_costs_almost_nothing(server: Sshd, root: Path, mirror: Path) -> None:
    source = f"{server.host}:{root}"
    sync(source, mirror, *over(server)).expect(0)
    statistics = sync(source, mirror, *over(server), "--json").expect(0).statistics
    assert statistics["skipped"]
    assert statistics["requests"] <= 8


def test_url_port_and_identity_reach_the_server(server: Sshd, root: Path, mirror: Path) -> None:
    bare = without(server.ssh_command, "-p", "IdentityFile", "User")
    target = f"{server.user}@{server.host}"
    identity = ("--identity", str(server.client_key))
    sync(f"ssh://{target}:{server.port}{root}", mirror, "--ssh", bare, *identity).expect(0)
    done = sync(f"{target}:{root}", mirror, "--ssh", bare, "--port", str(server.port), *identity).expect(0)
    assert " fetched" not in done.out or done.out.startswith("0 fetched, 0 appended")
    assert sync(f"{target}:{root}", mirror, "--ssh", bare, "--port", str(server.port)).code == 4


def test_ssh_command_comes_from_the_environment_too(server: Sshd, root: Path, mirror: Path) -> None:
    env = {"RUNICORN_SSH": shlex.join(server.ssh_command)}
    sync(f"{server.host}:{root}", mirror, env=env).expect(0)
    assert run_files(mirror) == run_files(root)
    # What is said on the command line goes first.
    sync(f"{server.host}:{root}", mirror, "--ssh", "false", env=env).refused(4)


@pytest.mark.parametrize(
    "name", ["with space", "ünï", "$(id)`x`;'\"", "-dash", "a\\b", "~home", "100%41", "*?[x]"]
)
def test_root_with_an_odd_name_is_found_and_no_shell_reads_it(
    server: Sshd, tmp_path: Path, name: str
) -> None:
    root, mirror = tmp_path / "server" / name, tmp_path / "mirror"
    make_run(root)
    generate(root)
    sync(f"{server.host}:{root}", mirror, *over(server)).expect(0)
    assert run_files(mirror) == run_files(root)


def test_path_in_a_url_is_decoded(server: Sshd, tmp_path: Path) -> None:
    root, mirror = tmp_path / "a b", tmp_path / "mirror"
    make_run(root)
    generate(root)
    url = f"ssh://{server.host}:{server.port}{tmp_path}/a%20b"
    sync(url, mirror, *over(server)).expect(0)
    assert run_files(mirror) == run_files(root)


RECORDER = """
import os, sys
open(os.environ["SEEN"], "w").write("\\n".join(sys.argv[1:]))
os.chdir(os.environ["REMOTE_HOME"])
os.execv(os.environ["SFTP_SERVER"], [os.environ["SFTP_SERVER"]])
"""
FORMS = {
    "host:runs": ("host", "runs", []),
    "host:~/runs": ("host", "runs", []),
    "host:": ("host", ".", []),
    "host:~": ("host", ".", []),
    "me@host:runs": ("host", "runs", ["-l", "me"]),
    "m@e@host:runs": ("host", "runs", ["-l", "m@e"]),
    "[::1]:runs": ("::1", "runs", []),
    "me@[fe80::1%eth0]:runs": ("fe80::1%eth0", "runs", ["-l", "me"]),
    "ssh://host/~/runs": ("host", "runs", []),
    "ssh://me@[::1]:2222/~/runs": ("::1", "runs", ["-l", "me", "-p", "2222"]),
    "ssh://host:2222/~/runs": ("host", "runs", ["-p", "2222"]),
    "host:runs/": ("host", "runs", []),
    "host:./runs//": ("host", "runs", []),
}


@pytest.mark.parametrize("source", list(FORMS))
def test_every_form_of_source_becomes_the_right_command(tmp_path: Path, mirror: Path, source: str) -> None:
    host, path, options = FORMS[source]
    home = tmp_path / "home"
    make_run(home / path)
    generate(home / path)
    (tmp_path / "recorder.py").write_text(RECORDER, encoding="utf-8")
    command = shlex.join([sys.executable, "-S", str(tmp_path / "recorder.py")])
    env = {"SEEN": str(tmp_path / "seen"), "REMOTE_HOME": str(home), "SFTP_SERVER": find_sftp_server()}
    sync(source, mirror, "--ssh", command, env=env).expect(0)
    assert (tmp_path / "seen").read_text(encoding="utf-8").split("\n") == [*options, "-s", "--", host, "sftp"]
    assert run_files(mirror) == run_files(home / path)


# -- causes and their codes ----------------------------------------------------------------


def test_unknown_host_key_is_code_5(server: Sshd, root: Path, mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "known").touch()
    command = [word.replace(str(server.known_hosts), str(tmp_path / "known")) for word in server.ssh_command]
    done = sync(f"{server.host}:{root}", mirror, "--ssh", shlex.join(command))
    done.refused(5, "host key", "hint: log in once")
    assert not run_files(mirror)


def test_changed_host_key_is_code_5(server: Sshd, root: Path, mirror: Path, tmp_path: Path) -> None:
    with Sshd() as other:
        line = other.access.host_key
    known = tmp_path / "known"
    known.write_text(f"[{server.host}]:{server.port} {line}\n", encoding="ascii")
    command = [word.replace(str(server.known_hosts), str(known)) for word in server.ssh_command]
    done = sync(f"{server.host}:{root}", mirror, "--ssh", shlex.join(command))
    done.refused(5, "host key", "hint: ")
    assert known.read_text(encoding="ascii").count("\n") == 1


def test_login_that_is_refused_is_code_4(server: Sshd, root: Path, mirror: Path) -> None:
    command = without(server.ssh_command, "IdentityFile") + " -o PubkeyAuthentication=no"
    sync(f"{server.host}:{root}", mirror, "--ssh", command).refused(
        4, "Permission denied", "hint: check the user"
    )


def test_connection_that_is_refused_is_code_4(server: Sshd, root: Path, mirror: Path) -> None:
    with socket.socket() as probe:
        probe.bind((server.host, 0))
        port = probe.getsockname()[1]
    command = without(server.ssh_command, "-p")
    done = sync(f"{server.host}:{root}", mirror, "--ssh", command, "--port", str(port))
    done.refused(4, "Connection refused", "hint: check the port")


def test_host_that_does_not_exist_is_code_4(root: Path, mirror: Path) -> None:
    done = sync(f"no-such-host.invalid:{root}", mirror, "--ssh", "ssh -F none -o BatchMode=yes")
    done.refused(4, "no-such-host.invalid", "hint: ")


def test_server_without_sftp_is_code_4(root: Path, mirror: Path) -> None:
    with Sshd(subsystem="/nonexistent/sftp-server") as server:
        sync(f"{server.host}:{root}", mirror, *over(server)).refused(4, "hint: ")


def test_ssh_program_that_does_not_exist_is_code_4(root: Path, mirror: Path) -> None:
    done = sync(f"host:{root}", mirror, "--ssh", "/no/such/ssh -x").refused(4, "/no/such/ssh", "hint: ")
    assert "No such file" in done.err


def test_shell_that_prints_is_code_4_and_explained(root: Path, mirror: Path) -> None:
    with Sshd(force_text="Welcome \x1b[31mto the cluster\n") as server:
        done = sync(f"{server.host}:{root}", mirror, *over(server))
    done.refused(4, "Welcome", "hint: `ssh HOST true` must print nothing")


def test_missing_root_over_ssh_is_code_6(server: Sshd, tmp_path: Path, mirror: Path) -> None:
    for method in ("auto", "manifest", "walk"):
        source = f"{server.host}:{tmp_path}/nowhere"
        done = sync(source, mirror, *over(server), "--method", method, "-q")
        done.refused(6, "nowhere", "hint: check the path")
    assert not run_files(mirror)


def test_verbose_shows_what_ssh_says_escaped(root: Path, mirror: Path) -> None:
    command = shlex.join(["sh", "-c", "printf 'evil \\033[31m line\\n' >&2; exit 255"])
    done = sync(f"host:{root}", mirror, "--ssh", command, "-v").expect(4)
    assert "\\x1b[31m line" in done.err


def test_json_of_a_lost_connection_is_one_object(root: Path, mirror: Path) -> None:
    done = sync(f"host:{root}", mirror, "--ssh", "false", "--json").refused(4)
    assert done.statistics["exit_code"] == 4
    assert set(done.statistics) == {"format_version", "error", "exit_code"}
