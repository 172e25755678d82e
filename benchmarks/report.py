"""Tables for people and a JSON file for comparing runs."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, median_seconds
from benchmarks.contenders import RCLONE, RSYNC
from benchmarks.generating import Generation
from benchmarks.large import many_scene
from benchmarks.live import Live
from benchmarks.requests import Counted
from benchmarks.scenes import Sample

RESULTS = Path(__file__).with_name("results")


def sync_table(samples: Sequence[Sample]) -> list[str]:
    """Times, ratios to rsync and rclone, bytes and memory of every contender in every scene."""
    lines = []
    for scene in dict.fromkeys(sample.scene for sample in samples):
        names = dict.fromkeys(sample.contender for sample in samples if sample.scene == scene)
        head = f"{scene:<40} {'median':>8} {'least - most':>17} {'times':>5} {'x rsync':>8} {'x rclone':>9}"
        lines += ["", f"{head} {'MB in':>8} {'MB out':>8} {'CPU s':>7} {'MB mem':>7}"]
        lines += [_sync_line(samples, name, scene) for name in names]
    return lines


def _sync_line(samples: Sequence[Sample], name: str, scene: str) -> str:
    chosen = [sample for sample in samples if (sample.contender, sample.scene) == (name, scene)]
    troubles = [sample.cost.trouble for sample in chosen if sample.cost.trouble]
    if troubles:
        return f"  {name:<38} FAILED {len(troubles)} of {len(chosen)}: {_ending(troubles[0])}"
    seconds = [sample.cost.seconds for sample in chosen]
    ratios = [_ratio(samples, name, other, scene) for other in (RSYNC, RCLONE)]
    down, up = (statistics.median(bytes_) / 1e6 for bytes_ in _bytes(chosen))
    cpu = statistics.median(sample.cost.cpu_seconds for sample in chosen)
    memory = max(sample.cost.peak_bytes for sample in chosen) / 1e6
    spread = f"{min(seconds):.2f} - {max(seconds):.2f} s"
    return (
        f"  {name:<38} {statistics.median(seconds):>6.2f} s {spread:>17} {len(seconds):>5} "
        f"{ratios[0]:>8} {ratios[1]:>9} {down:>8.3f} {up:>8.3f} {cpu:>7.2f} {memory:>7.0f}"
    )


def _bytes(samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
    return [sample.bytes_down for sample in samples], [sample.bytes_up for sample in samples]


def _ratio(samples: Sequence[Sample], name: str, other: str, scene: str) -> str:
    mine, theirs = (median_seconds(samples, each, scene) for each in (name, other))
    return "-" if mine is None or theirs is None else f"{mine / theirs:.2f}"


def request_table(counted: Sequence[Counted]) -> list[str]:
    """Requests by type and bytes of the SFTP streams, one line per sync."""
    lines = ["", f"{'requests at the server':<74} {'requests':>8} {'MB in':>9} {'MB out':>8}  types"]
    for each in counted:
        label = f"  {each.contender}, {many_scene(each.scene, each.runs)}"
        if each.trouble:
            lines.append(f"{label:<74} FAILED {_ending(each.trouble)}")
            continue
        types = ", ".join(f"{name} {number}" for name, number in sorted(each.by_type.items()))
        amounts = f"{each.requests:>8,} {each.bytes_down / 1e6:>9.3f} {each.bytes_up / 1e6:>8.3f}"
        took = "" if each.seconds is None else f"; {each.seconds:.3f} s"
        lines.append(f"{label:<74} {amounts}  {types}{took}")
        if each.changing:
            lines.append(f"    {each.changing} of them would have changed the server")
    return lines


def generation_table(generations: Sequence[Generation]) -> list[str]:
    """Time and memory of generate-manifest as a whole process."""
    head = f"{'generate-manifest':<30} {'first':>8} {'unchanged, median':>18} {'times':>5} {'MB mem':>7}"
    lines = ["", head]
    for each in generations:
        label = f"  {each.runs:,} runs of {each.files} files"
        troubles = [cost.trouble for cost in (each.first, *each.unchanged) if cost.trouble]
        if troubles:
            lines.append(f"{label:<30} FAILED {_ending(troubles[0])}")
            continue
        median = statistics.median(cost.seconds for cost in each.unchanged)
        memory = max(cost.peak_bytes for cost in (each.first, *each.unchanged)) / 1e6
        times = len(each.unchanged)
        lines.append(f"{label:<30} {each.first.seconds:>6.2f} s {median:>16.3f} s {times:>5} {memory:>7.0f}")
    return lines


def live_table(live: Live) -> list[str]:
    """Delays of lines while both sides watch, and what the two processes cost."""
    lines, idle = live.lines, live.idle
    table = ["", f"live, {live.runs:,} runs, both sides watching"]
    if lines is not None:
        table += [
            f"  {lines.lines:,} lines in {lines.seconds:.1f} s, from the server's disk to the mirror: median "
            f"{lines.p50:.2f} s, p95 {lines.p95:.2f} s, longest {lines.longest:.2f} s",
            f"  {lines.torn} torn, {lines.lost} lost, {lines.doubled} doubled; looks at most "
            f"{1000 * lines.longest_gap:.0f} ms apart",
            f"  processor time: generator {lines.generator_cpu:.2f} s, client {lines.client_cpu:.2f} s",
        ]
    if idle is not None:
        table.append(
            f"  idle for {idle.seconds:.0f} s, of a core: generator {idle.generator_share:.2%}, "
            f"client {idle.client_share:.2%}, {idle.ssh_share:.2%} of it its ssh"
        )
    return [*table, f"  FAILED {_ending(live.trouble)}"] if live.trouble else table


def bar_table(bars: Sequence[Bar]) -> list[str]:
    """Every mark with its verdict, and how many were held."""
    held = sum(bar.verdict == "held" for bar in bars)
    return ["", f"marks: {held} of {len(bars)} held", *(f"  {bar.line()}" for bar in bars)]


def save(content: dict[str, Any]) -> Path:
    """Write one run's raw numbers below `benchmarks/results/`, named by the time in UTC."""
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")
    path = RESULTS / f"{stamp}.json"
    path.write_text(json.dumps(content, indent=1, default=_plain) + "\n", encoding="utf-8")
    return path


def _ending(trouble: str) -> str:
    return " ".join(trouble.split())[-150:]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
