"""Manifest -> bytes, deterministic; the way back is `runicorn.manifest.reader`.

A manifest is written run by run, so that nobody ever holds the whole text.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from runicorn.manifest.model import FileEntry, Header, Problem, Run

FORMAT_MAJOR = 1
RUNS_LINE = b'"experiments": [\n'
MAX_LISTED_PROBLEMS = 1000
MAX_PROBLEM_TEXT = 1024**2
"""Bytes of all listed problems together."""

MAX_RUN = 64 * 1024**2
"""Bytes of one run's text."""


def encode_entry(entry: FileEntry, path: str | None = None) -> str:
    """One entry as JSON; ``path`` is told in place of its own, when it is given."""
    shown = quoted(entry.path if path is None else path)
    fields = [
        f'"path": {shown}, "size": {entry.size}, "mtime": {entry.mtime!r}, "priority": {entry.priority}'
    ]
    if entry.mtime_ns is not None:
        fields.append(f'"mtime_ns": {entry.mtime_ns}')
    for name in ("sha256", "block_digest", "tail_hash"):
        value = getattr(entry, name)
        if value is not None:
            fields.append(f'"{name}": "{value}"')
    return "{" + ", ".join(fields) + "}"


def encode_run(run: Run) -> str:
    """One run as a line of JSON, without newline."""
    files = ", ".join(map(encode_entry, run.files))
    return (
        f'{{"run_id": {quoted(run.run_id)}, "project": {quoted(run.project)}, "name": {quoted(run.name)}, '
        f'"status": {quoted(run.status)}, "created_at": {run.created_at!r}, '
        f'"updated_at": {run.updated_at!r}, '
        f'"folder": {quoted(run.folder)}, "files": [{files}]}}'
    )


def _problem_fields(problem: Problem) -> dict[str, str]:
    return {"path": problem.path, "kind": problem.kind, "message": problem.message}


def header_fields(header: Header) -> dict[str, Any]:
    """The fields of a header, without those that are not set."""
    identity = header.identity
    fields = {
        "format_version": header.format_version,
        "manifest_type": header.manifest_type.value,
        "revision": identity.revision,
        "snapshot_id": identity.snapshot_id,
        "generated_at": header.generated_at,
        "server_hostname": header.server_hostname,
        "remote_root": header.remote_root,
        "lineage": identity.lineage,
        "complete": header.complete,
        "statistics": {
            "total_experiments": header.total_experiments,
            "total_files": header.total_files,
            "total_bytes": header.total_bytes,
        },
        "active_window": header.active_window,
        "generator": header.generator or None,
        "problem_count": header.problem_count,
        "problems": [_problem_fields(problem) for problem in header.problems[:MAX_LISTED_PROBLEMS]],
    }
    return {name: value for name, value in fields.items() if value is not None}


def encode_header(header: Header) -> bytes:
    """The text up to the first run (section Text layout)."""
    lines = (f"{quoted(name)}: {json.dumps(value)},\n" for name, value in header_fields(header).items())
    return ("{\n" + "".join(lines)).encode("ascii") + RUNS_LINE
