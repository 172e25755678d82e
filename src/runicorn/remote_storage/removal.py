"""Removing what the server removed: only what was synced, only on good evidence (law 4)."""

from __future__ import annotations

import contextlib

from runicorn.manifest import rules
from runicorn.manifest.model import ManifestType
from runicorn.remote_storage.diff import Gone, SyncPlan
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.published import Listing
from runicorn.remote_storage.report import SyncReport
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.state import MirrorState


def find_gone(state: MirrorState, listing: Listing, selection: Selection) -> list[Gone]:
    """The synced and selected files that a listing does not name."""
    listed = {run.folder: run for run in listing.runs}
    gone = []
    for folder in state.folders():
        run = listed.get(folder)
        start = len(folder) + 1
        inside = {entry.path[start:] for entry in run.files} if run else set()
        for inner, known in state.run_files(folder).items():
            if inner not in inside and _is_selected(selection, folder, inner):
                gone.append(Gone(folder, inner, known))
    return gone


def _is_selected(selection: Selection, folder: str, inner: str) -> bool:
    names = rules.project_and_name(folder)
    if names is None or not selection.wants_project(names[0]):
        return False
    if not selection.media and inner.startswith(rules.MEDIA_FOLDER + "/"):
        return False
    return selection.wants_path(f"{folder}/{inner}")


def reason_to_keep(state: MirrorState, listing: Listing, plan: SyncPlan, forced: bool) -> str:
    """Why nothing may be removed on account of a listing, or an empty string."""
    if not listing.runs:
        return "the server lists no run at all; an empty or unmounted root is not taken for a deletion"
    if not listing.complete:
        return "the server could not list everything, see its problems"
    if listing.problem_count > len(listing.problem_paths):
        return "the server met more problems than it names"
    doubt = _doubt_about_history(state, listing)
    if doubt:
        return doubt
    gone, held = len(plan.gone), state.count()
    if 2 * gone > held and not forced:
        return f"{gone} of {held} files would go, more than half of the mirror: say --force-delete"
    return ""


def _doubt_about_history(state: MirrorState, listing: Listing) -> str:
    cursor, (lineage, _) = state.cursor, state.lineage
    if listing.identity is None:
        return "" if lineage is None else "a walk cannot tell whether it is the same root; publish a manifest"
    if listing.header is None or listing.header.identity.lineage is None:
        return "the manifest does not tell its lineage"
    if cursor is None or cursor.identity is None or cursor.identity.lineage != listing.identity.lineage:
        return "this mirror has no complete sync of this root yet; the next sync may delete"
    if listing.identity.revision < cursor.identity.revision:
        return "the manifest is older than the one of the last sync"
    if listing.header.manifest_type is not ManifestType.FULL:
        return "the newest listing names the active runs only"
    return ""


def remove_gone(mirror: Mirror, state: MirrorState, gone: list[Gone], epoch: int, report: SyncReport) -> None:
    """Remove files from the mirror, but for those that another program changed or another root
    brought.

    Raises:
        MirrorError: a file cannot be removed.
    """
    removed = []
    for each in gone:
        if each.known.epoch != epoch:
            report.gone_count, report.kept_reason = report.gone_count + 1, "synced from another root"
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if mirror.signature(each.path) != each.known.local:
                report.gone_count, report.kept_reason = report.gone_count + 1, "changed in the mirror"
                continue
            mirror.remove(each.path)
            report.removed_count += 1
        removed.append((each.folder, each.inner))
    state.record((), removed)
