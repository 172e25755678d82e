"""The untimed part: requests and bytes of each scene, counted at the server, behind the slow line."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from benchmarks.contenders import PARAMIKO, SSH, Contender, Library, Runicorn, Source
from benchmarks.generating import generate_command
from benchmarks.large import Tree
from benchmarks.process import run
from benchmarks.scenes import CHANGED, FIRST, SCENES, UNCHANGED, Appended, change_runs, difference, publish
from testbed.counting import read_counts, reset_counts, subsystem_command
from testbed.proxy import DelayProxy
from testbed.sshd import Sshd

APPEND_FACTOR, APPEND_ALLOWANCE = 1.2, 64 * 1024
ZLIB_FACTOR, ZLIB_ALLOWANCE = 1.1, 8 * 1024
POLL = "poll"
# Syncs over one connection; what the further ones cost is the difference.
POLLED = (1, 2, 3, 8)


@dataclass(frozen=True)
class Allowed:
    """What a sync of appended logs may receive: `plain` by their size, `compressed` by their zlib size."""

    plain: int
    compressed: int


@dataclass(frozen=True)
class Counted:
    """What the server saw of one sync; bytes are those of the SFTP streams, before encryption.

    `runs` is the number of runs of the tree. Of a poll, `requests` is the most that one sync beside the first
    of its connection took, the other numbers are those of the second sync, and `seconds` is the median time.
    """

    contender: str
    scene: str
    runs: int
    requests: int
    by_type: dict[str, int]
    changing: int
    sessions: int
    bytes_up: int
    bytes_down: int
    allowed: Allowed | None
    seconds: float | None
    trouble: str


@dataclass(frozen=True)
class Desk:
    """Where one tree is synced and its requests are counted: `counts` and `mirrors` are folders."""

    tree: Tree
    source: Source
    counts: Path
    mirrors: Path

    def count(
        self, contender: Contender, scene: str, mirror: Path, allowed: Allowed | None = None
    ) -> Counted:
        """Sync once, count, and compare the mirror with the source."""
        found = self._raw(contender, scene, mirror)
        trouble = found.trouble or difference(self.tree.root, mirror)
        return replace(found, allowed=allowed, trouble=trouble)

    def poll(self, method: str, through: str, mirror: Path) -> Counted:
        """What one more sync over an open connection costs when nothing has changed."""
        times = self.mirrors / "times.json"
        found = [self._raw(Library(method, through, number, times), POLL, mirror) for number in POLLED]
        further = [more - fewer for fewer, more in pairwise(POLLED)]
        requests = [more.requests - fewer.requests for fewer, more in pairwise(found)]
        first, second = found[0], found[1]
        trouble = next((one.trouble for one in found if one.trouble), "")
        return replace(
            second,
            requests=math.ceil(max(all_ / syncs for all_, syncs in zip(requests, further, strict=True))),
            by_type=dict(Counter(second.by_type) - Counter(first.by_type)),
            bytes_up=second.bytes_up - first.bytes_up,
            bytes_down=second.bytes_down - first.bytes_down,
            seconds=None if trouble else statistics.median(json.loads(times.read_bytes())[1:]),
            trouble=trouble,
        )

    def _raw(self, contender: Contender, scene: str, mirror: Path) -> Counted:
        """Run one contender and count, without a look at the mirror."""
        mirror.mkdir(parents=True, exist_ok=True)
        reset_counts(self.counts)
        trouble = run(contender.command(self.source, mirror)).trouble
        counts = read_counts(self.counts)
        return Counted(
            contender.name,
            scene,
            len(self.tree.runs),
            counts.total,
            dict(counts.requests),
            counts.changing,
            counts.sessions,
            counts.bytes_up,
            counts.bytes_down,
            None,
            None,
            trouble or ("" if counts.sessions else "reached no SFTP server"),
        )


def count(
    tree: Tree, ours: Sequence[Runicorn], repetition: int, rtt: float, *, mirror: Path | None = None
) -> Iterator[Counted]:
    """Sync every scene once by each of `ours`, into new mirrors, and count; `rtt` in seconds.

    The first of `ours` also syncs first through a paramiko client, and polls. With a `mirror` that is up to
    date the first syncs are left out, and it is used. `repetition` chooses what changes.
    """
    counts = tree.root.with_name(f"{tree.root.name}-counts")
    counts.mkdir()
    with (
        Sshd(subsystem=subsystem_command(counts)) as server,
        DelayProxy(server.port, rtt=rtt) as proxy,
    ):
        mirrors = tree.root.with_name(f"{tree.root.name}-counted")
        mirrors.mkdir()
        desk = Desk(tree, Source(tree.root, server.access, proxy.port), counts, mirrors)
        for scene in SCENES if mirror is None else (UNCHANGED, CHANGED):
            appended = change_runs(tree.runs, repetition) if scene == CHANGED else None
            publish(generate_command(ours[0].program, tree.root))
            allowed = None if appended is None else _allowed(tree.root, appended)
            for contender in ours:
                yield desk.count(contender, scene, mirror or mirrors / contender.method, allowed)
            yield from _by_programs(desk, ours[0].method, scene, mirror)


def _by_programs(desk: Desk, method: str, scene: str, mirror: Path | None) -> Iterator[Counted]:
    if scene == FIRST:
        yield desk.count(Library(method, PARAMIKO), FIRST, desk.mirrors / PARAMIKO)
    if scene == UNCHANGED:
        for through in (SSH, PARAMIKO):
            yield desk.poll(method, through, mirror or desk.mirrors / method)


def _allowed(root: Path, appended: Appended) -> Allowed | None:
    manifest = root / ".runicorn" / "full_manifest.json.gz"
    if not manifest.exists():
        return None
    return Allowed(
        round(APPEND_FACTOR * appended.plain) + manifest.stat().st_size + APPEND_ALLOWANCE,
        round(ZLIB_FACTOR * appended.compressed) + ZLIB_ALLOWANCE,
    )
