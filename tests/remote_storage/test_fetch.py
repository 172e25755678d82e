"""Jobs that fetch one file: what counts as proof."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import ChangedError, DamagedError, RequestError
from runicorn.manifest.digest import BlockHasher, block_digest
from runicorn.manifest.model import FileEntry
from runicorn.remote_storage import fetch
from runicorn.remote_storage.transport import (
    MAX_READ,
    Answer,
    Attributes,
    Fstat,
    Job,
    LocalTransport,
    Open,
    Operation,
    Read,
    StatusCode,
    Transport,
)
from tests.remote_storage.helpers import OLD, RUN, Meanwhile, Refuse, Relay, WrongBytes, an_entry, append, put

SIZES = [0, 1, 1000, MAX_READ - 1, MAX_READ, MAX_READ + 1, 17 * MAX_READ + 3]
MOST = 10**9


class Fetched:
    """What a job of one file gave."""

    def __init__(self, make: Callable[[fetch.Sink], Any], transport: Transport | None = None) -> None:
        self.data = bytearray()
        self.result: Any = None

        def sink(data: bytes, offset: int) -> None:
            assert offset == len(self.data)
            self.data += data

        def job() -> Job:
            self.result = yield from make(sink)

        (transport or LocalTransport()).run([job()])


def entry_of(path: Path, *, digest: bool = True) -> FileEntry:
    data = path.read_bytes()
    hasher = BlockHasher()
    hasher.update(data)
    digests: dict[str, str] = {}
    if digest and path.name.endswith(".jsonl"):
        digests = {"block_digest": block_digest(hasher.hashes())}
    elif digest:
        digests = {"sha256": hashlib.sha256(data).hexdigest()}
    return an_entry(f"{RUN}/{path.name}", len(data), mtime=float(OLD), **digests)


@pytest.fixture(params=["summary.json", "events.jsonl"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return put(tmp_path / request.param, b"first line\n" * 90, OLD)


def listed(path: Path, entry: FileEntry, transport: Transport | None = None) -> Fetched:
    def make(sink: fetch.Sink) -> Any:
        return fetch.fetch_listed(entry, str(path), fetch.Hashing(entry.is_log, sink))

    return Fetched(make, transport)


def current(path: Path, entry: FileEntry, transport: Transport | None = None, most: int = MOST) -> Fetched:
    return Fetched(lambda sink: fetch.fetch_current(entry, str(path), sink, most), transport)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", [listed, current])
def test_file_of_any_size_comes_whole(path: Path, size: int, way: Callable[..., Fetched]) -> None:
    put(path, bytes(range(250)) * (size // 250) + b"\n" * (size % 250), OLD)
    entry = entry_of(path)
    got = way(path, entry)
    assert bytes(got.data) == path.read_bytes()
    assert (got.result.size, got.result.mtime_ns) == (size, OLD * 10**9)
    assert got.result.listed.digest == entry.digest


@pytest.mark.parametrize("change", ["other bytes", "longer", "shorter"])
def test_listed_content_that_is_not_there_gives_nothing(path: Path, change: str) -> None:
    entry = entry_of(path)
    content = path.read_bytes()
    put(path, {"other bytes": b"X" + content[1:], "longer": b"X" + content, "shorter": content[:-5]}[change])
    assert listed(path, entry).result is None


def test_listed_log_may_have_grown(path: Path) -> None:
    entry, content = entry_of(path), path.read_bytes()
    append(path, "more\n")
    got = listed(path, entry)
    assert (got.result is not None) is entry.is_log
    assert not entry.is_log or bytes(got.data) == content


def test_what_was_received_before_is_not_fetched_again(path: Path) -> None:
    entry, content = entry_of(path), path.read_bytes()

    def make(sink: fetch.Sink) -> Any:
        hashing = fetch.Hashing(entry.is_log, lambda data, offset: sink(data, offset - 400))
        hashing.take(content[:400])
        return fetch.fetch_listed(entry, str(path), hashing)

    got = Fetched(make)
    assert bytes(got.data) == content[400:]
    assert got.result.size == len(content)


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("content", [b"longer\n" * 500, b"short\n", b"", b"big\n" * MAX_READ])
def test_current_content_is_taken_as_it_is(path: Path, digest: bool, content: bytes) -> None:
    entry = entry_of(path, digest=digest)
    put(path, content, OLD + 50)
    got = current(path, entry)
    assert bytes(got.data) == content
    assert (got.result.size, got.result.mtime_ns) == (len(content), (OLD + 50) * 10**9)


def test_wrong_bytes_under_the_listed_attributes_are_damage(path: Path) -> None:
    entry = entry_of(path)
    with pytest.raises(DamagedError):
        current(path, entry, WrongBytes(path.name))


@pytest.mark.parametrize("size", [900, 3 * MAX_READ])
def test_state_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, size: int) -> None:
    path = put(tmp_path / "summary.json", b"x" * size, OLD)
    entry = entry_of(path, digest=False)
    for change in (lambda: append(path, "more"), lambda: path.write_bytes(b"y" * size)):
        with pytest.raises(ChangedError, match="changed"):
            current(path, entry, Meanwhile(path.name, change, Fstat, nth=2))
        put(path, b"x" * size, OLD)


def test_log_that_grows_while_it_is_read_is_fine(tmp_path: Path) -> None:
    path = put(tmp_path / "events.jsonl", b"line\n" * 9, OLD)
    entry = entry_of(path, digest=False)
    got = current(path, entry, Meanwhile(path.name, lambda: append(path, "more\n"), Fstat, nth=2))
    assert bytes(got.data) == b"line\n" * 9


def test_log_that_is_cut_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "events.jsonl", b"line\n" * 9, OLD)
    entry = entry_of(path, digest=False)
    with pytest.raises(ChangedError):
        current(path, entry, Meanwhile(path.name, lambda: path.write_bytes(b""), Fstat, nth=2))


class NoSize(Relay):
    """A server that does not tell sizes."""

    def after(self, operation: Operation, answer: Answer) -> Answer:  # noqa: ARG002
        return replace(answer, size=None) if isinstance(answer, Attributes) else answer


def test_server_that_tells_no_size_proves_nothing(path: Path) -> None:
    with pytest.raises(ChangedError):
        current(path, entry_of(path, digest=False), NoSize())


@pytest.mark.parametrize("way", [listed, current])
@pytest.mark.parametrize("kind", [Open, Read])
def test_refusals_are_raised(path: Path, way: Callable[..., Fetched], kind: type[Operation]) -> None:
    with pytest.raises(RequestError):
        way(path, entry_of(path), Refuse(path.name, StatusCode.FAILURE, kind))
    with pytest.raises(ChangedError, match="not on the server"):
        way(path, entry_of(path), Refuse(path.name, StatusCode.NO_SUCH_FILE, kind))


@pytest.mark.parametrize("way", [listed, current])
def test_small_file_takes_two_round_trips(path: Path, way: Callable[..., Fetched]) -> None:
    batches: list[int] = []

    class Counting(LocalTransport):
        def _answers(self, batch: Sequence[Operation]) -> list[Answer]:
            batches.append(len(batch))
            return super()._answers(batch)

    way(path, entry_of(path), Counting())
    assert len(batches) == 2


@pytest.mark.parametrize(
    ("data", "whole"), [(b"{}", True), (b"[1, 2", False), (b"", False), (b"\xff", False)]
)
def test_json_has_to_parse(data: bytes, whole: bool) -> None:
    assert fetch.parses(data) is whole
