"""Results as Markdown: one text for each block of docs/performance.md."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.budgets import budgets, ratios_to
from benchmarks.contenders import FLOOR, RSYNC, TAR
from benchmarks.plan import FEW, IN_ORDER, LONG_SOME, MANY, SOME, USUAL, Tree
from benchmarks.profiling import FIRST_SYNC, GENERATION
from benchmarks.results import Counted, Found, LeftOut, Profiled, Results, Watched
from benchmarks.scenes import CHANGED, FIRST, SCENES, UNCHANGED

TOP = 3
"""How many costs of a profile are told."""
NOT_MEASURED = "Not measured yet."


def blocks(results: Results) -> dict[str, str]:
    """Every block by its name; one about which nothing was found says so."""
    found = {
        "machine": _machine(results),
        "budgets": _budgets(results),
        "first-sync": _scene(results, FIRST),
        "nothing-changed": _scene(results, UNCHANGED),
        "5-runs-changed": _scene(results, CHANGED),
        "costs-few": _costs(results, FEW),
        "costs-some": _costs(results, SOME),
        "costs-many": _costs(results, MANY),
        "costs-long": _costs(results, LONG_SOME),
        "requests": _requests(results),
        "live": _live(results),
        "generation": _generation(results),
        "profile-generation": _profile(results, GENERATION),
        "profile-first-sync": _profile(results, FIRST_SYNC),
    }
    return {name: text or NOT_MEASURED for name, text in found.items()}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else ""


def _machine(results: Results) -> str:
    facts, versions = results.machine, results.versions
    memory = int(facts["memory_bytes"]) / 2**30
    minutes = sum(found.seconds for found in results.found.values()) / 60
    sessions = "; ".join(f"{each['begun']}, load {each['load']}" for each in results.sessions)
    commands = dict.fromkeys(f"`{each['command']}`" for each in results.sessions)
    again = [trouble for each in results.sessions for trouble in each.get("failed_before", [])]
    rows = [
        ("command", ", then ".join(commands)),
        ("begun (UTC)", sessions),
        *([("failed, and played again", "; ".join(again).replace("|", ""))] if again else []),
        ("took", f"{minutes:.0f} minutes"),
        (
            "machine",
            f"{facts['processor']}, {facts['cores']} cores, {memory:.0f} GiB, Linux {facts['kernel']}",
        ),
        ("Python", str(facts["python"])),
        *((name, version.replace("|", "")) for name, version in versions.items()),
    ]
    return _table(("what", "is"), rows)


def _budgets(results: Results) -> str:
    def row(value: float | None, unit: str) -> str:
        return "-" if value is None else f"{number(value)} {unit}".strip()

    head = ("budget", "at most", "measured", "verdict")
    rows = [(b.name, row(b.limit, b.unit), row(b.value, b.unit), b.verdict) for b in budgets(results)]
    return _table(head, rows)


# -- syncs -------------------------------------------------------------------------------------


def _scene(results: Results, scene: str) -> str:
    acts = [found for found in _syncs(results) if _played(found, scene)]
    names = [name for name in IN_ORDER if any(name in _played(found, scene) for found in acts)]
    head = ("runs x files", "line", "times", *map(_short, names))
    seconds = _table(
        head,
        [
            (*_where(each), _times(each, scene), *(_seconds(each, name, scene) for name in names))
            for each in acts
        ],
    )
    others = [name for name in names if name != RSYNC]
    head = ("runs x files", "line", *map(_short, others))
    ratios = _table(head, [(*_where(each), *(_ratio(each, name, scene) for name in others)) for each in acts])
    parts = ["Seconds:", seconds, f"Ratios to {RSYNC} in the same repetition:", ratios]
    notes = "\n".join(_notes(acts, scene))
    return "\n\n".join([*parts, *([notes] if notes else [])]) if acts else ""


def _short(name: str) -> str:
    """For the head of a table, where there is little room."""
    return name.removeprefix("runicorn ").partition(",")[0]


def _syncs(results: Results) -> list[Found]:
    def order(found: Found) -> tuple[int, ...]:
        assert found.line is not None
        return (found.tree.files, found.tree.runs, found.line.rtt_ms, -(found.line.mbit or 10**6))

    return sorted(results.of("Syncs"), key=order)


def _played(found: Found, scene: str) -> list[str]:
    played = [each.contender for each in found.samples if each.scene == scene]
    return played + [each.contender for each in found.left_out if each.scene == scene]


def _where(found: Found) -> tuple[str, str]:
    assert found.line is not None
    return f"{found.tree.runs:,} x {found.tree.files}", found.line.name


def _left_out(found: Found, name: str, scene: str) -> LeftOut | None:
    return next((each for each in found.left_out if (each.contender, each.scene) == (name, scene)), None)


def _seconds(found: Found, name: str, scene: str) -> str:
    mine = [each for each in found.samples if (each.contender, each.scene) == (name, scene)]
    if any(each.trouble for each in mine):
        return "failed"
    if not mine and _left_out(found, name, scene) is not None:
        return "left out"
    return spread([each.seconds for each in mine])


def _times(found: Found, scene: str) -> str:
    """How often the contenders of a row have played the scene."""
    played = Counter(each.contender for each in found.samples if each.scene == scene)
    least, most = min(played.values(), default=0), max(played.values(), default=0)
    return f"{most}" if least == most else f"{least} to {most}"


def _ratio(found: Found, name: str, scene: str) -> str:
    return spread(ratios_to(found, name, RSYNC, scene))


def _notes(acts: Sequence[Found], scene: str) -> list[str]:
    """Why cells are left out, in words."""
    notes = [
        f"- {each.contender}, {', '.join(_where(found))}: {each.reason}."
        for found in acts
        for each in found.left_out
        if each.scene == scene
    ]
    return list(dict.fromkeys(notes))


def _costs(results: Results, tree: Tree) -> str:
    found = next(results.of("Syncs", tree=tree, line=USUAL), None)
    if found is None:
        return ""
    head = (
        "scene",
        "by",
        "requests",
        "MB in",
        "MB out",
        "CPU s",
        "server CPU s",
        "peak MB",
        "server peak MB",
    )
    return _table(head, [row for scene in SCENES for row in _cost_rows(results, found, scene)])


def _cost_rows(results: Results, found: Found, scene: str) -> Iterable[Sequence[str]]:
    for name in IN_ORDER:
        mine = [
            each
            for each in found.samples
            if (each.contender, each.scene) == (name, scene) and not each.trouble
        ]
        if not mine:
            continue
        amounts = [
            statistics.median(values)
            for values in (
                [each.bytes_down / 1e6 for each in mine],
                [each.bytes_up / 1e6 for each in mine],
                [each.cpu_seconds for each in mine],
                [each.server_cpu_seconds for each in mine],
            )
        ]
        peaks = [
            max(values) / 1e6
            for values in zip(*((s.peak_bytes, s.server_peak_bytes) for s in mine), strict=True)
        ]
        requests = "none" if name in (FLOOR, TAR, RSYNC) else _requests_of(results, found.tree, name, scene)
        numbers = (number(value) for value in amounts)
        yield (scene, name, requests, *numbers, *(f"{peak:.0f}" for peak in peaks))


def _requests_of(results: Results, tree: Tree, name: str, scene: str) -> str:
    counted = [
        each for found in results.of("Requests", tree=tree) for each in found.counted if not each.trouble
    ]
    chosen = [each.requests for each in counted if (each.contender, each.scene) == (name, scene)]
    return f"{chosen[0]:,}" if chosen else "-"


# -- the rest ----------------------------------------------------------------------------------


def _requests(results: Results) -> str:
    head = ("runs x files", "line", "scene", "by", "requests", "KB in", "KB out", "of which")
    rows = [
        (*_where(found), each.scene, each.contender, *_counts(each))
        for found in results.of("Requests")
        for each in found.counted
    ]
    return _table(head, rows)


def _counts(counted: Counted) -> tuple[str, ...]:
    if counted.trouble:
        return "failed", "-", "-", "-"
    types = ", ".join(f"{kind} {count:,}" for kind, count in sorted(counted.by_type.items()))
    return (
        f"{counted.requests:,}",
        number(counted.bytes_down / 1e3),
        number(counted.bytes_up / 1e3),
        types.replace("EXTENDED ", "").replace("@openssh.com", ""),
    )


def _live(results: Results) -> str:
    head = ("lines", "median s", "p95 s", "longest s", "torn, lost, doubled")
    sides = [f"{what}, {side}" for what in ("CPU s", "peak MB") for side in ("generator", "client")]
    found = [(each, watched) for each in results.of("Watches") for watched in each.watched]
    rows = [(*_where(each), *_delays(watched)) for each, watched in found]
    idle = [
        f"While nothing happened for {watched.idle_seconds:.0f} s at {each.tree.runs:,} runs, of one core: "
        f"generator {watched.idle_generator:.2%}, client {watched.idle_client:.2%}, "
        f"of which its ssh {watched.idle_ssh:.2%}."
        for each, watched in found
        if watched.idle_seconds
    ]
    return "\n\n".join([_table(("runs x files", "line", *head, *sides), rows), *idle]).strip()


def _delays(watched: Watched) -> list[str]:
    if watched.trouble:
        return ["failed", *["-"] * 8]
    return [
        f"{watched.lines:,} in {watched.seconds:.0f} s",
        *(f"{seconds:.2f}" for seconds in (watched.p50, watched.p95, watched.longest)),
        f"{watched.torn}, {watched.lost}, {watched.doubled}",
        *(f"{seconds:.2f}" for seconds in (watched.generator_cpu, watched.client_cpu)),
        *(f"{peak / 1e6:.0f}" for peak in (watched.generator_peak, watched.client_peak)),
    ]


def _generation(results: Results) -> str:
    head = ("runs x files", "first, s", "nothing changed, s", "CPU s, nothing changed", "peak MB")
    rows = []
    for found in results.of("Generations"):
        size = f"{found.tree.runs:,} x {found.tree.files}"
        if found.troubles:
            rows.append((size, "failed", "-", "-", "-"))
            continue
        first = [each.seconds for each in found.generated if each.is_first]
        later = [each for each in found.generated if not each.is_first]
        cpu = statistics.median(each.cpu_seconds for each in later)
        peak = max(each.peak_bytes for each in found.generated) / 1e6
        rows.append((size, spread(first), spread([x.seconds for x in later]), number(cpu), f"{peak:.0f}"))
    return _table(head, rows)


def profiles(results: Results) -> dict[str, Profiled]:
    """The profiles that went well, by what was profiled."""
    found = [each for act in results.of("Profiles") for each in act.profiled]
    return {each.what: each for each in found if not each.trouble}


def top_costs(profiled: Profiled) -> list[tuple[str, int]]:
    """The modules with the largest costs, in samples."""
    counted: Counter[str] = Counter()
    for name, samples in profiled.by_function.items():
        counted[name.partition(":")[0]] += samples
    return counted.most_common(TOP)


def _profile(results: Results, what: str) -> str:
    profiled = profiles(results).get(what)
    if profiled is None:
        return ""
    costs = top_costs(profiled)
    rest = profiled.samples - sum(samples for _, samples in costs)

    def share(samples: int) -> str:
        return f"{samples / profiled.samples:.0%}"

    rows = [
        (
            f"`{module}`",
            share(samples),
            ", ".join(f"{name} {share(of)}" for name, of in _largest(profiled, module)),
        )
        for module, samples in costs
    ]
    head = (f"of {profiled.samples:,} samples, in or below", "share", "of which in")
    return _table(head, [*rows, ("all others", share(rest), "")])


def _largest(profiled: Profiled, module: str) -> list[tuple[str, int]]:
    """The functions of a module in which most of its samples were taken."""
    parts = [(name.partition(":")[::2], samples) for name, samples in profiled.by_function.items()]
    mine = Counter({function: samples for (each, function), samples in parts if each == module and function})
    return [(f"`{function}`", samples) for function, samples in mine.most_common(TOP)]


def spread(values: Sequence[float]) -> str:
    """The median, with the least and the most."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{number(values[0])} (once)"
    return f"{number(statistics.median(values))} ({number(min(values))} to {number(max(values))})"


def number(value: float) -> str:
    """Whole where it is or is large, else with two or three digits behind the point."""
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
