"""Journals that attack the client that reads them: each frame fits its chain, and is refused all the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runicorn.journal.frames import FrameReader, beginning
from runicorn.journal.sections import decode_files
from tests.faults.attacks import ESCAPES, FOLDERS, NUMBERS, UNREQUESTED, calls
from tests.faults.forgery import Forgery, entry, files_frame, section
from tests.faults.lab import Lab
from tests.faults.process import (
    ROOM,
    Done,
    left_behind,
    run_files,
    snapshot,
    sync,
    sync_here,
)
from tests.faults.tally import Tried, count
from tests.journal.forge import FILES, Raw, frame, zlib_bomb, zstd_bomb, zstd_window
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN

MIB = 1024**2
EVIL = b"evil\n"
DIGEST = hashlib.sha256(EVIL).hexdigest()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab.build(tmp_path_factory.mktemp("lab"), journal=True)
    lab.sync_quietly()
    return lab


@pytest.fixture
def lab(built: Lab) -> Iterator[Lab]:
    """One place for all, put back after each test: what is refused leaves the mirror as it was."""
    folder, kept = built.root / ".runicorn", built.place.with_name("kept")
    shutil.copytree(folder, kept)
    built.run = sync_here
    before = snapshot(built.place, without=[built.mirror, built.root])
    try:
        yield built
        assert snapshot(built.place, without=[built.mirror, built.root]) == before
    finally:
        for path in kept.rglob("*"):
            if path.is_file():
                # Under the inodes that are there: the mirror knows the epoch by its own.
                (folder / path.relative_to(kept)).write_bytes(path.read_bytes())
        shutil.rmtree(kept)


def carried(path: str) -> dict[str, object]:
    """An entry that brings its bytes."""
    return entry(path, len(EVIL), sha256=DIGEST, data=len(EVIL))


def refused(lab: Lab) -> Done:
    """The mirror stays as it was."""
    return lab.refuses(method="journal")


# -- paths ---------------------------------------------------------------------------------


def as_sections(path: str) -> Iterator[dict[str, object]]:
    """A path of a manifest, said by an entry and by its run folder."""
    if path.startswith(PROJECT_RUN + "/"):
        yield section(PROJECT_RUN, carried(path[len(PROJECT_RUN) + 1 :]))
    else:
        yield section(PROJECT_RUN, carried(path))
        folder, _, name = path.rpartition("/")
        yield section(folder, carried(name))


PATHS = (
    ESCAPES | UNREQUESTED | {f"folder-{number}": f"{each}/meta.json" for number, each in enumerate(FOLDERS)}
)


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_path_that_no_client_may_write_refuses_the_journal(lab: Lab, path: str) -> None:
    for each in as_sections(path):
        Forgery(lab.root).append(files_frame(each, data=EVIL))
        refused(lab)


ONE_OF_EACH = [
    "parent-of-home",
    "absolute",
    "nul",
    "lone-surrogate",
    "many-parts",
    "authorized-keys",
    "hidden-in-run",
]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_path_in_the_base_is_refused_by_a_new_mirror(lab: Lab, name: str) -> None:
    for each in as_sections(PATHS[name]):
        Forgery(lab.root).into_base(files_frame(each, data=EVIL))
        mirror = lab.place / "client/fresh"
        sync_here(lab.root, mirror).refused(7)
        assert not any(content == EVIL for content in run_files(mirror).values())
        assert left_behind(mirror) == []
        shutil.rmtree(mirror)
        count(Tried.HOSTILE_INPUTS)


def test_real_command_refuses_a_path_and_names_it(lab: Lab) -> None:
    Forgery(lab.root).append(
        files_frame(section(PROJECT_RUN, carried("../../../../../home/.ssh/authorized_keys")))
    )
    lab.run = sync
    lab.refuses(method="auto").refused(7, "authorized_keys", "hint: ")


@pytest.mark.parametrize(
    "inner", ["../../x", "", ".", "model.pt", "media/../meta.json", "media/\x1b[2J", "/etc/passwd"]
)
def test_removal_of_what_is_no_file_of_a_run_refuses_the_journal(lab: Lab, inner: str) -> None:
    Forgery(lab.root).append(files_frame(section(PROJECT_RUN, removed=[inner])))
    refused(lab)


def test_two_claims_on_one_place_refuse_the_journal(lab: Lab) -> None:
    twice = section(PROJECT_RUN, entry("summary.json"), entry("summary.json"))
    Forgery(lab.root).append(files_frame(twice))
    refused(lab)


# -- numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", NUMBERS, ids=[text[:9] for text in NUMBERS])
def test_number_that_is_none_is_refused_in_every_field_of_an_entry(lab: Lab, text: str) -> None:
    kept = {path: path.read_bytes() for path in (lab.root / ".runicorn/journal").iterdir()}
    for name in ("size", "mtime", "mtime_ns", "priority", "data", "from"):
        if (name, text) in {("mtime", "1.5"), ("mtime_ns", "null")}:
            continue
        log = entry("logs.txt", 5, block_digest="0" * 64, data=0, **{"from": 5}) | {name: "@@raw@@"}
        Forgery(lab.root).append(files_frame(section(PROJECT_RUN, log), raw=text))
        before = run_files(lab.mirror)
        done = sync_here(lab.root, lab.mirror, "--method", "journal")
        done.refused(7)
        assert run_files(lab.mirror) == before, name
        count(Tried.HOSTILE_INPUTS)
        for path, data in kept.items():
            path.write_bytes(data)


@pytest.mark.parametrize(
    "more",
    [
        {"size": 2**62},
        {"data": 4 * MIB + 1},
        {"data": 2**31},
        {"data": 4},
        {"data": 6},
        {"sha256": "0" * 63},
        {"sha256": DIGEST.upper()},
        {"sha256": "0" * 64},
    ],
    ids=str,
)
def test_bytes_that_are_not_what_the_entry_says_are_never_put_in_place(
    lab: Lab, more: dict[str, object]
) -> None:
    Forgery(lab.root).append(files_frame(section(PROJECT_RUN, carried("summary.json") | more), data=EVIL))
    before = run_files(lab.mirror)
    sync_here(lab.root, lab.mirror, "--method", "journal").refused(7)
    assert run_files(lab.mirror) == before
    count(Tried.HOSTILE_INPUTS)


@pytest.mark.parametrize("name", ["length", "base_length", "base_bytes"])
@pytest.mark.parametrize("value", [-1, 2**63, 2**64, 1.5, True, None])
def test_number_of_head_that_is_none_is_refused(lab: Lab, name: str, value: object) -> None:
    Forgery(lab.root).append(head={name: value})
    before = run_files(lab.mirror)
    sync_here(lab.root, lab.mirror, "--method", "journal").refused(7)
    assert run_files(lab.mirror) == before
    count(Tried.HOSTILE_INPUTS)


# -- bombs and blow-up ---------------------------------------------------------------------

BOMBS = {
    "zlib": Raw(FILES, zlib_bomb(512 * MIB), 8 * MIB, 1),
    "zstd": Raw(FILES, zstd_bomb(1024 * MIB), 8 * MIB, 2),
    "zstd-window": Raw(FILES, zstd_window(31), 4, 2),
    "sizes": Raw(FILES, b"", 2**32 - 1, 1, says=2**32 - 1),
    "json": frame(FILES, b'{"runs": ' + b"[" * MIB + b"]}", codec=1),
    "names": frame(
        FILES, json.dumps({"runs": [section(f"runs/{'a/' * 32}b", *[entry("x")] * 60_000)]}).encode(), codec=1
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_frame_that_expands_without_end_fills_no_memory(lab: Lab, name: str) -> None:
    Forgery(lab.root).append(BOMBS[name])
    before = run_files(lab.mirror)
    sync(lab.root, lab.mirror, "--method", "journal", room=ROOM).refused(7)
    assert run_files(lab.mirror) == before
    count(Tried.HOSTILE_INPUTS)


def _deep(size: int) -> list[dict[str, object]]:
    return [section(PROJECT_RUN, *(entry(f"media/{'a/' * 30}{number}.png") for number in range(size)))]


def _many(size: int) -> list[dict[str, object]]:
    folder = "runs/" + "/".join(["a"] * 30)
    return [section(f"{folder}/{number}", entry("meta.json")) for number in range(size)]


def _gone(size: int) -> list[dict[str, object]]:
    return [section(PROJECT_RUN, removed=[f"media/{'a/' * 30}{number}.png" for number in range(size)])]


@pytest.mark.parametrize("shape", [_deep, _many, _gone])
def test_ten_times_as_much_in_a_frame_is_ten_times_the_work(
    shape: Callable[[int], list[dict[str, object]]],
) -> None:
    from tests.journal.forge import ONE, epoch_of

    work = []
    for size in (100, 1000):
        reader = FrameReader(beginning(ONE))
        reader.feed(epoch_of(ONE, files_frame(*shape(size))))
        (made,) = reader.frames()
        work.append(calls(lambda made=made: list(decode_files(made))))  # type: ignore[misc]
    assert work[1] < 11 * work[0]


# -- deletion and replay -------------------------------------------------------------------


def everything_gone(lab: Lab) -> list[dict[str, object]]:
    by_folder: dict[str, list[str]] = {}
    for path in run_files(lab.mirror):
        folder = PROJECT_RUN if path.startswith(PROJECT_RUN) else PATH_RUN
        by_folder.setdefault(folder, []).append(path[len(folder) + 1 :])
    return [section(folder, removed=inner) for folder, inner in by_folder.items()]


EMPTY = {"statistics": {"total_experiments": 0, "total_files": 0, "total_bytes": 0}}
REASONS = {
    "more-than-half": ({}, "--force-delete", []),
    "nothing-left": (EMPTY, "no run at all", ["--force-delete"]),
    "incomplete": ({"complete": False}, "could not list everything", ["--force-delete"]),
    "hidden-problems": ({"problem_count": 9}, "more problems than it names", ["--force-delete"]),
}


@pytest.mark.parametrize(("commit", "word", "options"), REASONS.values(), ids=list(REASONS))
def test_removal_of_everything_removes_nothing(
    lab: Lab, tmp_path: Path, commit: dict[str, object], word: str, options: list[str]
) -> None:
    mirror = tmp_path / "mirror"
    sync_here(lab.root, mirror).expect(0)
    before = run_files(mirror)
    Forgery(lab.root).append(files_frame(*everything_gone(lab)), head=commit, **commit)
    done = sync_here(lab.root, mirror, "--method", "journal", "--delete", *options).expect(3)
    assert word in done.err
    assert run_files(mirror) == before
    count(Tried.HOSTILE_INPUTS)


def test_removal_of_what_another_program_made_removes_nothing(lab: Lab, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    sync_here(lab.root, mirror).expect(0)
    own = mirror / PROJECT_RUN / "media/own.png"
    own.write_bytes(b"mine")
    Forgery(lab.root).append(files_frame(section(PROJECT_RUN, removed=["media/own.png"])))
    sync_here(lab.root, mirror, "--method", "journal", "--delete", "--force-delete")
    assert own.read_bytes() == b"mine"


def test_older_journal_that_is_put_back_deletes_nothing_and_is_told(lab: Lab, tmp_path: Path) -> None:
    folder, mirror = lab.root / ".runicorn", tmp_path / "mirror"
    kept = Path(shutil.copytree(folder, tmp_path / "kept"))
    media = lab.root / PROJECT_RUN / "media/later.png"
    media.write_bytes(b"later")
    lab.generate()
    sync_here(lab.root, mirror).expect(0)
    before = run_files(mirror)
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    media.unlink()
    try:
        done = sync_here(lab.root, mirror, "--delete", "--force-delete").expect(3)
        assert "older" in done.err
        assert run_files(mirror) == before
    finally:
        media.unlink(missing_ok=True)


def test_state_of_another_root_deletes_nothing(lab: Lab, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    sync_here(lab.root, mirror).expect(0)
    before = run_files(mirror)
    forged = Forgery(lab.root)
    forged.append(files_frame(*everything_gone(lab)), head={"lineage": "another"}, lineage="another")
    sync_here(lab.root, mirror, "--delete", "--force-delete")
    assert run_files(mirror) == before
    count(Tried.HOSTILE_INPUTS)


# -- modes and terminals -------------------------------------------------------------------


def test_mode_of_the_server_is_never_applied_by_the_journal(lab: Lab, tmp_path: Path) -> None:
    files = [path for path in lab.root.rglob("*.json") if ".runicorn" not in path.parts]
    modes = {path: path.stat().st_mode for path in files}
    old = os.umask(0o027)
    try:
        for path in files:
            path.chmod(0o6777)
        report = sync_here(lab.root, tmp_path / "fresh", "--json", "--method", "journal").expect(0).statistics
        assert report["method"] == "journal"
    finally:
        os.umask(old)
        for path, mode in modes.items():
            path.chmod(mode)
    found = [path for path in (tmp_path / "fresh").rglob("*") if ".runicorn" not in path.parts]
    assert {oct(path.stat().st_mode & 0o7777) for path in found if path.is_file()} == {"0o640"}
    assert {oct(path.stat().st_mode & 0o7777) for path in found if path.is_dir()} == {"0o750"}


RAW_TEXT = "\x1b]0;owned\x07\x9b31m\u202etxt\u061c"


def test_texts_of_a_commit_reach_no_terminal_raw(lab: Lab, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    problems = [{"path": RAW_TEXT, "kind": RAW_TEXT, "message": RAW_TEXT}]
    texts = {"server_hostname": RAW_TEXT, "remote_root": RAW_TEXT, "generator": RAW_TEXT}
    Forgery(lab.root).append(
        files_frame(section(PROJECT_RUN) | {"status": RAW_TEXT}),
        head={"problem_count": 1},
        problems=problems,
        problem_count=1,
        **texts,
    )
    done = sync(lab.root, mirror, "-v").expect(0)
    assert "1 problems" in done.err
    count(Tried.HOSTILE_INPUTS)
