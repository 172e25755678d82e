"""The programs of a lab work together: training, server, client, analysis, and the nightly script."""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicorn.manifest import ManifestGenerator
from testbed.embedded import EmbeddedServer
from testbed.trees import make_tree

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SECONDS = 40.0
STEPS = 60


class Program:
    """An example that runs until it is told to stop; its lines come as they are printed."""

    def __init__(self, name: str, *arguments: str | Path, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, EXAMPLES / name, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | (environment or {}),
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    def wait_for(self, text: str) -> str:
        """The next line with a text in it."""
        seen = []
        while True:
            line = self._lines.get(timeout=SECONDS)
            seen.append(line)
            if text in line:
                return line
            assert line, f"it ended without {text!r}: {seen}"

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        return self._process.wait(SECONDS)

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait(SECONDS)
        self._reader.join(SECONDS)


@contextlib.contextmanager
def _running(
    name: str, *arguments: str | Path, environment: dict[str, str] | None = None
) -> Iterator[Program]:
    program = Program(name, *arguments, environment=environment)
    try:
        yield program
    finally:
        program.close()


def _run(command: list[str | Path], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | (environment or {}),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _analysis(mirror: Path) -> list[list[str]]:
    return [line.split() for line in _run([sys.executable, EXAMPLES / "analysis.py", mirror]).splitlines()]


@pytest.mark.timeout(90)
def test_runs_of_a_training_arrive_live_and_are_analysed_while_they_sync(tmp_path: Path) -> None:
    roots = [tmp_path / "served" / name for name in ("one", "two")]
    make_tree(roots[0], 1, files=6)
    make_tree(roots[1], 2, files=6)
    mirrors = tmp_path / "mirrors"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(tmp_path / "served"))
        ssh = {"RUNICORN_SSH": server.ssh_to_any_host}
        publishers = [stack.enter_context(_running("server.py", root)) for root in roots]
        for publisher, runs in zip(publishers, ("1 runs", "2 runs"), strict=True):
            assert runs in publisher.wait_for("revision 1:")
        client = stack.enter_context(
            _running("client.py", mirrors, "gpu1:/one", "gpu1:/two", environment=ssh)
        )
        begun = {client.wait_for("files, 0 failed, by journal").rpartition(":")[0] for _ in roots}
        assert begun == {"gpu1:/one", "gpu1:/two"}
        before = {row[0] for row in _analysis(mirrors / "gpu1-one")}

        train: list[str | Path] = [
            sys.executable,
            EXAMPLES / "train.py",
            roots[0],
            "--steps",
            str(STEPS),
            "--pause",
            "0.01",
        ]
        training = stack.enter_context(subprocess.Popen(train))
        stack.callback(training.kill)
        client.wait_for("gpu1:/one:")
        assert training.wait(SECONDS) == 0
        while True:
            new = [row for row in _analysis(mirrors / "gpu1-one") if row[0] not in before]
            if new and new[0][1] == "finished":
                break
            client.wait_for("gpu1:/one:")
        assert [row[1:4] for row in new] == [["finished", "step", str(STEPS - 1)]]
        assert client.stop() == 0
        assert [publisher.stop() for publisher in publishers] == [0, 0]


def test_client_tells_what_cannot_pass_by_itself_and_ends(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    with EmbeddedServer(tmp_path / "served") as server:
        ssh = {"RUNICORN_SSH": server.ssh_to_any_host}
        with _running("client.py", tmp_path / "mirrors", "gpu1:/nothing", environment=ssh) as client:
            assert "(exit code 6)" in client.wait_for("gpu1:/nothing: there is no folder")
            assert client.wait() == 1


def test_server_tells_what_is_wrong_with_its_root(tmp_path: Path) -> None:
    with _running("server.py", tmp_path / "nothing") as publisher:
        publisher.wait_for("nothing")
        assert publisher.wait() == 1


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """The environment of cron: `runicorn` is on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "runicorn").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m runicorn "$@"\n')
    (folder / "runicorn").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def _without_jitter(tmp_path: Path) -> Path:
    text = (EXAMPLES / "nightly.sh").read_text(encoding="utf-8")
    assert "--jitter 60" in text
    copy = tmp_path / "nightly.sh"
    copy.write_text(text.replace("--jitter 60", "--jitter 0"), encoding="utf-8")
    return copy


def _rot(path: Path) -> None:
    """Change a file as bits that rot do, which a sync does not look for."""
    before = path.stat()
    path.write_bytes(b"?" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_nightly_script_syncs_proves_and_keeps_a_copy(tmp_path: Path, programs: dict[str, str]) -> None:
    root, mirror, backups = tmp_path / "root", tmp_path / "mirror", tmp_path / "backups"
    (run,) = make_tree(root, 1, files=6)
    ManifestGenerator(root).generate()
    script = _without_jitter(tmp_path)
    assert _run(["sh", script, root, mirror, backups], programs) == ""  # cron mails whatever is said
    damaged = mirror / run.relative_to(root) / "summary.json"
    _rot(damaged)
    _run(["sh", script, root, mirror, backups], programs)
    (archive,) = backups.iterdir()
    with tarfile.open(archive) as opened:
        kept = opened.extractfile(f"./{damaged.relative_to(mirror)}")
        assert kept is not None
        assert kept.read() == (run / "summary.json").read_bytes()


def test_nightly_script_says_why_it_keeps_no_copy_of_a_mirror_that_cannot_be_repaired(
    tmp_path: Path, programs: dict[str, str]
) -> None:
    root, mirror, backups = tmp_path / "root", tmp_path / "mirror", tmp_path / "backups"
    (run,) = make_tree(root, 1, files=6)
    ManifestGenerator(root).generate()
    script = _without_jitter(tmp_path)
    _run(["sh", script, root, mirror, backups], programs)
    _rot(mirror / run.relative_to(root) / "summary.json")
    (run / "summary.json").unlink()
    shutil.rmtree(backups)
    done = subprocess.run(
        ["sh", script, root, mirror, backups],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | programs,
        timeout=SECONDS,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert "no backup: the mirror could not be proven" in done.stderr
    assert not backups.exists()


def test_nightly_script_keeps_no_copy_when_the_source_is_gone(
    tmp_path: Path, programs: dict[str, str]
) -> None:
    done = subprocess.run(
        ["sh", _without_jitter(tmp_path), tmp_path / "nothing", tmp_path / "mirror", tmp_path / "backups"],
        check=False,
        capture_output=True,
        env=os.environ | programs,
        timeout=SECONDS,
    )
    assert done.returncode == 6
    assert not (tmp_path / "backups").exists()
