"""Checks of untrusted JSON values against the fields of docs/manifest-format.md. Pure.

Two verdicts: *unsafe* (a value that would harm, the manifest is refused) and *damaged* (a value
that makes no sense, the manifest is not used).
"""

from __future__ import annotations

import re
from typing import Any

from runicorn.errors import DamagedError, UnsafeError, UnsupportedVersionError
from runicorn.manifest import rules
from runicorn.manifest.codec import FORMAT_MAJOR, MAX_LISTED_PROBLEMS
from runicorn.manifest.model import FileEntry, Header, Identity, ManifestType, Problem, Run

MAX_INTEGER = 2**63 - 1
MAX_REVISION = 2**53 - 1
MAX_TIME = float(2**33)
MAX_TEXT = 4096

_DIGEST = re.compile("[0-9a-f]{64}").fullmatch
_VERSION = re.compile(r"([0-9]{1,6})\.[0-9]{1,6}").fullmatch


def _required(raw: dict[str, Any], name: str) -> Any:
    try:
        return raw[name]
    except KeyError:
        raise DamagedError(f"the manifest lacks the field {name!r}") from None


def integer(value: object, name: str, low: int = 0, high: int = MAX_INTEGER) -> int:
    """An integer within its bounds.

    Raises:
        DamagedError: it is not an integer.
        UnsafeError: it is out of bounds.
    """
    if type(value) is not int:
        raise DamagedError(f"the field {name!r} of the manifest is not an integer")
    if not low <= value <= high:
        raise UnsafeError(f"the field {name!r} of the manifest is out of bounds")
    return value


def seconds(value: object, name: str) -> float:
    """A time in seconds since the epoch, within its bounds.

    Raises:
        DamagedError: it is not a number.
        UnsafeError: it is out of bounds.
    """
    if type(value) is not float and type(value) is not int:
        raise DamagedError(f"the field {name!r} of the manifest is not a number")
    if not 0 <= value <= MAX_TIME:
        raise UnsafeError(f"the field {name!r} of the manifest is out of bounds")
    return float(value)


def text(value: object, name: str, longest: int = MAX_TEXT, shortest: int = 0) -> str:
    """A text within its bounds.

    Raises:
        DamagedError: it is not a text.
        UnsafeError: it is out of bounds.
    """
    if type(value) is not str:
        raise DamagedError(f"the field {name!r} of the manifest is not a text")
    if not shortest <= len(value) <= longest:
        raise UnsafeError(f"the field {name!r} of the manifest is out of bounds")
    return value


def digest(raw: dict[str, Any], name: str) -> str | None:
    """A SHA-256 in lower-case hex, or None when the field is absent.

    Raises:
        DamagedError: it is something else.
    """
    value = raw.get(name)
    if value is None:
        return None
    if type(value) is not str or not _DIGEST(value):
        raise DamagedError(f"the field {name!r} of the manifest is not a SHA-256 in lower-case hex")
    return value


def _safe_path(value: object) -> str:
    path = text(value, "path", rules.MAX_PATH_BYTES)
    reason = rules.unsafe_path(path)
    if reason:
        raise UnsafeError(f"the manifest names the path '{rules.escape(path[:200])}': {reason}", path=path)
    return path


def _entry(raw: dict[str, Any], path: str, folder: str) -> FileEntry:
    inner = path[len(folder) + 1 :]
    is_log = inner in rules.LOG_PRIORITIES
    exact = raw.get("mtime_ns")
    mtime = seconds(_required(raw, "mtime"), "mtime")
    block_digest = digest(raw, "block_digest") if is_log else None
    return FileEntry(
        path=path,
        size=integer(_required(raw, "size"), "size"),
        mtime=mtime,
        priority=integer(_required(raw, "priority"), "priority", 0, 100),
        is_log=is_log,
        mtime_ns=None if exact is None else integer(exact, "mtime_ns", 0, int(MAX_TIME) * 10**9),
        sha256=None if is_log else digest(raw, "sha256"),
        block_digest=block_digest,
        tail_hash=digest(raw, "tail_hash") if block_digest else None,
    )


def run_folder(value: object) -> str:
    """A path that a run folder can have.

    Raises:
        DamagedError: it is not a text.
        UnsafeError: it fits no layout, or would harm.
    """
    folder = _safe_path(value)
    if rules.project_and_name(folder) is None:
        raise UnsafeError(
            f"the manifest names '{rules.escape(folder[:200])}', which is no run folder", path=folder
        )
    return folder


def _run_folder(raw: dict[str, Any], run_id: str, paths: list[str]) -> str:
    stated = raw.get("folder")
    candidates = rules.run_folders(paths[0], run_id) if stated is None else [_safe_path(stated)]
    for folder in candidates:
        fits = folder.rsplit("/", 1)[-1] == run_id and rules.project_and_name(folder) is not None
        if fits and all(rules.belongs(path, folder) for path in paths):
            return folder
    raise UnsafeError(
        f"the manifest names '{rules.escape(paths[0][:200])}', which is no file of the run "
        f"'{rules.escape(run_id)}'",
        path=paths[0],
    )


