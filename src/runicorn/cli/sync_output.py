"""What ``runicorn sync`` prints."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runicorn.cli.units import age_text, duration_text, size_text
from runicorn.manifest.rules import escape

if TYPE_CHECKING:
    from runicorn.remote_storage.diff import SyncPlan
    from runicorn.remote_storage.options import SyncOptions
    from runicorn.remote_storage.report import SyncReport

FINISHED_WITH_FAILURES = 3
FORMAT_VERSION = "1.0"
OLD_PUBLICATION = 24 * 3600.0
"""Seconds after which the age of what the server published is pointed out."""

MAX_NAMED_FAILURES = 20


def is_incomplete(report: SyncReport, options: SyncOptions) -> bool:
    """Whether a sync that ended has left something undone."""
    return bool(report.failed_count or (options.delete and report.gone_count))


@dataclass(frozen=True)
class Output:
    """How the command tells what it did."""

    as_json: bool
    verbose: bool
    quiet: bool
    jitter: float

    def show(self, report: SyncReport, plan: SyncPlan | None, mirror: Path) -> None:
        """The result, on stdout; failures on stderr."""
        if self.as_json:
            click.echo(json.dumps(sync_as_json(report, plan, mirror)))
        else:
            if report.dry_run and plan is not None and not self.quiet:
                _show_plan(plan)
            if not self.quiet:
                click.echo(summary(report, mirror))
        for line in (*failures(report), *(() if self.quiet else notes(report, by_both_clocks=True))):
            click.echo(f"runicorn: {line}", err=True)


def sync_as_json(report: SyncReport, plan: SyncPlan | None, mirror: Path) -> dict[str, Any]:
    """The documented object of a sync."""
    document = {"format_version": FORMAT_VERSION, "mirror": str(mirror)} | report.as_dict()
    if report.dry_run:
        document["plan"] = _plan_as_json(plan)
    return document


def _plan_as_json(plan: SyncPlan | None) -> dict[str, Any]:
    from runicorn.remote_storage.diff import Append

    if plan is None:
        return {"transfers": [], "remove": [], "total_bytes": 0}
    transfers = [
        {
            "path": each.entry.path,
            "action": "append" if isinstance(each, Append) else "fetch",
            "bytes": each.bytes_expected,
        }
        for each in plan.transfers
    ]
    return {
        "transfers": transfers,
        "remove": [gone.path for gone in plan.gone],
        "total_bytes": plan.total_bytes,
    }


def _show_plan(plan: SyncPlan) -> None:
    for each in _plan_as_json(plan)["transfers"]:
        click.echo(f"{each['action']:<7}{size_text(each['bytes']):>12}  {escape(each['path'])}")
    for gone in plan.gone:
        click.echo(f"gone   {size_text(gone.known.local.size):>12}  {escape(gone.path)}")


def summary(report: SyncReport, mirror: Path) -> str:
    """One line that tells what a sync did."""
    took = f"in {duration_text(report.duration)}, {report.requests} requests, "
    took += f"{size_text(report.bytes_received)} received"
    known = "" if report.manifest_revision is None else f" revision {report.manifest_revision},"
    if report.skipped:
        return f"No changes ({report.method},{known} {took})"
    if report.dry_run:
        return f"Nothing was written: dry run of {report.total_files} files ({report.method},{known} {took})"
    parts = [f"{report.full_count} fetched", f"{report.incremental_count} appended"]
    if report.failed_count:
        parts.append(f"{report.failed_count} FAILED")
    size, place = size_text(report.bytes_downloaded), escape(str(mirror))
    # A new mirror's way through the journal brings files that a later revision removes.
    joint = " of" if report.files_synced <= report.total_files else ";"
    done = f"{', '.join(parts)}{joint} {report.total_files} files"
    if report.removed_count:
        done += f", {report.removed_count} removed"
    return f"{done}, {size} ({report.method},{known} {took}) -> {place}"


def failures(report: SyncReport) -> Iterator[str]:
    """Lines of what went wrong."""
    for failure in report.failed[:MAX_NAMED_FAILURES]:
        yield f"{escape(failure.path)}: {failure.error}"
    more = len(report.failed) - MAX_NAMED_FAILURES
    if more > 0:
        yield f"... and {more} more files failed; the next sync tries them again"


def notes(report: SyncReport, *, by_both_clocks: bool) -> Iterator[str]:
    """Lines of what may surprise.

    Args:
        report: of the sync.
        by_both_clocks: whether the server's clock is compared with ours, for want of anything better.
    """
    if not report.skipped and not report.total_experiments:
        yield "there is no run below the source: is it the root that holds the projects?"
    elif not report.skipped and not report.total_files:
        yield "no file is selected: look at --project, --include and --exclude"
    if report.vanished_count:
        yield f"{report.vanished_count} listed files are not on the server any more"
    if report.gone_count:
        yield f"{report.gone_count} files that the server does not list are kept: {report.kept_reason}"
    if report.problem_count:
        yield f"the server could not list everything: {report.problem_count} problems"
    age = 0.0 if report.generated_at is None else time.time() - report.generated_at
    if by_both_clocks and age > OLD_PUBLICATION:
        yield f"the server last looked {age_text(age)} ago, if both clocks agree"
