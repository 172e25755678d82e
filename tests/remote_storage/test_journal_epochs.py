"""Epochs that end, and all reasons to leave the journal: each is told, and the next sync is back on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import DamagedError, NoJournalError, RunicornError, UnsafeError
from runicorn.journal.frames import FrameReader, Kind, beginning, encode_frame
from runicorn.remote_storage.known import LocalFile
from runicorn.remote_storage.transport import Open, Read, StatusCode, Transport
from tests.remote_storage.helpers import EVENTS, RUN, Refuse, Site, append, lines, make_run, put, run_files
from tests.remote_storage.journal_helpers import (
    Counting,
    boundaries,
    by_journal,
    by_manifest,
    change_head,
    cursor_of,
    damage,
    epoch_path,
    folder,
    forget_sealed_epochs,
    head,
    head_path,
    places,
    state_of,
)


@pytest.fixture
def synced(site: Site) -> Site:
    site.publish()
    by_journal(site.sync())
    return site


def goes_on(site: Site, *, compact: bool = False) -> None:
    """One more revision."""
    append(site.root / EVENTS, lines(2, 20))
    site.publish(compact=compact)


def back_on_the_journal(site: Site) -> None:
    """The sync after a fallback has nothing new, and the one after that goes on by the journal."""
    site.assert_equal()
    assert by_journal(site.sync()).skipped
    goes_on(site)
    by_journal(site.sync())
    site.assert_equal()


# -- seals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("news", [True, False])
def test_a_seal_leads_on_without_a_base(synced: Site, hops: int, news: bool) -> None:
    put(synced.root / RUN / "media/big.bin", bytes(range(256)) * 2000)
    synced.publish()
    by_journal(synced.sync())
    before = head(synced).epoch
    for _ in range(hops):
        if news:
            goes_on(synced, compact=True)
        else:
            synced.publish(compact=True)
    assert head(synced).epoch != before
    assert places(synced, before)[-1][0] is Kind.SEAL
    counting = Counting()
    report = by_journal(synced.sync(counting))
    assert report.skipped is not news
    assert counting.read < 1300 * hops + 1300
    assert cursor_of(synced).place == head(synced).end
    synced.assert_equal()
    back_on_the_journal(synced)


def test_removed_files_and_news_on_both_sides_of_a_seal(synced: Site) -> None:
    make_run(synced.root, "vision/resnet/runs/r2")
    synced.publish()
    (synced.root / RUN / "summary.json").unlink()
    goes_on(synced, compact=True)
    (synced.root / RUN / "media/a.png").unlink()
    put(synced.root / "vision/resnet/runs/r2/summary.json", '{"best": 3}')
    synced.publish()
    report = by_journal(synced.sync(delete=True))
    assert report.removed_count == 2
    synced.assert_equal()


def test_three_epochs_away_is_one_rung_down_once(synced: Site) -> None:
    for _ in range(3):
        goes_on(synced, compact=True)
    forget_sealed_epochs(synced)
    by_manifest(synced.sync(), "epoch", "not there")
    back_on_the_journal(synced)


def test_a_first_sync_that_began_before_the_epoch_was_left(site: Site) -> None:
    site.publish()
    counting = Counting()
    by_journal(site.sync(counting, media=False))
    goes_on(site, compact=True)
    by_journal(site.sync(media=False))
    assert (site.mirror / EVENTS).read_bytes() == (site.root / EVENTS).read_bytes()


# -- reasons to leave -----------------------------------------------------------------------------


def lost_head(site: Site) -> None:
    head_path(site).unlink()


def damaged_head(site: Site) -> None:
    damage(head_path(site), 30)


def other_major(site: Site) -> None:
    change_head(site, format_version="2.0")


def no_field(site: Site) -> None:
    head_path(site).write_bytes(b"{}\n" + b"0" * 64 + b"\n")


def head_is_folder(site: Site) -> None:
    head_path(site).unlink()
    head_path(site).mkdir()


def lost_epoch(site: Site) -> None:
    epoch_path(site).unlink()


def short_epoch(site: Site) -> None:
    path = epoch_path(site)
    path.write_bytes(path.read_bytes()[:-1])


def damaged_frame(site: Site) -> None:
    damage(epoch_path(site), boundaries(site)[-3] + 20)


def damaged_payload(site: Site) -> None:
    damage(epoch_path(site), boundaries(site)[-1] - 1)


def frame_of_major_two(site: Site) -> None:
    path, at = epoch_path(site), boundaries(site)[-3]
    data = bytearray(path.read_bytes())
    data[at + 2] = 2
    path.write_bytes(bytes(data))


def other_lineage(site: Site) -> None:
    change_head(site, lineage="another")


def head_before_a_frame(site: Site) -> None:
    change_head(site, chain="0" * 64)


REASONS: dict[Callable[[Site], None], str] = {
    lost_head: "no journal",
    damaged_head: "checksum",
    other_major: "format 2.0",
    no_field: "checksum",
    head_is_folder: "cannot be read",
    lost_epoch: "not there",
    short_epoch: "ends",
    damaged_frame: "chain",
    damaged_payload: "chain",
    frame_of_major_two: "format 2.x",
    other_lineage: "another history",
    head_before_a_frame: "HEAD",
}


@pytest.mark.parametrize("spoil", REASONS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("fresh", [True, False])
def test_each_damage_leads_one_rung_down_and_is_told(
    synced: Site, spoil: Callable[[Site], None], fresh: bool
) -> None:
    goes_on(synced)
    if fresh:
        shutil.rmtree(synced.mirror)
    spoil(synced)
    if fresh and spoil is other_lineage:
        report = synced.sync()
        assert report.method == "manifest"
        assert "history" in report.fallback_reason
    else:
        report = by_manifest(synced.sync(), REASONS[spoil])
    synced.assert_equal()
    assert not report.skipped
    # The next generation makes it whole, or begins anew.
    if head_path(synced).is_dir():
        head_path(synced).rmdir()
    goes_on(synced)
    synced.sync()
    back_on_the_journal(synced)


@pytest.mark.parametrize("spoil", [damaged_frame, short_epoch, lost_epoch, damaged_head])
def test_a_user_who_insists_gets_the_error(synced: Site, spoil: Callable[[Site], None]) -> None:
    goes_on(synced)
    spoil(synced)
    with pytest.raises((NoJournalError, DamagedError)) as caught:
        synced.sync(method="journal")
    assert str(caught.value)


def test_without_journal_and_manifest_there_is_the_walk(synced: Site) -> None:
    goes_on(synced)
    shutil.rmtree(synced.root / ".runicorn")
    report = synced.sync()
    assert report.method == "walk"
    assert "no journal" in report.fallback_reason
    assert "no manifest" in report.fallback_reason
    synced.assert_equal()


def test_a_journal_that_is_not_kept_any_more(synced: Site) -> None:
    goes_on(synced)
    append(synced.root / EVENTS, lines(1, 30))
    synced.publish(journal=False)
    assert not head_path(synced).exists()
    by_manifest(synced.sync(), "no journal")
    synced.assert_equal()
    assert by_manifest(synced.sync(), "no journal").skipped
    goes_on(synced)
    synced.sync()
    back_on_the_journal(synced)


def test_a_journal_that_came_later(site: Site) -> None:
    site.publish(journal=False)
    by_manifest(site.sync())
    goes_on(site)
    by_manifest(site.sync())
    back_on_the_journal(site)


def test_a_carried_file_with_wrong_bytes_under_a_fitting_chain(synced: Site) -> None:
    """Only the digest of the file tells."""
    put(synced.root / RUN / "summary.json", '{"best": 2}')
    synced.publish()
    last = head(synced)
    path = epoch_path(synced)
    reader = FrameReader(beginning(last.epoch))
    reader.feed(path.read_bytes())
    at, out = beginning(last.epoch), b""
    for frame in reader.frames():
        data = bytes(frame.data).replace(b'{"best": 2}', b'{"best": 3}')
        text, at = encode_frame(at, frame.kind, json.dumps(frame.head).encode(), data)
        out += text
    start = cursor_of(synced).place
    assert start is not None
    path.write_bytes(out)
    commits = [place for kind, place, _ in places(synced) if kind is Kind.COMMIT]
    change_head(
        synced,
        length=commits[-1].offset,
        chain=commits[-1].chain.hex(),
        base_length=commits[0].offset,
        base_chain=commits[0].chain.hex(),
        manifest={
            "revision": 1,
            "snapshot_id": "x",
            "epoch": last.epoch,
            "offset": commits[0].offset,
            "chain": commits[0].chain.hex(),
            "bytes": 1,
        },
        media={"begin": 0, "end": 0, "chain": "0" * 64},
    )
    shutil.rmtree(synced.mirror)
    by_manifest(synced.sync(), "summary.json", "not the listed ones")
    assert (synced.mirror / RUN / "summary.json").read_bytes() == b'{"best": 2}'
    synced.assert_equal()


def test_an_unsafe_head_is_refused(synced: Site) -> None:
    goes_on(synced)
    before = run_files(synced.mirror)
    change_head(synced, length=2**60)
    with pytest.raises(UnsafeError) as caught:
        synced.sync()
    assert caught.value.exit_code == 7
    assert run_files(synced.mirror) == before
    goes_on(synced)
    synced.sync()
    synced.assert_equal()


@pytest.mark.parametrize("kind", [Open, Read])
@pytest.mark.parametrize("name", ["/HEAD", ".journal"])
@pytest.mark.parametrize("code", [StatusCode.PERMISSION_DENIED, StatusCode.FAILURE])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_server_that_refuses_is_no_reason_to_stop(
    synced: Site, kind: type[Open] | type[Read], name: str, code: StatusCode, fresh: bool
) -> None:
    goes_on(synced)
    if fresh:
        shutil.rmtree(synced.mirror)
    refuse = Refusing(name, code, kind)
    by_manifest(synced.sync(refuse))
    synced.assert_equal()
    # Without HEAD nobody knows where the journal has the state of the manifest.
    assert synced.sync().skipped
    back_on_the_journal(synced)


class Refusing(Refuse):
    def open_more(self, count: int) -> list[Transport]:  # noqa: ARG002 - as of the protocol
        return []


def test_a_damaged_journal_is_not_believed_afterwards(synced: Site) -> None:
    """What it told before may be as wrong: the manifest is compared, though it names the cursor's state."""
    mirror = synced.mirror / RUN / "summary.json"
    goes_on(synced)
    identity = head(synced).identity
    data = b'{"best": 8}'
    mirror.write_bytes(data)
    with state_of(synced) as state:
        # As a forged journal brings it about: content that is recorded, under the identity of the server.
        known = state.run_files(RUN)["summary.json"]
        about = mirror.stat()
        local = LocalFile(about.st_size, about.st_mtime_ns, about.st_ino)
        forged = dataclasses.replace(known, local=local, hashes=(hashlib.sha256(data).digest(),))
        cursor = state.cursor
        assert cursor is not None
        assert cursor.place is not None
        state.record(
            [(RUN, "summary.json", forged)],
            cursor=dataclasses.replace(cursor, identity=identity),
        )
    damage(epoch_path(synced), boundaries(synced)[-1] - 1)
    by_manifest(synced.sync(), "chain")
    synced.assert_equal()


