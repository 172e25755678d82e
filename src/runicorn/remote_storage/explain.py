"""Why a file is, or is not, in a mirror, and in which version: by the mirror's records and its disk alone."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Any

from runicorn.errors import UsageError
from runicorn.manifest import rules
from runicorn.remote_storage.folders import statuses
from runicorn.remote_storage.known import Known
from runicorn.remote_storage.mirror_view import MirrorView
from runicorn.remote_storage.problems import problem_at

IN_PLACE = "in_place"
CHANGED_HERE = "changed_here"
MISSING_HERE = "missing_here"
GONE = "gone"
WANTED = "wanted"
EXCLUDED = "excluded"
NOT_LISTED = "not_listed"
NOT_OF_A_RUN = "not_of_a_run"


@dataclass(slots=True)
class Explanation:
    """Why a file is, or is not, here.

    Attributes:
        path: relative to the mirror.
        verdict: ``in_place``, ``changed_here``, ``missing_here``, ``gone`` (not on the server any more, and
            kept), ``wanted`` (listed, and not here yet), ``excluded`` (by the selection of the last sync),
            ``not_listed`` or ``not_of_a_run``.
        reason: one sentence, escaped.
        details: what is known of the file, by name.
    """

    path: str
    verdict: str
    reason: str
    details: dict[str, Any] = field(default_factory=dict)


def explain(view: MirrorView, path: str) -> Explanation:
    """Explain one path.

    Args:
        view: the mirror.
        path: relative to the mirror.

    Raises:
        UsageError: it can be no path of a mirror.
        MirrorError: the mirror cannot be read.
    """
    path = path.rstrip("/")
    refused = rules.unsafe_path(path)
    if refused:
        raise UsageError(f"'{rules.escape(path)}' can be no path of a mirror: {refused}")
    place = view.place_of(path)
    if place is None:
        return Explanation(path, NOT_OF_A_RUN, _why_of_no_run(view, path))
    folder, inner = place
    known, wanted = view.file(folder, inner), view.wanted_file(folder, inner)
    if known is None and wanted is None:
        return _unknown(view, path, folder, inner)
    details = _details(view, folder, inner, known)
    if wanted is not None:
        (entry,) = wanted.files
        details |= {"listed_size": entry.size, "listed_mtime": entry.mtime, "listed_digest": entry.digest}
        return Explanation(path, WANTED, _why_wanted(view, path, known), details)
    assert known is not None  # noqa: S101 - one of them is there
    return _known(view, path, known, details)


def _why_of_no_run(view: MirrorView, path: str) -> str:
    if path == rules.ARTEFACT_FOLDER or path.startswith(rules.ARTEFACT_FOLDER + "/"):
        return "it belongs to runicorn itself, not to a run"
    if view.knows_run(path):
        return "it is a run folder, not a file: name one of its files"
    parts = path.split("/")
    if any(rules.is_hidden(part) for part in parts):
        return "hidden names are never synced"
    if rules.MEDIA_FOLDER in parts and not rules.media_belongs(parts[-1]):
        return "lock files and unfinished files are never synced"
    return "it is none of the files of a run that are synced, see docs/manifest-format.md"


def _unknown(view: MirrorView, path: str, folder: str, inner: str) -> Explanation:
    selection = view.selection
    if not selection.wants_known(folder, inner):
        names = rules.project_and_name(folder)
        if names is not None and not selection.wants_project(names[0]):
            by = f"--project: its project is {rules.escape(names[0])}"
        elif not selection.media and inner.startswith(rules.MEDIA_FOLDER + "/"):
            by = "--no-media"
        else:
            by = "--include or --exclude"
        return Explanation(path, EXCLUDED, f"the last sync left it out: {by}")
    if not view.is_complete:
        return Explanation(path, NOT_LISTED, "no sync has got to its end yet: the next one may bring it")
    reason = "the server did not list it, up to the last sync"
    return Explanation(path, NOT_LISTED, reason + _why_unlisted(view, path), _revision(view))


def _why_unlisted(view: MirrorView, path: str) -> str:
    """What kept the server from listing it, or may have."""
    problem = _problem(view, path)
    if problem:
        return problem
    history = view.history()
    count = int(history[0].report.get("problem_count") or 0) if history else 0
    return f"; it could not list everything then ({count} problems), which may hide it" if count else ""


def _problem(view: MirrorView, path: str) -> str:
    """What the server could not list there; empty when it named nothing."""
    problem = problem_at(view.problems, path)
    if problem is None:
        return ""
    # Of a server: escaped there, and once more in case it was not.
    what = ": ".join(filter(None, (problem.kind.replace("_", " "), problem.message)))
    where = "it" if problem.path == rules.escape(path) else problem.path
    return f"; the server could not list {rules.visible(where)} ({rules.visible(what)})"


def _why_wanted(view: MirrorView, path: str, known: Known | None) -> str:
    what = "an earlier version is here; the newer one" if known is not None else "it is listed, and"
    for sync in view.history():
        for failed in sync.report.get("failed") or []:
            if isinstance(failed, dict) and failed.get("path") == path:
                error = rules.escape(str(failed.get("error")))
                return f"{what} could not be fetched: {error}; the next sync tries again"
    return f"{what} has not been fetched yet: the next sync does"


def _known(view: MirrorView, path: str, known: Known, details: dict[str, Any]) -> Explanation:
    verdict, reason = _on_disk(view, path, known)
    if known.gone:
        history = view.history()
        kept = str(history[0].report.get("kept_reason") or "") if history else ""
        why = f" ({rules.escape(kept)})" if kept else ""
        if verdict == IN_PLACE:
            return Explanation(
                path, GONE, f"the server does not list it any more, and it is kept{why}", details
            )
        return Explanation(path, verdict, f"{reason}; the server does not list it any more", details)
    if verdict == IN_PLACE and known.unpublished:
        reason = "it is here as a walk found it; no published state has told of it yet"
    listed = known.listed
    if verdict == IN_PLACE and listed is not None and known.local.size < listed.size:
        rest = listed.size - known.local.size
        reason = (
            f"it is here up to the end of a line; {rest} bytes of {listed.size} follow when theirs is there"
        )
    return Explanation(path, verdict, reason + _problem(view, path), details)


def _on_disk(view: MirrorView, path: str, known: Known) -> tuple[str, str]:
    try:
        root_fd = os.open(view.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            *_, (_, status) = statuses(root_fd, path)
        finally:
            os.close(root_fd)
    except OSError:
        return (
            MISSING_HERE,
            "it was synced, and was removed here since: a sync that looks at its run brings it back",
        )
    now = (status.st_size, status.st_mtime_ns, status.st_ino)
    local = known.local
    if not stat.S_ISREG(status.st_mode) or now != (local.size, local.mtime_ns, local.inode):
        return CHANGED_HERE, "it was synced, and was changed here since: `runicorn verify` tells how"
    return IN_PLACE, "it is here as the server listed it"


def _details(view: MirrorView, folder: str, inner: str, known: Known | None) -> dict[str, Any]:
    names = rules.project_and_name(folder)
    found: dict[str, Any] = {"run": folder, "project": names[0] if names is not None else None, "file": inner}
    if known is not None:
        listed = known.listed
        found |= {"size": known.local.size, "epoch": known.epoch}
        if listed is not None:
            found |= {
                "listed_size": listed.size,
                "listed_mtime": listed.mtime,
                "listed_digest": listed.digest,
            }
    return found | _revision(view)


def _revision(view: MirrorView) -> dict[str, Any]:
    cursor = view.cursor
    identity = cursor.identity if cursor is not None else None
    return {"revision": identity.revision, "lineage": identity.lineage} if identity is not None else {}
