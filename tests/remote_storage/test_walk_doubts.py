"""What a walk cannot be sure of, and logs that change under it: regressions."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from runicorn.errors import DiskFullError, MirrorError
from runicorn.remote_storage import (
    Selection,
)
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.published import Listing
from runicorn.remote_storage.source import Source
from runicorn.remote_storage.transport import (
    Answer,
    FdChannel,
    LocalTransport,
    OpenDir,
    Operation,
    ReadDir,
    SftpEngine,
    Transport,
)
from runicorn.remote_storage.walk import Walker
from testbed.sshd import find_sftp_server
from tests.faults.process import TIMEOUT
from tests.remote_storage.helpers import (
    EVENTS,
    NOBODY,
    RUN,
    Meanwhile,
    Relay,
    Site,
    append,
    hollow,
    lines,
    make_run,
    open_site,
    put,
    run_files,
    status,
)

pytestmark = pytest.mark.rungs("journal", "manifest")

MIB = 1024 * 1024
SUMMARY = f"{RUN}/summary.json"
FILM = f"{RUN}/media/film.mp4"
RUNS = [f"vision/resnet/runs/r{number}" for number in range(1, 4)]
"""Three runs of six files each."""


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def walked(site: Site, transport: Transport | None = None) -> Listing:
    return Walker(transport or LocalTransport(), str(site.root), Selection()).walk()


# -- walks -----------------------------------------------------------------------------------------


ROOT = Source("/data/runs", "gpu1", None, 22)


@pytest.mark.parametrize(
    "other",
    [
        replace(ROOT, host="gpu2"),
        replace(ROOT, port=23),
        replace(ROOT, path="/data"),
        replace(ROOT, user="me"),
    ],
    ids=["host", "port", "path", "user"],
)
def test_delete_by_a_walk_of_another_source_removes_nothing(site: Site, other: Source) -> None:
    for folder in RUNS:
        make_run(site.root, folder)
    site.sync(method="walk", source=ROOT.identity)
    before = run_files(site.mirror)
    shutil.rmtree(site.root / RUN)
    report = site.sync(method="walk", source=other.identity, delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert run_files(site.mirror) == before
    site.sync(method="walk", source=ROOT.identity)


@contextmanager
def sftp_server_as_nobody() -> Iterator[SftpEngine]:
    """The real sftp-server, to which rights mean something."""
    who = NOBODY if os.geteuid() == 0 else None
    groups: list[int] | None = [] if os.geteuid() == 0 else None
    with subprocess.Popen(
        [find_sftp_server()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=who,
        group=who,
        extra_groups=groups,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        fds = os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno())
        process.stdin.close()
        engine = SftpEngine(FdChannel(*fds), timeout=TIMEOUT)
        try:
            yield engine
        finally:
            engine.close()
            process.wait(TIMEOUT)


@pytest.mark.parametrize("name", ["vision", "vision/resnet/runs", RUN, f"{RUN}/media"])
def test_delete_by_a_walk_that_may_not_look_into_a_folder_removes_nothing(name: str) -> None:
    """OpenSSH lists nothing of a folder that may be read and not be entered, and reports no error."""
    with open_site() as site:
        for folder in [*RUNS, *(f"speech/whisper/runs/s{number}" for number in range(4))]:
            make_run(site.root, folder)
        site.sync(method="walk")
        before = run_files(site.mirror)
        (site.root / name).chmod(0o444)
        with sftp_server_as_nobody() as engine:
            listing = walked(site, engine)
            report = site.sync(engine, method="walk", delete=True, force_delete=True)
        assert (listing.complete, set(listing.problem_paths)) == (False, {name})
        assert (report.removed_count, report.gone_count > 0) == (0, True)
        assert run_files(site.mirror) == before


class Modeless(Relay):
    """The server does not say what some names of a folder are."""

    def __init__(self, folder: str, part: str) -> None:
        super().__init__()
        self.folder, self.part = folder, part

    def after(self, operation: Operation, answer: Answer) -> Answer:
        mine = isinstance(operation, ReadDir) and self.path_of(operation).endswith(self.folder)
        if not mine or not isinstance(answer, tuple):
            return answer
        return tuple(
            replace(each, attributes=replace(each.attributes, mode=None)) if self.part in each.name else each
            for each in answer
        )


MODELESS = [
    ("/root", "vision"),
    ("/runs", "r2"),
    ("/runs/r2", ""),
    ("/runs/r2", "media"),
    ("/runs/r2", ".json"),
    ("/r2/media", "a.png"),
    ("/base/r7", ""),
]


@pytest.mark.parametrize(("folder", "part"), MODELESS)
def test_delete_by_a_walk_that_is_not_told_kinds_removes_nothing(site: Site, folder: str, part: str) -> None:
    for each in [*RUNS, "runs/nlp/bert/base/r7", *(f"speech/whisper/runs/s{number}" for number in range(4))]:
        make_run(site.root, each)
    site.sync(method="walk")
    before = run_files(site.mirror)
    assert not walked(site, Modeless(folder, part)).complete
    report = site.sync(Modeless(folder, part), method="walk", delete=True, force_delete=True)
    assert (report.removed_count, report.gone_count > 0) == (0, True)
    assert run_files(site.mirror) == before


def test_delete_by_a_walk_in_which_a_folder_is_missing_for_a_moment_removes_nothing(site: Site) -> None:
    for folder in RUNS:
        make_run(site.root, folder)
    site.sync(method="walk")
    before = run_files(site.mirror)
    away = site.root.with_name("away")
    move = Meanwhile("/runs/r2", lambda: (site.root / RUNS[1]).rename(away), OpenDir)
    report = site.sync(move, method="walk", delete=True)
    assert (report.removed_count, report.gone_count) == (0, 6)
    assert run_files(site.mirror) == before


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("away"), os.mkfifo], ids=["link", "fifo"])
def test_run_of_which_no_marker_is_a_regular_file_is_a_run_still(
    site: Site, make: Callable[[Path], None]
) -> None:
    """As it is for the generator: else the other files of the run would be taken for gone."""
    for folder in RUNS:
        make_run(site.root, folder)
    site.sync(method="walk")
    before = run_files(site.mirror)
    (site.root / RUN / "meta.json").unlink()
    (site.root / RUN / "status.json").unlink(missing_ok=True)
    make(site.root / RUN / "meta.json")
    report = site.sync(method="walk", delete=True)
    there = {path for path in before if (site.root / path).exists()}
    assert report.removed_count <= 1
    assert there | {f"{RUN}/meta.json"} <= set(run_files(site.mirror)) <= set(before)


def test_append_by_walk_when_the_run_ends_meanwhile_leaves_no_torn_record(site: Site) -> None:
    site.sync(method="walk")
    record = lines(1, 20)
    append(site.root / EVENTS, record[:9])
    put(site.root / RUN / "status.json", status("running"))

    def end() -> None:
        append(site.root / EVENTS, record[9:] + lines(1, 21))
        put(site.root / RUN / "status.json", status("completed"))

    assert site.sync(Meanwhile("status.json", end), method="walk").failed_count == 0
    assert (site.mirror / EVENTS).read_text() == lines(20)
    site.sync(method="walk")
    site.assert_equal()


def test_walk_of_an_old_tree_fetches_nothing_again(site: Site) -> None:
    site.sync(method="walk")
    relay = Relay()
    for _ in range(2):
        assert site.sync(relay, method="walk").files_synced == 0
    assert all(Path(path).is_dir() for path in relay.opened)


def test_walk_of_a_young_tree_fetches_a_file_again_until_it_is_settled(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(site.root / SUMMARY, '{"best": 2}')
    assert site.sync(method="walk").files_synced == 6
    assert site.sync(method="walk").files_synced == 1
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 10)
    assert site.sync(method="walk").files_synced == 1
    assert site.sync(method="walk").files_synced == 0
    site.assert_equal()


def test_large_file_by_walk_does_not_enter_memory(site: Site) -> None:
    hollow(site.root / FILM, 200 * MIB)
    tracemalloc.start()
    try:
        site.sync(method="walk")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (site.mirror / FILM).stat().st_size == 200 * MIB
    assert peak < 100 * MIB


# -- logs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [0, 20], ids=["new", "append"])
@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
@pytest.mark.parametrize("content", [lines(3, 900), "", lines(21, 700)], ids=["shorter", "empty", "longer"])
def test_log_rotated_after_the_listing_is_replaced_in_the_same_sync(
    site: Site, method: str, content: str, held: int
) -> None:
    site.sync(method="walk", exclude=() if held else ("events.jsonl",))
    append(site.root / EVENTS, lines(20, 20))
    site.publish()
    rotate = Meanwhile("events.jsonl", lambda: put(site.root / EVENTS, content))
    report = site.sync(rotate, method=method)
    assert (report.failed_count, report.vanished_count) == (0, 0)
    site.assert_equal()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("taken", [0, 5, 300])
def test_append_that_fails_within_a_write_leaves_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, taken: int
) -> None:
    """The disk takes some bytes of the third write, then no more."""
    before = put(tmp_path / "mirror" / EVENTS, lines(20)).read_bytes()
    write, calls = os.pwrite, iter(range(100))

    def failing(fd: int, data: memoryview, offset: int) -> int:
        call = next(calls)
        if call < 2:
            return write(fd, data, offset)
        if call == 2 and taken:
            return write(fd, data[:taken], offset)
        raise refused(number)

    with Mirror(tmp_path / "mirror") as mirror:
        expected = mirror.signature(EVENTS)
        monkeypatch.setattr(os, "pwrite", failing)
        with pytest.raises(DiskFullError if number == errno.ENOSPC else MirrorError):
            mirror.append(EVENTS, expected, iter([lines(900, 20).encode()]))
        monkeypatch.undo()
    after = (tmp_path / "mirror" / EVENTS).read_bytes()
    assert len(before) < len(after)
    assert lines(920).encode().startswith(after)
    assert after.endswith(b"\n")


@pytest.mark.parametrize("name", ["summary.json", "events.jsonl"])
@pytest.mark.parametrize("method", ["journal", "manifest"])
def test_edit_within_a_second_after_a_published_state_is_found_by_a_walk(
    site: Site, method: str, name: str
) -> None:
    """Journal and manifest tell times exactly, SFTP whole seconds: a walk cannot go by what they told."""
    now = int(time.time()) - 100
    path = site.root / RUN / name
    before = path.read_bytes()
    os.utime(path, ns=(now * 10**9, now * 10**9 + 100))
    site.publish()
    site.sync(method=method)
    path.write_bytes(before.replace(b"1", b"2"))
    os.utime(path, ns=(now * 10**9, now * 10**9 + 900_000_000))
    assert site.sync(method="walk").failed_count == 0
    site.assert_equal()
