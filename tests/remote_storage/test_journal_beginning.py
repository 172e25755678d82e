"""A client that begins: what it reads beside HEAD through the link `CURRENT`, at a real sftp-server."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from runicorn.errors import NoJournalError, RequestError
from runicorn.journal.frames import CURRENT, beginning
from runicorn.remote_storage.journal_reader import JournalReader
from runicorn.remote_storage.transport import (
    Answer,
    Close,
    Job,
    Open,
    Operation,
    Read,
    Traffic,
    Transport,
)
from tests.remote_storage.helpers import Site, make_run, put, sftp_server
from tests.remote_storage.journal_helpers import by_journal, by_manifest, epoch_bytes, folder, head, head_path


class Flights:
    """Passes everything on, and keeps what was asked for at once: what is read, by its name, or `Close`.

    Attributes:
        refused: name of a file of which nothing can be read.
    """

    refused = ""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self._names: dict[bytes, str] = {}
        self.flights: list[list[str]] = []
        self.open = 0

    @property
    def traffic(self) -> Traffic:
        return self._inner.traffic

    def open_more(self, count: int) -> list[Transport]:
        return self._inner.open_more(count)

    def close(self) -> None:
        self._inner.close()

    def run(self, jobs: Iterable[Job]) -> None:
        self._inner.run(self._watched(job) for job in jobs)

    def _watched(self, job: Job) -> Generator[Sequence[Operation], Sequence[Answer], None]:
        try:
            batch = next(job)
            while True:
                self.flights.append([self._shown(each) for each in batch])
                answers = list((yield batch))
                for operation, answer in zip(batch, answers, strict=True):
                    if isinstance(operation, Open) and not isinstance(answer, Exception):
                        self._names[answer.value] = Path(operation.path).name  # type: ignore[union-attr]
                        self.open += 1
                    self.open -= isinstance(operation, Close)
                for at, shown in enumerate(self.flights[-1]):
                    if shown == f"Read {self.refused}":
                        answers[at] = RequestError("refused on purpose", code=4, path=self.refused)
                batch = job.send(answers)
        except StopIteration:
            return
        finally:
            job.close()

    def _shown(self, operation: Operation) -> str:
        if isinstance(operation, Open):
            return f"Open {Path(operation.path).name}"
        if isinstance(operation, Read):
            return f"Read {self._names[operation.handle.value]}"
        return type(operation).__name__


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "root", tmp_path / "mirror")
    for number in range(3):
        run = make_run(site.root, f"p/n/runs/{number}")
        put(run / "media/large.png", os.urandom(400_000))
    site.publish()
    assert len(epoch_bytes(site)) > 1_000_000
    return site


@pytest.fixture
def line() -> Iterator[Flights]:
    with sftp_server() as engine:
        yield Flights(engine)


def opened(line: Flights) -> list[str]:
    """The files of the journal that were opened, in order."""
    every = [each.removeprefix("Open ") for flight in line.flights for each in flight if "Open" in each]
    return [each for each in every if each in ("HEAD", CURRENT) or each.endswith(".journal")]


def test_a_first_sync_reads_the_epoch_beside_head(site: Site, line: Flights) -> None:
    by_journal(site.sync(line))
    site.assert_equal()
    assert opened(line) == ["HEAD", CURRENT]
    at = line.flights.index(["Open HEAD", f"Open {CURRENT}"])
    assert line.flights[at + 1] == ["Read HEAD", "Close", "Fstat", *([f"Read {CURRENT}"] * 2)]
    assert line.open == 0


def test_the_same_bytes_are_not_read_twice(site: Site, line: Flights) -> None:
    report = by_journal(site.sync(line))
    assert report.bytes_received < len(epoch_bytes(site)) + 20_000


@pytest.mark.parametrize("selecting", [{"projects": ("p",)}, {"media": False}])
def test_who_may_not_need_the_beginning_does_not_read_it(
    site: Site, line: Flights, selecting: dict[str, object]
) -> None:
    site.sync(line, **selecting)
    assert CURRENT not in opened(line)


def test_a_mirror_that_holds_something_does_not_read_it(site: Site, line: Flights) -> None:
    put(site.mirror / "mine.txt", "mine")
    site.sync(line)
    assert CURRENT not in opened(line)


def lost(site: Site) -> None:
    (folder(site) / CURRENT).unlink()


def dangling(site: Site) -> None:
    lead_to(site, "no-such-file")


def of_an_older_epoch(site: Site) -> None:
    older = epoch_bytes(site)
    site.publish(compact=True)
    lead_to_bytes(site, older)


def of_another_journal(site: Site) -> None:
    elsewhere = site.root.with_name("elsewhere")
    make_run(elsewhere, "p/n/runs/foreign")
    other = Site(elsewhere, site.mirror)
    other.publish()
    lead_to_bytes(site, epoch_bytes(other))


def no_journal(site: Site) -> None:
    lead_to_bytes(site, b"no frame ")


def an_older_copy(site: Site) -> None:
    """What is left where somebody has copied the root with a program that follows links."""
    copied = epoch_bytes(site)
    put(site.root / "p/n/runs/4/meta.json", "{}")
    site.publish()
    assert len(epoch_bytes(site)) > len(copied)
    lost(site)
    put(folder(site) / CURRENT, copied, int(head(site).generated_at))


def a_copy_of_another_time(site: Site) -> None:
    """As long as HEAD tells, and not the file: what is in it may have been cut off and written anew."""
    copied = bytearray(epoch_bytes(site))
    copied[-1] ^= 1
    lost(site)
    put(folder(site) / CURRENT, bytes(copied), int(head(site).generated_at) - 1)


def a_socket(site: Site) -> None:
    """It is refused with FAILURE, as where too many files are open."""
    lost(site)
    here = Path.cwd()
    os.chdir(folder(site))  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(CURRENT)
    os.chdir(here)


def a_folder(site: Site) -> None:
    lead_to(site, ".")


def empty(site: Site) -> None:
    (folder(site) / "empty").write_bytes(b"")
    lead_to(site, "empty")


def lead_to_bytes(site: Site, data: bytes) -> None:
    """To a file that begins so, of the size and time that HEAD tells."""
    told = head(site)
    put(folder(site) / "other", data.ljust(told.end.offset, b"\0"), int(told.generated_at))
    lead_to(site, "other")


def lead_to(site: Site, target: str) -> None:
    lost(site)
    (folder(site) / CURRENT).symlink_to(target)


WRONG = [
    lost,
    dangling,
    of_an_older_epoch,
    of_another_journal,
    an_older_copy,
    a_copy_of_another_time,
    a_socket,
    no_journal,
    a_folder,
    empty,
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_link_that_is_wrong_costs_only_time(
    site: Site, line: Flights, wrong: Callable[[Site], None]
) -> None:
    wrong(site)
    by_journal(site.sync(line))
    site.assert_equal()
    assert opened(line) == ["HEAD", CURRENT, f"{head(site).epoch}.journal"]
    assert line.open == 0


def test_what_opens_and_cannot_be_read_costs_only_time(site: Site, line: Flights) -> None:
    line.refused = CURRENT
    by_journal(site.sync(line))
    site.assert_equal()
    assert opened(line) == ["HEAD", CURRENT, f"{head(site).epoch}.journal"]
    assert line.open == 0


def test_a_refused_link_does_not_slow_down_the_connection(site: Site) -> None:
    a_socket(site)
    with sftp_server() as engine:
        JournalReader(engine, str(site.root)).look(None, begins=True)
        assert engine.traffic.requests == 6, "the refusal was taken for one of too many open files"


def test_without_head_what_the_link_leads_to_is_not_used(site: Site, line: Flights) -> None:
    head_path(site).unlink()
    by_manifest(site.sync(line), "keeps no journal")
    site.assert_equal()
    assert line.open == 0


def test_a_damaged_head_leaves_nothing_open(site: Site, line: Flights) -> None:
    head_path(site).write_bytes(b"{}\n")
    by_manifest(site.sync(line), "HEAD")
    site.assert_equal()
    assert line.open == 0


def test_damage_behind_the_first_frame_is_met_as_ever(site: Site, line: Flights) -> None:
    path = folder(site) / f"{head(site).epoch}.journal"
    data = bytearray(path.read_bytes())
    data[300_000] ^= 1
    path.write_bytes(data)
    by_manifest(site.sync(line), "chain")
    site.assert_equal()


def test_a_server_that_reads_less_at_a_time(
    site: Site, line: Flights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes behind a short answer is not taken for what follows it."""
    monkeypatch.setattr("runicorn.remote_storage.transport.session.MAX_READ", 10_000)
    by_journal(site.sync(line))
    site.assert_equal()


def test_an_epoch_that_was_open_before_gives_way(site: Site, line: Flights) -> None:
    reader = JournalReader(line, str(site.root))
    reader.look(beginning(head(site).epoch))
    put(site.root / "p/n/runs/3/meta.json", "{}")
    site.publish(compact=True)
    reader.look(None, begins=True)
    assert reader.has_open(head(site).epoch)
    assert reader.size(head(site).epoch) == len(epoch_bytes(site))
    reader.close()
    assert line.open == 0


def test_what_was_left_open_is_closed_although_head_is_gone(site: Site, line: Flights) -> None:
    reader = JournalReader(line, str(site.root))
    reader.look(beginning(head(site).epoch))
    reader.forget()
    head_path(site).unlink()
    with pytest.raises(NoJournalError, match="keeps no journal"):
        reader.look(None)
    assert line.open == 0


def test_nobody_begins_where_there_is_no_journal(site: Site, line: Flights) -> None:
    site.publish(journal=False)
    with pytest.raises(NoJournalError, match="keeps no journal"):
        JournalReader(line, str(site.root)).look(None, begins=True)
    assert line.open == 0
