"""Sentinels of the documents and what they stand for here, in an `Arena`.

- ``/data/experiments`` on the server, and where a host name stands in front of it: 24 runs in a temporary
  folder, which an embedded server shows under that very path;
- any host, user, port, identity and jump host: that server (the ``ssh`` on the PATH sees to it; paramiko's
  ``connect`` likewise);
- ``/usr/local/bin/``: where this environment's programs lie; the working folder and ``~``: temporary folders.
- ``--jitter``: no waiting.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from runicorn.manifest import ManifestGenerator
from testbed.embedded import EmbeddedServer
from testbed.trees import make_tree
from tests.docs.pages import COMMAND_SECONDS

SENTINEL = "/data/experiments"

_DROP_JUMP_HOSTS = """#!/bin/sh
skip=
for argument do
  shift
  if [ "$skip" ]; then skip=; elif [ "$argument" = -J ]; then skip=1; else set -- "$@" "$argument"; fi
done
"""


class Arena:
    """A server as the documents speak of it, and a client's home; see the head of this module.

    Tree and server are made once; for each user of them nothing is published yet, and the home is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "served" / SENTINEL.lstrip("/")
        self.programs = folder / "bin"
        for each in (self.root, self.programs):
            each.mkdir(parents=True)
        make_tree(self.root, 24, files=6, running=4)
        self._served = folder / "served"

    @contextlib.contextmanager
    def serve(self) -> Iterator[Arena]:
        """Serve the root, and make the programs that lead to it."""
        with EmbeddedServer(self._served) as server:
            self.server = server
            ssh = f'exec /usr/bin/env PATH="$RUNICORN_TEST_PATH" {server.ssh_to_any_host} "$@"\n'
            self._make_program("ssh", _DROP_JUMP_HOSTS + ssh)
            self._make_program(
                "runicorn", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m runicorn "$@"\n'
            )
            self._make_program("python3", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
            yield self

    def begin(self, folder: Path) -> None:
        """Give a client a new home below `folder`, and forget what was published."""
        self.work, self.home = folder / "work", folder / "home"
        for each in (self.work, self.home):
            each.mkdir()
        shutil.rmtree(self.root / ".runicorn", ignore_errors=True)

    def publish(self) -> None:
        """Publish a full manifest."""
        ManifestGenerator(self.root).generate()

    def here(self, text: str) -> str:
        """A command with the server's paths as they are on this machine."""
        local = re.sub(r"(?<![\w:.\]/-])" + SENTINEL, str(self.root), text)
        local = re.sub(r"--jitter \d+", "--jitter 0", local)
        return local.replace("/usr/local/bin/", f"{self.programs}/")

    def run(self, command: str) -> str:
        """Run a command line of a document; returns its output, with the document's paths."""
        path = os.environ["PATH"]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(command)],
            check=False,
            cwd=self.work,
            env={
                "PATH": f"{self.programs}:{path}",
                "RUNICORN_TEST_PATH": path,
                "HOME": str(self.home),
                "COLUMNS": "80",
                "LC_ALL": "C.UTF-8",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"{command!r} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout.replace(str(self.root), SENTINEL)

    def _make_program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
