"""Removing what the server removed: only what was synced, only on good evidence (law 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass

from runicorn.errors import MirrorError, RequestError
from runicorn.manifest import rules
from runicorn.manifest.model import Header, Identity, ManifestType
from runicorn.remote_storage.context import SyncContext
from runicorn.remote_storage.diff import Gone
from runicorn.remote_storage.disk_errors import mirror_error
from runicorn.remote_storage.durability import Barrier
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.options import SyncOptions
from runicorn.remote_storage.published import Listing, parents
from runicorn.remote_storage.report import Failure, SyncReport
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.state import MirrorState
from runicorn.remote_storage.transport.base import Job, Stat

_INCOMPLETE = "the server could not list everything, see its problems"
_AT_ONCE = 5000
_NO_SUCH_FILE = 2


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a removal is judged by.

    Attributes:
        identity: the state of the server; None after a walk.
        is_full: whether it tells of all runs.
        complete: whether no problem hides a file.
        total_experiments: number of runs.
        problem_paths: escaped paths of what could not be listed, as far as they are known.
        problem_count: how many there are.
    """

    identity: Identity | None
    is_full: bool
    complete: bool
    total_experiments: int
    problem_paths: frozenset[str] = frozenset()
    problem_count: int = 0

    @classmethod
    def of_listing(cls, listing: Listing) -> Evidence:
        """The evidence that a listing gives."""
        header = listing.header
        return cls(
            identity=listing.identity,
            is_full=header is None or header.manifest_type is ManifestType.FULL,
            complete=listing.complete,
            total_experiments=len(listing.runs),
            problem_paths=listing.problem_paths,
            problem_count=listing.problem_count,
        )

    @classmethod
    def of_commit(cls, header: Header) -> Evidence:
        """The evidence that a commit of the journal gives."""
        return cls(
            identity=header.identity,
            is_full=True,
            complete=header.complete,
            total_experiments=header.total_experiments,
            problem_paths=frozenset(problem.path for problem in header.problems),
            problem_count=header.problem_count,
        )

    def has_problem_at(self, path: str) -> bool:
        """Whether a problem was met at a path or above it."""
        shown = rules.escape(path)
        return any(part in self.problem_paths for part in (shown, *parents(shown)))


def find_gone(context: SyncContext, listing: Listing, last: Identity | None) -> list[Gone]:
    """The synced and selected files that a listing does not name, although it could.

    Args:
        context: the sync.
        listing: the listing. It may have been made before a walk: what only that has listed is gone when the
            server has it no more.
        last: the state of the mirror before this sync: it tells nothing of what only a walk has listed since.
    """
    state, selection = context.mirror.state, context.options.selection
    is_older = last is not None and listing.identity == last
    listed = {run.folder: run for run in listing.runs}
    gone = []
    for folder in state.folders():
        run = listed.get(folder)
        start = len(folder) + 1
        inside = {entry.path[start:] for entry in run.files} if run else set()
        for inner, known in state.run_files(folder).items():
            if inner in inside or (is_older and known.unpublished):
                continue
            if selection.wants_known(folder, inner):
                gone.append(Gone(folder, inner, known))
    if listing.identity is None:
        return gone
    doubtful = ((each.folder, each.inner) for each in gone if each.known.unpublished)
    sure = set(gone_from_server(context, doubtful))
    return [each for each in gone if not each.known.unpublished or (each.folder, each.inner) in sure]


