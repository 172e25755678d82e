"""Writing and removing units: whole or not at all, and only those that this program wrote itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from runicorn._files import fsync_folder, replace_file
from runicorn.cli.service_units import MARK, mark_of
from runicorn.errors import ServiceError
from runicorn.manifest.rules import escape

ENDINGS = (".service", ".timer")


def unit_folder(*, system: bool, environment: Mapping[str, str] = os.environ) -> Path:
    """Where a manager looks for the units of its administrator."""
    if system:
        return Path("/etc/systemd/system")
    config = environment.get("XDG_CONFIG_HOME", "")
    return (Path(config) if os.path.isabs(config) else Path.home() / ".config") / "systemd/user"


def _failure(what: str, path: Path, error: OSError) -> ServiceError:
    return ServiceError(f"cannot {what} '{escape(str(path))}': {error.strerror}", path=str(path))


def _first_line(path: Path) -> str | None:
    """The first line of a file; None when there is none."""
    try:
        if path.is_symlink():
            return ""
        with path.open("rb") as stream:
            return stream.readline(16 * 1024).decode("utf-8", "replace").rstrip("\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failure("read", path, error) from error


def _require_ours(path: Path, root: str) -> bool:
    """Whether a unit is there; it must be one of this root."""
    line = _first_line(path)
    if line is None or line == mark_of(root):
        return line is not None
    shown = escape(str(path))
    if line.startswith(MARK):
        raise ServiceError(
            f"'{shown}' is for another root: '{escape(line[len(MARK) :])}'",
            hint="give this one a name of its own with --name",
            path=str(path),
        )
    raise ServiceError(
        f"'{shown}' was not written by this program: it is not touched",
        hint="move it away, or choose another name with --name",
        path=str(path),
    )


def install_units(folder: Path, name: str, root: str, made: Mapping[str, str]) -> list[str]:
    """Write units, and remove those of the same name that they replace.

    Args:
        folder: where to.
        name: of the units, without ending.
        root: which root they are for.
        made: text by file name.

    Returns:
        The names of the units that were there before.

    Raises:
        ServiceError: another unit has the name, or it cannot be written; then nothing was changed, or each
            unit is whole.
    """
    before = [f"{name}{each}" for each in ENDINGS if _require_ours(folder / f"{name}{each}", root)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _failure("make", folder, error) from error
    for file, text in made.items():
        try:
            with replace_file(folder / file) as out:
                out.write(text.encode())
        except OSError as error:
            raise _failure("write", folder / file, error) from error
    _unlink(folder, [each for each in before if each not in made])
    return before


def remove_units(folder: Path, name: str, root: str) -> list[Path]:
    """Remove the units of a root.

    Returns:
        What was removed.

    Raises:
        ServiceError: there are none, they are not this program's, or they cannot be removed.
    """
    files = [f"{name}{each}" for each in ENDINGS if _require_ours(folder / f"{name}{each}", root)]
    if not files:
        raise ServiceError(
            f"there are no units '{escape(name)}' in '{escape(str(folder))}'", path=str(folder)
        )
    _unlink(folder, files)
    return [folder / file for file in files]


def _unlink(folder: Path, files: list[str]) -> None:
    for file in files:
        try:
            os.unlink(folder / file)
        except OSError as error:
            raise _failure("remove", folder / file, error) from error
    if files:
        fsync_folder(folder)


def make_artefact_folder(root: Path, user: str) -> None:
    """Make the folder that the service may write to, as the user that it runs as.

    Raises:
        ServiceError: it cannot be made.
    """
    folder = root / ".runicorn"
    try:
        if not folder.exists():
            folder.mkdir()
            if user and hasattr(os, "chown"):
                import pwd

                account = pwd.getpwnam(user)
                os.chown(folder, account.pw_uid, account.pw_gid, follow_symlinks=False)
    except KeyError as error:
        raise ServiceError(f"there is no user '{escape(user)}'") from error
    except OSError as error:
        raise _failure("make", folder, error) from error
