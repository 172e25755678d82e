"""What a transport does: it runs jobs, which ask for read-only file operations.

A job is a generator: it yields a batch of operations and is sent the answers of the whole batch, in
the same order. A transport keeps many jobs under way at once, so that the round trips of thousands
of files overlap. A batch is sent without waiting in between: ``[Read(...), Close(...)]`` costs one
round trip. An operation that the server refuses does not raise in the transport: the job is sent
the `RequestError` in place of the answer, and decides what it means. Everything that ends the
connection is raised by `Transport.run` after all jobs were closed.

There is no operation that could change the server (law 5).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from runicorn.errors import RequestError

MAX_READ = 255 * 1024
"""Bytes of one `Read` that every engine may ask for at once; larger reads are cut up by it."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is known of a file or folder.

    Attributes:
        size: bytes, or None when the server did not say.
        mode: POSIX mode with the file type, or None when the server did not say.
        mtime: seconds since the epoch (whole seconds in SFTP version 3), or None.
    """

    size: int | None
    mode: int | None
    mtime: int | None


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One name of a folder, as the server sent it (undecodable bytes as surrogate escapes)."""

    name: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Handle:
    """An open file or folder on the server.

    Attributes:
        value: what the server calls it.
        serial: tells a kept handle from a later one that the server calls the same; 0 = not kept.
    """

    value: bytes
    serial: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """Open a file for reading. Answer: `Handle`.

    A handle belongs to the job that opened it and is closed when that job ends. One opened with
    ``keep`` belongs to nobody: every job may use it, those of later runs too, until a `Close`, the
    end of the transport, or a run that ends with an exception. What is asked of it afterwards is
    refused as of any handle that is not open, and its user opens the file again.

    With ``once`` the first refusal is the answer: it tells nothing of how many files may be open.
    """

    path: str
    keep: bool = False
    once: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Read ``length`` bytes at ``offset``. Answer: bytes; fewer only at the end of the file.

    The transport asks again after a short read, so that an answer shorter than ``length`` means
    that the file ends there; exactly one byte less than asked for is accepted without asking again
    (a reader of ``size`` bytes asks for ``size + 1`` and so sees a file that has grown).
    ``length`` is at most `MAX_READ`. With ``once`` a short answer may be given as it came, also that of
    a server that reads less at a time, which saves requests where the reader knows the size by other
    means.
    """

    handle: Handle
    offset: int
    length: int
    once: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """Close a handle. Answer: None, also when the server refused it."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Fstat:
    """Ask for the attributes of an open file. Answer: `Attributes`."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Stat:
    """Ask for the attributes of a path, links followed. Answer: `Attributes`."""

    path: str


@dataclass(frozen=True, slots=True)
class OpenDir:
    """Open a folder for listing. Answer: `Handle`."""

    path: str


@dataclass(frozen=True, slots=True)
class ReadDir:
    """Read the next names of a folder. Answer: a tuple of entries; empty at the end."""

    handle: Handle


Operation: TypeAlias = Open | Read | Close | Fstat | Stat | OpenDir | ReadDir
Answer: TypeAlias = Handle | bytes | Attributes | tuple[DirectoryEntry, ...] | RequestError | None
Job: TypeAlias = Generator[Sequence[Operation], Sequence[Answer], None]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a transport has done so far.

    Attributes:
        requests: requests sent (for SFTP: packets, INIT among them).
        received: bytes received, packet headers included.
        sent: bytes sent, packet headers included.
    """

    requests: int = 0
    received: int = 0
    sent: int = 0


@runtime_checkable
class Transport(Protocol):
    """A connection to a root, or a local folder that plays the part of one."""

    def run(self, jobs: Iterable[Job]) -> None:
        """Run all jobs to their end, many at once.

        Jobs are taken from the iterable only when there is room, in order; ``jobs`` may be a
        generator. An exception raised inside a job ends the run: the other jobs are closed (all
        handles too, kept ones among them, as far as the connection allows), outstanding answers are
        consumed, and it is raised here; the transport can be used again afterwards.

        Raises:
            TransportError: the connection failed; the transport cannot be used again.
        """

    def open_more(self, count: int) -> list[Transport]:
        """Up to ``count`` further connections by the login that this one has, for bulk bytes.

        Nobody is ever asked for a password, and a refusal is no error: there are fewer of them
        then, or none. The caller closes them; closing this transport closes them too. May be called
        while another thread runs jobs.
        """

    @property
    def traffic(self) -> Traffic:
        """What was done so far, by the connections of `open_more` too."""

    def close(self) -> None:
        """End the connection. May be called more than once.

        It ends another thread's run, too.
        """
