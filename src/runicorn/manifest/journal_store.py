"""The files of a journal: opening them after whatever happened, appending, replacing, removing.

The order in which these are called is the business of `runicorn.manifest.journal_writer`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from runicorn._files import fsync_folder, replace_file, replace_link, scratch_file, sweep_temps
from runicorn.errors import DamagedError, PublishError, UnsafeError
from runicorn.journal.frames import CURRENT, FOLDER, Place, beginning, file_name
from runicorn.journal.head import HEAD_NAME, MAX_HEAD, Head, Media, decode_head, encode_head
from runicorn.manifest.journal_follow import Followed, follow, last_seal
from runicorn.manifest.model import Header, Identity
from runicorn.manifest.own_files import LACKS_RIGHTS, open_own, require_link, require_own
from runicorn.manifest.rights import Audience, audience_of
from runicorn.manifest.rules import escape

KEPT_BYTES = 64 * 1024 * 1024
KEPT_BASES = 4
"""Sealed epochs stay as long as they take no more than so many bytes, or so many times the current base."""

_NAME = re.compile(r"([0-9a-f]{32})\.journal").fullmatch
_TEMPS = re.compile(r"(?:HEAD|CURRENT|[0-9a-f]{32}\.journal)")
_DEFAULT_ACL = "system.posix_acl_default"
_CHUNK = 1024 * 1024
_LONGEST_END = 1024 * 1024
"""Bytes that a commit and a seal take at most."""


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
        written: weight of all files frames of the epoch; None when that is not known.
    """

    end: Place
    identity: Identity
    base: Place
    media: Media
    base_bytes: int
    places: dict[Identity, Place] = field(default_factory=dict)
    header: Header | None = None
    written: int | None = None

    def take(self, found: Followed) -> None:
        """Go on to where something that was found ends."""
        self.end, self.identity = found.end, found.identity or self.identity
        self.header = found.header or self.header
        self.places |= found.commits
        if self.written is not None:
            self.written += found.weight


