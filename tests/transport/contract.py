"""What every transport must do. `test_contract` runs it for each of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicorn.errors import RequestError
from runicorn.remote_storage.transport import (
    Answer,
    Attributes,
    Close,
    Fstat,
    Handle,
    Job,
    Open,
    OpenDir,
    Read,
    Stat,
    StatusCode,
    Transport,
)
from tests.transport.jobs import ask, list_folder, one_answer, read_big, read_small


class Oops(Exception):  # noqa: N818 - raised on purpose
    """What a job raises."""


def keep(transport: Transport, path: Path) -> Handle:
    """A kept handle of a file."""
    found: list[Answer] = []
    transport.run([ask([Open(str(path), keep=True)], found)])
    assert isinstance(found[0], Handle)
    return found[0]


def is_not_open(answer: Answer) -> bool:
    """Whether the answer says that the handle is not open."""
    return isinstance(answer, RequestError) and "the handle is not open" in str(answer)


class TransportContract:
    """The tests; a subclass has the fixtures ``transport`` and ``tree`` (an empty folder it serves)."""

    def test_small_files_are_read_whole(self, transport: Transport, tree: Path) -> None:
        found: dict[str, bytes | RequestError] = {}
        (tree / "a").write_bytes(b"hello\nworld\n")
        (tree / "empty").write_bytes(b"")
        transport.run([read_small(str(tree / "a"), 12, found), read_small(str(tree / "empty"), 0, found)])
        assert found == {str(tree / "a"): b"hello\nworld\n", str(tree / "empty"): b""}

    def test_file_that_has_grown_shows(self, transport: Transport, tree: Path) -> None:
        found: dict[str, bytes | RequestError] = {}
        (tree / "a").write_bytes(b"0123456789")
        transport.run([read_small(str(tree / "a"), 4, found)])
        assert found[str(tree / "a")] == b"01234"

    def test_big_file_is_read_whole(self, transport: Transport, tree: Path) -> None:
        found: dict[str, bytes | RequestError] = {}
        data = os.urandom(3_000_001)
        (tree / "big").write_bytes(data)
        transport.run([read_big(str(tree / "big"), found)])
        assert found[str(tree / "big")] == data

    def test_long_read_ends_at_the_end_of_the_file(self, transport: Transport, tree: Path) -> None:
        data = os.urandom(70_000)
        (tree / "a").write_bytes(data)
        found: list[Answer] = []

        def job() -> Job:
            (handle,) = yield [Open(str(tree / "a"))]
            assert isinstance(handle, Handle)
            reads = [Read(handle, at, 200_000) for at in (0, 69_999, 70_000, 90_000)]
            found.extend((yield [*reads, Read(handle, 5, 0), Close(handle)]))

        transport.run([job()])
        assert found == [data, data[-1:], b"", b"", b"", None]

    def test_missing_file_is_an_answer(self, transport: Transport, tree: Path) -> None:
        found: dict[str, bytes | RequestError] = {}
        transport.run([read_small(str(tree / "none"), 5, found)])
        error = found[str(tree / "none")]
        assert isinstance(error, RequestError)
        assert error.code == StatusCode.NO_SUCH_FILE
        assert error.path == str(tree / "none")
        assert str(error).startswith("NO_SUCH_FILE")

    def test_file_in_place_of_a_folder_is_an_answer(self, transport: Transport, tree: Path) -> None:
        (tree / "a").write_bytes(b"x")
        found: list[Answer] = []
        transport.run(
            [ask([Open(str(tree / "a/b")), Stat(str(tree / "a/b")), OpenDir(str(tree / "a"))], found)]
        )
        assert all(isinstance(answer, RequestError) for answer in found)

    def test_path_that_no_server_has_is_an_answer(self, transport: Transport) -> None:
        found: list[Answer] = []
        transport.run([ask([Open("a\0b"), Stat("x" * 100_000), Stat("\ud800")], found)])
        assert [answer.code for answer in found if isinstance(answer, RequestError)] == [2, 2, 2]

    def test_attributes(self, transport: Transport, tree: Path) -> None:
        (tree / "a").write_bytes(b"12345")
        os.utime(tree / "a", (1_600_000_000, 1_600_000_000))
        found: list[Answer] = []

        def job() -> Job:
            by_path, handle = yield [Stat(str(tree / "a")), Open(str(tree / "a"))]
            assert isinstance(handle, Handle)
            (by_handle,) = yield [Fstat(handle)]
            found.extend([by_path, by_handle])

        transport.run([job()])
        assert len(found) == 2
        for answer in found:
            assert isinstance(answer, Attributes)
            assert (answer.size, answer.mtime) == (5, 1_600_000_000)
            assert stat.S_ISREG(answer.mode or 0)

    def test_folder_of_1000_entries(self, transport: Transport, tree: Path) -> None:
        for number in range(1000):
            (tree / f"f{number}").write_bytes(b"x" * (number % 7))
        (tree / "link").symlink_to("f1")
        found: dict[str, Attributes] = {}
        transport.run([list_folder(str(tree), found)])
        assert set(found) == {f"f{number}" for number in range(1000)} | {"link"}
        assert all(found[f"f{number}"].size == number % 7 for number in range(1000))
        assert stat.S_ISLNK(found["link"].mode or 0)

    def test_odd_names(self, transport: Transport, tree: Path) -> None:
        names = [
            b"with space",
            b"new\nline",
            b"\xff\xfe not utf-8",
            "grün-日本".encode(),
            b"-rf",
            b"a'\"$(x)",
        ]
        for name in names:
            (tree / os.fsdecode(name)).write_bytes(name)
        listed: dict[str, Attributes] = {}
        transport.run([list_folder(str(tree), listed)])
        assert {name.encode("utf-8", "surrogateescape") for name in listed} == set(names)
        found: dict[str, bytes | RequestError] = {}
        transport.run(read_small(f"{tree}/{name}", 100, found) for name in listed)
        assert sorted(data for data in found.values() if isinstance(data, bytes)) == sorted(names)

    def test_1500_files(self, transport: Transport, tree: Path) -> None:
        wanted: dict[str, bytes] = {}
        for number in range(1500):
            wanted[str(tree / f"f{number}")] = data = os.urandom(number % 300)
            (tree / f"f{number}").write_bytes(data)
        found: dict[str, bytes | RequestError] = {}
        transport.run(read_small(path, len(data), found) for path, data in wanted.items())
        assert found == wanted

    def test_closed_handle_is_refused(self, transport: Transport, tree: Path) -> None:
        (tree / "a").write_bytes(b"12345")
        found: list[Answer] = []

        def job() -> Job:
            (handle,) = yield [Open(str(tree / "a"))]
            assert isinstance(handle, Handle)
            yield [Close(handle)]
            found.extend((yield [Read(handle, 0, 3), Close(handle)]))

        transport.run([job()])
        assert isinstance(found[0], RequestError)
        assert found[1] is None

    def test_kept_handle_is_read_over_two_runs(self, transport: Transport, tree: Path) -> None:
        (tree / "a").write_bytes(b"12345")
        handle = keep(transport, tree / "a")
        for number in range(2):
            found: list[Answer] = []
            with (tree / "a").open("ab") as file:
                file.write(b"67" * number)
            transport.run([one_answer(tree)[0], ask([Read(handle, 0, 100), Fstat(handle)], found)])
            assert found[0] == b"12345" + b"67" * number
            assert isinstance(found[1], Attributes)
            assert found[1].size == 5 + 2 * number
        transport.run([ask([Close(handle)], [])])

    def test_kept_handle_is_refused_after_its_close(self, transport: Transport, tree: Path) -> None:
        (tree / "a").write_bytes(b"12345")
        first = keep(transport, tree / "a")
        transport.run([ask([Close(first)], [])])
        # A server may call the next one the same.
        second = keep(transport, tree / "a")
        found: list[Answer] = []
        transport.run([ask([Read(first, 0, 3), Fstat(first), Close(first), Read(second, 0, 3)], found)])
        assert [is_not_open(answer) for answer in found] == [True, True, False, False]
        assert found[2:] == [None, b"123"]

    def test_kept_handle_of_an_unlinked_file_is_read(self, transport: Transport, tree: Path) -> None:
        (tree / "a").write_bytes(b"12345")
        handle = keep(transport, tree / "a")
        (tree / "a").unlink()
        (tree / "a").write_bytes(b"other")
        found: list[Answer] = []
        transport.run([ask([Read(handle, 0, 9)], found)])
        assert found == [b"12345"]

    def test_handle_that_is_not_kept_ends_with_its_job(self, transport: Transport, tree: Path) -> None:
        (tree / "a").write_bytes(b"12345")
        opened: list[Answer] = []
        transport.run([ask([Open(str(tree / "a"))], opened)])
        assert isinstance(opened[0], Handle)
        found: list[Answer] = []
        transport.run([ask([Read(opened[0], 0, 3), Fstat(opened[0])], found)])
        assert all(is_not_open(answer) for answer in found)

    def test_kept_handle_is_closed_when_a_run_is_aborted(self, transport: Transport, tree: Path) -> None:
        (tree / "a").write_bytes(b"12345")
        handle = keep(transport, tree / "a")

        def fails() -> Job:
            yield [Read(handle, 0, 3)]
            raise Oops

        with pytest.raises(Oops):
            transport.run([fails()])
        found: list[Answer] = []
        transport.run([ask([Read(handle, 0, 3)], found)])
        assert is_not_open(found[0])
        again = keep(transport, tree / "a")
        transport.run([ask([Read(again, 0, 3), Read(handle, 0, 3)], found)])
        assert found[1] == b"123"
        assert is_not_open(found[2])

    def test_kept_handle_is_used_by_many_jobs_and_closed_by_one(
        self, transport: Transport, tree: Path
    ) -> None:
        data = os.urandom(300_000)
        (tree / "a").write_bytes(data)
        handle = keep(transport, tree / "a")
        found: dict[int, Answer] = {}

        def job(at: int) -> Job:
            (found[at],) = yield [Read(handle, at, 10_000)]

        transport.run(job(at) for at in range(0, 300_000, 10_000))
        answers: list[Answer] = []
        transport.run([ask([Read(handle, 1, 1), Close(handle), Read(handle, 2, 2)], answers)])
        assert b"".join(found[at] for at in sorted(found)) == data  # type: ignore[misc]
        assert answers[:2] == [data[1:2], None]
        assert is_not_open(answers[2])

    def test_further_connections_work_and_count(self, transport: Transport, tree: Path) -> None:
        (tree / "a").write_bytes(b"12345")
        more = transport.open_more(2)
        assert len(more) <= 2
        for each in more:
            before = transport.traffic
            found: dict[str, bytes | RequestError] = {}
            each.run([read_small(str(tree / "a"), 5, found)])
            assert found == {str(tree / "a"): b"12345"}
            assert transport.traffic.requests >= before.requests + 3
            assert transport.traffic.received > before.received
            assert transport.traffic.sent > before.sent
        counted = transport.traffic
        for each in more:
            each.close()
        assert transport.traffic == counted
        assert transport.open_more(0) == []

    def test_empty_batch_and_no_jobs(self, transport: Transport) -> None:
        found: list[Answer] = []

        def job() -> Job:
            assert list((yield [])) == []
            found.append(None)

        transport.run([])
        transport.run([job()])
        assert found == [None]

    def test_job_that_raises_ends_the_run_and_not_the_transport(
        self, transport: Transport, tree: Path
    ) -> None:
        (tree / "a").write_bytes(b"12345")
        closed: list[int] = []

        def fails() -> Job:
            yield [Open(str(tree / "a"))]
            raise Oops

        def goes_on(number: int) -> Job:
            try:
                while True:
                    yield [Open(str(tree / "a"))]
                    yield [Stat(str(tree))]
            finally:
                closed.append(number)

        # A transport may run one job after the other: the one that fails comes first.
        with pytest.raises(Oops):
            transport.run([fails(), goes_on(1), goes_on(2)])
        assert closed in ([], [1, 2])
        for _ in range(2):
            found: dict[str, bytes | RequestError] = {}
            transport.run([read_small(str(tree / "a"), 5, found)])
            assert found == {str(tree / "a"): b"12345"}

    def test_request_error_that_a_job_raises_keeps_the_connection(
        self, transport: Transport, tree: Path
    ) -> None:
        found: dict[str, Attributes] = {}
        with pytest.raises(RequestError):
            transport.run([list_folder(str(tree / "none"), found)])
        (tree / "a").write_bytes(b"")
        transport.run([list_folder(str(tree), found)])
        assert set(found) == {"a"}

    def test_iterable_that_raises_ends_the_run(self, transport: Transport, tree: Path) -> None:
        def jobs() -> Iterator[Job]:
            yield one_answer(tree)[0]
            raise Oops

        with pytest.raises(Oops):
            transport.run(jobs())
        job, found = one_answer(tree)
        transport.run([job])
        assert isinstance(found[0], Attributes)

    def test_handles_that_a_job_leaves_are_closed(self, transport: Transport, tree: Path) -> None:
        # More than any server here lets be open at once.
        (tree / "a").write_bytes(b"12345")
        found: list[Answer] = []
        transport.run(ask([Open(str(tree / "a"))], found) for _ in range(1500))
        assert len(found) == 1500
        assert all(isinstance(answer, Handle) for answer in found)

    def test_traffic_grows(self, transport: Transport, tree: Path) -> None:
        (tree / "a").write_bytes(b"x" * 10_000)
        before = transport.traffic
        transport.run([read_small(str(tree / "a"), 10_000, {})])
        after = transport.traffic
        assert after.requests == before.requests + 3 or after.requests > before.requests + 3
        assert after.received >= before.received + 10_000

    def test_close_twice_and_run_afterwards(self, transport: Transport, tree: Path) -> None:
        from runicorn.errors import ConnectError

        transport.close()
        transport.close()
        with pytest.raises(ConnectError):
            transport.run([one_answer(tree)[0]])
