"""Each law is broken by hand, and the oracle sees it; what the laws allow, it lets pass."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runicorn.manifest import ManifestGenerator, ManifestType
from runicorn.remote_storage import SyncOptions, synchronize
from runicorn.remote_storage.transport import LocalTransport
from testbed.history import History, says_ended
from testbed.oracle import PAGE, Oracle
from testbed.selected import selected_files
from testbed.trees import make_tree

HALF = b'{"half'


@dataclass
class World:
    """A root with its history, a mirror, and an oracle that has looked at it."""

    root: Path
    mirror: Path
    history: History
    oracle: Oracle
    runs: list[str]

    @property
    def ended(self) -> str:
        """A run that has ended."""
        return self.runs[0]

    @property
    def running(self) -> str:
        """A run that goes on."""
        return self.runs[-1]

    def write(self, path: str, content: bytes) -> None:
        self.history.record(path, content)
        (self.root / path).write_bytes(content)

    def append(self, path: str, data: bytes) -> None:
        self.history.record_append(path, data)
        with (self.root / path).open("ab") as log:
            log.write(data)

    def remove(self, path: str) -> None:
        self.history.record_tree_removed(self.root, self.root / path)
        shutil.rmtree(self.root / path)

    def publish(self) -> None:
        _, output = ManifestGenerator(self.root).generate()
        self.oracle.published(json.loads(output.read_bytes()))

    def sync(self, **options: Any) -> None:
        with closing(LocalTransport()) as transport:
            synchronize(transport, str(self.root), self.mirror, SyncOptions(source="it", **options))

    def change_state(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.mirror / ".runicorn/state.db")) as state:
            assert state.execute(statement, values).rowcount > 0
            state.commit()

    def look(self, **options: bool) -> list[str]:
        return self.oracle.faults(self.mirror, **options)


@pytest.fixture
def world(tmp_path: Path) -> World:
    root = tmp_path / "root"
    runs = [run.relative_to(root).as_posix() for run in make_tree(root, 3, files=9, running=1)]
    history = History(tmp_path / "history")
    history.record_tree(root)
    made = World(root, tmp_path / "mirror", history, Oracle(history), runs)
    made.publish()
    made.sync()
    assert made.look(undisturbed=True) == []
    assert made.oracle.complete(made.mirror, root, deletes=True) == []
    return made


# -- what the laws allow -----------------------------------------------------------------------


def test_an_honest_life_passes(world: World) -> None:
    log, summary = f"{world.running}/events.jsonl", f"{world.running}/summary.json"
    for number in range(3):
        world.append(log, b'{"step": %d}\n' % number + HALF)
        world.write(summary, b"9" * (number + 1))
        world.publish()
        world.sync(method=("journal", "manifest", "walk")[number])
        assert world.look(undisturbed=True) == []
        assert world.oracle.complete(world.mirror, world.root) == []
        world.append(log, b'": 1}\n')
    world.write(log, b'{"rotated": true}\n')
    world.remove(world.ended)
    world.publish()
    world.sync(method="manifest")
    assert world.look(undisturbed=True) == []
    assert world.oracle.complete(world.mirror, world.root) == []
    world.sync(delete=True)
    assert world.look(deletes=True, undisturbed=True) == []
    assert world.oracle.complete(world.mirror, world.root, deletes=True) == []


def test_half_a_record_at_the_end_of_an_ended_run_passes(world: World) -> None:
    log = f"{world.ended}/logs.txt"
    world.append(log, HALF)
    world.publish()
    world.sync()
    assert (world.mirror / log).read_bytes().endswith(HALF)
    assert world.look(undisturbed=True) == []
    assert world.oracle.complete(world.mirror, world.root) == []
    assert world.oracle.torn_ends > 0


def test_a_record_that_a_kill_tore_at_the_end_of_a_page_passes_while_it_is_not_recorded(
    world: World,
) -> None:
    log = f"{world.running}/events.jsonl"
    world.append(log, b"x" * 2 * PAGE + b"\n")
    held = (world.mirror / log).stat().st_size
    for size, passes in ((PAGE, True), (PAGE + 1, False)):
        with (world.mirror / log).open("ab") as stream:
            stream.truncate(held)
            stream.write((world.root / log).read_bytes()[held:size])
        assert (world.look() == []) is passes
    assert world.oracle.torn_pages == 1


def test_what_somebody_else_does_passes_until_the_client_mends_it(world: World) -> None:
    summary, log = f"{world.running}/summary.json", f"{world.running}/logs.txt"
    (world.mirror / summary).write_bytes(b"mine")
    (world.mirror / log).unlink()
    (world.mirror / "notes.txt").write_bytes(b"mine as well")
    world.oracle.somebody_did(world.mirror, summary, log, "notes.txt")
    assert world.look() == []
    world.sync()
    assert world.look(undisturbed=True) == []
    assert world.oracle.complete(world.mirror, world.root, deletes=True) == []
    (world.mirror / summary).write_bytes(b"mine")
    assert "law 1" in "".join(world.look())


def test_the_removal_of_what_a_first_sync_was_about_to_bring_passes(world: World) -> None:
    world.change_state("UPDATE meta SET value = json_set(value, '$.began_empty', 1) WHERE key = 'cursor'")
    assert world.look() == []
    world.remove(world.ended)
    world.publish()
    shutil.rmtree(world.mirror / world.ended)
    world.change_state("DELETE FROM files WHERE folder = ?", world.ended)
    assert world.look() == []


def test_what_a_killed_first_sync_has_not_recorded_may_go_while_the_base_is_read(world: World) -> None:
    world.change_state("UPDATE meta SET value = json_set(value, '$.began_empty', 1) WHERE key = 'cursor'")
    world.change_state("DELETE FROM files WHERE folder = ?", world.ended)
    notes = f"{world.running}/notes.txt"
    (world.mirror / notes).write_bytes(b"mine")
    world.oracle.somebody_did(world.mirror, notes)
    assert world.look() == []
    world.remove(world.ended)
    world.publish()
    shutil.rmtree(world.mirror / world.ended)
    assert world.look() == []
    (world.mirror / notes).unlink()
    assert world.look() == [f"law 4: {notes}: somebody else had put it there or changed it, and it is gone"]


def test_a_walk_may_go_by_the_time_that_is_recorded(world: World) -> None:
    """A file that was only touched keeps its time in the mirror; its record has the new one."""
    log = f"{world.running}/logs.txt"
    content = (world.root / log).read_bytes()
    os.utime(world.root / log, (5, 5))
    world.publish()
    world.sync()
    assert world.look() == []
    world.write(log, content[:-2] + b"?\n")
    os.utime(world.root / log, (5, 5))
    assert world.oracle.complete(world.mirror, world.root, by_walk=True) == []
    assert world.oracle.untold == 1
    os.utime(world.root / log, (7, 7))
    assert len(world.oracle.complete(world.mirror, world.root, by_walk=True)) == 1


# -- laws 1 and 3 --------------------------------------------------------------------------------


def test_law_1_a_mixture_of_two_versions_is_seen(world: World) -> None:
    path = f"{world.running}/summary.json"
    world.write(path, b'{"new": "version"}')
    (world.mirror / path).write_bytes(b'{"new": "ver' + (world.mirror / path).read_bytes()[12:])
    assert any(f"law 1: {path}: " in fault for fault in world.look())


@pytest.mark.parametrize("content", [b"", b"{"])
def test_law_1_half_a_state_file_is_seen(world: World, content: bytes) -> None:
    path = f"{world.running}/status.json"
    (world.mirror / path).write_bytes(content)
    assert any(f"law 1: {path}: " in fault for fault in world.look())


def test_law_1_the_content_of_another_file_is_seen(world: World) -> None:
    shutil.copy(world.root / world.ended / "meta.json", world.mirror / world.running / "meta.json")
    assert any(f"law 1: {world.running}/meta.json" in fault for fault in world.look())


def test_law_1_a_file_that_was_never_in_the_root_is_seen(world: World) -> None:
    (world.mirror / world.running / ".status.json.tmp").write_bytes(b"{}")
    assert any("was never in the tree" in fault for fault in world.look())


def _append(log: Path) -> None:
    with log.open("ab") as stream:
        stream.write(HALF)


def _within(log: Path) -> None:
    os.truncate(log, log.stat().st_size - 1)


def _wrong(log: Path) -> None:
    with log.open("r+b") as stream:
        stream.write(b"X")


def _foreign(log: Path) -> None:
    with log.open("ab") as stream:
        stream.write(b"never said\n")


def _anew(log: Path) -> None:
    content = log.read_bytes()
    log.rename(log.with_name("old"))
    log.write_bytes(content)
    log.with_name("old").unlink()


def _shrunk(log: Path) -> None:
    os.truncate(log, log.read_bytes().rindex(b"\n", 0, -1) + 1)


@pytest.mark.parametrize(
    ("breaks", "word"),
    [
        (_append, "within a record"),
        (_within, "within a record"),
        (_wrong, "no prefix"),
        (_foreign, "no prefix"),
        (_anew, "another inode"),
        (_shrunk, "in place otherwise than by growing"),
    ],
)
@pytest.mark.parametrize("name", ["events.jsonl", "logs.txt"])
def test_law_3_is_seen_broken(world: World, breaks: Callable[[Path], None], word: str, name: str) -> None:
    breaks(world.mirror / world.running / name)
    assert any(f"law 3: {world.running}/{name}: " in fault and word in fault for fault in world.look())


def test_law_3_another_inode_passes_for_another_generation_only(world: World) -> None:
    log = f"{world.running}/logs.txt"
    world.write(log, b"another\n")
    _anew(world.mirror / log)  # still the old generation: the server's new one explains nothing
    assert any("another inode" in fault for fault in world.look())
    world.publish()
    world.sync()
    assert world.look(undisturbed=True) == []


def test_logs_are_held_open_until_it_is_closed(world: World) -> None:
    def held() -> set[Path]:
        links = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        return {each.readlink() for each in links} & set(world.mirror.rglob("*"))

    assert held() == {path for path in world.mirror.rglob("*") if path.name in {"events.jsonl", "logs.txt"}}
    world.oracle.close()
    assert held() == set()


# -- law 2 -------------------------------------------------------------------------------------


def test_law_2_a_record_of_a_file_that_is_not_there_is_seen(world: World) -> None:
    (world.mirror / world.running / "meta.json").unlink()
    assert any("law 2" in fault and "recorded as synced" in fault for fault in world.look(deletes=True))


def test_law_2_a_record_with_wrong_hashes_is_seen(world: World) -> None:
    world.change_state("UPDATE files SET hashes = zeroblob(32) WHERE inner = 'meta.json'")
    assert sum("law 2" in fault and "other hashes" in fault for fault in world.look()) == len(world.runs)


def test_law_2_a_log_shorter_than_its_record_is_seen(world: World) -> None:
    log = f"{world.running}/events.jsonl"
    world.append(log, b'{"more": 1}\n')
    world.publish()
    world.sync()
    _shrunk(world.mirror / log)
    assert any("law 2" in fault and "is older than" in fault for fault in world.look())


def test_law_2_a_record_of_what_never_was_is_seen(world: World) -> None:
    world.change_state(
        "UPDATE files SET hashes = zeroblob(32), inode = inode + 1 WHERE inner = 'events.jsonl'"
    )
    assert sum("law 2" in fault and "never had" in fault for fault in world.look()) == len(world.runs)


def test_law_2_what_is_not_as_recorded_is_a_fault_only_when_nothing_disturbed_the_sync(
    world: World,
) -> None:
    world.change_state("UPDATE files SET mtime_ns = mtime_ns - 1 WHERE inner = 'meta.json'")
    assert world.look() == []
    assert sum("not as it was recorded" in fault for fault in world.look(undisturbed=True)) == len(world.runs)


def test_law_2_a_cursor_that_is_ahead_of_the_files_is_seen(world: World) -> None:
    path, log = f"{world.running}/summary.json", f"{world.running}/logs.txt"
    world.write(path, b'{"new": 1}')
    world.append(log, b"more\n")
    world.write(f"{world.running}/assets.json", b"{}")
    world.publish()
    manifest = json.loads((world.root / ".runicorn/full_manifest.json").read_bytes())
    identity = [manifest["lineage"], manifest["revision"], manifest["snapshot_id"]]
    change = "UPDATE meta SET value = json_set(value, '$.identity', json(?)) WHERE key = 'cursor'"
    world.change_state(change, json.dumps(identity))
    found = world.look()
    assert sum("it is older than the cursor's revision" in fault for fault in found) == 2
    assert sum("lists it, and it is not there" in fault for fault in found) == 1


def test_law_2_a_cursor_of_a_state_that_was_never_published_is_seen(world: World) -> None:
    change = "UPDATE meta SET value = json_set(value, '$.identity[1]', 99) WHERE key = 'cursor'"
    world.change_state(change)
    assert any("never published" in fault for fault in world.look())


def test_law_2_an_active_manifest_lays_whole_runs_over_the_full_one(world: World) -> None:
    path = f"{world.running}/summary.json"
    world.history.record_removed(path)
    (world.root / path).unlink()
    world.append(f"{world.running}/logs.txt", b"more\n")
    os.utime(world.root / world.running / "meta.json")
    _, output = ManifestGenerator(world.root).generate(ManifestType.ACTIVE)
    world.oracle.published(json.loads(output.read_bytes()))
    world.mirror = world.mirror.with_name("other")
    world.sync(method="manifest")
    assert not (world.mirror / path).exists()
    assert world.look(undisturbed=True) == []
    (world.mirror / world.running / "meta.json").unlink()
    world.change_state("DELETE FROM files WHERE folder = ? AND inner = 'meta.json'", world.running)
    assert any("the cursor's revision 1 lists it, and it is not there" in fault for fault in world.look())


def test_law_2_what_is_wanted_may_be_missing(world: World) -> None:
    path = f"{world.running}/assets.json"
    world.write(path, b"{}")
    world.publish()
    world.sync()
    (world.mirror / path).unlink()
    world.change_state("DELETE FROM files WHERE inner = 'assets.json'")
    assert any("lists it, and it is not there" in fault for fault in world.look())
    world.change_state("INSERT INTO wanted VALUES (1, 0.0, ?, 'assets.json', '', '')", world.running)
    assert world.look() == []


def test_law_2_a_damaged_database_is_seen(world: World) -> None:
    database = world.mirror / ".runicorn/state.db"
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2])
    assert any("law 2: .runicorn/state.db" in fault for fault in world.look())


def test_the_oracle_leaves_no_trace_in_the_mirror(world: World) -> None:
    own = world.mirror / ".runicorn"
    before = {path.name: path.stat().st_mtime_ns for path in own.iterdir()}
    world.look()
    assert {path.name: path.stat().st_mtime_ns for path in own.iterdir()} == before


# -- law 4 -------------------------------------------------------------------------------------


def _take(world: World, *runs: str) -> None:
    for run in runs:
        shutil.rmtree(world.mirror / run)
        world.change_state("DELETE FROM files WHERE folder = ?", run)


def test_law_4_a_removal_without_leave_is_seen(world: World) -> None:
    world.remove(world.ended)
    world.publish()
    _take(world, world.ended)
    assert sum("law 4" in fault and "nobody gave leave" in fault for fault in world.look()) == 9


def test_law_4_a_removal_of_what_is_in_the_root_is_seen(world: World) -> None:
    _take(world, world.ended)
    found = world.look(deletes=True)
    assert any("law 4" in fault and "never went from the root" in fault for fault in found)
    assert any("law 2" in fault and "lists it, and it is not there" in fault for fault in found)


def test_law_4_a_removal_before_a_state_without_the_file_was_published_is_seen(world: World) -> None:
    world.remove(world.ended)
    _take(world, world.ended)
    assert any("no complete state since revision 1 lacks it" in fault for fault in world.look(deletes=True))


def test_law_4_a_removal_on_an_incomplete_state_is_seen(world: World) -> None:
    world.remove(world.ended)
    _, output = ManifestGenerator(world.root).generate()
    world.oracle.published({**json.loads(output.read_bytes()), "complete": False})
    _take(world, world.ended)
    assert any("no complete state since revision 1 lacks it" in fault for fault in world.look(deletes=True))


def test_law_4_more_than_half_needs_a_second_leave(world: World) -> None:
    world.remove(world.runs[0])
    world.remove(world.runs[1])
    world.publish()
    world.sync(delete=True)
    assert world.look(deletes=True) == []
    _take(world, world.runs[0], world.runs[1])
    assert any("without a second leave" in fault for fault in world.look(deletes=True))


def test_law_4_the_second_leave_is_enough(world: World) -> None:
    world.remove(world.runs[0])
    world.remove(world.runs[1])
    world.publish()
    world.sync(delete=True, force_delete=True)
    assert not (world.mirror / world.runs[0] / "meta.json").exists()
    assert world.look(deletes=True, force=True) == []


def test_law_4_what_somebody_else_put_there_must_stay(world: World) -> None:
    note, meta = world.mirror / "notes.txt", world.mirror / world.ended / "meta.json"
    note.write_bytes(b"mine")
    meta.write_bytes(b"mine")
    paths = (note.name, meta.relative_to(world.mirror).as_posix())
    world.oracle.somebody_did(world.mirror, *paths)
    assert world.look() == []
    note.unlink()
    meta.unlink()
    found = world.look(deletes=True, force=True)
    assert sum("law 4" in fault and "somebody else" in fault for fault in found) == 2


def test_law_4_a_removal_of_what_the_client_does_not_know_is_seen(world: World) -> None:
    (world.mirror / ".runicorn/state.db").unlink()
    world.oracle.somebody_did(world.mirror, ".runicorn/state.db")
    assert world.look() == []
    world.remove(world.ended)
    world.publish()
    shutil.rmtree(world.mirror / world.ended)
    assert any("the client had not synced it" in fault for fault in world.look(deletes=True))


def test_law_4_a_whole_mirror_that_is_gone_is_seen(world: World) -> None:
    shutil.rmtree(world.mirror)
    assert any("with the whole mirror" in fault for fault in world.look(deletes=True, force=True))


# -- complete ----------------------------------------------------------------------------------


def test_what_a_mirror_lacks_is_named(world: World) -> None:
    world.append(f"{world.running}/events.jsonl", b'{"more": 1}\n')
    world.write(f"{world.running}/summary.json", b"{}")
    (world.root / world.running / "media/b").mkdir()
    world.write(f"{world.running}/media/b/new.png", b"png")
    world.remove(world.ended)
    found = world.oracle.complete(world.mirror, world.root)
    assert [fault.partition(":")[0] for fault in found] == [
        f"{world.running}/events.jsonl",
        f"{world.running}/media/b/new.png",
        f"{world.running}/summary.json",
    ]
    extra = world.oracle.complete(world.mirror, world.root, deletes=True)
    assert sum("not in the root" in fault for fault in extra) == 9


def test_the_files_of_a_root_are_selected_as_the_format_says(tmp_path: Path) -> None:
    root = tmp_path / "root"
    wanted = {
        "p/n/runs/r/meta.json",
        "p/n/runs/r/events.jsonl",
        "p/n/runs/r/media/a.png",
        "p/n/runs/r/media/deep/er/b.png",
        "runs/r1/status.json",
        "runs/a/b/r2/meta.json",
        "runs/a/b/r2/logs.txt",
    }
    left = {
        "p/n/runs/r/train.py",
        "p/n/runs/r/media/.a.png",
        "p/n/runs/r/media/.cache/a.png",
        "p/n/runs/r/media/a.PNG.TMP",
        "p/n/runs/no-run/logs.txt",
        "p/n/runs/.r/meta.json",
        "p/n/other/r/meta.json",
        "p/n/meta.json",
        "runs/a/b/r2/inner/meta.json",
        "runs/.hidden/r3/meta.json",
        "runicorn.db",
    }
    for path in wanted | left:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"{}")
    (root / "runs/linked").symlink_to(root / "p/n/runs/r")
    (root / "runs/r1/meta.json").symlink_to(root / "p/n/runs/r/meta.json")
    assert set(selected_files(root)) == wanted
    _, output = ManifestGenerator(root).generate()
    runs = json.loads(output.read_bytes())["experiments"]
    assert {entry["path"] for run in runs for entry in run["files"]} == wanted


def test_the_journal_tells_the_states_that_the_manifests_tell(world: World) -> None:
    other, journal = Oracle(world.history), world.root / ".runicorn/journal"
    other.published_in(journal)
    for number in range(3):
        world.append(f"{world.running}/logs.txt", b"on\n")
        world.write(f"{world.running}/status.json", b'{"status": "%s"}' % (b"failed", b"running")[number % 2])
        if number == 1:
            world.remove(world.ended)
        (journal / "0.journal").write_bytes(b"RJ\x01\n torn")
        _, output = ManifestGenerator(world.root, compact=number == 2).generate()
        world.oracle.published(json.loads(output.read_bytes()))
        other.published_in(journal)
    assert [each.identity[1] for each in other.publications] == [1, 2, 3, 4]
    assert other.publications == world.oracle.publications
    assert not other.publications[-1].lists(f"{world.ended}/meta.json")


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (b'{"status": "finished"}', True),
        (b'{"status": "FAILED"}', True),
        (b'{"status": "Running"}', False),
        (b'{"status": ""}', False),
        (b'{"status": 3}', False),
        (b"{}", False),
        (b"[]", False),
        (b'{"status": "fin', False),
    ],
)
def test_the_end_of_a_run_is_what_its_status_says(status: bytes, ended: bool) -> None:
    assert says_ended(status) is ended
