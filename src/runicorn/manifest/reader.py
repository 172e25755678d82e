"""Reading a manifest from bytes, run by run, within the bounds of docs/manifest-format.md."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from runicorn.errors import DamagedError, UnsafeError
from runicorn.manifest import checks, rules
from runicorn.manifest.codec import MAX_RUN, RUNS_LINE
from runicorn.manifest.model import Header, Manifest, Run

MAX_EXPANDED = 8 * 1024**3
EXPANSION_ALLOWANCE = 4 * 1024**2
MAX_EXPANSION = 100
MAX_HEADER = 4 * 1024**2
MAX_RUNS = 5_000_000
MAX_ENTRIES = 50_000_000
MAX_FREE_LAYOUT = 128 * 1024**2
"""Bytes of a document in another text layout, which has to be read as a whole."""

_LONGEST_END = 1024
_CHUNK = 1024 * 1024
_RUNS_MARK = b"\n" + RUNS_LINE
_RUNS_STARTS = (b'{"', b"\n]")
_GZIP_MAGIC = b"\x1f\x8b"


def _reject_constant(name: str) -> Any:
    raise DamagedError(f"the manifest holds {name}, which is not a number")


def _parse(data: bytes | bytearray) -> Any:
    try:
        return json.loads(data, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the manifest is not JSON: {rules.escape(str(error))[:200]}") from error


def _expanded(stream: BinaryIO, compressed_size: int) -> Iterator[bytes]:
    """The bytes of a manifest, decompressed when they are compressed, within the bounds."""
    packed = stream.read(2) == _GZIP_MAGIC
    stream.seek(0)
    source: Any = gzip.GzipFile(fileobj=stream, mode="rb") if packed else stream
    most = MAX_EXPANDED
    if packed:
        most = min(most, EXPANSION_ALLOWANCE + MAX_EXPANSION * compressed_size)
    total = 0
    while True:
        try:
            data: bytes = source.read(_CHUNK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DamagedError(f"the manifest is torn or not gzip: {error}") from error
        if not data:
            return
        total += len(data)
        if total > most:
            raise UnsafeError(f"the manifest expands to more than {most} bytes")
        yield data


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their newline; the last one may lack it."""
    parts: list[bytes] = []
    held = 0
    for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            parts.append(chunk[start : end + 1])
            yield b"".join(parts)
            parts, held, start = [], 0, end + 1
        parts.append(chunk[start:])
        held += len(chunk) - start
        if held > MAX_RUN:
            raise UnsafeError(f"a line of the manifest is longer than {MAX_RUN} bytes")
    if held:
        yield b"".join(parts)


class ManifestReader:
    """One pass over a manifest.

    Args:
        stream: the manifest, plain or gzip, at its beginning; seekable.
        size: bytes of the stream.

    Attributes:
        header: everything but the runs.

    Raises:
        DamagedError: it is torn, does not parse or makes no sense.
        UnsafeError: it would harm this machine.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._chunks = _expanded(stream, size)
        self._lines: Iterator[bytes] = iter(())
        self._listed: list[Any] | None = None
        self.header = self._read_header()

    def _read_header(self) -> Header:
        taken = bytearray()
        for chunk in self._chunks:
            searched = max(0, len(taken) - len(_RUNS_MARK) - 2)
            taken += chunk
            at = taken.find(_RUNS_MARK, searched)
            end = at + len(_RUNS_MARK)
            # Another layout may break its lines at the same place: then no run is on one line.
            if at >= 0 and taken[end : end + 2] in _RUNS_STARTS:
                self._lines = _lines(chain((bytes(taken[end:]),), self._chunks))
                return checks.header(_parse(taken[:end] + b"]}"))
            if len(taken) > MAX_HEADER:
                break
        return self._read_free_layout(taken)

    def _read_free_layout(self, taken: bytearray) -> Header:
        for chunk in chain((b"",), self._chunks):
            taken += chunk
            if len(taken) > MAX_FREE_LAYOUT:
                raise UnsafeError(f"a manifest in this text layout may have {MAX_FREE_LAYOUT} bytes")
        document = _parse(taken)
        header = checks.header(document)
        runs = document.get("experiments")
        if type(runs) is not list:
            raise DamagedError("the manifest has no list of experiments")
        self._listed = runs
        return header

    def _raw_runs(self) -> Iterator[Any]:
        if self._listed is not None:
            yield from self._listed
            return
        for number, line in enumerate(self._lines):
            if line == b"]\n":
                self._check_end()
                return
            if number or line != b"\n":  # the list of no runs is an empty line
                yield _parse(line.rstrip().removesuffix(b","))
        raise DamagedError("the manifest is torn: its end is missing")

    def _check_end(self) -> None:
        rest = b""
        for line in self._lines:
            rest += line
            if len(rest) > _LONGEST_END:
                raise DamagedError("the manifest goes on after its end")
        if rest.strip() != b"}":
            raise DamagedError("the manifest goes on after its end, or is torn there")

    def runs(self) -> Iterator[Run]:
        """The runs, each checked; what concerns all of them is checked at the end.

        A caller acts on nothing before the iteration has ended.

        Raises:
            DamagedError: it is torn, does not parse or makes no sense.
            UnsafeError: it would harm this machine.
        """
        folders: set[str] = set()
        entries = total = 0
        for raw in self._raw_runs():
            run = checks.run(raw)
            if run.folder in folders:
                raise UnsafeError(
                    f"the manifest names the run '{rules.escape(run.folder)}' twice", path=run.folder
                )
            folders.add(run.folder)
            entries += len(run.files)
            total += sum(entry.size for entry in run.files)
            if len(folders) > MAX_RUNS or entries > MAX_ENTRIES or total > checks.MAX_INTEGER:
                raise UnsafeError("the manifest lists more than any root holds")
            yield run
        _refuse_nested(folders)
        self._check_sums((len(folders), entries, total))

    def _check_sums(self, sums: tuple[int, int, int]) -> None:
        header = self.header
        stated = (header.total_experiments, header.total_files, header.total_bytes)
        if header.identity.lineage is not None and stated != sums:
            raise DamagedError("the manifest's statistics are not the sums of what it lists")


def _refuse_nested(folders: set[str]) -> None:
    for folder in folders:
        at = folder.rfind("/")
        while at > 0:
            if folder[:at] in folders:
                raise UnsafeError(
                    f"the manifest names a run inside the run '{rules.escape(folder[:at])}'", path=folder
                )
            at = folder.rfind("/", 0, at)


def read_manifest(path: Path) -> Manifest:
    """A whole manifest from a local file, plain or gzip.

    Raises:
        OSError: the file cannot be read.
        DamagedError: it is torn, does not parse or makes no sense.
        UnsafeError: it would harm this machine.
    """
    with path.open("rb") as stream:
        reader = ManifestReader(stream, path.stat().st_size)
        return Manifest(header=reader.header, experiments=tuple(reader.runs()))


def read_header(start: bytes) -> Header | None:
    """The header from the first bytes of a manifest, plain or gzip.

    Returns:
        None when the text layout is another one or the header does not end within these bytes.

    Raises:
        DamagedError: the header makes no sense.
        UnsafeError: it would harm this machine.
    """
    text = start
    if start[:2] == _GZIP_MAGIC:
        try:
            text = zlib.decompressobj(wbits=31).decompress(start, MAX_HEADER)
        except zlib.error as error:
            raise DamagedError(f"the manifest is not gzip: {error}") from error
    end = text.find(b"\n" + RUNS_LINE)
    if end < 0:
        return None
    return checks.header(_parse(text[: end + 1 + len(RUNS_LINE)] + b"]}"))
