"""Removing what the server removed: only what was synced, only on good evidence (law 4)."""

from __future__ import annotations

from runicorn.errors import MirrorError
from runicorn.manifest import rules
from runicorn.manifest.model import ManifestType
from runicorn.remote_storage.diff import Gone, SyncPlan
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.options import SyncOptions
from runicorn.remote_storage.published import Listing
from runicorn.remote_storage.report import Failure, SyncReport
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


def reason_to_keep(state: MirrorState, listing: Listing, plan: SyncPlan, options: SyncOptions) -> str:
    """Why nothing may be removed on account of a listing, or an empty string."""
    if not listing.runs:
        return "the server lists no run at all; an empty or unmounted root is not taken for a deletion"
    if not listing.complete:
        return "the server could not list everything, see its problems"
    if listing.problem_count > len(listing.problem_paths):
        return "the server met more problems than it names"
    doubt = _doubt_about_history(state, listing, bool(options.source))
    if doubt:
        return doubt
    gone, held = len(plan.gone), plan.held_files
    if 2 * gone > held and not options.force_delete:
        return f"{gone} of {held} files would go, more than half of the mirror: say --force-delete"
    return ""


def _doubt_about_history(state: MirrorState, listing: Listing, same_source: bool) -> str:
    cursor, (lineage, _) = state.cursor, state.lineage
    identity, header = listing.identity, listing.header
    if identity is None or header is None:
        return "" if lineage is None and same_source else "a walk cannot tell whether it is the same root"
    if identity.lineage is None:
        return "the manifest does not tell its lineage"
    last = cursor.identity if cursor is not None else None
    if last is None or last.lineage != identity.lineage:
        return "this mirror has no complete sync of this root yet; the next sync may delete"
    doubts = (
        (identity.revision < last.revision, "the manifest is older than the one of the last sync"),
        (
            identity.revision == last.revision and identity != last,
            "the manifest has the revision of the last sync and is another one",
        ),
        (header.manifest_type is not ManifestType.FULL, "the newest listing names the active runs only"),
    )
    return next((reason for applies, reason in doubts if applies), "")


def remove_gone(mirror: Mirror, state: MirrorState, gone: list[Gone], epoch: int, report: SyncReport) -> None:
    """Remove files from the mirror, but for those that another program changed or another root
    brought. A file that cannot be removed is a failure of its own.

    Raises:
        MirrorError: the state cannot be written.
    """
    removed = []
    for each in gone:
        reason = _reason_to_keep_file(mirror, each, epoch)
        if reason:
            report.gone_count, report.kept_reason = report.gone_count + 1, reason
            continue
        try:
            report.removed_count += mirror.remove(each.path)
        except MirrorError as error:
            report.failed_count += 1
            report.failed.append(Failure(each.path, rules.escape(str(error))))
        else:
            removed.append((each.folder, each.inner))
    state.record((), removed)


def _reason_to_keep_file(mirror: Mirror, gone: Gone, epoch: int) -> str:
    if gone.known.epoch != epoch:
        return "synced from another root"
    try:
        return "" if mirror.signature(gone.path) == gone.known.local else "changed in the mirror"
    except OSError:
        return ""  # it is not there, or cannot be removed either
