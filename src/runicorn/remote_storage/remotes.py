"""Remotes by name: a TOML file of the user's, see docs/howto/many-servers.md.

The libraries for TOML are imported when they are used: most syncs name a source and need no file.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runicorn._files import replace_file
from runicorn.errors import UsageError
from runicorn.manifest.rules import escape
from runicorn.remote_storage.source import parse_source

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

FORMAT_VERSION = "1.0"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}").fullmatch
_MAJOR = re.compile(r"1\.[0-9]{1,6}").fullmatch
_MOST_BYTES = 1024 * 1024
_LOCK_SECONDS = 10.0
_LOCK_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Remote:
    """A source and its mirror under a name.

    Attributes:
        name: letters, digits, ``_``, ``.`` and ``-``, at most 64; it begins with a letter or digit.
        source: as of ``runicorn sync SOURCE``.
        mirror: folder of the mirror, ``~`` for the home folder; None for the default one.
    """

    name: str
    source: str
    mirror: Path | None


def is_name(text: str) -> bool:
    """Whether a text can be the name of a remote."""
    return _NAME(text) is not None


def require_name(text: str) -> None:
    """Refuse what cannot be a name.

    Raises:
        UsageError: it cannot.
    """
    if not is_name(text):
        raise UsageError(
            f"'{escape(text)}' cannot be the name of a remote",
            hint="use letters, digits, _ . and -, at most 64, beginning with a letter or a digit",
        )


def _require_text(remote: Remote) -> None:
    for path in (remote.source, str(remote.mirror or "")):
        try:
            path.encode("utf-8")
        except UnicodeEncodeError as error:
            message = f"'{escape(path)}' is not UTF-8, and so no text for the file of the remotes"
            raise UsageError(message, hint="sync it without a name, or rename it") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among those who lock a folder; where it cannot be locked, as ever.

    Raises:
        TimeoutError: somebody else holds it for long.
    """
    import fcntl

    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + _LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(_LOCK_PAUSE)
                continue
            except OSError:
                pass
            break
        yield
    finally:
        os.close(fd)


