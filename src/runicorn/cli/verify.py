"""``runicorn verify``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from runicorn.cli import reach
from runicorn.cli.sync_output import FORMAT_VERSION
from runicorn.cli.units import size_text
from runicorn.errors import UsageError
from runicorn.manifest.rules import escape

if TYPE_CHECKING:
    from runicorn.remote_storage.options import SyncOptions
    from runicorn.remote_storage.report import SyncReport
    from runicorn.remote_storage.verify import Checked, Difference

DIFFERENCES = 3

_HINT = "`runicorn sync SOURCE MIRROR` fetches what is missing"

_HELP = """Compare every byte of MIRROR with what was published.

MIRROR is the folder of a mirror or the name of a remote. Each file is hashed and compared with what was
proven when it was fetched; each difference is one line: its kind and its path. A mirror to which no sync
has come to its end is incomplete, whatever its files are. Nothing is asked of a server.

With --repair the differing files alone are fetched again, from where the mirror was synced from, by a sync
with the same selection, which brings news as well; then they are compared once more.

\b
Exit codes:
  0    all is as it was published, or has been repaired
  1    there is no such mirror, or it cannot be read
  2    wrong usage
  3    there are differences, or the mirror is incomplete
  4-9  of the sync of --repair, see `runicorn sync --help`
  130  interrupted
"""


@click.command("verify", help=_HELP)
@click.argument("mirror")
@click.option("--repair", is_flag=True, help="Fetch what differs, and compare it again.")
@reach.ssh_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, see docs/sync-json.md.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
def command(mirror: str, repair: bool, as_json: bool, quiet: bool, **options: Any) -> int:
    """Run the command; returns the exit code."""
    from runicorn.remote_storage.repair import MOST_AT_ONCE
    from runicorn.remote_storage.verify import Verifier

    name, folder = reach.mirror_of(mirror)
    output = _Output(as_json, quiet)
    verifier = Verifier(folder)
    complete = verifier.is_complete()
    found = output.shown(verifier.differences(), MOST_AT_ONCE)
    report, left = None, output.count
    if repair and (found or not complete):
        ssh = reach.Ssh(options["port"], options["identity"], options["ssh_command"])
        output.say(f"{len(found)} files are fetched again")
        report = _repair(name, folder, found, ssh)
        output.say("after the repair:")
        left = output.count - len(found)
        output.begin_again()
        left += len(output.shown(verifier.differences([(each.folder, each.inner) for each in found])))
        left += len({each.path for each in report.failed} - {each.path for each in found})
        complete = verifier.is_complete()
    output.end(folder, verifier.checked, report, _Left(left, complete))
    return 0 if complete and not left else DIFFERENCES


def _repair(name: str, folder: Path, found: list[Difference], ssh: reach.Ssh) -> SyncReport:
    from runicorn.remote_storage.mirror_view import MirrorView
    from runicorn.remote_storage.options import SyncOptions
    from runicorn.remote_storage.repair import forget_differences
    from runicorn.remote_storage.sync import synchronize

    with MirrorView(folder) as view:
        source, selection = view.source, view.selection
        if view.cursor is None and not view.is_complete:
            raise UsageError("no sync has come to its end, so what was selected is not known", hint=_HINT)
    if name:
        source = reach.target(name, None, ssh.port).source
    if source is None:
        raise UsageError(
            "the mirror does not tell where it was synced from",
            hint=_HINT,
        )
    settings: SyncOptions = SyncOptions(selection=selection, source=source.identity)
    connect = reach.Connector(source, ssh)
    with closing(connect()) as transport:
        if found:
            forget_differences(folder, found, settings)
        return synchronize(transport, source.path, folder, settings).report


class _Left(NamedTuple):
    """What is not as it was published in the end.

    Attributes:
        differences: how many.
        complete: whether there can be no others.
    """

    differences: int
    complete: bool


class _Output:
    """How the command tells what it found."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self._as_json = as_json
        self._quiet = quiet
        self._objects: list[dict[str, str]] = []
        self._first: list[dict[str, str]] = self._objects
        self.count = 0

    def begin_again(self) -> None:
        """What is shown from here on is what is left."""
        self._objects, self.count = [], 0

    def shown(self, differences: Iterable[Difference], most: int = 2**62) -> list[Difference]:
        """Show differences as they are found; returns the first ones."""
        kept: list[Difference] = []
        for each in self._told(differences):
            self.count += 1
            if len(kept) < most:
                kept.append(each)
        return kept

    def _told(self, differences: Iterable[Difference]) -> Iterator[Difference]:
        for each in differences:
            if self._as_json:
                self._objects.append({"path": each.path, "kind": each.kind, "detail": each.detail})
            elif not self._quiet:
                click.echo(f"{each.kind:<10} {escape(each.path)}: {each.detail}")
            yield each

    def say(self, line: str) -> None:
        """A line between the results, for people."""
        if not self._as_json and not self._quiet:
            click.echo(line)

    def end(self, folder: Path, checked: Checked, report: SyncReport | None, left: _Left) -> None:
        """The result."""
        if self._as_json:
            document = {
                "format_version": FORMAT_VERSION,
                "mirror": str(folder),
                "files": checked.files,
                "bytes": checked.size,
                "differences": self._first,
                "left": self._objects,
                "left_count": left.differences,
                "complete": left.complete,
                "repair": None if report is None else report.as_dict(),
            }
            click.echo(json.dumps(document))
            return
        if report is not None:
            for failure in report.failed:
                click.echo(f"runicorn: {escape(failure.path)}: {failure.error}", err=True)
        if not left.complete:
            self.say("incomplete: no sync has come to its end, and files may be missing: sync again")
        is_well = left.complete and not left.differences
        what = "all is as it was published" if is_well else f"{left.differences} differences"
        self.say(f"{what}: {checked.files} files, {size_text(checked.size)} read")