class JournalStore:
    """The journal in an output folder; the caller holds the generator's lock.

    Args:
        output: the output folder.

    Attributes:
        folder: the journal's folder.
        state: where the journal stands; None when it cannot be gone on with.
        seen: the last state that was given a place in it, whether or not it can be gone on with.
        trouble: why it cannot be gone on with.
        unread: number of states after these that cannot be read.
        duration: what HEAD told of it when it was opened; None when it told nothing.

    Raises:
        OSError: from every method.
        PublishError: something else lies in the place of the folder or of a file; what has to be removed
            cannot be.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output / FOLDER
        self.state: State | None = None
        self.seen: list[Identity] = []
        self.trouble = ""
        self.unread = 0
        self.duration: float | None = None
        self._fd = -1
        self._owner = -1

    def exists(self) -> bool:
        """Whether there is a folder for it."""
        return require_own(self.folder, folder=True)

    def close(self) -> None:
        """Close the epoch's file."""
        fd, self._fd = self._fd, -1  # closed it is, whatever the system says
        if fd >= 0:
            os.close(fd)

    # -- opening ---------------------------------------------------------------------------------

    def make(self) -> Audience:
        """Make the folder when it is missing; tells who can read the files that are made in it."""
        if not self.exists():
            self.folder.mkdir()
            fsync_folder(self.folder.parent)
        if hasattr(os, "removexattr"):
            with suppress(OSError):  # there is none, or the file system knows none
                os.removexattr(self.folder, _DEFAULT_ACL)
        with scratch_file(self.folder, 0o666) as probe:
            status = os.fstat(probe.fileno())
            self._owner = status.st_uid
            return audience_of(status, probe.fileno())

    def open(self) -> None:
        """Take up the journal where the last generator left it, killed or not."""
        for name in (HEAD_NAME, *map(file_name, self.epochs())):
            require_own(self.folder / name)
        require_link(self.folder / CURRENT)
        sweep_temps(self.folder, [_TEMPS])
        head = self._read_head()
        if head is None:
            self._look_at_strays()
            return
        self.seen.append(head.identity)
        self.duration = head.duration
        self._take_up(head)
        if self.state is not None:
            self.remove_except(self.kept())
        elif not self.unread:
            self._look_at_strays()

    def _read_head(self) -> Head | None:
        try:
            with os.fdopen(open_own(self.folder / HEAD_NAME), "rb") as stream:
                return decode_head(stream.read(MAX_HEAD + 1))
        except FileNotFoundError:
            self.trouble = "there is none"
        except PermissionError as error:
            self.trouble = f"its HEAD cannot be opened: {error.strerror}"
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
        state = State(
            head.end, head.identity, head.base, head.media, head.base_bytes, places, written=head.written
        )
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
            if found.unread:
                self.unread = found.unread
                self.trouble = "what another Python or version has written to it cannot be read here"
                return False
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
            state.written = 0  # the next round takes what was found

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
            written=state.written,
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
            self._fd = open_own(self.folder / file_name(epoch), os.O_RDWR)
        except OSError as error:
            self.trouble = f"its epoch cannot be opened: {error.strerror}"
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
            try:
                fd = open_own(self.folder / file_name(epoch))
            except PermissionError:
                self.unread += 1
                continue
            try:
                found = follow(fd, beginning(epoch))
            finally:
                os.close(fd)
            self.seen += found.commits
            self.unread += found.unread

    def readable_by(self, audience: Audience) -> bool:
        """Whether the current epoch can be read by these and nobody else."""
        status = os.fstat(self._fd)
        return status.st_uid == self._owner and audience_of(status, self._fd) == audience

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
        try:
            fd = open_own(self.folder / file_name(epoch))
        except PermissionError:
            return None
        with os.fdopen(fd, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _LONGEST_END))
            seal = last_seal(epoch, stream.read(_LONGEST_END))
        return seal.place.epoch if seal is not None else None

    def kept(self, state: State | None = None) -> list[str]:
        """The current epoch, and the sealed ones that lead to it and are kept, the newest first."""
        state = state or self.state
        assert state is not None  # noqa: S101 - the caller knows
        kept = [state.end.epoch]
        left = max(KEPT_BYTES, KEPT_BASES * state.base.offset)
        leads = {self._next_of(each): each for each in self.epochs() if each not in kept}
        while (before := leads.get(kept[-1])) and before not in kept:
            left -= self.size(before)
            if left < 0:
                break
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
            with self._removing(file_name(epoch)):
                os.unlink(self.folder / file_name(epoch))
        if gone:
            fsync_folder(self.folder)

    def begin_anew(self, *kept: str) -> None:
        """Remove HEAD, and then all epochs but these, and the link."""
        self.close()
        self.drop_head()
        self.remove_except([*kept])
        self._drop_link()

    def drop_head(self) -> bool:
        """Remove HEAD, if there is one; tells whether there was."""
        with self._removing(HEAD_NAME):
            if not self.exists() or not require_own(self.folder / HEAD_NAME):
                return False
            os.unlink(self.folder / HEAD_NAME)
            fsync_folder(self.folder)
        return True

    def _drop_link(self) -> None:
        link = self.folder / CURRENT
        if require_link(link):
            # A link holds nothing, and without HEAD nobody follows it.
            with suppress(OSError) if link.is_symlink() else self._removing(CURRENT):
                os.unlink(link)
                fsync_folder(self.folder)

    @contextmanager
    def _removing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in LACKS_RIGHTS:
                raise
            folder = escape(str(self.folder))
            raise PublishError(
                f"cannot remove '{folder}/{name}': {error.strerror}; clients would go on reading it",
                hint=f"another user made it: let him, or root, remove the folder '{folder}'",
                path=str(self.folder / name),
            ) from error

    def remove(self) -> None:
        """Remove the journal, HEAD first; a folder with something else in it stays."""
        self.begin_anew()
        with suppress(OSError):
            self.folder.rmdir()

    # -- writing ---------------------------------------------------------------------------------

    def append(self, *parts: BinaryIO | bytes) -> None:
        """Put frames behind the last commit, durable; when they cannot be written, nothing of them stays."""
        assert self.state is not None  # noqa: S101 - the caller knows
        os.lseek(self._fd, self.state.end.offset, os.SEEK_SET)
        try:
            for part in parts:
                if isinstance(part, bytes):
                    _write(self._fd, part)
                    continue
                while data := part.read(_CHUNK):
                    _write(self._fd, data)
        except OSError:
            with suppress(OSError):
                self._cut(self.state.end)
            raise
        os.fsync(self._fd)

    def is_at_end(self) -> bool:
        """Whether nothing lies behind the last commit."""
        assert self.state is not None  # noqa: S101 - the caller knows
        return os.fstat(self._fd).st_size == self.state.end.offset

    def enter(self, state: State) -> None:
        """Go on with an epoch."""
        self.close()
        self._fd = open_own(self.folder / file_name(state.end.epoch), os.O_RDWR)
        self.state = state

    def put_head(self, head: Head) -> None:
        """Replace HEAD, and tell by the epoch's time when the generator looked."""
        moment = int(head.generated_at * 1e9)
        os.utime(self._fd, ns=(moment, moment))
        with replace_file(self.folder / HEAD_NAME) as out:
            out.write(encode_head(head))
        replace_link(self.folder / CURRENT, file_name(head.end.epoch))


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
