"""Writing manifests as a stream: body while the root is scanned, header in front of it afterwards.

A body that has not changed is copied from the file that is there, plain and compressed alike, after it was
proven to be the same; only the header is new.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from runicorn._files import close_scratch, replace_file, scratch_file
from runicorn.errors import DamagedError, UnsafeError
from runicorn.manifest.codec import RUNS_LINE, encode_header
from runicorn.manifest.model import Header, Identity, ManifestType
from runicorn.manifest.own_files import require_handles
from runicorn.manifest.reader import MAX_HEADER, read_header
from runicorn.manifest.scan_reader import kept_runs
from runicorn.manifest.scan_state import RunState

_CHUNK = 1024 * 1024
_LEVEL = 6
_END = b"\n]\n}\n"
_FIRST_LOOK = 64 * 1024


def standard_name(manifest_type: ManifestType) -> str:
    """The file name under which a manifest is published."""
    return f"{manifest_type.value}_manifest.json"


def gz_path(path: Path) -> Path:
    """Where the compressed form of a manifest lies."""
    return path.with_name(path.name + ".gz")


def _packer() -> zlib._Compress:
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)


def _packed(data: bytes) -> bytes:
    """One gzip member; the same bytes for the same data."""
    packer = _packer()
    return packer.compress(data) + packer.flush()


class Sum:
    """Length and CRC-32 of a body."""

    __slots__ = ("crc", "length")

    def __init__(self) -> None:
        self.crc = 0
        self.length = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self.crc = zlib.crc32(data, self.crc)
        self.length += len(data)


class _Streams(NamedTuple):
    plain: BinaryIO
    packed: BinaryIO
    packer: zlib._Compress


class Body:
    """The runs of one manifest, as text and as second gzip member.

    Nothing is written as long as only `keep` is called: the body on disk may turn out to be the same.

    Args:
        state: the scan state, which has the runs that `keep` takes; scratch files lie beside it.
        wanted: which runs the manifest lists.

    Attributes:
        runs: number of listed runs.
        files: number of listed entries.
        size: sum of the listed sizes, bytes.
        sum: of the text.

    Raises:
        OSError: from every method that writes.
    """

    def __init__(self, state: Path, wanted: Callable[[RunState], bool]) -> None:
        self._state_path = state
        self._wanted = wanted
        self._kept = 0
        self._streams: _Streams | None = None
        self._written = 0
        self.runs = self.files = self.size = 0
        self.sum = Sum()

    def keep(self, state: RunState) -> None:
        """Take the next run, which is listed as before."""
        if self._streams is None:
            self._kept += 1
            self._count(state)
        else:
            self.put(state)

    def put(self, state: RunState) -> None:
        """Take the next run, which is new or listed differently."""
        self.start()
        self._count(state)
        self._write(state)

    def _count(self, state: RunState) -> None:
        if self._wanted(state):
            if self.runs:
                self.sum.add(b",\n")
            self.sum.add(state.line)
            self.runs += 1
            self.files += state.sums.files
            self.size += state.sums.size

    def start(self) -> None:
        """Write from now on, beginning with what was kept so far."""
        if self._streams is None:
            folder = self._state_path.parent
            plain = scratch_file(folder)
            try:
                self._streams = _Streams(plain, scratch_file(folder), _packer())
            except OSError:
                close_scratch(plain)
                raise
            for state in kept_runs(self._state_path, self._kept):
                self._write(state)

    def _write(self, state: RunState) -> None:
        if self._wanted(state):
            self._emit(b",\n" + state.line if self._written else state.line)
            self._written += 1

    def _emit(self, data: bytes) -> None:
        assert self._streams is not None  # noqa: S101 - the callers have started it
        self._streams.plain.write(data)
        self._streams.packed.write(self._streams.packer.compress(data))

    def end(self) -> None:
        """All runs are in."""
        self.sum.add(_END)
        if self._streams is not None:
            self._finish()

    def _finish(self) -> None:
        self._emit(_END)
        assert self._streams is not None  # noqa: S101 - see above
        self._streams.packed.write(self._streams.packer.flush())
        for stream in self._streams[:2]:
            stream.seek(0)

    def streams(self, path: Path, identities: tuple[Identity | None, ...]) -> tuple[BinaryIO, BinaryIO]:
        """The plain and the packed body, each at its beginning; the caller closes them.

        Args:
            path: a manifest that may hold the same body.
            identities: under which it must have been published.
        """
        if self._streams is None:
            same = _same_body(path, self.sum, identities)
            if same is not None:
                return same
            self.start()
            self._finish()
        assert self._streams is not None  # noqa: S101 - just started
        plain, packed = self._streams[:2]
        self._streams = None
        return plain, packed

    def equals(self, path: Path) -> bool:
        """Whether a plain manifest on disk has this body.

        Raises:
            PublishError: there are too many open files.
        """
        try:
            with path.open("rb") as stream:
                return _after_header(stream) and _holds(stream, self.sum)
        except OSError as error:
            require_handles(error, path)
            return False

    def close(self) -> None:
        """Give the scratch files back."""
        for stream in self._streams[:2] if self._streams else ():
            close_scratch(stream)


def stored_header(path: Path) -> Header | None:
    """The header of a manifest on disk, plain or gzip; None when there is none that can be used.

    Raises:
        PublishError: there are too many open files.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            size = _FIRST_LOOK
            while True:
                stream.seek(0)
                start = stream.read(size)
                header = read_header(start)
                if header is not None or len(start) < size or size >= MAX_HEADER:
                    return header
                size *= 8
    except OSError as error:
        require_handles(error, path)
        return None
    except (DamagedError, UnsafeError):
        return None


