"""Scans a root and publishes its manifests (section Write and read order of the format).

The order is law: scan, scan state, manifest, compressed manifest; each is put in place whole.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runicorn.errors import PublishError, UsageError
from runicorn.manifest.checks import MAX_TIME
from runicorn.manifest.generation import Hooks, Order
from runicorn.manifest.generator_lock import LOCK_NAME, generator_lock
from runicorn.manifest.model import Header, Manifest, ManifestType, Run
from runicorn.manifest.publish import (
    gz_path,
    standard_name,
    stored_header,
)
from runicorn.manifest.rules import ARTEFACT_FOLDER, escape
from runicorn.manifest.session import Session
from runicorn.manifest.standing import Standing

_log = logging.getLogger("runicorn.manifest")


class ManifestGenerator:
    """Publishes manifests of one root.

    Args:
        remote_root: the folder that holds all runs.
        output_dir: where manifests, state and lock lie; default ``<remote_root>/.runicorn``.
        active_window_seconds: an active manifest lists the runs that changed within this time, seconds.
        incremental: whether files that have not changed inherit their digests unread.
        lock_timeout: how long to wait for another generator on the same root, seconds.
        journal: whether a journal is kept beside the manifests; one that is there is removed otherwise.
        compact: whether the journal is written anew, as short as it can be.

    Attributes:
        journal_trouble: why the last generation kept no journal although it was to; empty otherwise.

    Raises:
        UsageError: a negative window or waiting time; to compact no journal.
    """

    def __init__(  # noqa: PLR0913 - each is an option of the command
        self,
        remote_root: Path,
        output_dir: Path | None = None,
        active_window_seconds: int = 3600,
        incremental: bool = True,
        lock_timeout: float = 60.0,
        *,
        journal: bool = True,
        compact: bool = False,
    ) -> None:
        if active_window_seconds < 0:
            raise UsageError("the active window cannot be negative")
        if active_window_seconds > MAX_TIME:
            raise UsageError(f"the active window cannot be longer than {MAX_TIME:.0f} seconds")
        if not str(remote_root):
            raise UsageError("the root has no name")
        if not lock_timeout >= 0:
            raise UsageError("the waiting time for the lock cannot be negative")
        self.remote_root = Path(os.path.abspath(remote_root))
        self.output_dir = self.remote_root / ARTEFACT_FOLDER if output_dir is None else Path(output_dir)
        self.active_window_seconds = active_window_seconds
        self.incremental = incremental
        if compact and not journal:
            raise UsageError("there is no journal to compact")
        self.lock_timeout = lock_timeout
        self.journal = journal
        self.compact = compact
        self.journal_trouble = ""

    def generate(
        self, manifest_type: ManifestType = ManifestType.FULL, output_path: Path | None = None
    ) -> tuple[Manifest, Path]:
        """Scan the root and publish a manifest.

        Args:
            manifest_type: what it lists. The scan and the revision are the same for both.
            output_path: where to put it; default ``<type>_manifest.json`` in the output folder. Beside it
                lies the compressed form, with ``.gz`` added.

        Returns:
            The manifest with all runs it lists, and where it was put.

        Raises:
            PublishError: the root cannot be read or the output not be written.
            GeneratorBusy: another generator held the lock all the time.
            UsageError: ``output_path`` would overwrite something else.
        """
        runs: list[Run] = []
        header, path = self._locked(ManifestType(manifest_type), output_path, runs)
        return Manifest(header, tuple(runs)), path

    def publish(
        self, manifest_type: ManifestType = ManifestType.FULL, output_path: Path | None = None
    ) -> tuple[Header, Path]:
        """As `generate`, without building the runs in memory."""
        return self._locked(ManifestType(manifest_type), output_path, None)

    def _target(self, manifest_type: ManifestType, output_path: Path | None) -> Path:
        path = self.output_dir / standard_name(manifest_type) if output_path is None else Path(output_path)
        if path.suffix == ".gz" or path.name in ("", LOCK_NAME):
            message = f"the manifest cannot be written to '{escape(str(path))}'"
            raise UsageError(message, hint="name a .json file; the compressed form is written beside it")
        if output_path is not None:
            self._refuse_harm(path, manifest_type)
        return path

    def _refuse_harm(self, path: Path, manifest_type: ManifestType) -> None:
        """A path that somebody typed may name anything: only a manifest is ever replaced."""
        shown = escape(str(path))
        if path.is_dir() and not path.is_symlink():
            raise PublishError(f"'{shown}' is a folder", path=str(path))
        for each in (path, gz_path(path)):
            if not os.path.lexists(each):
                continue
            header = None if each.is_symlink() else stored_header(each)
            if header is None or header.manifest_type is not manifest_type:
                raise UsageError(
                    f"'{escape(str(each))}' is no {manifest_type.value} manifest: it is not replaced"
                )
        others = (standard_name(each) for each in ManifestType if each is not manifest_type)
        if path.absolute() in {self.output_dir.absolute() / name for name in others}:
            raise UsageError(f"'{shown}' is the place of another manifest")

    def _check_root(self) -> None:
        root = self.remote_root
        if sys.getfilesystemencoding().lower() != "utf-8":
            message = f"this system's locale names files in {sys.getfilesystemencoding()}, manifests in UTF-8"
            raise PublishError(message, hint="set the environment variable PYTHONUTF8=1")
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise PublishError(f"the root '{escape(str(root))}' {what}", path=str(root))

    def _locked(
        self, manifest_type: ManifestType, output_path: Path | None, runs: list[Run] | None
    ) -> tuple[Header, Path]:
        target = self._checked_target(manifest_type, output_path)
        self._make_folders(target)
        with generator_lock(self.output_dir, self.lock_timeout, self._say_waiting) as lock:
            session = Session(self._order(manifest_type, target), lock)
            header, self.journal_trouble = session.publish(runs)
        return header, target

    @contextmanager
    def session(self, standing: Standing, hooks: Hooks) -> Iterator[Session]:
        """Hold the lock for generations of full manifests, one after the other.

        Args:
            standing: holds what the last scan found.
            hooks: whom the generations tell how they get on.

        Raises:
            PublishError: as `generate`.
            GeneratorBusy: another generator held the lock all the time.
        """
        target = self._checked_target(ManifestType.FULL, None)
        self._make_folders(target)
        with generator_lock(self.output_dir, self.lock_timeout, self._say_waiting, hooks.beat) as lock:
            order = self._order(ManifestType.FULL, target)
            yield Session(order._replace(standing=standing, hooks=hooks), lock)

    def _order(self, manifest_type: ManifestType, target: Path) -> Order:
        return Order(
            root=os.path.realpath(self.remote_root),
            shown_root=str(self.remote_root),
            output=self.output_dir,
            manifest_type=manifest_type,
            target=target,
            racy_from=0,
            active_window=self.active_window_seconds,
            incremental=self.incremental,
            journal=self.journal,
            compact=self.compact,
        )

    def _make_folders(self, target: Path) -> None:
        for folder in (target.parent, self.output_dir):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                message = f"cannot make the folder '{escape(str(folder))}': {error.strerror}"
                raise PublishError(message, path=str(folder)) from error

    def _checked_target(self, manifest_type: ManifestType, output_path: Path | None) -> Path:
        try:
            self._check_root()
            return self._target(manifest_type, output_path)
        except OSError as error:
            name = str(error.filename or self.remote_root)
            raise PublishError(f"cannot use '{escape(name)}': {error.strerror}", path=name) from error

    def _say_waiting(self) -> None:
        _log.warning("another generator works on the same root; waiting up to %g s", self.lock_timeout)
