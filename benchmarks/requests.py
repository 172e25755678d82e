"""The untimed part: requests and bytes of each scene, counted at the server, behind the slow line."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from benchmarks.contenders import JOURNAL, PARAMIKO, SSH, Contender, Library, Source, own_name
from benchmarks.lab import Lab, Planted, difference
from benchmarks.plan import Requests
from benchmarks.process import run
from benchmarks.results import Allowed, Counted
from benchmarks.scenes import (
    CHANGED,
    FIRST,
    SCENES,
    UNCHANGED,
    Appended,
    Tell,
    change_runs,
    contender_by_name,
)
from testbed.counting import read_counts, reset_counts, subsystem_command
from testbed.proxy import DelayProxy
from testbed.sshd import Sshd

APPEND_FACTOR, APPEND_ALLOWANCE = 1.2, 64 * 1024
ZLIB_FACTOR, ZLIB_ALLOWANCE = 1.1, 8 * 1024
POLL = "nothing changed, session open"
# Syncs over one connection; what the further ones cost is the difference.
POLLED = (1, 2, 3, 8)


@dataclass(frozen=True)
class Desk:
    """Where one tree is synced and its requests are counted: `counts` and `mirrors` are folders."""

    planted: Planted
    source: Source
    counts: Path
    mirrors: Path

    def count(self, contender: Contender, scene: str, allowed: Allowed | None = None) -> Counted:
        """Sync once, count, and compare the mirror with the source."""
        mirror = self.mirror(contender.name)
        found = self._raw(contender, scene, mirror)
        trouble = found.trouble or difference(self.planted.root, mirror)
        return replace(found, allowed=allowed, trouble=trouble)

    def mirror(self, name: str) -> Path:
        """The mirror of a contender."""
        return self.mirrors / name.replace(" ", "_").replace(",", "")

    def poll(self, through: str) -> Counted:
        """What one more sync by journal over an open connection costs when nothing has changed."""
        times, mirror = self.mirrors / "times.json", self.mirror(own_name(JOURNAL))
        found = [self._raw(Library(JOURNAL, through, number, times), POLL, mirror) for number in POLLED]
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
            counts.total,
            dict(counts.requests),
            counts.changing,
            counts.sessions,
            counts.bytes_up,
            counts.bytes_down,
            trouble=trouble or ("" if counts.sessions else "reached no SFTP server"),
        )


def count(lab: Lab, act: Requests, tell: Tell) -> Iterator[Counted]:
    """Sync every scene once by each contender, into new mirrors, and count.

    Where polls are asked for, the journal also syncs first through a paramiko client, and polls.
    """
    planted = lab.plant(act.tree)
    counts = lab.folder("counts")
    with (
        Sshd(subsystem=subsystem_command(counts)) as server,
        DelayProxy(server.port, rtt=act.line.rtt, rate=act.line.rate) as proxy,
    ):
        source = Source(planted.root, server.access, proxy.port)
        desk = Desk(planted, source, counts, lab.folder("counted"))
        for scene in SCENES:
            appended = change_runs(planted.runs, 0) if scene == CHANGED else None
            lab.publish(planted)
            allowed = None if appended is None else _allowed(planted.root, appended)
            for name in act.contenders:
                tell(f"counting: {scene}, {name}")
                yield desk.count(contender_by_name(name, lab.program, Path()), scene, allowed)
            if act.has_polls:
                yield from _by_programs(desk, scene)


def _by_programs(desk: Desk, scene: str) -> Iterator[Counted]:
    if scene == FIRST:
        yield desk.count(Library(JOURNAL, PARAMIKO), FIRST)
    if scene == UNCHANGED:
        for through in (SSH, PARAMIKO):
            yield desk.poll(through)


def _allowed(root: Path, appended: Appended) -> Allowed | None:
    manifest = root / ".runicorn" / "full_manifest.json.gz"
    if not manifest.exists():
        return None
    return Allowed(
        round(APPEND_FACTOR * appended.plain) + manifest.stat().st_size + APPEND_ALLOWANCE,
        round(ZLIB_FACTOR * appended.compressed) + ZLIB_ALLOWANCE,
    )
