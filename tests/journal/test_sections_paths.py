"""Paths in frames, of entries, folders and removals: hostile ones, lists that are none, and too many."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest

from runicorn.errors import DamagedError, UnsafeError
from runicorn.journal.sections import MAX_PATHS, decode_files
from tests.journal.forge import FILES, MIB
from tests.journal.sections_helpers import FOLDER, entry, load, read, section
from tests.manifest.test_reader import HOSTILE

INNER = [path.removeprefix(f"{FOLDER}/") for path in HOSTILE if path.startswith(f"{FOLDER}/")]
INNER += [path for path in HOSTILE if not path.startswith(f"{FOLDER}/")]
INNER += ["..", "../r/meta.json", "x/../meta.json", "media/../meta.json", "\ud800", "META.JSON", "runs/r/a"]


@pytest.mark.parametrize("path", INNER, ids=ascii)
def test_a_hostile_path_refuses_the_whole_frame(path: str) -> None:
    if path == "meta.json":
        return
    for raw in (section(entry(path)), section(entry(), removed=["meta.json", path])):
        with pytest.raises(UnsafeError) as refused:
            decode_files(read(FILES, {"runs": [section(entry()), raw]}))
        assert str(refused.value).isprintable()
        assert "the manifest" not in str(refused.value)


FOLDERS = [
    *["", "/", ".", "..", "r", "runs", "p/n/runs", "p/n/runs/r/", "/p/n/runs/r", "p/n/runs/r/x", "p/n/x/r"],
    *["../n/runs/r", "p/../runs/r", "p/n/runs/..", "p/n/runs/.", "p//runs/r", "p/n/runs/.r", ".p/n/runs/r"],
    *["runs/../r", "runs//r", "runs/.x/r", "runs/" + "d/" * 33 + "r", "p/n/runs/a\\b", "p/n/runs/a\x00"],
    *["p/n/runs/a\n", "p/n/runs/\x1b[2J", "p/n/runs/\x9b", "p/n/runs/\ud800", "p/n/runs/" + "x" * 256],
    *["p/n/runs/" + "é" * 128, "runs/" + ("d" * 200 + "/") * 25 + "x", ".runicorn/n/runs/r", "x" * 5000],
]


@pytest.mark.parametrize("folder", FOLDERS, ids=ascii)
def test_a_hostile_folder_refuses_the_whole_frame(folder: str) -> None:
    for raw in (
        section(folder=folder),
        section(entry(), folder=folder),
        section(folder=folder, removed=["meta.json"]),
    ):
        with pytest.raises(UnsafeError) as refused:
            decode_files(read(FILES, {"runs": [section(entry()), raw]}))
        assert str(refused.value).isprintable()


def test_a_path_that_is_too_long_only_with_its_folder() -> None:
    folder = "runs/" + "/".join(["d" * 250] * 16)
    room = 4096 - len(folder) - 1
    inner = f"media/{'x' * (room - 6)}"
    (found,) = load(section(entry(inner), folder=folder, removed=[inner]))
    assert len(found.changes[0].entry.path) == 4096
    for raw in (section(entry(inner + "x"), folder=folder), section(folder=folder, removed=[inner + "x"])):
        with pytest.raises(UnsafeError):
            load(raw)
    with pytest.raises(UnsafeError):
        load(section(folder=folder, removed=[inner[:-1] + "é"]))


@pytest.mark.parametrize("folder", ["runs/r", "runs/a/b/c/r", "p/n/runs/r", "runs/" + "d/" * 32 + "r"])
def test_folders_of_both_layouts(folder: str) -> None:
    (found,) = load(section(entry("media/a/b.png"), folder=folder, removed=["logs.txt"]))
    assert found.changes[0].entry.path == f"{folder}/media/a/b.png"


def test_what_a_section_says_of_its_run_is_of_its_folder() -> None:
    (found,) = load(section(entry(), run_id="..", project="/x", name=5))
    assert (found.run.run_id, found.run.project, found.run.name) == ("r", "p", "n")


@pytest.mark.parametrize(
    "names", [("meta.json", "meta.json"), ("media/a", "media/a/b"), ("media/a/b/c", "media/a")]
)
def test_the_same_file_twice_or_as_a_folder(names: tuple[str, str]) -> None:
    with pytest.raises(UnsafeError):
        load(section(*map(entry, names)))


@pytest.mark.parametrize("runs", [None, {}, "x", 1, [1], [None], [[]], ["x"]])
def test_runs_that_are_no_list_of_objects(runs: object) -> None:
    message = r"^(the field 'runs' of the journal is not a list|a section of the journal is not an object)$"
    with pytest.raises(DamagedError, match=message):
        decode_files(read(FILES, {"runs": runs}))


def test_without_runs() -> None:
    with pytest.raises(DamagedError, match=r"^the journal lacks the field 'runs'$"):
        decode_files(read(FILES, {}))
    assert load() == []


@pytest.mark.parametrize("files", [[1], [None], [[]], ["meta.json"], [entry(), 1]])
def test_files_that_are_no_list_of_objects(files: list[object]) -> None:
    with pytest.raises(DamagedError, match=rf"^the section '{FOLDER}' of the journal has no list of files$"):
        load(section(files=files))
    with pytest.raises(
        DamagedError, match=r"^the section 'runs/\\u200b' of the journal has no list of files$"
    ):
        load(section(files=files, folder="runs/\u200b"))


@pytest.mark.parametrize("removed", [[1], [None], [["meta.json"]], [True], ["meta.json", 1]])
def test_removed_that_is_no_list_of_texts(removed: list[object]) -> None:
    with pytest.raises(DamagedError, match=r"^the field 'removed' of the journal is not a text$"):
        load(section(removed=removed))


@pytest.mark.parametrize("removed", [None, {}, "meta.json", 1])
def test_removed_that_is_no_list(removed: object) -> None:
    with pytest.raises(DamagedError, match=r"^the field 'removed' of the journal is not a list$"):
        load(section(removed=removed))


@pytest.mark.parametrize("name", ["weights.bin", "media/\u200b.tmp", "media/" + "x" * 250 + ".tmp"])
def test_removed_path_that_is_no_file_of_a_run_is_told(name: str) -> None:
    path = f"{FOLDER}/{name}"
    with pytest.raises(UnsafeError) as refusal:
        load(section(removed=["meta.json", name]))
    shown = path[:200].replace("\u200b", r"\u200b")
    assert str(refusal.value) == f"the journal removes '{shown}', which is no file of a run"
    assert refusal.value.path == path


def test_path_within_a_run_is_a_text_within_its_bounds() -> None:
    with pytest.raises(DamagedError, match=r"^the field 'path' of the journal is not a text$"):
        load(section({**entry(), "path": 5}))
    with pytest.raises(UnsafeError, match=r"^the field 'path' of the journal is out of bounds$"):
        load(section(entry("x" * 4097)))


# -- bombs -------------------------------------------------------------------------------------

SPELLED = rf"^a frame of the journal names paths of more than {MAX_PATHS} bytes$"
DEEP = "runs/" + "/".join(["d" * 250] * 15) + "/\U0001f600"


def test_a_folder_that_many_entries_repeat() -> None:
    """The JSON names it once; whole paths would be a gigabyte."""
    files = ",".join(
        f'{{"path":"media/{number:x}","size":0,"mtime":0,"priority":0}}' for number in range(70_000)
    )
    start = f'{{"folder":{json.dumps(DEEP)},"status":"","created_at":0,"updated_at":0,"files":['
    together = read(FILES, f'{{"runs":[{start}{files}]}}]}}'.encode())
    part = files[:400_000].rpartition(",{")[0]
    assert part.count("path") * len(DEEP.encode()) < MAX_PATHS
    apart = ",".join([f"{start}{part}]}}"] * 6)
    for found in (together, read(FILES, f'{{"runs":[{apart}]}}'.encode())):
        tracemalloc.start()
        try:
            with pytest.raises(UnsafeError, match=SPELLED):
                decode_files(found)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 256 * MIB


def test_paths_of_the_largest_frame_of_a_writer_are_read() -> None:
    folder = "runs/" + "/".join(["d" * 250] * 16)
    files = [entry(f"media/{number:04x}", mtime=1704060000.5, mtime_ns=1) for number in range(5_500)]
    assert len(json.dumps(files)) < MIB
    assert len(files) * len(folder) < MAX_PATHS
    (found,) = load(section(*files, folder=folder))
    assert len(found.changes) == 5_500


def test_removed_paths_of_a_long_folder_take_no_time() -> None:
    gone = ",".join(['"media/a"'] * 300_000)
    text = (
        f'{{"runs":[{{"folder":{json.dumps(DEEP)},"status":"","created_at":0,"updated_at":0,"files":[],'
        f'"removed":[{gone}]}}]}}'
    )
    found = read(FILES, text.encode())
    begun = time.process_time()
    decode_files(found)
    assert time.process_time() - begun < 5
