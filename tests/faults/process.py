"""The real command as a process of its own, and what can be said of it and of folders afterwards."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runicorn.cli import main
from runicorn.manifest import ManifestGenerator, ManifestType
from testbed.sshd import Sshd

PROJECT_ROOT = Path(__file__).resolve().parents[2]
ROOM = 700 * 1024**2
"""Bytes of address space that suffice for what any server holds; the command's modules take half of it."""

COMMAND = (sys.executable, "-m", "runicorn")
TIMEOUT = 60.0
_RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines on stderr."""
        return self.err.splitlines()

    @property
    def statistics(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.out.count("\n") == 1, self.out
        return dict(json.loads(self.out))

    def expect(self, code: int) -> Done:
        """It ended with this exit code, and showed neither a traceback nor raw control characters."""
        assert self.code == code, f"exit code {self.code} in place of {code}\n{self.out}{self.err}"
        assert "Traceback" not in self.err
        assert "internal error" not in self.err
        assert not _RAW.search(self.out), repr(self.out)
        assert not _RAW.search(self.err), repr(self.err)
        return self

    def refused(self, code: int, *words: str) -> Done:
        """It ended with this exit code, and with one line on stderr, maybe followed by a hint."""
        self.expect(code)
        assert self.lines, "nothing was said"
        assert self.lines[0].startswith("runicorn: "), self.err
        assert [line[:6] for line in self.lines[1:]] in ([], ["hint: "]), self.err
        for word in words:
            assert word in self.err, f"{word!r} is not in: {self.err}"
        return self


def environment(**changes: str) -> dict[str, str]:
    """The environment of this process, without what would steer the command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNICORN_")}
    return kept | {"PYTHONPATH": str(PROJECT_ROOT), "LC_ALL": "C.UTF-8"} | changes


def runicorn(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, room: int = 0
) -> Done:
    """Run the command to its end, with so many bytes of address space, or as many as it likes."""
    limited = ["sh", "-c", f'ulimit -v {room // 1024}; exec "$@"', "sh"] if room else []
    done = subprocess.run(
        [*limited, *COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(**(env or {})),
        cwd=cwd,
        timeout=TIMEOUT,
        check=False,
    )
    text = (done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode("utf-8", "surrogateescape"))
    return Done(done.returncode, *text)


def sync(*arguments: str | Path, **options: Any) -> Done:
    """Run `runicorn sync`."""
    return runicorn("sync", *arguments, **options)


def sync_here(*arguments: str | Path, **_options: Any) -> Done:
    """Run `runicorn sync` in this process, for long tables; log lines are not seen."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["sync", *map(str, arguments)])
    return Done(code, out.getvalue(), err.getvalue())


def over(server: Sshd) -> tuple[str, str]:
    """The options that reach a server of the testbed."""
    return ("--ssh", shlex.join(server.ssh_command))


def generate(root: Path, kind: ManifestType = ManifestType.FULL, *, journal: bool = True) -> dict[str, Any]:
    """Publish what a root holds, and give the manifest as a document."""
    ManifestGenerator(root, journal=journal).generate(kind)
    text = (root / f".runicorn/{kind.value}_manifest.json").read_bytes()
    return dict(json.loads(text))


def snapshot(folder: Path, *, without: Sequence[Path] = ()) -> dict[str, bytes | str]:
    """All that lies in a folder: content of files, targets of links, modes of what is neither."""
    found: dict[str, bytes | str] = {}
    todo = [folder]
    while todo:
        for path in sorted(todo.pop().iterdir()):
            if path in without:
                continue
            mode = path.lstat().st_mode
            name = os.fsdecode(os.path.relpath(path, folder))
            if stat.S_ISDIR(mode):
                found[name] = "folder"
                todo.append(path)
            elif stat.S_ISREG(mode):
                found[name] = path.read_bytes()
            else:
                found[name] = str(path.readlink()) if stat.S_ISLNK(mode) else oct(mode)
    return found


def run_files(folder: Path) -> dict[str, bytes]:
    """The content of the files of runs in a root or mirror, by the one rule that matters here."""
    found = snapshot(folder, without=[folder / ".runicorn"]) if folder.exists() else {}
    return {name: content for name, content in found.items() if isinstance(content, bytes)}


def left_behind(mirror: Path) -> list[str]:
    """What a sync left in its staging folder."""
    staging = mirror / ".runicorn/staging"
    return sorted(path.name for path in staging.iterdir()) if staging.is_dir() else []
