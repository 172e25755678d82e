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

APPEND_FACTOR = 1.2
APPEND_ALLOWANCE = 64 * 1024


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
    bytes_allowed: int | None
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
                appended = change_runs(runs, repetition) if scene == CHANGED else None
                publish(generate)
                allowed = None if appended is None else _bytes_allowed(root, appended)
                for contender in ours:
                    mirror = mirrors / contender.method
                    mirror.mkdir(parents=True, exist_ok=True)
                    reset_counts(counts)
                    trouble = run(contender.command(source, mirror)).trouble
                    trouble = trouble or difference(root, mirror)
                    found.append(_counted(contender.name, scene, read_counts(counts), allowed, trouble))
    return found


def _bytes_allowed(root: Path, appended: int) -> int:
    """What a sync of appended bytes may receive: them, the manifest, and a little."""
    manifest = root / ".runicorn" / "full_manifest.json.gz"
    return round(APPEND_FACTOR * appended) + manifest.stat().st_size + APPEND_ALLOWANCE


def _counted(contender: str, scene: str, counts: Counts, bytes_allowed: int | None, trouble: str) -> Counted:
    return Counted(
        contender,
        scene,
        counts.total,
        dict(counts.requests),
        counts.changing,
        counts.sessions,
        counts.bytes_up,
        counts.bytes_down,
        bytes_allowed,
        trouble or ("" if counts.sessions else "reached no SFTP server"),
    )