def gone_from_server(context: SyncContext, keys: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of some files, by run folder and path within it, that the server does not have.

    Raises:
        TransportError: the connection failed.
    """
    gone: list[tuple[str, str]] = []

    def look(folder: str, inner: str) -> Job:
        (answer,) = yield [Stat(f"{context.remote_root}/{folder}/{inner}")]
        if isinstance(answer, RequestError) and answer.code == _NO_SUCH_FILE:
            gone.append((folder, inner))

    context.transport.run(look(*key) for key in keys)
    return gone


def settle_gone(
    context: SyncContext, evidence: Evidence, gone: list[Gone], epoch: int, held: int
) -> list[Gone]:
    """Remove what a listing does not name, or take note of why it is kept.

    Args:
        context: the sync.
        evidence: by which it is judged.
        gone: the files that are not listed.
        epoch: epoch of the mirror: files listed in another one are never removed.
        held: how many files the mirror held before this sync.

    Returns:
        What was to be removed, or is kept for a reason that holds for all of it.

    Raises:
        MirrorError: the state cannot be written.
    """
    if not gone:
        return []
    cursor = context.mirror.state.cursor
    last = cursor.identity if cursor is not None else None
    of_this = sum(each.known.epoch == epoch for each in gone)
    reason = _reason_for_all(context, evidence, last, (of_this, held))
    if reason:
        context.report.gone_count, context.report.kept_reason = len(gone), reason
        return gone
    return _remove_sure(context, evidence, gone, epoch)


def settle_marked(
    context: SyncContext,
    evidence: Evidence,
    last: Identity | None,
    held: Callable[[], int],
    came: Set[tuple[str, str]] | None,
) -> None:
    """The same for what the journal has told to be gone; its cost follows what is removed.

    Args:
        context: the sync.
        evidence: by which it is judged.
        last: the state of the mirror before this sync.
        held: tells how many files the mirror held before this sync.
        came: run folder and path within it of the files that this sync brought: that some of them are gone
            again takes nothing from the mirror as it was before. None when it was empty then, and all of them
            came with a base that tells of files removed since: they are no part of the state that it is
            brought to.

    Raises:
        MirrorError: the state cannot be written.
    """
    state, report, selection = context.mirror.state, context.report, context.options.selection
    epoch = state.lineage[1]
    count = of_before = 0
    for page in _pages(state, selection):
        count += len(page)
        of_before += sum(
            each.known.epoch == epoch and (each.folder, each.inner) not in (came or ()) for each in page
        )
    if not count:
        return
    if came is None:
        reason = "" if evidence.complete else _INCOMPLETE
    else:
        reason = _reason_for_all(context, evidence, last, (of_before, held()))
    if reason:
        report.gone_count, report.kept_reason = count, reason
        return
    removed = report.removed_count
    for page in _pages(state, selection):
        _remove_sure(context, evidence, page, epoch)
    if not context.options.delete:
        report.removed_count = removed


def _pages(state: MirrorState, selection: Selection) -> Iterator[list[Gone]]:
    after = ("", "")
    while rows := state.gone(_AT_ONCE, after):
        after = rows[-1][:2]
        yield [Gone(*row) for row in rows if selection.wants_known(*row[:2])]


def _reason_for_all(
    context: SyncContext, evidence: Evidence, last: Identity | None, counts: tuple[int, int]
) -> str:
    if not context.options.delete:
        return "not asked to delete"
    return reason_to_keep(context.mirror.state, evidence, last, counts, context.options)


def _remove_sure(context: SyncContext, evidence: Evidence, gone: list[Gone], epoch: int) -> list[Gone]:
    report, state = context.report, context.mirror.state
    sure = [each for each in gone if not evidence.has_problem_at(each.path)]
    if len(sure) < len(gone):
        report.gone_count += len(gone) - len(sure)
        report.kept_reason = "the server met a problem in their place"
    if not context.options.dry_run:
        remove_gone(context.mirror.tree, state, sure, epoch, report)
    return sure


def reason_to_keep(
    state: MirrorState,
    listing: Evidence,
    last: Identity | None,
    counts: tuple[int, int],
    options: SyncOptions,
) -> str:
    """Why nothing may be removed on account of some evidence, or an empty string.

    Args:
        state: what is remembered of the mirror.
        listing: the evidence.
        last: the state of the mirror before this sync.
        counts: of the files that the mirror held before this sync: how many would go, and all.
        options: how the sync is done.
    """
    if not listing.total_experiments:
        return "the server lists no run at all; an empty or unmounted root is not taken for a deletion"
    if not listing.complete:
        return _INCOMPLETE
    if listing.problem_count > len(listing.problem_paths):
        return "the server met more problems than it names"
    doubt = _doubt_about_history(state, listing, last, same_source=bool(options.source))
    if doubt:
        return doubt
    gone, held = counts
    if 2 * gone > held and not options.force_delete:
        return f"{gone} of {held} files would go, more than half of the mirror: say --force-delete"
    return ""


def _doubt_about_history(
    state: MirrorState, listing: Evidence, last: Identity | None, *, same_source: bool
) -> str:
    lineage, identity = state.lineage[0], listing.identity
    if identity is None:
        return "" if lineage is None and same_source else "a walk cannot tell whether it is the same root"
    if identity.lineage is None:
        return "the manifest does not tell its lineage"
    if last is None or last.lineage != identity.lineage:
        return "this mirror has no complete sync of this root yet; the next sync may delete"
    doubts = (
        (identity.revision < last.revision, "the manifest is older than the one of the last sync"),
        (
            identity.revision == last.revision and identity != last,
            "the manifest has the revision of the last sync and is another one",
        ),
        (not listing.is_full, "the newest listing names the active runs only"),
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
    if removed:
        # A file that came back after a power cut would be nobody's, and stay for good.
        try:
            Barrier(mirror.fd).names(mirror.take_changed(), len(removed))
        except OSError as error:
            raise mirror_error(error) from error
    state.record((), removed)


def _reason_to_keep_file(mirror: Mirror, gone: Gone, epoch: int) -> str:
    if gone.known.epoch != epoch:
        return "synced from another root, or before this one was put back to an older state"
    try:
        return "" if mirror.signature(gone.path) == gone.known.local else "changed in the mirror"
    except OSError:
        return ""  # it is not there, or cannot be removed either
