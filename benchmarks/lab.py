"""Where acts play: the scratch folder with its trees, and the program that is measured."""

from __future__ import annotations

import filecmp
import importlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.plan import Tree
from benchmarks.process import run
from testbed.trees import make_tree

OWN_FOLDER = ".runicorn"
LOGS = ("events.jsonl", "logs.txt")
ZSTD_LEVEL = 9
ARCHIVE_SECONDS = 300.0


@dataclass(frozen=True)
class Planted:
    """A root on the server, with its runs, and the sizes of their logs when it was made."""

    tree: Tree
    root: Path
    runs: Sequence[Path]
    logs: Mapping[Path, int]

    def restore(self) -> None:
        """Take back what runs have logged since, and what was published, so that all acts meet the same."""
        shutil.rmtree(self.root / OWN_FOLDER, ignore_errors=True)
        for log, size in self.logs.items():
            if log.stat().st_size > size:
                os.truncate(log, size)
                made = log.with_name("meta.json").stat().st_mtime_ns
                os.utime(log, ns=(made, made))


@dataclass
class Lab:
    """A scratch folder; nothing in it is removed before the end.

    File systems are slow to reuse what was just removed, and not equally slow to everybody.
    """

    scratch: Path
    program: str
    _planted: dict[Tree, Planted] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def plant(self, tree: Tree) -> Planted:
        """The tree, made at the first time, and as it was made."""
        if tree not in self._planted:
            root = self.scratch / tree.name
            runs = make_tree(root, tree.runs, files=tree.files, mix=tree.mix)
            logs = {run / name: (run / name).stat().st_size for run in runs for name in LOGS}
            self._planted[tree] = Planted(tree, root, runs, logs)
        self._planted[tree].restore()
        return self._planted[tree]

    def folder(self, name: str) -> Path:
        """A new folder."""
        made = self.scratch / f"{next(self._numbers)}-{name}"
        made.mkdir()
        return made

    def generate_command(self, root: Path) -> list[str]:
        """The command that publishes what `root` holds."""
        return [self.program, "generate-manifest", "--root", str(root)]

    def publish(self, planted: Planted) -> None:
        """Bring what the server publishes up to date, untimed.

        Prints why if that fails: the syncs then fail by themselves.
        """
        cost = run(self.generate_command(planted.root))
        if cost.trouble:
            print(f"generate-manifest: {cost.trouble}", file=sys.stderr)


def difference(root: Path, mirror: Path) -> str:
    """How the run files of a mirror differ from their source; empty if they do not."""
    expected, found = set(run_files(root)), set(run_files(mirror))
    if expected != found:
        missing, extra = sorted(expected - found), sorted(found - expected)
        return f"{len(missing)} files missing {missing[:1]}, {len(extra)} too many {extra[:1]}"
    _, different, unread = filecmp.cmpfiles(root, mirror, expected, shallow=False)
    return f"{len(different + unread)} files differ {(different + unread)[:1]}" if different or unread else ""


def run_files(root: Path) -> list[str]:
    """The paths of all files below `root` but those of its `.runicorn`."""
    found = []
    for folder, folders, names in os.walk(root):
        if Path(folder) == root and OWN_FOLDER in folders:
            folders.remove(OWN_FOLDER)
        found += [os.path.relpath(f"{folder}/{name}", root) for name in names]
    return found


def compress_files(root: Path, target: Path) -> None:
    """Write the contents of all run files, compressed as one, to `target`."""
    with target.open("wb") as out:
        compressor = _zstd().ZstdCompressor(level=ZSTD_LEVEL)
        for path in sorted(run_files(root)):
            out.write(compressor.compress((root / path).read_bytes()))
        out.write(compressor.flush())


def archive_files(root: Path, target: Path) -> None:
    """Write all run files to `target` as an archive, compressed by zstd."""
    packing = ["tar", "-c", "-C", str(root), f"--exclude=./{OWN_FOLDER}", "-f", "-", "."]
    with subprocess.Popen(packing, stdout=subprocess.PIPE) as tar:
        command = ["zstd", f"-{ZSTD_LEVEL}", "--quiet", "--force", "-o", str(target)]
        subprocess.run(command, stdin=tar.stdout, check=True, timeout=ARCHIVE_SECONDS)
    assert not tar.returncode, f"tar ended with {tar.returncode}"


def _zstd() -> Any:
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
