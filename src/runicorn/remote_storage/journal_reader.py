"""Reading the journal of a server: HEAD, and the frames from a place on. Nothing of the mirror here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import cast

from runicorn.errors import DamagedError, NoJournalError, RequestError, UnsafeError
from runicorn.journal.frames import (
    CURRENT,
    FOLDER,
    FrameReader,
    Kind,
    Place,
    StoredFrame,
    beginning,
    file_name,
)
from runicorn.journal.head import HEAD_NAME, Head, decode_head
from runicorn.journal.sections import decode_begin, decode_seal
from runicorn.manifest.rules import ARTEFACT_FOLDER
from runicorn.remote_storage.journal_look import Beside, leads_to, look
from runicorn.remote_storage.poll import Poll, last_commit
from runicorn.remote_storage.transport.base import (
    MAX_READ,
    Answer,
    Attributes,
    Close,
    Fstat,
    Handle,
    Job,
    Open,
    Operation,
    Read,
    Stat,
    Transport,
)
from runicorn.remote_storage.transport.stream import Opening, Stream

_NO_SUCH_FILE = 2
_READS_OF_BEGINNING = 2
"""Beside HEAD: work for the round trip after it."""

_MOST_EPOCHS = 64
"""Seals that are followed at most: each names an epoch that was written later."""


class JournalReader:
    """Reads the journal of one root; keeps the epoch's file open, so that a poll is one
    round trip.

    Args:
        transport: the connection.
        remote_root: the root on the server, without a slash at its end.

    Attributes:
        head: what HEAD told last; None before the first look.
        told: runs and problems of the server, as HEAD or a commit told last.
    """

    def __init__(self, transport: Transport, remote_root: str) -> None:
        self._transport = transport
        self._folder = f"{remote_root}/{ARTEFACT_FOLDER}/{FOLDER}"
        self._epoch = ""
        self._handle: Handle | None = None
        self._left: list[Handle] = []
        self._early = (Place("", 0, b""), b"")
        self._round_trip: float | None = None
        self._peeked: tuple[Place, Poll] | None = None
        self.head: Head | None = None
        self.told = (0, 0)

    def _path(self, epoch: str) -> str:
        return f"{self._folder}/{file_name(epoch)}"

    # -- looking ---------------------------------------------------------------------------

    def look(self, place: Place | None, *, begins: bool = False) -> Head:
        """Read HEAD and, in the same round trips, what follows a place.

        Args:
            place: where the client is, or None.
            begins: without a place: whether it is going to read the current epoch from its beginning.

        Raises:
            NoJournalError: the server has none that can be read.
            DamagedError: HEAD makes no sense.
            UnsafeError: HEAD has a number out of bounds.
            TransportError: the connection failed.
        """
        self.head = None
        beside = Beside()
        if place is not None:
            if not self.has_open(place.epoch):
                self.forget()
            beside = Beside(self._handle, "" if self.is_open else self._path(place.epoch), place.offset)
        elif begins:
            beside = Beside(None, f"{self._folder}/{CURRENT}", 0, _READS_OF_BEGINNING, is_guess=True)
        seen = look(self._transport, f"{self._folder}/{HEAD_NAME}", beside, self._closing())
        self._round_trip = seen.round_trip
        if place is not None:
            self._take_handle(place.epoch, seen.handle)
        elif seen.handle is not None:
            self._left.append(seen.handle)  # it is closed, unless it proves to be HEAD's epoch
        if seen.refusal is not None:
            raise _no_head(seen.refusal)
        head = decode_head(_bytes(seen.head))
        if place is not None:
            self._early = (place, _bytes(seen.data))
        elif leads_to(seen, head):
            handle = self._left.pop()
            self.forget()
            self._take_handle(head.epoch, handle)
            self._early = (beginning(head.epoch), _bytes(seen.data))
        self.head = head
        return head

    def peek(self, place: Place) -> Poll | None:
        """As `poll`, which gives the same without asking again when it is called next.

        Raises:
            TransportError: the connection failed.
        """
        self._peeked = None
        poll = self.poll(place)
        if poll is not None:
            self._peeked = (place, poll)
        return poll

    def poll(self, place: Place) -> Poll | None:
        """See by one READ and one STAT whether there is more; None when the epoch is not as it was.

        Raises:
            TransportError: the connection failed.
        """
        peeked, self._peeked = self._peeked, None
        if peeked is not None and peeked[0] == place:
            return peeked[1]
        if not self.has_open(place.epoch) or self._handle is None:
            return None
        found: list[Answer] = []
        handle = self._handle

        def job() -> Job:
            found.extend(
                (yield [Read(handle, place.offset, MAX_READ, once=True), Stat(self._path(place.epoch))])
            )

        self._transport.run(iter([job()]))
        data, status = found
        if isinstance(data, RequestError) or not isinstance(status, Attributes):
            self.forget()
            return None
        if status.size is None or status.size < place.offset:
            return None
        early = cast(bytes, data)
        self._early = (place, early)
        size = max(status.size, place.offset + len(early))
        is_all = place.offset + len(early) == size
        return Poll(size, status.mtime or 0, last_commit(place, early), is_all)

    def is_sealed_at(self, place: Place) -> bool:
        """Whether the last look found a seal directly behind a place."""
        reader = FrameReader(place)
        if self._early[0] == place:
            reader.feed(self._early[1])
        try:
            frame = next(reader.frames(), None)
        except (DamagedError, UnsafeError):
            return False
        return frame is not None and frame.kind is Kind.SEAL

    @property
    def is_open(self) -> bool:
        """Whether the file of any epoch is open."""
        return self._handle is not None

    def has_open(self, epoch: str) -> bool:
        """Whether the file of an epoch is open."""
        return self._handle is not None and self._epoch == epoch

    def _take_handle(self, epoch: str, answer: Answer | None) -> None:
        if isinstance(answer, Handle):
            self._epoch, self._handle = epoch, answer

    def forget(self) -> None:
        """Open the file anew when it is needed next: what is open may not be what the path leads to."""
        self._early = (Place("", 0, b""), b"")
        self._peeked = None
        if self._handle is not None:
            self._left.append(self._handle)
        self._handle = None

    # -- frames ----------------------------------------------------------------------------

    def frames(
        self,
        place: Place,
        head: Head,
        *,
        media: bool,
        cancel: threading.Event,
        received: Callable[[int], None],
    ) -> Generator[StoredFrame, None, None]:
        """The frames from a place to HEAD's end, over all epochs in between.

        Args:
            place: where to begin.
            head: what HEAD told.
            media: whether the media of the base of the current epoch are wanted.
            cancel: when it is set, CancelledError is raised.
            received: is told of bytes as they come.

        Raises:
            NoJournalError: an epoch is gone.
            DamagedError: the journal does not fit together.
            UnsafeError: a value is out of bounds.
            TransportError: the connection failed.
        """
        lineage = head.identity.lineage
        for _ in range(_MOST_EPOCHS):
            seal: StoredFrame | None = None
            is_last = place.epoch == head.epoch
            begins = place.offset == 0
            with closing(self._of_epoch(place, head if is_last else None, media, cancel, received)) as frames:
                for frame in frames:
                    if seal is not None or begins != (frame.kind is Kind.BEGIN):
                        name = frame.kind.name.lower()
                        raise DamagedError(f"the journal is damaged: a frame '{name}' is out of order")
                    if begins:
                        _require_begin(frame, place.epoch, lineage)
                        begins = False
                    seal = frame if frame.kind is Kind.SEAL else None
                    yield frame
            if seal is None:
                if is_last:
                    return
                raise NoJournalError("its epoch was left without a seal")
            if is_last:
                raise DamagedError("the journal's HEAD names an epoch that was left")
            place = decode_seal(seal.open(), lineage).place
        raise DamagedError("the journal's epochs do not end")

    def leads_on(self, head: Head, epoch: str, cancel: threading.Event) -> bool:
        """Whether the epoch of a HEAD that is behind was left for another one by now.

        Raises:
            NoJournalError, DamagedError, UnsafeError, TransportError: as of `frames`.
        """
        end = self.size(head.epoch)
        with closing(self._range(head.end, end, cancel, _ignore, whole=False)) as frames:
            for frame in frames:
                if frame.kind is Kind.SEAL:
                    return decode_seal(frame.open(), head.identity.lineage).place.epoch == epoch
        return False

    def tail(
        self, place: Place, end: Place, *, cancel: threading.Event, received: Callable[[int], None]
    ) -> Generator[StoredFrame, None, None]:
        """The frames from a place on, up to what a poll has found committed.

        Raises:
            DamagedError, UnsafeError, TransportError: as of `frames`.
        """
        yield from self._range(place, end.offset, cancel, received, whole=True)

    def _of_epoch(
        self,
        place: Place,
        head: Head | None,
        media: bool,
        cancel: threading.Event,
        received: Callable[[int], None],
    ) -> Generator[StoredFrame, None, None]:
        """The frames of one epoch; with a HEAD those up to its end, and all of them have to be there."""
        end = head.end if head is not None else None
        skips = head is not None and not media and place.offset <= head.media.begin < head.media.end.offset
        if head is not None and skips:
            yield from self._range(place, head.media.begin, cancel, received, whole=True)
            place = head.media.end
        size = self.size(place.epoch) if end is None else end.offset
        last = place
        with closing(self._range(place, size, cancel, received, whole=end is not None)) as frames:
            for frame in frames:
                last = frame.end
                yield frame
        if end is not None and last != end:
            raise DamagedError("the journal is not the one that its HEAD tells of")

    def _range(
        self, place: Place, end: int, cancel: threading.Event, received: Callable[[int], None], *, whole: bool
    ) -> Generator[StoredFrame, None, None]:
        if place.offset > end:
            raise DamagedError(f"the journal has {end} bytes, and the client has read {place.offset}")
        last = place
        with closing(self._decoded(place, end, cancel)) as frames:
            for frame in frames:
                received(frame.end.offset - last.offset)
                last = frame.end
                yield frame
        if whole and last.offset != end:
            raise DamagedError(f"the journal ends behind byte {last.offset}, before {end}")

    def _decoded(self, place: Place, end: int, cancel: threading.Event) -> Generator[StoredFrame, None, None]:
        reader = FrameReader(place)
        with closing(self._chunks(place, end, cancel)) as chunks:
            for chunk in chunks:
                reader.feed(chunk)
                yield from reader.stored_frames()

    def _chunks(self, place: Place, end: int, cancel: threading.Event) -> Generator[bytes, None, None]:
        early_place, early = self._early
        self._early = (Place("", 0, b""), b"")
        start = place.offset
        if early and early_place == place:
            early = early[: end - start]
            start += len(early)
            yield early
        if start >= end:
            return
        path, opening = self._path(place.epoch), Opening(lambda: self._opened(place.epoch), self._round_trip)
        with Stream(self._transport, path, start, end, cancel=cancel, opening=opening) as chunks:
            try:
                yield from chunks
            except RequestError as error:
                raise _unreadable(error) from error

    def _opened(self, epoch: str) -> Handle:
        if not self.has_open(epoch) or self._handle is None:
            self.forget()
            answers = self._ask(lambda: [Open(self._path(epoch), keep=True), *self._closing()])
            if isinstance(answers[0], RequestError):
                raise NoJournalError("its epoch is not there any more") from answers[0]
            self._take_handle(epoch, answers[0])
        return cast(Handle, self._handle)

    def size(self, epoch: str) -> int:
        """Bytes of an epoch.

        Raises:
            NoJournalError: it is gone.
            DamagedError: it cannot be read.
            TransportError: the connection failed.
        """
        handle = self._opened(epoch)
        (answer,) = self._ask(lambda: [Fstat(handle)])
        if isinstance(answer, RequestError):
            raise _unreadable(answer) from answer
        return cast(Attributes, answer).size or 0

    def _closing(self) -> list[Operation]:
        left, self._left = self._left, []
        return [Close(handle) for handle in left]

    def _ask(self, batch: Callable[[], list[Operation]]) -> list[Answer]:
        answers: list[Answer] = []

        def job() -> Job:
            answers.extend((yield batch()))

        self._transport.run(iter([job()]))
        return answers

    def close(self) -> None:
        """Close the epoch's file.

        Raises:
            TransportError: the connection failed.
        """
        self.forget()
        if self._left:
            self._ask(self._closing)


def _ignore(_count: int) -> None:
    return


def _require_begin(frame: StoredFrame, epoch: str, lineage: str | None) -> None:
    if decode_begin(frame.open()) != (epoch, lineage):
        raise DamagedError("an epoch of the journal is of another history than its HEAD")


def _unreadable(refusal: RequestError) -> DamagedError:
    return DamagedError(f"the journal cannot be read: {refusal}")


def _bytes(answer: Answer) -> bytes:
    if isinstance(answer, RequestError):
        raise _unreadable(answer) from answer
    return cast(bytes, answer)


def _no_head(refusal: RequestError) -> NoJournalError:
    if refusal.code == _NO_SUCH_FILE:
        return NoJournalError("the server keeps no journal")
    return NoJournalError(f"the journal cannot be read: {refusal}")
