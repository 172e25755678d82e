"""The journal widens nobody's access (section Access rights of the format)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicorn.cli import main
from runicorn.errors import PublishError
from runicorn.journal.frames import Kind, file_name
from runicorn.manifest import ManifestGenerator, read_manifest
from runicorn.manifest.rights import READ, SEARCH, Audience, audience_of
from tests.manifest.helpers import (
    NOBODY,
    PROJECT_RUN,
    ReadCounter,
    append,
    generate,
    make_run,
    open_folder,
    replace,
    settle,
    unprivileged,
)
from tests.manifest.journal_reader import Replica, epochs, head, journal

OTHER = "runs/other/r"
GROUP = 4321


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    settle(monkeypatch)
    before = os.umask(0o022)
    make_run(tmp_path, summary="{}")
    make_run(tmp_path, OTHER)
    tmp_path.chmod(0o755)
    yield tmp_path
    os.umask(before)


def carried(root: Path) -> set[str]:
    """The files that a new reader gets with the journal."""
    replica = Replica()
    replica.sync(root)
    replica.check(root)
    assert replica.listed == set(replica.entries) - set(replica.data)
    return set(replica.data)


def everything(root: Path) -> set[str]:
    replica = Replica()
    replica.sync(root)
    return set(replica.entries)


def below(paths: set[str], folder: str) -> set[str]:
    return {path for path in paths if path.startswith(folder + "/")}


def test_a_private_file_is_only_listed(root: Path) -> None:
    run = root / PROJECT_RUN
    (run / "summary.json").chmod(0o600)
    (run / "events.jsonl").chmod(0o640)
    generate(root)
    assert everything(root) - carried(root) == {
        f"{PROJECT_RUN}/summary.json",
        f"{PROJECT_RUN}/events.jsonl",
    }
    first = epochs(root)
    replace(run / "summary.json", "{1}")
    (run / "summary.json").chmod(0o600)
    append(run / "events.jsonl", b"more\n")
    replace(run / "meta.json", "{2}")
    generate(root)
    assert everything(root) - carried(root) == {
        f"{PROJECT_RUN}/summary.json",
        f"{PROJECT_RUN}/events.jsonl",
    }
    assert epochs(root) == first
    assert b"more" not in next(journal(root).glob("*.journal")).read_bytes()


@pytest.mark.parametrize("folder", ["vision", "vision/resnet", "vision/resnet/runs", PROJECT_RUN])
def test_a_private_folder_hides_what_is_in_it(root: Path, folder: str) -> None:
    (root / folder).chmod(0o700)
    generate(root)
    assert below(everything(root) - carried(root), PROJECT_RUN) == below(everything(root), PROJECT_RUN)
    assert below(carried(root), OTHER) == below(everything(root), OTHER)


def test_a_private_media_folder(root: Path) -> None:
    (root / PROJECT_RUN / "media").chmod(0o711)
    generate(root)
    assert carried(root) == everything(root)
    (root / PROJECT_RUN / "media").chmod(0o710)
    generate(root)
    assert everything(root) - carried(root) == {f"{PROJECT_RUN}/media/a.png"}


def test_a_private_journal_carries_everything(root: Path) -> None:
    os.umask(0o077)
    (root / PROJECT_RUN / "summary.json").chmod(0o600)
    (root / "vision").chmod(0o700)
    generate(root)
    assert carried(root) == everything(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("file_group", "mode", "shown"),
    [
        (0, 0o640, True),
        (0, 0o644, True),
        (0, 0o604, False),
        (GROUP, 0o640, False),
        (GROUP, 0o644, True),
        (GROUP, 0o604, False),
    ],
)
def test_the_group_of_the_journal(root: Path, file_group: int, mode: int, shown: bool) -> None:
    os.umask(0o027)
    path = root / PROJECT_RUN / "summary.json"
    os.chown(path, 0, file_group)
    path.chmod(mode)
    generate(root)
    assert (f"{PROJECT_RUN}/summary.json" in carried(root)) == shown


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX access control list as the kernel stores it."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


NONE = 0xFFFFFFFF
NARROW = acl((1, 6, NONE), (2, 0, NOBODY), (4, 4, NONE), (16, 4, NONE), (32, 4, NONE))
NARROW_FOLDER = acl((1, 7, NONE), (2, 0, NOBODY), (4, 5, NONE), (16, 5, NONE), (32, 5, NONE))


def set_acl(path: Path, value: bytes, kind: str = "access") -> None:
    os.setxattr(path, f"system.posix_acl_{kind}", value)


def test_an_access_control_list_makes_a_file_private(root: Path) -> None:
    path = root / PROJECT_RUN / "summary.json"
    set_acl(path, NARROW)
    assert path.stat().st_mode & 0o777 == 0o644
    generate(root)
    assert everything(root) - carried(root) == {f"{PROJECT_RUN}/summary.json"}
    generate(root)
    assert everything(root) - carried(root) == {f"{PROJECT_RUN}/summary.json"}
    set_acl(root / "vision", NARROW_FOLDER)
    generate(root)
    assert below(carried(root), "vision") == set()


def test_the_journal_takes_no_access_control_list_from_its_folder(root: Path) -> None:
    (root / ".runicorn").mkdir()
    wide = acl((1, 7, NONE), (2, 7, NOBODY), (4, 5, NONE), (16, 7, NONE), (32, 0, NONE))
    set_acl(root / ".runicorn", wide, "default")
    generate(root)
    for path in journal(root).iterdir():
        assert os.listxattr(path) == []
        assert path.stat().st_mode & 0o777 == 0o644


def narrow_file(root: Path) -> None:
    (root / PROJECT_RUN / "summary.json").chmod(0o600)


def narrow_folder(root: Path) -> None:
    (root / "vision").chmod(0o700)


def narrow_media(root: Path) -> None:
    (root / PROJECT_RUN / "media").chmod(0o700)


def narrow_by_list(root: Path) -> None:
    set_acl(root / PROJECT_RUN / "summary.json", NARROW)


def narrow_folder_by_list(root: Path) -> None:
    set_acl(root / "vision/resnet", NARROW_FOLDER)


def replaced_by_private(root: Path) -> None:
    replace(root / PROJECT_RUN / "summary.json", "{new}")
    (root / PROJECT_RUN / "summary.json").chmod(0o600)


@pytest.mark.parametrize(
    "narrow",
    [narrow_file, narrow_folder, narrow_media, narrow_by_list, narrow_folder_by_list, replaced_by_private],
)
@pytest.mark.parametrize("sealed", [False, True])
def test_what_was_carried_and_becomes_private_leaves_at_once(
    root: Path, narrow: object, sealed: bool
) -> None:
    replace(root / PROJECT_RUN / "summary.json", "{carried}")
    generate(root)
    if sealed:
        generate(root, compact=True)
    assert carried(root) == everything(root)
    first = epochs(root)
    reader = Replica()
    reader.sync(root)
    narrow(root)  # type: ignore[operator]
    manifest = generate(root)
    assert not set(first) & set(epochs(root))
    assert len(epochs(root)) == 1
    hidden = everything(root) - carried(root)
    assert hidden
    assert manifest.revision == head(root).identity.revision
    second = epochs(root)
    generate(root)
    assert epochs(root) == second
    assert everything(root) - carried(root) == hidden


def test_killed_before_the_older_epochs_are_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(root)
    first = epochs(root)
    narrow_file(root)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("runicorn.manifest.journal_store.JournalStore.begin_anew", fail)
        with pytest.raises(KeyboardInterrupt):
            generate(root)
    generate(root)
    assert not set(first) & set(epochs(root))
    assert f"{PROJECT_RUN}/summary.json" not in carried(root)


def test_what_becomes_public_is_carried_by_the_next_base(root: Path) -> None:
    narrow_folder(root)
    narrow_file(root)
    generate(root)
    first = epochs(root)
    (root / "vision").chmod(0o755)
    (root / PROJECT_RUN / "summary.json").chmod(0o644)
    generate(root)
    assert epochs(root) == first
    assert below(carried(root), "vision") == set()
    generate(root, compact=True)
    assert carried(root) == everything(root)


def test_a_log_that_becomes_public_goes_on_from_its_boundary(root: Path) -> None:
    log = root / PROJECT_RUN / "events.jsonl"
    log.chmod(0o600)
    generate(root)
    log.chmod(0o644)
    append(log, b"new\n")
    generate(root)
    raw = [path.read_bytes() for path in journal(root).glob("*.journal")]
    replica = Replica()
    replica.sync(root)
    assert replica.carried >= 4
    assert len(raw) == 1


@pytest.mark.parametrize("umasks", [(0o022, 0o077), (0o077, 0o022), (0o027, 0o022)])
def test_another_umask_begins_a_new_epoch(
    root: Path, umasks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow_file(root)
    os.umask(umasks[0])
    generate(root)
    counter = ReadCounter(monkeypatch)
    first = epochs(root)
    os.umask(umasks[1])
    generate(root)
    assert not set(first) & set(epochs(root))
    path = next(journal(root).glob("*.journal"))
    assert path.stat().st_mode & 0o777 == 0o666 & ~umasks[1]
    assert (f"{PROJECT_RUN}/summary.json" in carried(root)) == (umasks[1] == 0o077)
    assert len(counter.take()) <= 12  # opened to look for lists, not read


def test_a_journal_that_somebody_opened_to_others_begins_anew(root: Path) -> None:
    os.umask(0o077)
    narrow_file(root)
    generate(root)
    assert f"{PROJECT_RUN}/summary.json" in carried(root)
    first = epochs(root)
    next(journal(root).glob("*.journal")).chmod(0o644)
    generate(root)
    assert not set(first) & set(epochs(root))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_journal_of_another_owner_begins_anew(root: Path) -> None:
    os.umask(0o077)
    generate(root)
    first = epochs(root)
    os.chown(next(journal(root).glob("*.journal")), NOBODY, -1)
    generate(root)
    assert not set(first) & set(epochs(root))


@pytest.mark.parametrize("folder", ["above", "above/root"])
def test_an_output_folder_elsewhere_counts_the_folders_above_the_root(folder: str) -> None:
    before = os.umask(0o022)
    try:
        with open_folder() as place:
            root, out = place / "above/root", place / "out"
            make_run(root)
            for mode, count in ((0o700, 0), (0o755, 5), (0o750, 0)):
                (place / folder).chmod(mode)
                ManifestGenerator(root, out, compact=True).generate()
                (place / ".runicorn").unlink(missing_ok=True)
                (place / ".runicorn").symlink_to(out)
                replica = Replica()
                replica.sync(place)
                assert len(replica.entries) == 5
                assert len(replica.data) == count
            (place / ".runicorn").unlink()
    finally:
        os.umask(before)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_the_generator_may_not_read_any_more_leaves_at_once(umask: int) -> None:
    before = os.umask(0o022)
    try:
        for narrow in ("vision", f"{PROJECT_RUN}/summary.json", PROJECT_RUN, f"{PROJECT_RUN}/media"):
            with open_folder() as place:
                root = place / "root"
                root.mkdir()
                root.chmod(0o777)
                make_run(root, summary="{}")
                make_run(root, OTHER)
                os.umask(umask)
                with unprivileged():
                    generate(root)
                    first = epochs(root)
                    assert carried(root) == everything(root)
                (root / narrow).chmod(0)
                with unprivileged():
                    assert not generate(root).complete
                    assert not set(first) & set(epochs(root))
                    second = epochs(root)
                    generate(root)
                    assert epochs(root) == second
                os.umask(0o022)
    finally:
        os.umask(before)


WIDE = acl((1, 7, NONE), (2, 7, NOBODY), (4, 5, NONE), (16, 7, NONE), (32, 5, NONE))


def test_an_access_control_list_that_stays_lets_nothing_be_carried(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    generate(root)
    first = epochs(root)
    assert carried(root) == everything(root)
    set_acl(journal(root), WIDE, "default")

    def refused(path: Path, _name: str) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr("os.removexattr", refused)
    generate(root)
    assert not set(first) & set(epochs(root))
    assert carried(root) == set()
    assert "carries no content" in caplog.text
    second = epochs(root)
    append(root / PROJECT_RUN / "logs.txt", b"secret\n")
    generate(root)
    assert epochs(root) == second
    assert carried(root) == set()
    monkeypatch.undo()
    generate(root)
    assert not set(second) & set(epochs(root))
    assert carried(root) == everything(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("named", ["journal", "journal/HEAD", "journal/epoch"])
def test_what_another_user_made_once(named: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate-manifest", "--help"])  # imported now: the user below may be unable to read this tree
    capsys.readouterr()
    before = os.umask(0o022)
    try:
        with open_folder() as place:
            root = place / "root"
            root.mkdir()
            root.chmod(0o777)
            make_run(root)
            with unprivileged():
                first = generate(root)
            path = root / ".runicorn" / named.replace("epoch", file_name(epochs(root)[0]))
            os.chown(path, 0, 0)
            path.chmod(0o755 if path.is_dir() else 0o600)
            append(root / PROJECT_RUN / "logs.txt", b"more\n")
            for kept in (True, False):
                with unprivileged():
                    if named == "journal":
                        with pytest.raises(PublishError, match="cannot remove") as caught:
                            generate(root, journal=kept)
                        assert "remove the folder" in caught.value.hint
                    else:
                        assert generate(root, journal=kept).revision in (2, 3)
            if named == "journal":
                (path / "HEAD").unlink()
                with unprivileged():
                    assert main(["generate-manifest", "--root", str(root)]) == 3
                    assert main(["generate-manifest", "--root", str(root), "--no-journal"]) == 0
                assert "runicorn: no journal is kept" in capsys.readouterr().err
            assert read_manifest(root / ".runicorn/full_manifest.json").lineage == first.lineage
    finally:
        os.umask(before)


def test_a_deleted_file_is_no_matter_of_rights(root: Path) -> None:
    generate(root)
    first = epochs(root)
    (root / PROJECT_RUN / "summary.json").unlink()
    generate(root)
    assert epochs(root) == first
    replica = Replica()
    replica.sync(root)
    assert replica.frames.count(Kind.COMMIT) == 2


class Status:
    def __init__(self, mode: int, group: int) -> None:
        self.st_mode, self.st_gid = mode, group


@pytest.mark.parametrize(
    ("audience", "mode", "group", "right", "has"),
    [
        (Audience(False, None), 0o000, 1, READ, True),
        (Audience(True, None), 0o444, 1, READ, True),
        (Audience(True, None), 0o440, 1, READ, False),
        (Audience(True, None), 0o404, 1, READ, False),
        (Audience(True, None), 0o755, 1, SEARCH, True),
        (Audience(True, None), 0o754, 1, SEARCH, False),
        (Audience(False, 1), 0o040, 1, READ, True),
        (Audience(False, 1), 0o404, 1, READ, False),
        (Audience(False, 1), 0o040, 2, READ, False),
        (Audience(False, 1), 0o444, 2, READ, True),
    ],
)
def test_audiences(tmp_path: Path, audience: Audience, mode: int, group: int, right: int, has: bool) -> None:
    assert audience.has(right, Status(mode, group), str(tmp_path)) == has  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0o600, (False, None)), (0o640, (False, 7)), (0o644, (True, None)), (0o604, (True, None))],
)
def test_the_audience_of_a_mode(tmp_path: Path, mode: int, expected: tuple[bool, int | None]) -> None:
    assert audience_of(Status(mode, 7), str(tmp_path))[:2] == expected  # type: ignore[arg-type]
