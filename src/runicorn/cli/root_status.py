"""``runicorn status --root``: what a server has published, for people, programs and monitoring."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import click

from runicorn._files import replace_file
from runicorn.cli.units import age_text, duration_text, size_text
from runicorn.errors import PublishError, StaleError, UsageError
from runicorn.manifest.model import Problem
from runicorn.manifest.rules import escape, visible
from runicorn.manifest.status import RootStatus, root_status

MAX_NAMED_PROBLEMS = 20


class RootStatusOptions(NamedTuple):
    """The command line.

    Attributes:
        root: the folder that holds all runs.
        as_json: whether to print JSON.
        prometheus: where to write a file for the textfile collector of Prometheus' node exporter.
        max_age: how old the publication may be, seconds; None for any age.
    """

    root: Path
    as_json: bool = False
    prometheus: Path | None = None
    max_age: float | None = None


def run_root_status(options: RootStatusOptions) -> int:
    """Print what is published of a root; returns the exit code.

    Raises:
        StaleError: it is older than allowed; it was printed all the same.
        RunicornError: nothing is published, or it cannot be read, or the file not be written.
    """
    if options.max_age is not None and not options.max_age >= 0:
        raise UsageError("--max-age cannot be negative")
    status = root_status(options.root)
    if options.prometheus is not None:
        _write_metrics(options.prometheus, status)
    click.echo(json.dumps(status_fields(status)) if options.as_json else status_text(status))
    if options.max_age is not None and status.age > options.max_age:
        allowed = f"{options.max_age:g} s are allowed"
        raise StaleError(f"the server last looked {age_text(status.age)} ago, {allowed}", path=status.root)
    return 0


def status_fields(status: RootStatus) -> dict[str, Any]:
    """The document of ``--json``; docs/howto/monitoring.md has its fields."""
    return {
        "root": status.root,
        "lineage": status.identity.lineage,
        "revision": status.identity.revision,
        "snapshot_id": status.identity.snapshot_id,
        "generated_at": status.generated_at,
        "age": round(status.age, 3),
        "runs": status.runs,
        "files": status.files,
        "bytes": status.size,
        "complete": status.complete,
        "problem_count": status.problem_count,
        "problems": [asdict(each) for each in status.problems],
        "duration": status.duration,
        "journal": status.journal._asdict() if status.journal is not None else None,
        "journal_trouble": status.journal_trouble,
        "manifest": status.manifest._asdict() if status.manifest is not None else None,
    }


def status_text(status: RootStatus) -> str:
    """What people read."""
    rows = [
        ("Root", escape(status.root)),
        ("Revision", str(status.identity.revision)),
        ("Age", age_text(status.age)),
        ("Runs", str(status.runs)),
        ("Files", str(status.files)),
        ("Size", size_text(status.size)),
        ("Duration", duration_text(status.duration) if status.duration is not None else "unknown"),
        ("Journal", _journal_text(status)),
        ("Manifest", _manifest_text(status)),
        ("Problems", str(status.problem_count)),
    ]
    lines = [f"{name + ':':<11}{value}" for name, value in rows]
    named = status.problems[:MAX_NAMED_PROBLEMS] if status.problem_count else ()
    return "\n".join([*lines, *map(_problem_line, named)])


def _problem_line(problem: Problem) -> str:
    # Whoever can write in the root may have written it.
    return visible(f"  {problem.path}: {problem.kind}: {problem.message}")


def _journal_text(status: RootStatus) -> str:
    journal = status.journal
    if journal is None:
        return escape(status.journal_trouble) or "none"
    epochs = f"{journal.epochs} epoch{'' if journal.epochs == 1 else 's'}"
    return f"epoch {journal.epoch}, {size_text(journal.length)}; {size_text(journal.size)} in {epochs}"


def _manifest_text(status: RootStatus) -> str:
    manifest = status.manifest
    return f"revision {manifest.revision}, {size_text(manifest.size)}" if manifest is not None else "none"


class _Metric(NamedTuple):
    name: str
    help: str
    value: float | None


def metrics_text(status: RootStatus) -> str:
    """The status in the text format of Prometheus."""
    journal, manifest = status.journal, status.manifest
    metrics = (
        _Metric("generated_timestamp_seconds", "When the server last looked.", status.generated_at),
        _Metric("revision", "Revision of the newest published state.", status.identity.revision),
        _Metric("runs", "Number of runs.", status.runs),
        _Metric("files", "Number of files of runs.", status.files),
        _Metric("bytes", "Sum of their sizes.", status.size),
        _Metric("complete", "1 when no problem hides a file.", int(status.complete)),
        _Metric("problems", "Number of problems.", status.problem_count),
        _Metric("last_duration_seconds", "How long the last look at the whole root took.", status.duration),
        _Metric("journal_bytes", "Bytes of all epochs of the journal.", journal.size if journal else None),
        _Metric(
            "journal_epoch_bytes",
            "Committed bytes of the current epoch.",
            journal.length if journal else None,
        ),
        _Metric(
            "manifest_timestamp_seconds",
            "When the server looked for the full manifest.",
            manifest.generated_at if manifest else None,
        ),
    )
    label = escape(status.root).replace("\\", "\\\\").replace('"', '\\"')
    lines = []
    for each in metrics:
        if each.value is not None:
            name = f"runicorn_{each.name}"
            lines += [f"# HELP {name} {each.help}", f"# TYPE {name} gauge"]
            lines.append(f'{name}{{root="{label}"}} {each.value!r}')
    return "\n".join(lines) + "\n"


def _write_metrics(path: Path, status: RootStatus) -> None:
    if path.suffix != ".prom":
        raise UsageError(f"'{escape(str(path))}' does not end in .prom: the collector would not read it")
    try:
        with replace_file(path) as out:
            out.write(metrics_text(status).encode())
    except OSError as error:
        message = f"cannot write '{escape(str(path))}': {error.strerror}"
        raise PublishError(message, path=str(path)) from error