def test_errors_have_words(tmp_path: Path) -> None:
    site = Site(tmp_path / "none", tmp_path / "mirror")
    with pytest.raises(RunicornError) as caught:
        site.sync(method="journal")
    assert caught.value.exit_code == 6
    assert folder(site).exists() is False


# -- selections -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chosen",
    [
        {"projects": ("vision",)},
        {"include": ("*.json",)},
        {"exclude": ("media/", "logs.txt")},
        {"media": False},
        {"projects": ("nlp",), "media": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("cheaper", ["journal", "manifest"])
def test_selections_give_the_same_mirror_by_every_rung(
    site: Site, tmp_path: Path, chosen: dict[str, Any], cheaper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rung` weighs bytes; whatever it finds, the mirror is the same."""
    make_run(site.root, "runs/nlp/bert/r2")
    put(site.root / RUN / "media/big.bin", bytes(range(256)) * 400)
    site.publish()
    if cheaper == "manifest":
        monkeypatch.setattr("runicorn.remote_storage.rung.SLACK", -(10**7))
        monkeypatch.setattr("runicorn.remote_storage.rung.REQUEST_COST", 0)
    goes_on(site)
    mirrors = []
    for number, method in enumerate(["auto", "manifest", "walk", "journal"]):
        site.mirror = tmp_path / f"mirror-{number}"
        report = site.sync(method=method, **chosen)
        if method == "auto" and cheaper == "manifest" and chosen != {"media": False}:
            assert report.method == "manifest"
            assert "selected" in report.fallback_reason
        else:
            assert report.method == {"auto": "journal"}.get(method, method)
        mirrors.append(run_files(site.mirror))
    assert mirrors[0]
    assert mirrors == mirrors[:1] * 4
    site.mirror = tmp_path / "mirror-0"
    append(site.root / "runs/nlp/bert/r2/events.jsonl", lines(3, 20))
    goes_on(site)
    site.sync(**chosen)
    site.sync(method="walk", **chosen)
    site.mirror = tmp_path / "mirror-2"
    site.sync(method="walk", **chosen)
    assert run_files(site.mirror) == run_files(tmp_path / "mirror-0")


def test_another_selection_goes_by_the_manifest_once(synced: Site) -> None:
    by_manifest(synced.sync(media=False), "another part")
    assert by_journal(synced.sync(media=False)).skipped
    goes_on(synced)
    put(synced.root / RUN / "media/a.png", b"new")
    synced.publish()
    by_journal(synced.sync(media=False))
    assert (synced.mirror / RUN / "media/a.png").read_bytes() != b"new"
    by_manifest(synced.sync(), "another part")
    synced.assert_equal()
    assert by_journal(synced.sync()).skipped


def test_news_of_others_are_not_downloaded_for_a_part(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicorn.remote_storage.rung.SLACK", 1000)
    make_run(site.root, "runs/nlp/bert/r2")
    site.publish()
    chosen: dict[str, Any] = {"projects": ("vision",)}
    site.sync(**chosen)
    site.sync(**chosen)
    put(site.root / "runs/nlp/bert/r2/media/big.bin", random.Random(2).randbytes(300_000))
    goes_on(site)
    counting = Counting()
    by_manifest(site.sync(counting, **chosen), "new bytes")
    assert counting.read < 300_000
    assert (site.mirror / EVENTS).read_bytes() == (site.root / EVENTS).read_bytes()
    assert by_journal(site.sync(**chosen)).skipped