def stored_headers(folder: Path) -> list[Header]:
    """The headers of the manifests in an output folder, the full ones first."""
    plain = [folder / standard_name(each) for each in (ManifestType.FULL, ManifestType.ACTIVE)]
    headers = (stored_header(path) for each in plain for path in (each, gz_path(each)))
    return [header for header in headers if header is not None]


def _after_header(stream: BinaryIO) -> bool:
    """Stand behind the header of a plain manifest."""
    start = stream.read(MAX_HEADER)
    at = start.find(b"\n" + RUNS_LINE)
    stream.seek(at + 1 + len(RUNS_LINE))
    return at >= 0


def _after_member(stream: BinaryIO) -> bool:
    """Stand behind the first gzip member, which must be a header."""
    unpacker = zlib.decompressobj(wbits=31)
    text = b""
    try:
        while not unpacker.eof and len(text) <= MAX_HEADER:
            data = stream.read(_FIRST_LOOK)
            text += unpacker.decompress(data, MAX_HEADER)
            if not data:
                return False
    except zlib.error:
        return False
    stream.seek(-len(unpacker.unused_data), os.SEEK_CUR)
    return unpacker.eof and text.endswith(b"\n" + RUNS_LINE)


def _holds(stream: BinaryIO, expected: Sum) -> bool:
    """Whether the rest of a plain manifest is this body; the position stays."""
    start = stream.tell()
    found = Sum()
    while data := stream.read(_CHUNK):
        found.add(data)
    stream.seek(start)
    return (found.crc, found.length) == (expected.crc, expected.length)


def _holds_packed(stream: BinaryIO, expected: Sum) -> bool:
    """Whether the rest of a compressed manifest is one whole member of this body; the position stays."""
    start = stream.tell()
    unpacker = zlib.decompressobj(wbits=31)
    found = Sum()
    try:
        while (data := stream.read(_FIRST_LOOK)) and found.length <= expected.length:
            found.add(unpacker.decompress(data))
    except zlib.error:
        return False
    stream.seek(start)
    whole = unpacker.eof and not unpacker.unused_data
    return whole and (found.crc, found.length) == (expected.crc, expected.length)


def _same_body(
    path: Path, expected: Sum, identities: tuple[Identity | None, ...]
) -> tuple[BinaryIO, BinaryIO] | None:
    for each in (path, gz_path(path)):
        header = stored_header(each)
        if header is None or header.identity not in identities:
            return None
    with ExitStack() as stack:
        plain = stack.enter_context(path.open("rb"))
        packed = stack.enter_context(gz_path(path).open("rb"))
        if (
            _after_header(plain)
            and _holds(plain, expected)
            and _after_member(packed)
            and _holds_packed(packed, expected)
        ):
            stack.pop_all()
            return plain, packed
    return None


def _install(path: Path, head: bytes, body: BinaryIO) -> None:
    with replace_file(path) as out:
        out.write(head)
        while data := body.read(_CHUNK):
            out.write(data)


def write_manifest(path: Path, header: Header, bodies: tuple[BinaryIO, BinaryIO]) -> None:
    """Put a manifest in place, then its compressed form; closes the bodies.

    Raises:
        OSError: it cannot be written.
    """
    text = encode_header(header)
    with bodies[0] as plain, bodies[1] as packed:
        _install(path, text, plain)
        _install(gz_path(path), _packed(text), packed)
