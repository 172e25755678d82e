"""Which folders are runs, which files of a run belong, which names are safe. Pure.

Scan, walk and reader select by these functions alone, so that all ways give the same listing.
"""

from __future__ import annotations

import functools
import re

STATE_PRIORITIES = {
    "status.json": 1,
    "meta.json": 1,
    "summary.json": 2,
    "environment.json": 2,
    "artifacts_created.json": 2,
    "artifacts_used.json": 2,
    "assets.json": 2,
}
LOG_PRIORITIES = {"events.jsonl": 3, "logs.txt": 3}
FILE_PRIORITIES = STATE_PRIORITIES | LOG_PRIORITIES
MEDIA_PRIORITY = 4
MEDIA_FOLDER = "media"
_IN_MEDIA = MEDIA_FOLDER + "/"
RUNS_FOLDER = "runs"
RUN_MARKERS = frozenset({"meta.json", "status.json"})
ARTEFACT_FOLDER = ".runicorn"

MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
MAX_PARTS = 80
MAX_FOLDER_DEPTH = 32
"""Parts of a path in the path layout, and folders below ``media``."""

_UNFINISHED = (".lock", ".tmp", ".temp", ".part", ".partial", ".swp", "~")
_RUNNING = frozenset(
    [
        "running",
        "unknown",
        "pending",
        "queued",
        "created",
        "starting",
        "initializing",
        "paused",
        "resuming",
        "",
    ]
)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*").fullmatch
_UNSAFE_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f\\\\\ud800-\udfff]")


def has_ended(status: str) -> bool:
    """Whether a run with this status writes nothing more."""
    return status.strip().lower() not in _RUNNING


def is_hidden(name: str) -> bool:
    """Whether a name is never entered and never listed."""
    return name.startswith(".")


def media_belongs(name: str) -> bool:
    """Whether a file name inside ``media`` belongs to the run."""
    return not is_hidden(name) and not name.lower().endswith(_UNFINISHED)


def priority_in_run(inner: str) -> int | None:
    """The priority of a file, or None when it does not belong.

    Args:
        inner: path relative to the run folder.
    """
    priority = FILE_PRIORITIES.get(inner)
    if priority is not None:
        return priority
    if not inner.startswith(_IN_MEDIA) or inner.count("/") > MAX_FOLDER_DEPTH + 1 or "/." in inner:
        return None
    return MEDIA_PRIORITY if media_belongs(inner.rpartition("/")[2]) else None


@functools.lru_cache(maxsize=64)
def project_and_name(folder: str) -> tuple[str, str] | None:
    """Project and name of a run folder, or None when it fits no layout.

    Args:
        folder: path of the run folder relative to the root.
    """
    parts = folder.split("/")
    if any(is_hidden(part) for part in parts):
        return None
    if parts[0] == RUNS_FOLDER:
        between = parts[1:-1]
        if len(parts) < 2 or len(between) > MAX_FOLDER_DEPTH:
            return None
        return (between[0] if between else "", "/".join(between[1:]))
    if len(parts) == 4 and parts[2] == RUNS_FOLDER:
        return (parts[0], parts[1])
    return None


def may_lead_to_runs(folder: str) -> bool:
    """Whether a folder can be a run of a layout, or lie above one."""
    parts = folder.split("/")
    if folder == ".":
        return True
    if any(is_hidden(part) for part in parts):
        return False
    return parts[0] == RUNS_FOLDER or len(parts) <= 2 or (len(parts) <= 4 and parts[2] == RUNS_FOLDER)


def run_folders(path: str, run_id: str) -> list[str]:
    """The run folders that a file may lie in, the shallowest first; empty when it fits no layout.

    Args:
        path: a safe path relative to the root.
        run_id: the name of the run folder.
    """
    parts = path.split("/")
    candidates = ("/".join(parts[: at + 1]) for at in range(1, len(parts) - 1) if parts[at] == run_id)
    return [folder for folder in candidates if belongs(path, folder) and project_and_name(folder) is not None]


def belongs(path: str, folder: str) -> bool:
    """Whether a path is that of a file of the run in ``folder``."""
    return path.startswith(folder + "/") and priority_in_run(path[len(folder) + 1 :]) is not None


def unsafe_name(name: str) -> str | None:
    """Why a single name is refused, or None when it is safe."""
    if name in ("", ".", ".."):
        return "empty or a dot name"
    found = _UNSAFE_CHARACTER.search(name)
    if found:
        return f"it holds the character {escape(found.group())}"
    if "/" in name:
        return "it holds a slash"
    if len(name) > MAX_NAME_BYTES // 4 and len(name.encode()) > MAX_NAME_BYTES:
        return f"longer than {MAX_NAME_BYTES} bytes"
    return None


def unsafe_path(path: str) -> str | None:
    """Why a path of a manifest is refused, or None when it is safe (section Threat model)."""
    if len(path) <= MAX_NAME_BYTES and _PLAIN_PATH(path) and path.count("/") < MAX_PARTS:
        return None  # what nearly all are, for the time that the rest takes
    if not path or path[0] == "/":
        return "empty or absolute"
    found = _UNSAFE_CHARACTER.search(path)
    if found:
        return f"it holds the character {escape(found.group())}"
    if len(path) > MAX_PATH_BYTES // 4 and len(path.encode()) > MAX_PATH_BYTES:
        return f"longer than {MAX_PATH_BYTES} bytes"
    return _unsafe_parts(path.split("/"))


def _unsafe_parts(parts: list[str]) -> str | None:
    if len(parts) > MAX_PARTS:
        return f"more than {MAX_PARTS} parts"
    for part in parts:
        if part in ("", ".", ".."):
            return "it has an empty part or a dot part"
        if len(part) > MAX_NAME_BYTES // 4 and len(part.encode()) > MAX_NAME_BYTES:
            return f"it has a part longer than {MAX_NAME_BYTES} bytes"
    return None


def _escape_character(found: re.Match[str]) -> str:
    code = ord(found.group())
    if found.group() == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that os.fsdecode could not decode
        return f"\\x{code - 0xDC00:02x}"
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_INVISIBLE = (
    "\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
_NOT_SHOWN = re.compile(f"[\x00-\x1f\x7f-\x9f\\\\{_INVISIBLE}\ud800-\udfff]")


_CONTROLS = re.compile(_NOT_SHOWN.pattern.replace("\\\\", ""))


def visible(text: str) -> str:
    """A line whose outside parts were escaped when it was made, with what may have been missed."""
    return _CONTROLS.sub(_escape_character, text)


def escape(text: str) -> str:
    """Text from outside, safe to show on a terminal or in a log: no control characters, nothing
    invisible such as direction marks, no undecodable bytes."""
    return _NOT_SHOWN.sub(_escape_character, text)
