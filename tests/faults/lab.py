"""A server's root and a synced mirror of it, in folders of their own, and manifests that lie."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runicorn.remote_storage import SyncOptions, SyncReport, synchronize
from runicorn.remote_storage.transport import LocalTransport
from tests.faults.process import Done, generate, left_behind, run_files, snapshot, sync
from tests.faults.tally import Tried, count
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN, append, make_run, replace

Document = dict[str, Any]
RAW = "@@raw@@"
"""A value that stands for the text given to `Lab.publish` as ``raw``."""


def run_named(document: Document, run_id: str = "r1") -> Document:
    """A run of a manifest."""
    return next(run for run in document["experiments"] if run["run_id"] == run_id)


def file_named(run: Document, ending: str) -> Document:
    """An entry of a run."""
    return next(entry for entry in run["files"] if entry["path"].endswith(ending))


def an_entry(path: str, size: int = 5) -> Document:
    """An entry as another generator writes it."""
    return {"path": path, "size": size, "mtime": 1704060000.0, "priority": 2}


@dataclass
class Lab:
    """One server and one client.

    Attributes:
        place: everything lies in it.
        document: the honest manifest of the root as it is now; the mirror is one change behind.
        run: what runs the command: a process of its own, or this one.
        journal: whether the server keeps one beside the manifests.
    """

    place: Path
    document: Document
    run: Callable[..., Done] = sync
    journal: bool = False

    @classmethod
    def build(cls, place: Path, *, journal: bool = False) -> Lab:
        """Make a root with a run of each layout, sync it, and let it go on."""
        root = place / "server/root"
        for folder in (PROJECT_RUN, PATH_RUN):
            make_run(root, folder, "running", summary='{"best": 1}')
        (place / "server/loot").write_text("loot\n", encoding="utf-8")
        precious = place / "client/home/.ssh/authorized_keys"
        precious.parent.mkdir(parents=True)
        precious.write_text("precious\n", encoding="utf-8")
        generate(root, journal=journal)
        lab = cls(place, {}, journal=journal)
        lab.sync_quietly()
        for folder in (PROJECT_RUN, PATH_RUN):
            append(root / folder / "events.jsonl", b'{"step": 2}\n')
            replace(root / folder / "summary.json", '{"best": 2, "longer": true}')
        lab.document = generate(root, journal=journal)
        return lab

    def moved(self, place: Path) -> Lab:
        """The same at another place.

        Copies are new files, which no mirror knows for its own and no sync by the journal goes on with: a lab
        with a journal is built again.
        """
        if self.journal:
            return Lab.build(place, journal=True)
        shutil.copytree(self.place, place, symlinks=True, dirs_exist_ok=True)
        return Lab(place, copy.deepcopy(self.document))

    @property
    def root(self) -> Path:
        """The root on the server."""
        return self.place / "server/root"

    @property
    def mirror(self) -> Path:
        """The client's mirror."""
        return self.place / "client/mirror"

    def sync_quietly(self, **options: Any) -> SyncReport:
        """A sync in this process."""
        transport = LocalTransport()
        try:
            return synchronize(transport, str(self.root), self.mirror, SyncOptions(**options)).report
        finally:
            transport.close()

    def offer(self, path: str, content: bytes = b"evil\n") -> None:
        """Have the server hold what a manifest asks the client to fetch, where that is possible."""
        try:
            target = Path(f"{self.root}/{path}")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.write_bytes(content)
        except (OSError, ValueError):
            return

    def publish(self, document: Document, raw: str = "null", *, sums: bool = True) -> None:
        """Publish a manifest as it is given, with honest sums where they can be made."""
        if sums:
            entries = [entry for run in document["experiments"] for entry in run["files"]]
            document["statistics"] = {
                "total_experiments": len(document["experiments"]),
                "total_files": len(entries),
                "total_bytes": sum(entry["size"] for entry in entries),
            }
        self.publish_bytes(json.dumps(document).replace(f'"{RAW}"', raw).encode())

    def publish_bytes(self, text: bytes) -> None:
        """Publish these bytes, plain and compressed."""
        folder = self.root / ".runicorn"
        (folder / "full_manifest.json").write_bytes(text)
        (folder / "full_manifest.json.gz").write_bytes(gzip.compress(text))

    def publish_beside(self, active: Document) -> None:
        """Publish an active manifest beside the honest full one."""
        self.publish(active)
        folder = self.root / ".runicorn"
        for name in ("full_manifest.json", "full_manifest.json.gz"):
            (folder / name).rename(folder / name.replace("full", "active"))
        self.publish(self.document)

    def attack(self, *arguments: str, method: str = "manifest", source: str | None = None) -> Done:
        """Sync with the real command; whatever it does, nothing beside the mirror may change."""
        before = snapshot(self.place, without=[self.mirror])
        done = self.run(
            source or self.root,
            self.mirror,
            "--method",
            method,
            *arguments,
            env={"HOME": str(self.place / "client/home")},
        )
        assert snapshot(self.place, without=[self.mirror]) == before
        assert left_behind(self.mirror) == []
        count(Tried.HOSTILE_INPUTS)
        return done

    def refuses(self, code: int = 7, *arguments: str, method: str = "manifest") -> Done:
        """The command refuses, and leaves the mirror as it was."""
        before = run_files(self.mirror)
        done = self.attack(*arguments, method=method).refused(code)
        assert run_files(self.mirror) == before
        return done

    def generate(self) -> None:
        """Publish what the root holds now."""
        self.document = generate(self.root, journal=self.journal)

    def recovers(self) -> None:
        """The next honest state that is published is synced in full."""
        if self.journal:
            append(self.root / PROJECT_RUN / "logs.txt", b"on and on\n")
            self.generate()
            # By the manifest, when the mirror was left with files that it does not know.
            report = self.sync_quietly()
            assert (report.method in {"journal", "manifest"}, report.failed_count, report.skipped) == (
                True,
                0,
                False,
            )
            self.matches()
            report = self.sync_quietly()
            assert (report.method, report.skipped) == ("journal", True)
            return
        self.document["revision"] += 1
        self.document["snapshot_id"] = "honest"
        self.publish(self.document)
        report = self.sync_quietly(method="manifest")
        assert (report.failed_count, report.skipped) == (0, False)
        self.matches()

    def matches(self) -> None:
        """The mirror holds what the root's honest manifest names, and nothing else of its runs."""
        listed = {entry["path"] for run in self.document["experiments"] for entry in run["files"]}
        wanted = {path: (self.root / path).read_bytes() for path in listed}
        assert run_files(self.mirror) == wanted


def every_text(value: Any, change: Callable[[str], str]) -> Any:
    """The same JSON with every text but the keys changed."""
    if isinstance(value, dict):
        return {key: every_text(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [every_text(each, change) for each in value]
    return change(value) if isinstance(value, str) else value
