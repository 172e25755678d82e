"""Everything that the files of a changing tree have ever held, kept on disk, to check a mirror against.

The writer records each change *before* it makes it, so whatever a reader of the tree can have seen is in the
history. For each file there is a folder of the same relative path: `versions` lists the SHA-256 of every
content of a state file, and the files `0`, `1`, ... hold the generations of a log. A generation ends when the
log is cut or replaced. `ended` is there once a run has said that it ended, `removed` once a file was taken
out of the tree.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

LOG_NAMES = ("events.jsonl", "logs.txt")
GOING_ON = frozenset(
    [
        "",
        "running",
        "unknown",
        "pending",
        "queued",
        "created",
        "starting",
        "initializing",
        "paused",
        "resuming",
    ]
)
"""What a run says that has not ended."""


def is_log(relative: str) -> bool:
    """Whether a file is append-only by its name."""
    return relative.rpartition("/")[2] in LOG_NAMES


def is_run_file(relative: str) -> bool:
    """Whether a file of the tree is one to follow: not hidden, not temporary, not a lock."""
    name = relative.rpartition("/")[2]
    hidden = any(part.startswith(".") for part in relative.split("/"))
    return not hidden and not name.endswith((".lock", ".tmp"))


def says_ended(status: bytes) -> bool:
    """Whether this content of a `status.json` says that the run has ended."""
    try:
        said = json.loads(status)["status"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(said, str) and said.strip().lower() not in GOING_ON


class History:
    """The versions of all files of one tree, kept below `directory`, by paths relative to the tree."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def record_tree(self, root: Path) -> None:
        """Record what all the run files below `root` hold now."""
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root).as_posix()
            if path.is_file() and is_run_file(relative):
                self.record(relative, path.read_bytes())

    def record(self, relative: str, content: bytes) -> None:
        """Record a new content: a version of a state file, or a new generation of a log."""
        folder = self.directory / relative
        folder.mkdir(parents=True, exist_ok=True)
        if is_log(relative):
            (folder / str(self._generations(folder))).write_bytes(content)
        else:
            with (folder / "versions").open("a", encoding="ascii") as versions:
                versions.write(hashlib.sha256(content).hexdigest() + "\n")
            if folder.name == "status.json" and says_ended(content):
                (folder / "ended").touch()

    def record_append(self, relative: str, data: bytes) -> None:
        """Record that `data` is about to be appended to a log."""
        folder = self.directory / relative
        with (folder / str(self._generations(folder) - 1)).open("ab") as generation:
            generation.write(data)

    def record_removed(self, relative: str) -> None:
        """Record that a file is about to go: it is removed, renamed, or its run ceases to be one."""
        (self.directory / relative / "removed").touch()

    def record_tree_removed(self, root: Path, folder: Path) -> None:
        """Record that all the run files below a folder of the tree are about to go."""
        for path in folder.rglob("*"):
            relative = path.relative_to(root).as_posix()
            if path.is_file() and (self.directory / relative).is_dir():
                self.record_removed(relative)

    def was_removed(self, relative: str) -> bool:
        """Whether a file has ever been taken out of the tree."""
        return (self.directory / relative / "removed").exists()

    def versions(self, relative: str) -> list[str]:
        """The SHA-256 of all contents of a state file, in order; empty if there never was one."""
        try:
            return (self.directory / relative / "versions").read_text(encoding="ascii").split()
        except (FileNotFoundError, NotADirectoryError):
            return []

    def generations(self, relative: str) -> list[bytes]:
        """All generations of a log, in order; empty if there never was one."""
        folder = self.directory / relative
        numbers = range(self._generations(folder)) if folder.is_dir() else ()
        return [(folder / str(number)).read_bytes() for number in numbers]

    def paths(self) -> set[str]:
        """Every file that has ever been in the tree."""
        leaves = {path.parent for path in self.directory.rglob("*") if path.is_file()}
        return {leaf.relative_to(self.directory).as_posix() for leaf in leaves}

    def has_ended(self, run: str) -> bool:
        """Whether a run has ever said that it had finished; its logs may then end with half a record."""
        return (self.directory / run / "status.json/ended").exists()

    def is_prefix(self, relative: str, content: bytes) -> bool:
        """Whether a log ever began with `content`."""
        return any(generation.startswith(content) for generation in self.generations(relative))

    def fault(self, relative: str, content: bytes) -> str | None:
        """What is wrong with `content` as a mirror's copy of this file, or None if the file once held it.

        A copy of a log is right if it is a prefix of one of its generations and ends at a record boundary.
        """
        folder = self.directory / relative
        if not folder.is_dir():
            return f"{relative} was never in the tree"
        if not is_log(relative):
            known = self.versions(relative)
            digest = hashlib.sha256(content).hexdigest()
            return None if digest in known else f"{relative} was never like this ({len(content)} bytes)"
        if content and not content.endswith(b"\n"):
            return f"{relative} ends within a record ({content[-40:]!r})"
        if self.is_prefix(relative, content):
            return None
        return f"{relative} is no prefix of any version ({len(content)} bytes)"

    def faults(self, mirror: Path) -> list[str]:
        """What is wrong in a whole mirror; empty if nothing is. Files that are missing are no fault here."""
        found = []
        for path in sorted(mirror.rglob("*")):
            relative = path.relative_to(mirror).as_posix()
            if is_run_file(relative) and path.is_file():
                fault = self.fault(relative, path.read_bytes())
                found += [fault] if fault else []
        return found

    @staticmethod
    def _generations(folder: Path) -> int:
        return sum(1 for each in folder.iterdir() if each.name.isdigit())
