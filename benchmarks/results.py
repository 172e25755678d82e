"""What was measured: the values, and the file that keeps them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.facts import Facts
from benchmarks.plan import Act, Line, Tree

FORMAT = 1


@dataclass(frozen=True)
class Sample:
    """One timed sync. Bytes are those of the TCP connections, encrypted, each way.

    Processor time and the peak of the largest process: of the client's command, and of the server.
    """

    contender: str
    scene: str
    repetition: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    server_cpu_seconds: float
    server_peak_bytes: int
    bytes_up: int
    bytes_down: int
    trouble: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A cell that has no time, and why."""

    contender: str
    scene: str
    reason: str


@dataclass(frozen=True)
class Allowed:
    """What a sync of appended logs may receive: `plain` by their size, `compressed` by their zlib size."""

    plain: int
    compressed: int


@dataclass(frozen=True)
class Counted:
    """What the server saw of one sync; bytes are those of the SFTP streams, before encryption.

    Of a poll, `requests` is the most that one sync beside the first of its connection took, the other numbers
    are those of the second sync, and `seconds` is the median time.
    """

    contender: str
    scene: str
    requests: int
    by_type: dict[str, int]
    changing: int
    sessions: int
    bytes_up: int
    bytes_down: int
    allowed: Allowed | None = None
    seconds: float | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Generated:
    """One `generate-manifest` as a whole process, the first or one with nothing changed."""

    is_first: bool
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    trouble: str = ""


@dataclass(frozen=True)
class Watched:
    """What became of lines while both sides watched, then of processor time while nothing happened.

    Delays in seconds; processor times in seconds, of the client with its ssh; shares are of one core; peaks
    are in bytes, of the two processes alone. `torn` counts looks at the mirror that met half a line or wrong
    bytes, `lost` and `doubled` count lines.
    """

    lines: int = 0
    seconds: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    longest: float = 0.0
    torn: int = 0
    lost: int = 0
    doubled: int = 0
    longest_gap: float = 0.0
    generator_cpu: float = 0.0
    client_cpu: float = 0.0
    generator_peak: int = 0
    client_peak: int = 0
    idle_seconds: float = 0.0
    idle_generator: float = 0.0
    idle_client: float = 0.0
    idle_ssh: float = 0.0
    trouble: str = ""


@dataclass(frozen=True)
class Profiled:
    """Samples of a profiler by the function of ours in which, or below which, they were taken."""

    what: str
    samples: int
    by_function: dict[str, int]
    trouble: str = ""


class _Troubled(Protocol):
    @property
    def trouble(self) -> str: ...


@dataclass(frozen=True)
class Found:
    """What one act has found."""

    kind: str
    tree: Tree
    line: Line | None
    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)
    generated: list[Generated] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    profiled: list[Profiled] = field(default_factory=list)

    def lasting(self, seconds: float) -> Found:
        """The same, and how long the act took."""
        return dataclasses.replace(self, seconds=round(seconds, 1))

    def and_then(self, later: Found) -> Found:
        """Both as one."""
        lists = {name: getattr(self, name) + getattr(later, name) for name in _KINDS}
        return dataclasses.replace(self, seconds=self.seconds + later.seconds, **lists)

    @property
    def troubles(self) -> list[str]:
        """What went wrong; a sync that was ended because it took too long is left out instead."""
        kinds: list[Sequence[_Troubled]] = [self.samples, self.counted, self.generated]
        kinds += [self.watched, self.profiled]
        return [each.trouble for kind in kinds for each in kind if each.trouble]


_KINDS: dict[str, Any] = {
    "samples": Sample,
    "left_out": LeftOut,
    "counted": Counted,
    "generated": Generated,
    "watched": Watched,
    "profiled": Profiled,
}


@dataclass
class Results:
    """All that one plan has found so far.

    Attributes:
        sessions: when measuring began, in UTC, with the load of the machine and the command; more than one if
            it was resumed, then with the troubles of the acts that were played again.
    """

    plan: str
    machine: Facts
    versions: dict[str, str]
    sessions: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, Found] = field(default_factory=dict)

    def fits(self, other: Results) -> str:
        """Why the acts of another session cannot stand beside these; empty if they can."""
        mine, theirs = ({"plan": each.plan, **each.machine, **each.versions} for each in (self, other))
        names = dict.fromkeys([*mine, *theirs])
        return "; ".join(
            f"{name}: {mine.get(name)} is not {theirs.get(name)}"
            for name in names
            if mine.get(name) != theirs.get(name)
        )

    def of(self, kind: str, *, tree: Tree | None = None, line: Line | None = None) -> Iterator[Found]:
        """What was found of a kind, of a tree and a line where they are given; one for each tree and line."""
        merged: dict[tuple[Tree, Line | None], Found] = {}
        for each in self.found.values():
            if each.kind == kind and tree in (None, each.tree) and line in (None, each.line):
                place = (each.tree, each.line)
                merged[place] = merged[place].and_then(each) if place in merged else each
        yield from merged.values()

    def expected_seconds(self, act: Act) -> float:
        """How long an act will take, by those of its kind, tree and line; 0 if there was none before."""
        place = (type(act).__name__, act.tree, act.where)
        alike = (each.seconds for each in self.found.values() if (each.kind, each.tree, each.line) == place)
        return max(alike, default=0.0)

    def add(self, act: Act, found: Found) -> None:
        """Keep what an act has found."""
        self.found[act.name] = found

    def forget_failed(self) -> list[str]:
        """Forget the acts in which something went wrong, so that they are played again; returns what did."""
        failed = [name for name, found in self.found.items() if found.troubles]
        return [trouble for name in failed for trouble in self.found.pop(name).troubles]


def save(results: Results, path: Path) -> None:
    """Write the file, whole or not at all; a list of values has one line for each."""
    head = {"format": FORMAT} | {
        name: getattr(results, name) for name in ("plan", "machine", "versions", "sessions")
    }
    acts = ",\n".join(f"{json.dumps(name)}: {_encode(each)}" for name, each in results.found.items())
    text = json.dumps(head, indent=1)[:-2] + f',\n "found": {{\n{acts}\n}}}}\n'
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _encode(found: Found) -> str:
    content = dataclasses.asdict(found)
    lists = {name: content.pop(name) for name in _KINDS}
    parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items()]
    for name, values in lists.items():
        if values:
            rows = ",\n".join(json.dumps(_without_defaults(_KINDS[name], each)) for each in values)
            parts.append(f"{json.dumps(name)}: [\n{rows}]")
    return "{" + ", ".join(parts) + "}"


def _without_defaults(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    defaults = {each.name: each.default for each in dataclasses.fields(kind)}
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
    return {name: value for name, value in rounded.items() if value != defaults[name]}


def load(path: Path) -> Results:
    """Read a file that `save` wrote. Raises OSError, or ValueError if it is none."""
    content = json.loads(path.read_bytes())
    if content.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is not a file of results of format {FORMAT}")
    found = {name: _decode(each) for name, each in content.pop("found").items()}
    return Results(**content, found=found)


def _decode(content: dict[str, Any]) -> Found:
    content["tree"] = Tree(**content["tree"])
    content["line"] = Line(**content["line"]) if content["line"] else None
    for each in content.get("counted", []):
        if each.get("allowed"):
            each["allowed"] = Allowed(**each["allowed"])
    for name, kind in _KINDS.items():
        content[name] = [kind(**each) for each in content.get(name, [])]
    return Found(**content)
