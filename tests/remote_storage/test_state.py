"""What a client remembers of a mirror."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runicorn.errors import DiskFullError, MirrorError
from runicorn.manifest.model import FileEntry, Identity
from runicorn.remote_storage.known import Cursor, Known, Listed, LocalFile
from runicorn.remote_storage.state import MirrorState
from runicorn.remote_storage.state_database import HISTORY_KEPT
from runicorn.remote_storage.state_rows import new_row, row_of
from testbed.fault_calls import FaultyCalls
from tests.remote_storage.helpers import OLD, RUN, a_known, an_entry

LISTED = Listed.of(an_entry())


@pytest.fixture
def state(tmp_path: Path) -> Iterator[MirrorState]:
    with MirrorState(tmp_path / "state.db") as made:
        yield made


def reopened(state: MirrorState) -> MirrorState:
    state.close()
    return MirrorState(state.path)


def test_rows_come_back_as_they_were(state: MirrorState) -> None:
    rows = {
        "meta.json": a_known(3, (b"x" * 32,), LISTED, epoch=2),
        "events.jsonl": a_known(2**40, (b"a" * 32, b"b" * 32), replace(LISTED, mtime_ns=5, digest="d")),
        "logs.txt": replace(
            a_known(0, (), LISTED), local=a_known(0).local._replace(inode=2**64 - 1, mtime_ns=1)
        ),
    }
    state.record((RUN, inner, known) for inner, known in rows.items())
    with reopened(state) as again:
        assert again.run_files(RUN) == rows
        assert list(again.folders()) == [RUN]
        assert again.count() == 3
        assert again.run_files("other") == {}


@pytest.mark.parametrize("inode", [7, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize(
    "entry",
    [
        an_entry(sha256="5a" * 32),
        an_entry(f"{RUN}/logs.txt", block_digest="b6" * 32, mtime_ns=OLD * 10**9 + 7),
        an_entry(),
    ],
)
def test_row_of_a_new_file_is_that_of_one_known_as_it_is_listed(entry: FileEntry, inode: int) -> None:
    local, hashes = LocalFile(10, OLD * 10**9, inode), (b"a" * 32, b"b" * 32)
    assert new_row(local, hashes, entry, 3) == row_of(Known(local, hashes, Listed.of(entry), 3))


def test_record_is_all_or_nothing(state: MirrorState) -> None:
    def rows() -> Iterator[tuple[str, str, object]]:
        yield RUN, "meta.json", a_known(3, listed=LISTED)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        state.record(rows())  # type: ignore[arg-type]
    assert state.count() == 0
    state.record([(RUN, "meta.json", a_known(3, listed=LISTED))])
    state.record([(RUN, "status.json", a_known(4, listed=LISTED))], [(RUN, "meta.json")])
    assert list(state.run_files(RUN)) == ["status.json"]


def test_what_was_never_listed_is_not_recorded(state: MirrorState) -> None:
    with pytest.raises(ValueError, match="listed"):
        state.record([(RUN, "meta.json", a_known(3))])
    assert state.count() == 0


@pytest.mark.parametrize(
    "cursor",
    [
        Cursor(None, "", None),
        Cursor(Identity("l", 3, "s"), "key", 1.5, Identity(None, 2, "t"), keeps_gone=True),
    ],
)
def test_cursor_comes_back_as_it_was(state: MirrorState, cursor: Cursor) -> None:
    assert state.cursor is None
    state.move_cursor(cursor)
    with reopened(state) as again:
        assert again.cursor == cursor


def test_epoch_grows_with_each_other_lineage(state: MirrorState) -> None:
    assert state.lineage[1] == 0
    steps = [("a", 1), ("a", 1), ("b", 2), ("a", 3)]
    assert [state.enter_lineage(lineage) for lineage, _ in steps] == [epoch for _, epoch in steps]
    assert state.lineage == ("a", 3)


def test_epoch_grows_with_each_other_source_of_walks(state: MirrorState) -> None:
    sources = ["one", "one", "two", "one"]
    assert [state.enter_lineage(None, source=source) for source in sources] == [1, 1, 2, 3]


def test_history_is_bounded(state: MirrorState) -> None:
    for number in range(HISTORY_KEPT + 5):
        state.add_report(float(number), {"number": number})
    numbers = [report["number"] for report in state.reports()]
    assert numbers == list(range(HISTORY_KEPT + 4, 4, -1))


def test_database_that_is_locked_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **more: connect(path, **{**more, "timeout": 0.0}))
    with MirrorState(tmp_path / "state.db") as state:
        other = connect(state.path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(MirrorError, match="locked"):
            state.record([(RUN, "meta.json", a_known(3, listed=LISTED))])
        other.close()
        state.record([(RUN, "meta.json", a_known(3, listed=LISTED))])
    assert not list(tmp_path.glob("*damaged*"))


def torn(path: Path) -> None:
    """A database with rows in many pages, of which the last half are other bytes."""
    with MirrorState(path) as state:
        state.record([(f"{RUN}{number}", "meta.json", a_known(3, listed=LISTED)) for number in range(500)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\xff" * (len(data) - len(data) // 2))


def malformed(path: Path) -> sqlite3.DatabaseError:
    """What SQLite says of it, as it does when the disk fails."""
    with MirrorState(path) as state:
        try:
            state.recall("cursor")
            state.folders()
        except sqlite3.DatabaseError as error:
            return error
    raise AssertionError("nothing is said")


def test_database_that_the_disk_does_not_give_is_not_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    torn(path)
    error = malformed(path)
    before = path.read_bytes()
    calls = FaultyCalls(2, "EIO", forever=True)
    with MirrorState(path) as state, calls, pytest.raises(MirrorError, match="Input/output") as failure:
        state.start_anew(error)
    assert "pread" in {call.name for call in calls.failed}
    assert failure.value.exit_code == 1
    assert path.read_bytes() == before
    with MirrorState(path) as state:
        state.start_anew(error)
        assert state.is_empty()
    assert len(list(tmp_path.glob("state.db.damaged-*"))) == 1


def test_database_that_is_whole_after_all_is_not_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with MirrorState(path) as state:
        state.record([(RUN, "meta.json", a_known(3, listed=LISTED))])
        with pytest.raises(MirrorError, match="for a moment"):
            state.start_anew(sqlite3.DatabaseError("database disk image is malformed"))
    with MirrorState(path) as state:
        assert state.count() == 1
    assert not list(tmp_path.glob("*damaged*"))


def test_full_database_is_a_full_disk(state: MirrorState) -> None:
    state._database.execute("PRAGMA max_page_count = 8")
    big = a_known(3, (b"x" * 32,) * 4000, LISTED)
    with pytest.raises(DiskFullError):
        state.record([(RUN, f"media/{number}", big) for number in range(5)])
    assert state.count() == 0


def test_folder_in_its_place_says_so(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises(MirrorError):
        MirrorState(tmp_path / "state.db")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, True),
        ({"size": 11}, {}, False),
        ({"mtime": OLD + 0.9}, {}, True),
        ({"mtime": OLD + 1.0}, {}, False),
        ({"mtime_ns": 5}, {"mtime_ns": 6}, False),
        ({"mtime_ns": 5}, {}, True),
        ({"sha256": "a"}, {"sha256": "b"}, False),
        ({"sha256": "a"}, {}, True),
    ],
)
def test_descriptions_are_compared_as_far_as_both_know(
    one: dict[str, object], other: dict[str, object], same: bool
) -> None:
    first, second = (Listed.of(an_entry(**{"size": 10, **each})) for each in (one, other))  # type: ignore[arg-type]
    assert first.same_as(second) is second.same_as(first) is same
