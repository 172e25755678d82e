"""A client that stays connected: what a poll costs, what it sees, and what happens under its open file."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Iterable

import pytest

from runicorn.errors import DamagedError, RequestError
from runicorn.journal.frames import Kind
from runicorn.remote_storage import journal_reader
from runicorn.remote_storage.report import Event, TransferStarted
from runicorn.remote_storage.transport import (
    Answer,
    Close,
    Handle,
    Job,
    LocalTransport,
    Open,
    Operation,
    Read,
    Stat,
)
from runicorn.remote_storage.transport.stream import Stream
from tests.journal.forge import COMMIT, HEADER, split
from tests.remote_storage.helpers import EVENTS, RUN, Site, append, lines, make_run, put, run_files
from tests.remote_storage.journal_helpers import (
    Counting,
    Server,
    append_to_epoch,
    boundaries,
    by_journal,
    by_manifest,
    cursor_of,
    damage,
    epoch_bytes,
    epoch_path,
    following,
    head,
    places,
)


def goes_on(site: Site, *, compact: bool = False) -> None:
    append(site.root / EVENTS, lines(2, 20))
    site.publish(compact=compact)


class Recording(Counting):
    """Remembers operations by name, and handles that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self.handles: set[bytes] = set()

    def before(self, operation: Operation) -> None:
        self.done.append(type(operation).__name__)
        if isinstance(operation, Close):
            self.handles.discard(operation.handle.value)

    def after(self, operation: Operation, answer: Answer) -> Answer:
        if isinstance(operation, Open) and operation.keep and isinstance(answer, Handle):
            self.handles.add(answer.value)
        return super().after(operation, answer)

    def since(self) -> list[str]:
        done, self.done = self.done, []
        return sorted(done)


def test_nothing_new_is_one_read_and_one_stat(site: Site) -> None:
    site.publish()
    recording = Recording()
    with following(site, recording) as follower:
        by_journal(follower.sync())
        recording.since()
        for _ in range(3):
            report = by_journal(follower.sync())
            assert report.skipped
            assert recording.since() == ["Read", "Stat"]
            assert report.requests == 2
        site.publish()
        assert by_journal(follower.sync()).skipped
        assert recording.since() == ["Read", "Stat"]


def test_a_poll_tells_when_the_generator_last_looked(site: Site) -> None:
    site.publish()
    with following(site) as follower:
        first = by_journal(follower.sync()).generated_at
        assert first is not None
        later = int(first) + 500
        os.utime(epoch_path(site), (later, later))
        assert by_journal(follower.sync()).generated_at == later
        assert cursor_of(site).generated_at == later


def test_changes_come_with_the_poll(site: Site) -> None:
    site.publish()
    recording = Recording()
    with following(site, recording) as follower:
        by_journal(follower.sync())
        for step in range(5):
            goes_on(site)
            put(site.root / RUN / "summary.json", f'{{"best": {step}}}')
            recording.since()
            site.publish()
            report = by_journal(follower.sync())
            assert recording.since() == ["Read", "Stat"]
            assert not report.skipped
            assert report.manifest_revision == head(site).identity.revision
            site.assert_equal()


def test_many_revisions_come_with_one_poll(site: Site) -> None:
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        for _ in range(9):
            goes_on(site)
        report = by_journal(follower.sync())
        assert report.requests == 2
        site.assert_equal()


def test_more_than_comes_with_one_read(site: Site) -> None:
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        put(site.root / RUN / "media/b.bin", random.Random(1).randbytes(900_000))
        goes_on(site)
        goes_on(site)
        by_journal(follower.sync())
        site.assert_equal()
        assert by_journal(follower.sync()).requests == 2


@pytest.mark.parametrize("news", [True, False])
@pytest.mark.parametrize("hops", [1, 3])
def test_a_seal_leads_on(site: Site, news: bool, hops: int) -> None:
    make_run(site.root, "vision/resnet/runs/r2")
    site.publish()
    recording = Recording()
    with following(site, recording) as follower:
        by_journal(follower.sync())
        for _ in range(hops):
            if news:
                (site.root / "vision/resnet/runs/r2/summary.json").unlink(missing_ok=True)
                append(site.root / EVENTS, lines(2, 20))
            site.publish(compact=True)
            report = by_journal(follower.sync(delete=True))
            assert report.skipped is not news
            site.assert_equal()
        recording.since()
        assert by_journal(follower.sync()).skipped
        assert recording.since() == ["Read", "Stat"]
        assert len(recording.handles) == 1
        goes_on(site)
        by_journal(follower.sync())
        site.assert_equal()


def test_what_a_poll_brought_before_a_seal_is_reported(site: Site) -> None:
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        (site.root / RUN / "summary.json").unlink()
        goes_on(site, compact=True)
        report = by_journal(follower.sync())
        assert (report.skipped, report.files_synced, report.gone_count) == (False, 1, 1)
        assert cursor_of(site).keeps_gone


