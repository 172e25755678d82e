"""What is in the place of a folder or file of the mirror is never followed, modes are never applied."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runicorn.remote_storage import SyncOptions, synchronize
from runicorn.remote_storage.report import Event, FileDone, ListingRead, TransferStarted
from runicorn.remote_storage.transport import LocalTransport
from tests.faults.attacks import LINKED_FILES, LINKED_FOLDERS
from tests.faults.lab import Lab
from tests.faults.process import left_behind, run_files, sync


@pytest.mark.parametrize("method", ["manifest", "walk"])
def test_mode_and_owner_of_the_server_are_never_applied(lab: Lab, tmp_path: Path, method: str) -> None:
    for path in lab.root.rglob("*.json"):
        path.chmod(0o6777)
    old = os.umask(0o027)
    try:
        sync(lab.root, tmp_path / "fresh", "--method", method).expect(0)
    finally:
        os.umask(old)
    found = [path for path in (tmp_path / "fresh").rglob("*") if ".runicorn" not in path.parts]
    assert {oct(path.stat().st_mode & 0o7777) for path in found if path.is_file()} == {"0o640"}
    assert {oct(path.stat().st_mode & 0o7777) for path in found if path.is_dir()} == {"0o750"}


@pytest.mark.parametrize("folder", LINKED_FOLDERS)
def test_link_in_the_place_of_a_folder_is_not_followed(quick: Lab, folder: str) -> None:
    away = quick.place / "client/away"
    (quick.mirror / folder).rename(away)
    (quick.mirror / folder).symlink_to(away)
    done = quick.attack().expect(3)
    assert "a link or a file is in the place of a folder" in done.err
    (quick.mirror / folder).unlink()
    quick.recovers()


@pytest.mark.parametrize("file", LINKED_FILES)
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "loop"])
def test_link_in_the_place_of_a_file_is_replaced_not_followed(quick: Lab, file: str, kind: str) -> None:
    path = quick.mirror / file
    path.unlink()
    target = quick.place / "client/home/.ssh/authorized_keys"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to({"link": target, "dangling": target.with_name("new"), "loop": path}[kind])
    quick.attack().expect(0)
    assert path.is_file()
    assert not path.is_symlink()
    quick.matches()


@pytest.mark.parametrize("file", LINKED_FILES)
def test_folder_in_the_place_of_a_file_fails_that_file_alone(quick: Lab, file: str) -> None:
    path = quick.mirror / file
    path.unlink()
    (path / "inner").mkdir(parents=True)
    done = quick.attack().expect(3)
    assert "a folder is in the place of a file" in done.err
    (path / "inner").rmdir()
    path.rmdir()
    quick.recovers()


STATE = [".runicorn", ".runicorn/staging", ".runicorn/state.db", ".runicorn/sync.lock"]


@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("dangling", [False, True])
def test_link_in_the_state_of_the_mirror_is_not_followed(quick: Lab, name: str, dangling: bool) -> None:
    path, away = quick.mirror / name, quick.place / "client/away"
    path.rename(away)
    path.symlink_to(away.with_name("nowhere") if dangling else away)
    before = run_files(quick.mirror)
    quick.attack().refused(1)
    assert run_files(quick.mirror) == before
    path.unlink()
    away.rename(path)
    quick.recovers()


def test_folder_in_staging_is_named(lab: Lab) -> None:
    (lab.mirror / ".runicorn/staging/inner/most").mkdir(parents=True)
    before = run_files(lab.mirror)
    sync(lab.root, lab.mirror).refused(1, "staging")
    assert run_files(lab.mirror) == before


class Swap:
    """An observer that puts a link in the place of a folder at a moment of the sync."""

    def __init__(self, lab: Lab, folder: str, moment: type[Event]) -> None:
        self.folder, self.away, self.moment = lab.mirror / folder, lab.place / "client/away", moment
        self.trap = lab.place / "client/trap"
        self.trap.mkdir()
        self.done = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, self.moment) and not self.done:
            self.done = True
            self.folder.rename(self.away)
            self.folder.symlink_to(self.trap)


@pytest.mark.parametrize("moment", [ListingRead, FileDone])
@pytest.mark.parametrize("folder", LINKED_FOLDERS)
def test_link_that_appears_during_a_sync_is_not_followed(lab: Lab, folder: str, moment: type[Event]) -> None:
    lab.publish(lab.document)
    swap = Swap(lab, folder, moment)
    transport = LocalTransport()
    report = synchronize(transport, str(lab.root), lab.mirror, SyncOptions(method="manifest"), swap).report
    transport.close()
    assert swap.done
    assert list(swap.trap.iterdir()) == []
    assert report.failed_count or moment is FileDone
    assert left_behind(lab.mirror) == []
    swap.folder.unlink()
    lab.recovers()


@pytest.mark.parametrize("file", LINKED_FILES)
def test_file_that_becomes_a_link_during_a_sync_is_not_written_through(lab: Lab, file: str) -> None:
    lab.publish(lab.document)
    away = lab.place / "client/away"

    def swap(event: Event) -> None:
        if isinstance(event, TransferStarted):
            (lab.mirror / file).rename(away)
            (lab.mirror / file).symlink_to(away)

    before = (lab.mirror / file).read_bytes()
    transport = LocalTransport()
    synchronize(transport, str(lab.root), lab.mirror, SyncOptions(method="manifest"), swap)
    transport.close()
    assert away.read_bytes() == before
    assert left_behind(lab.mirror) == []
    lab.recovers()
    assert away.read_bytes() == before
