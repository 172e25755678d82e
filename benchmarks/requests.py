"""The untimed part: requests and bytes of each scene, counted at the server, without a slow line."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Runicorn, Source
from benchmarks.process import run
from benchmarks.scenes import CHANGED, SCENES, change_runs, difference, publish
from testbed.counting import Counts, read_counts, reset_counts, subsystem_command
from testbed.sshd import Sshd


@dataclass(frozen=True)
class Counted:
    """What the server saw of one sync; bytes are those of the SFTP streams, before encryption."""

    contender: str
    scene: str
    requests: int
    by_type: dict[str, int]
    changing: int
    sessions: int
    bytes_up: int
    bytes_down: int
    trouble: str


def count(
    root: Path, runs: Sequence[Path], ours: Sequence[Runicorn], generate: Sequence[str], repetition: int
) -> list[Counted]:
    """Sync every scene once by each of `ours`, into new mirrors, and count.

    `repetition` chooses what changes.
    """
    found = []
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        counts, mirrors = Path(scratch, "counts"), Path(scratch, "mirrors")
        counts.mkdir()
        with Sshd(subsystem=subsystem_command(counts)) as server:
            source = Source(root, server.access, server.port)
            for scene in SCENES:
                if scene == CHANGED:
                    change_runs(runs, repetition)
                publish(generate)
                for contender in ours:
                    mirror = mirrors / contender.method
                    mirror.mkdir(parents=True, exist_ok=True)
                    reset_counts(counts)
                    trouble = run(contender.command(source, mirror)).trouble
                    trouble = trouble or difference(root, mirror)
                    found.append(_counted(contender.name, scene, read_counts(counts), trouble))
    return found


def _counted(contender: str, scene: str, counts: Counts, trouble: str) -> Counted:
    return Counted(
        contender,
        scene,
        counts.total,
        dict(counts.requests),
        counts.changing,
        counts.sessions,
        counts.bytes_up,
        counts.bytes_down,
        trouble or ("" if counts.sessions else "reached no SFTP server"),
    )
