"""What all steps of the demo share: the folders, the server, the trainer, and how commands are run."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.trainer import LOGS, Trainer
from testbed.embedded import EmbeddedServer

HOST_NAME = "gpu1"
REMOTE_ROOT = "/data/experiments"
COMMAND_SECONDS = 60.0


class DemoError(Exception):
    """A step did not do what it says."""


@dataclass(frozen=True)
class Growth:
    """What the logs on the server have more than those in the mirror.

    Attributes:
        complete: bytes up to the last record boundary of each log.
        unfinished: bytes after it.
        logs: how many logs have grown.
    """

    complete: int
    unfinished: int
    logs: int


class Scene:
    """The stage of one demo, below `folder`; what it starts ends with `stack`."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.served = folder / "server"
        self.root = folder / "server" / REMOTE_ROOT.lstrip("/")
        self.mirror = folder / "mirror"
        self.root.mkdir(parents=True)
        self._stack = stack
        self._server: EmbeddedServer | None = None
        self._trainer: Trainer | None = None

    @property
    def server(self) -> EmbeddedServer:
        """The SFTP server; it shows `served` as `/`, so that the root is REMOTE_ROOT."""
        if self._server is None:
            self._server = self._stack.enter_context(EmbeddedServer(self.served))
        return self._server

    @property
    def trainer(self) -> Trainer:
        """The process that lets runs go on."""
        assert self._trainer is not None, "no training has been started"
        return self._trainer

    def start_training(self, runs: list[Path]) -> None:
        """Let some runs go on from now."""
        self._trainer = self._stack.enter_context(Trainer(runs))

    def generate_manifest(self) -> str:
        """`runicorn generate-manifest`, shown; returns what it printed."""
        return self._run(["generate-manifest", "--root", str(self.root)])

    def sync(self) -> dict[str, Any]:
        """`runicorn sync --json`, shown; returns the report."""
        printed = self._run(["sync", f"{HOST_NAME}:{REMOTE_ROOT}", str(self.mirror), "--json"])
        report: dict[str, Any] = json.loads(printed)
        return report

    def growth(self) -> Growth:
        """What a sync has to append; the trainer must stand still."""
        complete = unfinished = logs = 0
        for path in self.files():
            held = self.mirror / path
            if path.name in LOGS and held.exists():
                content = (self.root / path).read_bytes()
                boundary = content.rfind(b"\n") + 1
                more = boundary - held.stat().st_size
                complete, unfinished = complete + more, unfinished + len(content) - boundary
                logs += more > 0
        return Growth(complete, unfinished, logs)

    def files(self) -> list[Path]:
        """All files of runs on the server, relative to the root."""
        found = (path for path in self.root.rglob("*") if path.is_file())
        relative = (path.relative_to(self.root) for path in found)
        return sorted(path for path in relative if not any(part.startswith(".") for part in path.parts))

    def differences(self, *, to_the_last_byte: bool = False) -> list[str]:
        """The files whose copies in the mirror are not equal; the trainer must stand still.

        A copy of a log may lack the record that is not complete yet, unless `to_the_last_byte`.
        """
        return [str(path) for path in self.files() if not self._is_equal(path, to_the_last_byte)]

    def _is_equal(self, path: Path, to_the_last_byte: bool) -> bool:
        copy, content = self.mirror / path, (self.root / path).read_bytes()
        if not copy.exists():
            return False
        if path.name in LOGS and not to_the_last_byte:
            content = content[: content.rfind(b"\n") + 1]
        return copy.read_bytes() == content

    def _run(self, arguments: list[str]) -> str:
        shown = [each.replace(f"{self.folder}/", "") for each in arguments]
        print(f"   $ runicorn {shlex.join(shown)}", flush=True)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "runicorn", *arguments],
                check=False,
                env=os.environ | {"RUNICORN_SSH": self.server.ssh_to_any_host},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"the command did not end within {COMMAND_SECONDS:g} s") from error
        if done.returncode != 0:
            said = done.stdout + done.stderr
            raise DemoError(f"the command ended with exit code {done.returncode}:\n{said}")
        return done.stdout


def say(text: str) -> None:
    """Tell what a step has found."""
    print(f"   {text}", flush=True)


def require(holds: bool, otherwise: str) -> None:
    """Check what a step says.

    Raises:
        DemoError: it does not hold.
    """
    if not holds:
        raise DemoError(otherwise)
