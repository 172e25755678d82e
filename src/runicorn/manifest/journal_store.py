"""The files of a journal: opening them after whatever happened, appending, replacing, removing.

The order in which these are called is the business of `runicorn.manifest.journal_writer`.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from runicorn._files import fsync_folder, replace_file, scratch_file, sweep_temps
from runicorn.errors import DamagedError, UnsafeError
from runicorn.journal.frames import FOLDER, Place, beginning, file_name
from runicorn.journal.head import HEAD_NAME, MAX_HEAD, Head, Media, decode_head, encode_head
from runicorn.manifest.journal_follow import Followed, follow, last_seal
from runicorn.manifest.model import Header, Identity
from runicorn.manifest.rights import Audience, audience_of, has_acl

KEPT_EPOCHS = 2
"""Sealed epochs that stay."""

_NAME = re.compile(r"([0-9a-f]{32})\.journal").fullmatch
_TEMPS = re.compile(r"(?:HEAD|[0-9a-f]{32}\.journal)")
_DEFAULT_ACL = "system.posix_acl_default"
_CHUNK = 1024 * 1024
_LONGEST_END = 1024 * 1024
"""Bytes that a commit and a seal take at most."""

_OPEN_EPOCH = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass
class State:
    """Where a journal stands.

    Attributes:
        end: the place behind the last commit.
        identity: the state of that commit.
        base: the place behind the base's commit.
        media: where the media of the base lie.
        base_bytes: carriable bytes when the base was written.
        places: states, and the places behind their commits.
        header: of the last commit, when it was read.
    """

    end: Place
    identity: Identity
    base: Place
    media: Media
    base_bytes: int
    places: dict[Identity, Place] = field(default_factory=dict)
    header: Header | None = None

    def take(self, found: Followed) -> None:
        """Go on to where something that was found ends."""
        self.end, self.identity = found.end, found.identity or self.identity
        self.header = found.header or self.header
        self.places |= found.commits


class JournalStore:
    """The journal in an output folder; the caller holds the generator's lock.

    Args:
        output: the output folder.

    Attributes:
        folder: the journal's folder.
        state: where the journal stands; None when it cannot be gone on with.
        seen: the last state that was given a place in it, whether or not it can be gone on with.
        trouble: why it cannot be gone on with.

    Raises:
        OSError: from every method.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output / FOLDER
        self.state: State | None = None
        self.seen: list[Identity] = []
        self.trouble = ""
        self._fd = -1
        self._owner = -1

    def exists(self) -> bool:
        """Whether there is a folder for it."""
        return self.folder.is_dir()

    def close(self) -> None:
        """Close the epoch's file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- opening ---------------------------------------------------------------------------------

    def make(self) -> Audience:
        """Make the folder when it is missing; tells who can read the files that are made in it."""
        with suppress(FileExistsError):
            self.folder.mkdir()
            fsync_folder(self.folder.parent)
        if hasattr(os, "removexattr"):
            with suppress(OSError):  # there is none, or the file system knows none
                os.removexattr(self.folder, _DEFAULT_ACL)
        with scratch_file(self.folder, 0o666) as probe:
            status = os.fstat(probe.fileno())
        self._owner = status.st_uid
        return audience_of(status)

    def open(self) -> None:
        """Take up the journal where the last generator left it, killed or not."""
        sweep_temps(self.folder, [_TEMPS])
        head = self._read_head()
        if head is None:
            self._look_at_strays()
            return
        self.seen.append(head.identity)
        self._take_up(head)
        if self.state is None:
            self._look_at_strays()
        else:
            self.remove_except(self.kept())

    def _read_head(self) -> Head | None:
        try:
            with (self.folder / HEAD_NAME).open("rb") as stream:
                return decode_head(stream.read(MAX_HEAD + 1))
        except FileNotFoundError:
            self.trouble = "there is none"
        except (DamagedError, UnsafeError) as error:
            self.trouble = str(error)
        return None

    def _take_up(self, head: Head) -> None:
        if not self._open_epoch(head.epoch) or os.fstat(self._fd).st_size < head.end.offset:
            self.trouble = self.trouble or "its epoch is shorter than it was"
            return
        places = {head.identity: head.end}
        if head.manifest is not None:
            places.setdefault(head.manifest.identity, head.manifest.place)
        found = follow(self._fd, head.end)
        state = State(head.end, head.identity, head.base, head.media, head.base_bytes, places)
        if self._follow(state, found):
            self.state = state
            self._cut(state.end)
            if state.end != head.end:
                os.fsync(self._fd)  # a killed generator may not have come to it
                self._renew_head(head, state)

    def _follow(self, state: State, found: Followed) -> bool:
        """Whatever lies behind HEAD's length and is whole, over all seals."""
        passed = {state.end.epoch}
        while True:
            state.take(found)
            self.seen += found.commits
            if found.seal is None:
                return True
            after = found.seal.place
            if after.epoch in passed or not self._open_epoch(after.epoch):
                return False
            passed.add(after.epoch)
            found = follow(self._fd, beginning(after.epoch))
            if found.base != after or found.media is None or next(iter(found.commits)) != state.identity:
                self.trouble = "it was sealed, and the epoch after it is not whole"
                return False
            state.base, state.media, state.base_bytes = after, found.media, found.base_bytes

    def _renew_head(self, head: Head, state: State) -> None:
        """Killed again and again, generators would leave an ever longer way from HEAD to the end."""
        told = state.header
        known = head.manifest if head.manifest and head.manifest.place.epoch in self.kept(state) else None
        head = replace(
            head,
            identity=state.identity,
            end=state.end,
            base=state.base,
            base_bytes=state.base_bytes,
            media=state.media,
            manifest=known,
        )
        if told is not None:
            head = replace(
                head,
                generated_at=told.generated_at,
                total_experiments=told.total_experiments,
                total_files=told.total_files,
                total_bytes=told.total_bytes,
                complete=told.complete,
                problem_count=told.problem_count,
            )
        self.put_head(head)

    def _open_epoch(self, epoch: str) -> bool:
        self.close()
        try:
            self._fd = os.open(self.folder / file_name(epoch), _OPEN_EPOCH)
        except OSError as error:
            self.trouble = f"its epoch cannot be opened: {error.strerror}"
            return False
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            self.trouble = "its epoch is no regular file"
            return False
        return True

    def _cut(self, end: Place) -> None:
        """What is behind the last commit was never committed."""
        if os.fstat(self._fd).st_size > end.offset:
            os.ftruncate(self._fd, end.offset)
            os.fsync(self._fd)

    def _look_at_strays(self) -> None:
        """States that may have been read count, also when the journal cannot be gone on with."""
        for epoch in self.epochs():
            fd = os.open(self.folder / file_name(epoch), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            try:
                self.seen += follow(fd, beginning(epoch)).commits
            finally:
                os.close(fd)

    def readable_by(self, audience: Audience) -> bool:
        """Whether the current epoch can be read by these and nobody else."""
        status = os.fstat(self._fd)
        same = status.st_uid == self._owner and audience_of(status) == audience
        return same and not has_acl(self._fd)

    def give_up(self, why: str) -> None:
        """The journal cannot be gone on with."""
        self.close()
        self.state = None
        self.trouble = why

    # -- epochs ----------------------------------------------------------------------------------

    def epochs(self) -> list[str]:
        """The names of all epochs that have a file."""
        found = (_NAME(name) for name in os.listdir(self.folder))
        return [each.group(1) for each in found if each]

    def _next_of(self, epoch: str) -> str | None:
        """The epoch that a sealed one leads to."""
        with (self.folder / file_name(epoch)).open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _LONGEST_END))
            seal = last_seal(epoch, stream.read(_LONGEST_END))
        return seal.place.epoch if seal is not None else None

    def kept(self, state: State | None = None) -> list[str]:
        """The current epoch, and the sealed ones that lead to it and are kept."""
        state = state or self.state
        assert state is not None  # noqa: S101 - the caller knows
        kept = [state.end.epoch]
        leads = {self._next_of(each): each for each in self.epochs() if each not in kept}
        while len(kept) <= KEPT_EPOCHS and (before := leads.get(kept[-1])) and before not in kept:
            kept.append(before)
        return kept

    def age(self, epoch: str, now: float) -> float:
        """How long ago an epoch's file was changed, seconds."""
        return now - (self.folder / file_name(epoch)).stat().st_mtime

    def size(self, epoch: str) -> int:
        """Bytes of an epoch's file."""
        return (self.folder / file_name(epoch)).stat().st_size

    def remove_except(self, kept: list[str]) -> None:
        """Remove the epochs that are not among these."""
        gone = [each for each in self.epochs() if each not in kept]
        for epoch in gone:
            os.unlink(self.folder / file_name(epoch))
        if gone:
            fsync_folder(self.folder)

    def begin_anew(self, *kept: str) -> None:
        """Remove HEAD, and then all epochs but these."""
        self.close()
        with suppress(FileNotFoundError):
            os.unlink(self.folder / HEAD_NAME)
            fsync_folder(self.folder)
        self.remove_except([*kept])

    def remove(self) -> None:
        """Remove the journal, HEAD first; a folder with something else in it stays."""
        self.begin_anew()
        with suppress(OSError):
            self.folder.rmdir()

    # -- writing ---------------------------------------------------------------------------------

    def append(self, *parts: BinaryIO | bytes) -> None:
        """Put frames behind the last commit, durable."""
        assert self.state is not None  # noqa: S101 - the caller knows
        os.lseek(self._fd, self.state.end.offset, os.SEEK_SET)
        for part in parts:
            if isinstance(part, bytes):
                _write(self._fd, part)
                continue
            while data := part.read(_CHUNK):
                _write(self._fd, data)
        os.fsync(self._fd)

    def enter(self, state: State) -> None:
        """Go on with an epoch."""
        self._open_epoch(state.end.epoch)
        self.state = state

    def put_head(self, head: Head) -> None:
        """Replace HEAD, and tell by the epoch's time when the generator looked."""
        moment = int(head.generated_at * 1e9)
        os.utime(self._fd, ns=(moment, moment))
        with replace_file(self.folder / HEAD_NAME) as out:
            out.write(encode_head(head))


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