def test_no_handle_of_an_epoch_that_was_left_stays_open(site: Site) -> None:
    site.publish()
    recording = Recording()
    with following(site, recording) as follower:
        for _ in range(5):
            by_journal(follower.sync())
            goes_on(site, compact=True)
        by_journal(follower.sync())
        for _ in range(4):
            epoch_path(site).unlink()
            goes_on(site)
            follower.sync()
            follower.sync()
        assert len(recording.handles) == 1
    assert recording.handles == set()


# -- under the open file ----------------------------------------------------------------------------


def half_a_frame(site: Site) -> bytes:
    """The first half of a frame that fits behind the end."""
    before = Server(site)
    goes_on(site)
    tail = before.tail()
    before.put_back()
    before.cut_epoch()
    return tail


@pytest.mark.parametrize("part", [1, 4, 30, 47, 48, 49, 200])
def test_a_torn_tail_is_the_end(site: Site, part: int) -> None:
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        tail = half_a_frame(site)
        held = run_files(site.mirror)
        append_to_epoch(site, tail[:part])
        for _ in range(2):
            assert by_journal(follower.sync()).skipped
            assert run_files(site.mirror) == held
        assert by_journal(site.sync()).skipped
        append_to_epoch(site, tail[part:])
        assert not by_journal(follower.sync()).skipped
        site.assert_equal()


def test_rubbish_behind_the_end_is_the_end(site: Site) -> None:
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        append_to_epoch(site, b"rubbish" * 100)
        assert by_journal(follower.sync()).skipped
        assert by_journal(site.sync()).skipped
        goes_on(site)
        by_journal(follower.sync())
        site.assert_equal()


def test_a_commit_and_a_torn_frame_behind_it(site: Site) -> None:
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        goes_on(site)
        append_to_epoch(site, b"RJ\x01\n\x02")
        assert not by_journal(follower.sync()).skipped
        site.assert_equal()


def test_frames_without_commit_are_cut_off_and_written_anew(site: Site) -> None:
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        before = Server(site)
        put(site.root / RUN / "media/stray.png", b"stray")
        put(site.root / RUN / "summary.json", '{"best": 2}')
        goes_on(site)
        tail = before.tail()
        (*_, last) = split(tail)
        assert last.kind == COMMIT
        held = run_files(site.mirror)
        before.put_back()
        before.cut_epoch(len(tail) - HEADER - len(last.stored))
        assert by_journal(follower.sync()).skipped
        assert run_files(site.mirror) == held
        (site.root / RUN / "media/stray.png").unlink()
        put(site.root / RUN / "summary.json", '{"best": 3}')
        append(site.root / EVENTS, lines(1, 40))
        site.publish()
        by_journal(follower.sync())
        site.assert_equal()


def test_a_commit_that_head_does_not_tell_yet(site: Site) -> None:
    """HEAD is written last, or not at all by a generator that is killed."""
    site.publish()
    before = Server(site)
    with following(site) as follower:
        by_journal(follower.sync())
        goes_on(site)
        after = Server(site)
        before.put_back()
        by_journal(follower.sync())
        site.assert_equal()
        revision = cursor_of(site).identity
        # More frames are under way: the look at HEAD must not lead back.
        append_to_epoch(site, half_of(site))
        assert by_journal(follower.sync()).skipped
        report = by_journal(site.sync(delete=True))
        assert report.skipped
        assert cursor_of(site).identity == revision
        os.truncate(epoch_path(site), after.length)
        after.put_back()
        goes_on(site)
        by_journal(follower.sync())
        by_journal(site.sync())
        site.assert_equal()


def half_of(site: Site) -> bytes:
    return epoch_bytes(site)[: HEADER + 9]


def test_a_seal_that_head_does_not_tell_yet(site: Site) -> None:
    site.publish()
    before = Server(site)
    with following(site) as follower:
        by_journal(follower.sync())
        goes_on(site, compact=True)
        after = Server(site)
        before.put_back()
        by_journal(follower.sync())
        assert cursor_of(site).place == places(site, after.epoch)[-1][1]
        assert by_journal(follower.sync()).skipped
        assert by_journal(site.sync()).skipped
        site.assert_equal()
        after.put_back()
        goes_on(site)
        by_journal(follower.sync())
        site.assert_equal()


def test_an_epoch_that_went_back_is_no_epoch_ahead(site: Site) -> None:
    """A root that was put back from a backup: shorter than what the client has read."""
    site.publish()
    goes_on(site)
    before = Server(site)
    with following(site) as follower:
        goes_on(site)
        by_journal(follower.sync())
        before.put_back()
        before.cut_epoch()
        data = (site.root / EVENTS).read_bytes()
        put(site.root / EVENTS, data[: -len(lines(2, 20))])
        by_manifest(follower.sync())
        by_journal(follower.sync())
        goes_on(site)
        by_journal(follower.sync())
        site.assert_equal()


@pytest.mark.parametrize("also", ["nothing", "news"])
def test_an_epoch_that_is_replaced_under_the_open_handle(site: Site, also: str) -> None:
    """As when the root is a copy that rsync keeps up: each time another inode."""
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        for _ in range(3):
            put(epoch_path(site), epoch_bytes(site))
            if also == "nothing":
                assert by_journal(follower.sync()).skipped
            goes_on(site)
            assert not by_journal(follower.sync()).skipped
            site.assert_equal()