def _refuse_overlaps(paths: list[str], folder: str) -> None:
    if len(set(paths)) != len(paths):
        raise UnsafeError(f"the manifest names a file of '{rules.escape(folder)}' twice", path=folder)
    known = set(paths)
    for path in paths:
        parent = path.rsplit("/", 1)[0]
        while len(parent) > len(folder):
            if parent in known:
                raise UnsafeError(
                    f"the manifest names '{rules.escape(parent)}' as file and as folder", path=parent
                )
            parent = parent.rsplit("/", 1)[0]


def _names(raw: dict[str, Any], folder: str) -> tuple[str, str]:
    """Project and name as the layout has them: a selection goes by these, whatever a manifest says."""
    for field in ("project", "name"):
        text(_required(raw, field), field)
    return rules.project_and_name(folder) or ("", "")


def run(raw: object) -> Run:
    """One run of a manifest.

    Raises:
        DamagedError: it makes no sense.
        UnsafeError: it would harm.
    """
    if type(raw) is not dict:
        raise DamagedError("a run of the manifest is not an object")
    run_id = _safe_path(_required(raw, "run_id"))
    if rules.unsafe_name(run_id):
        raise UnsafeError(f"the manifest names the run '{rules.escape(run_id[:200])}'", path=run_id)
    files = _required(raw, "files")
    if type(files) is not list or not files or not all(type(each) is dict for each in files):
        raise DamagedError(f"the run '{rules.escape(run_id)}' of the manifest has no list of files")
    paths = [_safe_path(_required(each, "path")) for each in files]
    folder = _run_folder(raw, run_id, paths)
    _refuse_overlaps(paths, folder)
    project, name = _names(raw, folder)
    return Run(
        folder=folder,
        run_id=run_id,
        project=project,
        name=name,
        status=text(_required(raw, "status"), "status", 64),
        created_at=seconds(_required(raw, "created_at"), "created_at"),
        updated_at=seconds(_required(raw, "updated_at"), "updated_at"),
        files=tuple(_entry(each, path, folder) for each, path in zip(files, paths, strict=True)),
    )


def _version(raw: dict[str, Any]) -> str:
    version = text(_required(raw, "format_version"), "format_version", 16)
    found = _VERSION(version)
    if not found:
        raise DamagedError("the field 'format_version' of the manifest is not MAJOR.MINOR")
    if int(found.group(1)) != FORMAT_MAJOR:
        raise UnsupportedVersionError(
            f"the manifest has the format {version}, this program reads {FORMAT_MAJOR}.x"
        )
    return version


def _problems(raw: dict[str, Any]) -> tuple[Problem, ...]:
    listed = raw.get("problems", [])
    if type(listed) is not list or not all(type(each) is dict for each in listed):
        raise DamagedError("the field 'problems' of the manifest is not a list of objects")
    if len(listed) > MAX_LISTED_PROBLEMS:
        raise UnsafeError(f"the manifest lists more than {MAX_LISTED_PROBLEMS} problems")
    names = ("path", "kind", "message")
    # A hostile path escaped by the generator can be up to six times its length.
    return tuple(
        Problem(*(text(_required(each, name), name, 8 * MAX_TEXT) for name in names)) for each in listed
    )


def header(raw: object) -> Header:
    """The header of a manifest, without its runs.

    Raises:
        DamagedError: it makes no sense; `UnsupportedVersionError` for an unknown major version.
        UnsafeError: it would harm.
    """
    if type(raw) is not dict:
        raise DamagedError("the manifest is not an object")
    version = _version(raw)
    kind = _required(raw, "manifest_type")
    if kind not in (ManifestType.FULL.value, ManifestType.ACTIVE.value):
        raise DamagedError("the field 'manifest_type' of the manifest is neither 'full' nor 'active'")
    sums = _required(raw, "statistics")
    if type(sums) is not dict:
        raise DamagedError("the field 'statistics' of the manifest is not an object")
    lineage, window = raw.get("lineage"), raw.get("active_window")
    problems = _problems(raw)
    return Header(
        manifest_type=ManifestType(kind),
        identity=Identity(
            lineage=None if lineage is None else text(lineage, "lineage", 64, 1),
            revision=integer(_required(raw, "revision"), "revision", 1, MAX_REVISION),
            snapshot_id=text(_required(raw, "snapshot_id"), "snapshot_id", 64, 1),
        ),
        generated_at=seconds(_required(raw, "generated_at"), "generated_at"),
        server_hostname=text(_required(raw, "server_hostname"), "server_hostname", 255),
        remote_root=text(_required(raw, "remote_root"), "remote_root"),
        total_experiments=integer(_required(sums, "total_experiments"), "total_experiments"),
        total_files=integer(_required(sums, "total_files"), "total_files"),
        total_bytes=integer(_required(sums, "total_bytes"), "total_bytes"),
        complete=raw.get("complete") is True,
        problems=problems,
        problem_count=max(len(problems), integer(raw.get("problem_count", 0), "problem_count")),
        active_window=None if window is None else integer(window, "active_window"),
        format_version=version,
        generator=text(raw.get("generator", ""), "generator", 64),
    )
