"""Scans a root and publishes its manifests (section Write and read order of the format).

The order is law: scan, scan state, manifest, compressed manifest; each is put in place whole.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from runicorn._files import sweep_temps
from runicorn._version import __version__
from runicorn.errors import PublishError, UsageError
from runicorn.manifest.checks import MAX_TIME
from runicorn.manifest.generator_lock import LOCK_NAME, generator_lock, now_by_all_clocks
from runicorn.manifest.identity import identity_after, identity_without_state
from runicorn.manifest.model import Header, Identity, Manifest, ManifestType, Run
from runicorn.manifest.publish import (
    Body,
    gz_path,
    standard_name,
    stored_header,
    stored_headers,
    write_manifest,
)
from runicorn.manifest.rules import ARTEFACT_FOLDER, escape
from runicorn.manifest.scan import Found, Scanner
from runicorn.manifest.scan_problems import Problems
from runicorn.manifest.scan_state import (
    STATE_NAME,
    RunState,
    StateLost,
    StateOutput,
    StateReader,
    Summary,
)

RACY_NS = 2 * 10**9
"""A file that changed this long (ns) before a scan or later is read again by the next one."""

_log = logging.getLogger("runicorn.manifest")


def _hostname() -> str:
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return escape(name)[:255]


class ManifestGenerator:
    """Publishes manifests of one root.

    Args:
        remote_root: the folder that holds all runs.
        output_dir: where manifests, state and lock lie; default ``<remote_root>/.runicorn``.
        active_window_seconds: an active manifest lists the runs that changed within this time, seconds.
        incremental: whether files that have not changed inherit their digests unread.
        lock_timeout: how long to wait for another generator on the same root, seconds.

    Raises:
        UsageError: a negative window or waiting time.
    """

    def __init__(
        self,
        remote_root: Path,
        output_dir: Path | None = None,
        active_window_seconds: int = 3600,
        incremental: bool = True,
        lock_timeout: float = 60.0,
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
        self.lock_timeout = lock_timeout

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
        for folder in (target.parent, self.output_dir):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                message = f"cannot make the folder '{escape(str(folder))}': {error.strerror}"
                raise PublishError(message, path=str(folder)) from error
        with generator_lock(self.output_dir, self.lock_timeout, self._say_waiting) as lock:
            racy_from = now_by_all_clocks(lock, self.remote_root) - RACY_NS
            try:
                self._sweep()
                header = _publish(self, _Order(manifest_type, target, racy_from), runs)
            except OSError as error:
                name = escape(str(error.filename or self.output_dir))
                raise PublishError(f"cannot write '{name}': {error.strerror}", path=name) from error
        return header, target

    def _checked_target(self, manifest_type: ManifestType, output_path: Path | None) -> Path:
        try:
            self._check_root()
            return self._target(manifest_type, output_path)
        except OSError as error:
            name = str(error.filename or self.remote_root)
            raise PublishError(f"cannot use '{escape(name)}': {error.strerror}", path=name) from error

    def _say_waiting(self) -> None:
        _log.warning("another generator works on the same root; waiting up to %g s", self.lock_timeout)

    def _sweep(self) -> None:
        names = [standard_name(each) for each in ManifestType]
        for name in sweep_temps(self.output_dir, (*names, *(f"{each}.gz" for each in names), STATE_NAME)):
            _log.debug("removed the rest of a killed generator: %s", name)


class _Order(NamedTuple):
    manifest_type: ManifestType
    target: Path
    racy_from: int


def _publish(generator: ManifestGenerator, order: _Order, runs: list[Run] | None) -> Header:
    try:
        return _Generation(generator, order, runs, StateReader(generator.output_dir / STATE_NAME)).run()
    except StateLost as error:
        _log.info("no scan state (%s): everything is read", error)
    if runs is not None:
        runs.clear()
    return _Generation(generator, order, runs, None).run()


class _Generation:
    """One generation, under the lock."""

    def __init__(
        self, generator: ManifestGenerator, order: _Order, runs: list[Run] | None, reader: StateReader | None
    ) -> None:
        self._generator = generator
        self._order = order
        self._runs = runs
        self._reader = reader
        self._folder = generator.output_dir
        self._body = Body(self._folder / STATE_NAME, self._listed)
        self._state = StateOutput(self._folder / STATE_NAME)
        self._changed = False
        self._looked_at = time.time()
        window = generator.active_window_seconds * 10**9
        self._since = time.time_ns() - window if order.manifest_type is ManifestType.ACTIVE else 0

    def run(self) -> Header:
        scanner = Scanner(
            str(self._generator.remote_root), self._order.racy_from, incremental=self._generator.incremental
        )
        started = time.monotonic()
        try:
            previous = self._reader.runs() if self._reader is not None else iter(())
            for found in scanner.scan(previous):
                self._take(found)
            self._body.end()
            self._log_scan(scanner, time.monotonic() - started)
            return self._install(scanner.problems)
        finally:
            self._body.close()
            self._state.close()

    def _log_scan(self, scanner: Scanner, duration: float) -> None:
        if not _log.isEnabledFor(logging.DEBUG):
            return
        _log.debug("scanned %d runs in %.3f s", self._state.runs, duration)
        _log.debug("read %d files, %d bytes", scanner.files_read, scanner.bytes_read)
        _log.debug("inherited %d files", self._state.files - scanner.files_read)
        for problem in scanner.problems.listed:
            _log.debug("problem: %s: %s: %s", problem.path, problem.kind, problem.message)

    def _listed(self, state: RunState) -> bool:
        return state.newest_ns >= self._since

    def _take(self, found: Found) -> None:
        now, old = found
        if now is None:
            self._changed = True
            self._state.start()
            self._body.start()
            return
        if now is old:
            self._state.keep(now)
            self._body.keep(now)
        else:
            self._take_other(now, old)
        if self._runs is not None and self._listed(now):
            self._runs.append(now.listed())

    def _take_other(self, now: RunState, old: RunState | None) -> None:
        if old is not None and now.encoded() == old.encoded():
            self._state.keep(now)
        else:
            self._state.put(now)
        if old is not None and now.line == old.line:
            self._body.keep(now)
        else:
            self._changed = True
            self._body.put(now)

    def _install(self, problems: Problems) -> Header:
        previous = self._reader.summary if self._reader is not None else None
        identity = self._identity(previous, problems)
        header = self._header(identity, problems)
        self._state.install(Summary(identity, problems.digest, self._state.runs), previous)
        target = self._order.target
        old = previous.identity if previous is not None else None
        write_manifest(target, header, self._body.streams(target, (identity, old)))
        return header

    def _identity(self, previous: Summary | None, problems: Problems) -> Identity:
        stored = stored_headers(self._folder)
        if previous is None:
            return identity_without_state(stored, lambda header: self._lists_the_same(header, problems))
        changed = self._changed or previous.problems != problems.digest
        return identity_after(previous.identity, stored, changed=changed)

    def _lists_the_same(self, stored: Header, problems: Problems) -> bool:
        both_full = stored.manifest_type is self._order.manifest_type is ManifestType.FULL
        return (
            both_full
            and stored.problems == tuple(problems.listed)
            and stored.problem_count == problems.count == len(problems.listed)
            and self._body.equals(self._folder / standard_name(ManifestType.FULL))
        )

    def _header(self, identity: Identity, problems: Problems) -> Header:
        generator = self._generator
        active = self._order.manifest_type is ManifestType.ACTIVE
        return Header(
            manifest_type=self._order.manifest_type,
            identity=identity,
            generated_at=self._looked_at,
            server_hostname=_hostname(),
            remote_root=escape(str(generator.remote_root))[:4096],
            total_experiments=self._body.runs,
            total_files=self._body.files,
            total_bytes=self._body.size,
            complete=not problems.hides_files,
            problems=tuple(problems.listed),
            problem_count=problems.count,
            active_window=generator.active_window_seconds if active else None,
            generator=f"runicorn {__version__}",
        )