def test_an_epoch_that_is_removed_under_the_open_handle(site: Site) -> None:
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        epoch_path(site).unlink()
        assert by_manifest(follower.sync(), "not there").skipped
        goes_on(site)
        assert not follower.sync().skipped
        site.assert_equal()
        goes_on(site)
        follower.sync()
        goes_on(site)
        by_journal(follower.sync())
        site.assert_equal()


def test_a_journal_that_is_removed_under_the_open_handle(site: Site) -> None:
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        append(site.root / EVENTS, lines(1, 20))
        site.publish(journal=False)
        by_manifest(follower.sync(), "no journal")
        site.assert_equal()
        goes_on(site)
        follower.sync()
        goes_on(site)
        by_journal(follower.sync())
        site.assert_equal()


def test_a_root_of_another_lineage_under_the_open_handle(site: Site) -> None:
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        shutil.rmtree(site.root / ".runicorn")
        goes_on(site)
        by_manifest(follower.sync(), "another history")
        site.assert_equal()
        goes_on(site)
        by_journal(follower.sync())


def test_damage_of_what_a_poll_reads(site: Site) -> None:
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        goes_on(site)
        damage(epoch_path(site), boundaries(site)[-1] - 1)
        by_manifest(follower.sync(), "chain")
        site.assert_equal()
        assert by_journal(follower.sync()).skipped
        goes_on(site)
        follower.sync()
        follower.sync()
        goes_on(site)
        by_journal(follower.sync())
        site.assert_equal()


def test_handles_that_a_failed_run_closed_are_opened_again(site: Site) -> None:
    site.publish()
    transport = LocalTransport()
    with following(site, transport) as follower:
        by_journal(follower.sync())

        def failing() -> Job:
            yield [Stat(str(site.root))]
            raise RequestError("on purpose", code=4)

        with pytest.raises(RequestError):
            transport.run([failing()])
        goes_on(site)
        by_journal(follower.sync())
        site.assert_equal()


def test_another_mirror_by_the_same_connection(site: Site) -> None:
    """The reader belongs to the root, not to the mirror."""
    site.publish()
    with following(site) as follower:
        by_journal(follower.sync())
        goes_on(site)
        first, site.mirror = site.mirror, site.mirror.with_name("other")
        by_journal(follower.sync())
        site.assert_equal()
        site.mirror = first
        by_journal(follower.sync())
        site.assert_equal()


def test_observers_hear_of_polls(site: Site) -> None:
    site.publish()
    heard: list[Event] = []
    with following(site) as follower:
        by_journal(follower.sync())
        by_journal(follower.sync(heard.append))
        goes_on(site)
        by_journal(follower.sync(heard.append))
    started = [event.total_bytes for event in heard if isinstance(event, TransferStarted)]
    assert started[0] == 0
    assert started[1] > 0


# -- one at a time on the connection -----------------------------------------------------------------


class Alone(Counting):
    """Notices a second run while one is under way, and holds up the reading of the journal until then."""

    def __init__(self, left: threading.Event) -> None:
        super().__init__()
        self.running = threading.Lock()
        self.left = left
        self.overlaps = 0

    def run(self, jobs: Iterable[Job]) -> None:
        if not self.running.acquire(blocking=False):
            self.overlaps += 1
            self.left.set()
            return super().run(jobs)
        try:
            return super().run(jobs)
        finally:
            self.running.release()

    def before(self, operation: Operation) -> None:
        if isinstance(operation, Read) and self.is_of_journal(operation) and operation.offset > 100_000:
            self.left.wait(30)


@pytest.mark.parametrize("method", ["auto", "journal"])
@pytest.mark.parametrize("where", ["chain", "content"])
def test_the_connection_is_left_before_the_rung_below_uses_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, where: str, method: str
) -> None:
    """An error leaves generators hanging in its traceback: the reading thread must not go on behind it."""
    put(site.root / RUN / "media/b.bin", random.Random(1).randbytes(900_000))
    site.publish()
    left = threading.Event()

    class Leaving(Stream):
        def __exit__(self, *arguments: object) -> None:
            left.set()
            super().__exit__(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(journal_reader, "Stream", Leaving)
    monkeypatch.setattr("runicorn.remote_storage.transport.stream.MAX_READ", 50_000)
    if where == "chain":
        kinds = [kind for kind, _, _ in places(site)]
        assert kinds[:2] == [Kind.BEGIN, Kind.FILES]
        damage(epoch_path(site), boundaries(site)[0] + 60)
    else:
        monkeypatch.setattr("runicorn.remote_storage.replay.Replay.take", _refuse)
    alone = Alone(left)
    if method == "auto":
        by_manifest(site.sync(alone))
        site.assert_equal()
    else:
        with pytest.raises(DamagedError):
            site.sync(alone, method=method)
    assert alone.overlaps == 0


def _refuse(_self: object, _frame: object) -> None:
    raise DamagedError("on purpose")