class Remotes:
    """The remotes in a file.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[Remote]:
        """All remotes, in the order of the file.

        Raises:
            UsageError: the file cannot be read or makes no sense.
        """
        return [
            self._remote(name, fields) for name, fields in self._tables(self._plain(self._text())).items()
        ]

    def _plain(self, text: str) -> dict[str, Any]:
        if not text:
            return {}
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        try:
            return tomllib.loads(text)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def get(self, name: str) -> Remote | None:
        """The remote of a name, or None.

        Raises:
            UsageError: as of `all`.
        """
        return next((each for each in self.all() if each.name == name), None)

    def add(self, remote: Remote) -> None:
        """Add one; what else the file holds stays as it is.

        Raises:
            UsageError: the name cannot be one or is taken, or as of `all`.
        """
        require_name(remote.name)
        _require_text(remote)
        import tomlkit

        with self._changed(remote.name) as document:
            if self.get(remote.name) is not None:
                hint = f"`runicorn remote remove {remote.name}` first"
                raise UsageError(f"there is a remote {remote.name} already", hint=hint)
            document.setdefault("format_version", FORMAT_VERSION)
            table = tomlkit.table()
            table["source"] = remote.source
            if remote.mirror is not None:
                table["mirror"] = str(remote.mirror)
            remotes = document.setdefault("remotes", tomlkit.table(is_super_table=True))
            remotes[remote.name] = table

    def remove(self, name: str) -> Remote:
        """Remove one, and give it; its mirror stays.

        Raises:
            UsageError: there is none of this name, or as of `all`.
        """
        self._required(name)  # without one nothing is made
        with self._changed(name) as document:
            found = self._required(name)
            del document["remotes"][name]
        return found

    def _required(self, name: str) -> Remote:
        found = self.get(name)
        if found is None:
            raise UsageError(f"there is no remote {escape(name)}", hint="`runicorn remote list` names them")
        return found

    # -- the file ------------------------------------------------------------------------------

    def _text(self) -> str:
        try:
            with self.path.open("rb") as stream:
                data = stream.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise UsageError(f"cannot read {self._shown}: {error.strerror}") from error
        if len(data) > _MOST_BYTES:
            raise self._damaged("it is too large")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged("it is not UTF-8") from error

    @contextlib.contextmanager
    def _changed(self, name: str) -> Iterator[TOMLDocument]:
        """The file, under its lock, for a change of one remote; it is written when the block ends without an
        exception."""
        place = Path(os.path.realpath(self.path))
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with _locked(place.parent):
                yield from self._changed_alone(place, name)
        except TimeoutError as error:
            raise UsageError(f"another program changes {self._shown}", hint="try again") from error
        except OSError as error:
            raise UsageError(f"cannot write {self._shown}: {error.strerror}") from error

    def _changed_alone(self, place: Path, name: str) -> Iterator[TOMLDocument]:
        import tomlkit
        from tomlkit.exceptions import TOMLKitError

        before = self._text()
        self.all()
        try:
            document = tomlkit.parse(before)
            yield document
            after = tomlkit.dumps(document)
        except (TOMLKitError, ValueError, TypeError) as error:
            raise self._unchangeable() from error
        self._require_rest(before, after, name)
        data = after.encode("utf-8")
        with replace_file(place) as stream:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(stream.fileno(), stat.S_IMODE(os.stat(place).st_mode))
            stream.write(data)

    def _require_rest(self, before: str, after: str, name: str) -> None:
        """There are many ways to write a table, and the library breaks some of them."""
        try:
            is_same = _rest(self._plain(before), name) == _rest(self._plain(after), name)
        except UsageError as error:
            raise self._unchangeable() from error
        if not is_same:
            raise self._unchangeable()

    def _unchangeable(self) -> UsageError:
        hint = "change it by hand, or write each remote as a table of its own: [remotes.NAME]"
        return UsageError(f"cannot change {self._shown} in the form it is written in", hint=hint)

    @property
    def _shown(self) -> str:
        return escape(str(self.path))

    def _damaged(self, reason: str) -> UsageError:
        line = escape(" ".join(reason.split()))
        return UsageError(f"cannot read {self._shown}: {line}", hint="correct the file, or remove it")

    def _tables(self, document: dict[str, Any]) -> dict[str, Any]:
        version = document.get("format_version", FORMAT_VERSION)
        if not isinstance(version, str) or not _MAJOR(version):
            raise self._damaged(f"its format_version {version!r} is not known here")
        tables = document.get("remotes", {})
        if not isinstance(tables, dict):
            raise self._damaged("'remotes' is no table")
        return tables

    def _remote(self, name: str, fields: Any) -> Remote:
        if not is_name(name):
            raise self._damaged(f"{name!r} cannot be the name of a remote")
        if not isinstance(fields, dict):
            raise self._damaged(f"remotes.{name} is no table")
        source, mirror = fields.get("source"), fields.get("mirror")
        if not isinstance(source, str) or not source:
            raise self._damaged(f"remotes.{name} has no source")
        if mirror is not None and (not isinstance(mirror, str) or not mirror or "\x00" in mirror):
            raise self._damaged(f"the mirror of remotes.{name} is no path")
        self._require_usable(name, source, mirror)
        return Remote(name, source, None if mirror is None else Path(mirror))

    def _require_usable(self, name: str, source: str, mirror: str | None) -> None:
        """A path that depends on where the command is run would make a mirror here and there."""
        try:
            parsed = parse_source(source)
        except UsageError as error:
            raise self._damaged(f"the source of remotes.{name}: {error}") from error
        for what, path in (("source", parsed.path if parsed.is_local else None), ("mirror", mirror)):
            if path is not None and not os.path.isabs(os.path.expanduser(path)):
                raise self._damaged(f"the {what} of remotes.{name} must be absolute, or begin with ~/")


def _rest(document: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a change of one remote has to leave as it is."""
    others = {key: value for key, value in document.items() if key not in ("format_version", "remotes")}
    return others, {key: value for key, value in document.get("remotes", {}).items() if key != name}
