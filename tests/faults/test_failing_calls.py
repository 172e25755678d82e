"""Single calls of the file system that fail, and what they must not leave: found by `test_nth_call.py`."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runicorn.errors import ConnectError, DiskFullError, PublishError, RequestError
from runicorn.manifest import ManifestGenerator
from runicorn.manifest.journal_store import JournalStore
from runicorn.manifest.own_files import open_own
from runicorn.manifest.publish import Body
from runicorn.remote_storage.folders import Folders, SpelledOtherwise
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.staging import stage_file
from runicorn.remote_storage.transport import Answer, Job, LocalTransport, Open
from runicorn.remote_storage.transport.ssh import SshTarget, connect_ssh
from testbed.fault_calls import Call, FaultyCalls
from testbed.processes import descendants
from testbed.sshd import find_sftp_server
from tests.faults.scene import nothing_leaks
from tests.manifest.helpers import append, make_run, write
from tests.manifest.journal_reader import head


def nth_of(calls: list[Call], name: str, where: str) -> int:
    """The number of the last call of this name from a file of runicorn."""
    return max(nth for nth, call in enumerate(calls, 1) if call.name == name and where in call.site)


def test_file_of_the_mirror_that_cannot_be_looked_at_is_not_left_open(tmp_path: Path) -> None:
    write(tmp_path / "f", b"x")
    with Mirror(tmp_path) as mirror:
        mirror.folds()
        with nothing_leaks(), FaultyCalls(2) as calls, pytest.raises(OSError, match="Input/output"):
            mirror.open_file("f")
    assert [call.name for call in calls.failed] == ["fstat"]


def test_file_of_the_source_that_cannot_be_looked_at_is_not_left_open(tmp_path: Path) -> None:
    path = write(tmp_path / "f", b"x")
    transport = LocalTransport()
    answers: list[Answer] = []

    def job() -> Job:
        answers.extend((yield [Open(str(path), keep=True)]))

    with nothing_leaks(), FaultyCalls(2) as calls:
        transport.run([job()])
    transport.close()
    assert isinstance(answers[0], RequestError)
    assert [call.name for call in calls.failed] == ["fstat"]


def test_artefact_that_cannot_be_looked_at_is_not_left_open(tmp_path: Path) -> None:
    path = write(tmp_path / "f", b"x")
    with nothing_leaks(), FaultyCalls(2) as calls, pytest.raises(OSError, match="Input/output"):
        open_own(path)
    assert [call.name for call in calls.failed] == ["fstat"]


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("where", ["mirror.py", "folders.py"])
def test_mirror_for_whose_folders_there_is_no_room_is_a_full_disk(
    tmp_path: Path, where: str, error: str
) -> None:
    with FaultyCalls() as calls, Mirror(tmp_path / "whole"):
        pass
    nth = nth_of(calls.seen, "mkdir", where)
    with nothing_leaks(), FaultyCalls(nth, error), pytest.raises(DiskFullError) as raised:
        Mirror(tmp_path / "mirror")
    assert os.strerror(getattr(errno, error)) in str(raised.value)


def test_staged_file_that_cannot_be_closed_is_removed(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with FaultyCalls() as calls:
        stage_file(fd, "whole", b"x", 0)
    (tmp_path / "whole").unlink()
    nth = nth_of(calls.seen, "close", "staging.py")
    with nothing_leaks(), FaultyCalls(nth), pytest.raises(OSError, match="Input/output"):
        stage_file(fd, "f", b"x", 0)
    os.close(fd)
    assert list(tmp_path.iterdir()) == []


def test_new_staged_file_that_cannot_be_closed_is_removed(tmp_path: Path) -> None:
    with Mirror(tmp_path) as mirror:
        with FaultyCalls(2) as calls, pytest.raises(OSError, match="Input/output"):
            mirror.staging.stage()
        assert [call.name for call in calls.failed] == ["close"]
        assert mirror.staging.staged_bytes() == 0
        assert list((tmp_path / ".runicorn/staging").iterdir()) == []


def test_why_a_file_cannot_be_staged_is_told_although_it_cannot_be_removed_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> Callable[..., None]:
        def call(*_args: object, **_options: object) -> None:
            raise OSError(number, os.strerror(number))

        return call

    fd = os.open(tmp_path, os.O_RDONLY)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", refuse(errno.ENOSPC))
        patched.setattr(os, "unlink", refuse(errno.EROFS))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            stage_file(fd, "f", b"x", 0)
    os.close(fd)


def test_lock_of_the_generator_that_cannot_be_closed_is_no_failure(tmp_path: Path) -> None:
    for name in ("whole", "root"):
        make_run(tmp_path / name)
    with FaultyCalls() as calls:
        ManifestGenerator(tmp_path / "whole").generate()
    with FaultyCalls(nth_of(calls.seen, "close", "generator_lock.py")) as failing:
        ManifestGenerator(tmp_path / "root").generate()
    assert [call.name for call in failing.failed] == ["close"]


def test_folder_that_could_not_be_listed_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """On a disk that takes names for the same: what lies there would be replaced."""
    write(tmp_path / "Name", b"x")
    fd = os.open(tmp_path, os.O_RDONLY)
    folders = Folders(fd, lambda: True)
    with FaultyCalls(1), pytest.raises(OSError, match="Input/output"):
        folders.require_own("", "name")
    with pytest.raises(SpelledOtherwise):
        folders.require_own("", "name")
    os.close(fd)


def test_own_file_that_a_generation_cannot_look_at_is_told(tmp_path: Path) -> None:
    """Among them the scan state and the epoch that it has just written."""
    make_run(tmp_path / "whole")
    with FaultyCalls() as calls:
        ManifestGenerator(tmp_path / "whole").generate()
    looks = [nth for nth, call in enumerate(calls.seen, 1) if "own_files.py" in call.site]
    told = []
    for nth in (nth for nth in looks if "EIO" in calls.seen[nth - 1].errors):
        make_run(tmp_path / str(nth))
        with nothing_leaks(), FaultyCalls(nth):
            try:
                ManifestGenerator(tmp_path / str(nth)).generate()
            except PublishError as error:
                told.append(str(error))
    assert len(told) >= 2
    assert all("Input/output error" in text for text in told), told


def test_journal_file_that_cannot_be_closed_is_not_closed_again(tmp_path: Path) -> None:
    """Its number may be that of another file by then."""
    make_run(tmp_path)
    ManifestGenerator(tmp_path).generate()
    store = JournalStore(tmp_path / ".runicorn")
    store.open()
    calls = FaultyCalls(1)
    with calls, pytest.raises(OSError, match="Input/output"):
        store.close()
    assert [call.name for call in calls.failed] == ["close"]
    other = os.open(tmp_path, os.O_RDONLY)
    store.close()
    os.close(other)


def test_scratch_files_of_a_manifest_are_given_back_although_the_disk_is_full(tmp_path: Path) -> None:
    body = Body(tmp_path / "state", lambda _: True)
    with (
        nothing_leaks(),
        FaultyCalls(2, "ENOSPC", forever=True) as calls,
        pytest.raises(OSError, match="No space left"),
    ):
        body.start()
    assert {call.name for call in calls.failed} == {"open"}
    with nothing_leaks():
        body.start()
        body.end()
        with FaultyCalls(1, "ENOSPC", forever=True):
            body.close()


def test_too_many_open_files_fail_a_generation_and_are_no_property_of_a_file(tmp_path: Path) -> None:
    root, before = tmp_path / "root", tmp_path / "before"
    run = make_run(root, "p/n/runs/r1", "running")
    write(run / "media/a/b.png", b"png")
    ManifestGenerator(root).generate()
    append(run / "events.jsonl", b'{"step": 2}\n')
    shutil.copytree(root, before, copy_function=shutil.copy2, symlinks=True)
    old = head(before)
    with FaultyCalls() as calls:
        ManifestGenerator(root).generate()
    failed = set()
    for nth in (nth for nth, call in enumerate(calls.seen, 1) if "EMFILE" in call.errors):
        shutil.rmtree(root)
        shutil.copytree(before, root, copy_function=shutil.copy2, symlinks=True)
        with nothing_leaks(), FaultyCalls(nth, "EMFILE") as faults:
            try:
                found = list(ManifestGenerator(root).generate()[0].header.problems)
            except PublishError as error:
                failed.add(str(error).partition(": ")[2])
                found = []
        assert (len(faults.failed), found) == (1, [])
        header = ManifestGenerator(root).generate()[0].header
        assert (header.identity.lineage, header.identity.revision) == (old.identity.lineage, 2)
        assert (head(root).epoch, header.problems) == (old.epoch, ()), faults.failed
    assert failed == {"Too many open files"}


@pytest.mark.parametrize(("name", "which"), [("dup", 0), ("dup", 1), ("pipe", 0)])
def test_ssh_that_cannot_be_talked_to_is_ended_and_told(tmp_path: Path, name: str, which: int) -> None:
    program = tmp_path / "no-ssh"
    program.write_text(f"#!/bin/sh\nexec {find_sftp_server()}\n", encoding="utf-8")
    program.chmod(0o755)
    target = SshTarget("host", command=(str(program),))
    with FaultyCalls() as calls:
        connect_ssh(target).close()
    nth = [nth for nth, call in enumerate(calls.seen, 1) if call.name == name][which]
    before = descendants(os.getpid())
    with (
        nothing_leaks(),
        FaultyCalls(nth, "EMFILE"),
        pytest.raises(ConnectError, match="Too many open files"),
    ):
        connect_ssh(target)
    assert descendants(os.getpid()) == before
