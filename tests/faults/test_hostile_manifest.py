"""Manifests that attack the client that reads them: each is refused, named, and survived."""

from __future__ import annotations

import copy
import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from runicorn.errors import DamagedError, UnsafeError
from runicorn.remote_storage import SyncOptions, synchronize
from runicorn.remote_storage.report import Event, FileDone, ListingRead, TransferStarted
from runicorn.remote_storage.transport import LocalTransport
from testbed.sshd import Sshd
from tests.faults.lab import RAW, Lab, an_entry, every_text, file_named, run_named
from tests.faults.process import left_behind, over, run_files, snapshot, sync, sync_here
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN
from tests.remote_storage.helpers import NO_JOURNAL

EVIL = "\x1b]0;owned\x07\x9b31m\u202etxt"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab.build(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def lab(built: Lab, tmp_path: Path) -> Lab:
    return built.moved(tmp_path)


@pytest.fixture
def quick(lab: Lab) -> Lab:
    """For long tables: the command runs in this process."""
    lab.run = sync_here
    return lab


# -- path escapes --------------------------------------------------------------------------

ESCAPES = {
    "absolute": "/client/loot",
    "absolute-and-fitting": "//vision/resnet/runs/r1/meta.json",
    "parent": "../loot",
    "parent-of-home": "../home/.ssh/authorized_keys",
    "parent-inside": f"{PROJECT_RUN}/media/../../../../../../loot",
    "parent-that-stays-inside": "vision/other/../resnet/runs/r1/summary.json",
    "dot-part": f"{PROJECT_RUN}/./summary.json",
    "empty-part": f"{PROJECT_RUN}//summary.json",
    "trailing-slash": f"{PROJECT_RUN}/media/x/",
    "empty": "",
    "only-dots": "..",
    "drive": "C:/Windows/evil.dll",
    "drive-backslash": "C:\\Windows\\evil.dll",
    "unc": "\\\\host\\share\\evil",
    "unc-slashes": "//host/share/evil",
    "backslash-parent": f"{PROJECT_RUN}/media/..\\..\\loot",
    "nul": f"{PROJECT_RUN}/media/a\x00.png",
    "newline": f"{PROJECT_RUN}/media/a\nb.png",
    "escape-character": f"{PROJECT_RUN}/media/\x1b[2J.png",
    "delete-character": f"{PROJECT_RUN}/media/\x7f.png",
    "c1-control": f"{PROJECT_RUN}/media/\x85.png",
    "lone-surrogate": f"{PROJECT_RUN}/media/\ud800.png",
    "escaped-byte": f"{PROJECT_RUN}/media/\udcff.png",
    "long-part": f"{PROJECT_RUN}/media/{'a' * 256}.png",
    "long-part-in-bytes": f"{PROJECT_RUN}/media/{'é' * 127}.png",
    "long-path": f"{PROJECT_RUN}/media/{'abcdefgh/' * 500}a.png",
    "many-parts": f"{PROJECT_RUN}/media/{'a/' * 10_000}a.png",
    "too-many-folders": f"{PROJECT_RUN}/media/{'a/' * 33}a.png",
}
UNREQUESTED = {
    "run-folder-stranger": f"{PROJECT_RUN}/train.py",
    "weights": f"{PROJECT_RUN}/model.pt",
    "hidden-in-run": f"{PROJECT_RUN}/.bashrc",
    "hidden-in-media": f"{PROJECT_RUN}/media/.evil.png",
    "hidden-folder-in-media": f"{PROJECT_RUN}/media/.ssh/authorized_keys",
    "lock-file": f"{PROJECT_RUN}/media/a.lock",
    "media-itself": f"{PROJECT_RUN}/media",
    "state-of-the-mirror": ".runicorn/state.db",
    "artefact": ".runicorn/full_manifest.json",
    "staging": ".runicorn/staging/x.partial",
    "run-in-state-folder": ".runicorn/a/runs/r9/meta.json",
    "authorized-keys": ".ssh/authorized_keys",
    "database-of-the-viewer": "runicorn.db",
    "file-of-another-run": f"{PATH_RUN}/meta.json",
    "file-of-no-run": "vision/resnet/meta.json",
}


@pytest.mark.parametrize("path", [*ESCAPES.values(), *UNREQUESTED.values()], ids=[*ESCAPES, *UNREQUESTED])
def test_path_that_no_client_may_write_refuses_the_whole_manifest(quick: Lab, path: str) -> None:
    evil = copy.deepcopy(quick.document)
    run_named(evil)["files"].append(an_entry(path))
    evil["revision"] += 1
    quick.offer(path)
    quick.publish(evil)
    quick.refuses()
    quick.recovers()


ONE_OF_EACH = [
    "absolute",
    "parent",
    "nul",
    "lone-surrogate",
    "many-parts",
    "authorized-keys",
    "state-of-the-mirror",
]


@pytest.mark.parametrize("path", [(ESCAPES | UNREQUESTED)[name] for name in ONE_OF_EACH], ids=ONE_OF_EACH)
def test_real_command_refuses_one_of_each(lab: Lab, path: str) -> None:
    evil = copy.deepcopy(lab.document)
    run_named(evil)["files"].insert(0, an_entry(path))
    lab.offer(path)
    lab.publish(evil)
    lab.refuses(method="auto")


@pytest.mark.parametrize("method", ["auto", "manifest"])
@pytest.mark.parametrize("over_ssh", [False, True], ids=["local", "sshd"])
def test_escape_is_refused_by_each_method_over_each_transport(
    lab: Lab, sshd: Sshd, method: str, over_ssh: bool
) -> None:
    evil = copy.deepcopy(lab.document)
    evil["experiments"].insert(
        0, {**run_named(evil), "folder": "../../runs/r1", "files": [an_entry("../loot")]}
    )
    lab.publish(evil)
    before = run_files(lab.mirror)
    if over_ssh:
        done = lab.attack(*over(sshd), method=method, source=f"{sshd.host}:{lab.root}")
    else:
        done = lab.attack(method=method)
    done.refused(7, "../loot", "hint: ")
    assert run_files(lab.mirror) == before
    lab.recovers()


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


FOLDERS = [
    "/vision/resnet/runs/r1",
    "../root/vision/resnet/runs/r1",
    "vision/resnet/runs",
    "vision/./runs/r1",
    "runs",
]


@pytest.mark.parametrize(
    "folder", [*FOLDERS, f"{PROJECT_RUN}/", ".runicorn/a/runs/r1", "vision\\resnet/runs/r1"]
)
def test_folder_that_fits_no_layout_refuses_the_whole_manifest(quick: Lab, folder: str) -> None:
    evil = copy.deepcopy(quick.document)
    run_named(evil)["folder"] = folder
    quick.publish(evil)
    quick.refuses()


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "a/b", "../r1", "r\x001", "r\n1", "\ud800", "r" * 256, "r\\1"]
)
def test_run_id_that_is_no_name_refuses_the_whole_manifest(quick: Lab, run_id: str) -> None:
    evil = copy.deepcopy(quick.document)
    run = run_named(evil)
    run["run_id"] = run_id
    for entry in run["files"]:
        entry["path"] = entry["path"].replace("/r1/", f"/{run_id}/")
    run["folder"] = f"vision/resnet/runs/{run_id}"
    quick.publish(evil)
    quick.refuses()


def test_names_that_only_look_dangerous_stay_below_the_mirror(lab: Lab) -> None:
    odd = ["C:/~/runs/%2e%2e", "~root/$(id)/runs/`id`", "-rf/;ls/runs/-o ProxyCommand=x", "...d/aux/runs/r1."]
    for folder in odd:
        lab.offer(f"{folder}/meta.json", b"{}")
        run = {
            **copy.deepcopy(run_named(lab.document)),
            "folder": folder,
            "run_id": folder.rpartition("/")[2],
        }
        lab.document["experiments"].append({**run, "files": [an_entry(f"{folder}/meta.json", 2)]})
    # Names that begin with a dot are hidden, whatever follows: this one is refused.
    lab.document["experiments"][-1]["files"][0]["path"] = "x" + odd[-1] + "/meta.json"
    lab.document["experiments"][-1]["folder"] = "x" + odd[-1]
    lab.offer("x" + odd[-1] + "/meta.json", b"{}")
    lab.document["revision"] += 1
    lab.publish(lab.document)
    lab.attack().expect(0)
    lab.matches()


# -- numbers -------------------------------------------------------------------------------

NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "-1",
    str(2**63),
    "true",
    '"1"',
    "1e400",
    "1.5",
    "null",
    "[]",
    "9" * 5000,
]


@pytest.mark.parametrize("text", NUMBERS, ids=[text[:9] for text in NUMBERS])
def test_size_that_is_no_size_is_refused(quick: Lab, text: str) -> None:
    evil = copy.deepcopy(quick.document)
    file_named(run_named(evil), "summary.json")["size"] = RAW
    quick.publish(evil, text, sums=False)
    quick.refuses()
    quick.recovers()


def _fields(document: dict[str, Any]) -> list[dict[str, Any]]:
    run = run_named(document)
    return [file_named(run, "summary.json"), run, document, document["statistics"]]


@pytest.mark.parametrize("text", NUMBERS, ids=[text[:9] for text in NUMBERS])
def test_number_that_is_none_is_refused_in_every_field(lab: Lab, text: str) -> None:
    names = [
        (place, name)
        for place, fields in enumerate(_fields(lab.document))
        for name, value in fields.items()
        if type(value) in (int, float)
    ]
    assert len(names) >= 11
    before = run_files(lab.mirror)
    for place, name in names:
        if text == "null" and name == "mtime_ns":
            continue  # an optional field may be null
        if text == "1.5" and name in ("mtime", "created_at", "updated_at", "generated_at"):
            continue  # a time may have a fraction
        evil = copy.deepcopy(lab.document)
        _fields(evil)[place][name] = RAW
        lab.publish(evil, text, sums=False)
        with pytest.raises((UnsafeError, DamagedError)):
            lab.sync_quietly(method="manifest")
        assert run_files(lab.mirror) == before, name
    assert left_behind(lab.mirror) == []


def test_sizes_that_add_up_beyond_all_bounds_are_refused(lab: Lab) -> None:
    evil = copy.deepcopy(lab.document)
    for entry in run_named(evil)["files"]:
        entry["size"] = 2**62
    lab.publish(evil)
    lab.refuses()
    lab.recovers()


def test_size_that_does_not_fit_the_disk_is_refused_before_a_byte_is_fetched(lab: Lab) -> None:
    evil = copy.deepcopy(lab.document)
    file_named(run_named(evil), "media/a.png")["size"] = 2**60
    lab.publish(evil)
    done = lab.refuses(9)
    assert f"{2**60}"[:4] in done.err
    lab.recovers()


def test_size_beyond_the_content_takes_the_file_as_it_is(lab: Lab) -> None:
    evil = copy.deepcopy(lab.document)
    entry = file_named(run_named(evil), "logs.txt")
    entry.update(size=50_000_000, block_digest="0" * 64, tail_hash="0" * 64)
    lab.publish(evil)
    lab.attack().expect(0)
    lab.matches()
    lab.recovers()


# -- archives and documents ----------------------------------------------------------------


@pytest.mark.parametrize("fill", [b" ", b"1", b"a"], ids=["spaces", "number", "text"])
def test_archive_that_expands_without_end_is_refused_before_it_fills_anything(lab: Lab, fill: bytes) -> None:
    published = lab.root / ".runicorn/full_manifest.json.gz"
    head, line, _ = gzip.decompress(published.read_bytes()).partition(b'"experiments": [\n')
    packed = gzip.compress(head + line + b'"'[: fill == b"a"] + fill * (150 * 1024**2), 9)
    assert len(packed) < 200_000
    published.write_bytes(packed)
    assert "expands to more than" in lab.refuses().err
    lab.recovers()


def test_archive_of_many_members_that_expands_without_end_is_refused(lab: Lab) -> None:
    packed = gzip.compress(b"{" + b" " * 1024**2) + gzip.compress(b" " * 1024**2, 9) * 150
    (lab.root / ".runicorn/full_manifest.json.gz").write_bytes(packed)
    assert "expands to more than" in lab.refuses().err
    lab.recovers()


DOCUMENTS = {
    "deep-list": b"[" * 200_000,
    "deep-object": b'{"a":' * 200_000,
    "deep-run": b'{\n"format_version": "1.0",\n"experiments": [\n' + b"[" * 200_000 + b"\n]\n}\n",
    "nothing": b"",
    "null": b"null",
    "list": b"[]",
    "text": b'"manifest"',
    "no-fields": b"{}",
    "not-json": b"\x7fELF\x02\x01\x01",
    "not-utf-8": b'{"format_version": "\xff\xfe"}',
    "html": b"<!doctype html><title>404</title>",
}


@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=list(DOCUMENTS))
def test_document_that_is_no_manifest_is_not_used(quick: Lab, text: bytes) -> None:
    quick.publish_bytes(text)
    quick.refuses()
    quick.attack(method="auto").expect(0)
    quick.matches()


def test_walk_in_place_of_a_damaged_manifest_says_why(lab: Lab) -> None:
    lab.publish_bytes(b"<!doctype html>\x1b[2J")
    done = lab.attack("--json", method="auto").expect(0)
    assert f"walking the server's folders: {NO_JOURNAL}; the manifest is not JSON" in done.err
    assert done.statistics["method"] == "walk"
    assert "not JSON" in done.statistics["fallback_reason"]
    lab.matches()


def test_manifest_cut_anywhere_is_not_used(lab: Lab) -> None:
    whole = (lab.root / ".runicorn/full_manifest.json.gz").read_bytes()
    before = run_files(lab.mirror)
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        (lab.root / ".runicorn/full_manifest.json.gz").write_bytes(whole[:end])
        with pytest.raises(DamagedError):
            lab.sync_quietly(method="manifest")
    assert run_files(lab.mirror) == before
    lab.attack(method="auto").expect(0)
    lab.matches()


def test_manifest_of_an_unknown_major_version_is_refused_with_a_hint(lab: Lab) -> None:
    lab.publish({**lab.document, "format_version": "2.0"})
    done = lab.refuses()
    assert "2.0" in done.err
    assert "hint: update runicorn" in done.err


# -- duplicates ----------------------------------------------------------------------------


def test_duplicate_key_cannot_smuggle_a_path_past_the_checks(lab: Lab) -> None:
    text = json.dumps(lab.document)
    good = json.dumps(f"{PROJECT_RUN}/summary.json")
    for pair in (f'"path": {good}, "path": "../loot"', f'"path": "../loot", "path": {good}'):
        lab.publish_bytes(text.replace(f'"path": {good}', pair).encode())
        before = snapshot(lab.place, without=[lab.mirror])
        sync(lab.root, lab.mirror, "--method", "manifest")
        assert snapshot(lab.place, without=[lab.mirror]) == before
        assert not (lab.mirror.parent / "loot").exists()
    lab.recovers()


def _duplicate_path(evil: dict[str, Any]) -> None:
    run = run_named(evil)
    run["files"].append(dict(run["files"][0]))


def _duplicate_run(evil: dict[str, Any]) -> None:
    evil["experiments"].append(run_named(evil))


def _run_in_run(evil: dict[str, Any]) -> None:
    folder = f"{PATH_RUN}/media/deeper"
    run = {
        **run_named(evil),
        "run_id": "deeper",
        "folder": folder,
        "files": [an_entry(f"{folder}/meta.json")],
    }
    evil["experiments"].append(run)


def _file_as_folder(evil: dict[str, Any]) -> None:
    run_named(evil)["files"].append(an_entry(f"{PROJECT_RUN}/media/a.png/inside.png"))


@pytest.mark.parametrize("change", [_duplicate_path, _duplicate_run, _run_in_run, _file_as_folder])
def test_two_claims_on_one_place_refuse_the_whole_manifest(
    quick: Lab, change: Callable[[dict[str, Any]], None]
) -> None:
    evil = copy.deepcopy(quick.document)
    change(evil)
    quick.publish(evil)
    quick.refuses()
    quick.recovers()


def test_run_of_an_active_manifest_takes_the_place_of_one_around_it(lab: Lab) -> None:
    active = copy.deepcopy(lab.document)
    _run_in_run(active)
    inner = active["experiments"].pop()
    lab.offer(inner["files"][0]["path"], b"evil\n")
    active["manifest_type"], active["revision"] = "active", active["revision"] + 1
    active["experiments"] = [inner]
    lab.publish_beside(active)
    done = lab.attack("--dry-run", "--json").expect(0)
    assert done.statistics["total_experiments"] == 2
    planned = [each["path"] for each in done.statistics["plan"]["transfers"]]
    assert inner["files"][0]["path"] in planned
    assert not any(path.startswith(PATH_RUN) for path in planned if path != inner["files"][0]["path"])


def test_active_manifest_that_attacks_refuses_everything(lab: Lab) -> None:
    active = copy.deepcopy(lab.document)
    active["manifest_type"], active["revision"] = "active", active["revision"] + 1
    run_named(active)["files"].append(an_entry("../loot"))
    lab.publish_beside(active)
    lab.refuses()
    lab.refuses(method="auto")


# -- algorithmic blow-up -------------------------------------------------------------------


def _calls(work: Callable[[], object]) -> int:
    """How many functions, also built-in ones, some work calls."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def _same_names(size: int) -> list[dict[str, Any]]:
    # Every part is the run's name, so that every folder may be the run's.
    folder = "runs/" + "/".join(["a"] * 30)
    paths = [f"{folder}/media/{'a/' * 30}{number}.png" for number in range(size)]
    return [{"run_id": "a", "files": [an_entry(path) for path in [f"{folder}/meta.json", *paths]]}]


def _many_runs(size: int) -> list[dict[str, Any]]:
    folders = ["runs/" + "/".join(["a"] * 30) + f"/{number}" for number in range(size)]
    return [
        {"run_id": folder.rpartition("/")[2], "files": [an_entry(f"{folder}/meta.json")]}
        for folder in folders
    ]


def _deep_media(size: int) -> list[dict[str, Any]]:
    paths = [f"a/b/runs/r/media/{number}/{'x/' * 30}y.png" for number in range(size)]
    return [{"run_id": "r", "files": [an_entry(path) for path in paths]}]


@pytest.mark.parametrize("shape", [_same_names, _many_runs, _deep_media])
def test_reading_and_planning_ten_times_as_much_is_ten_times_the_work(
    lab: Lab, shape: Callable[[int], list[dict[str, Any]]]
) -> None:
    work = []
    for size in (40, 400):
        run = {key: value for key, value in run_named(lab.document).items() if key != "folder"}
        lab.publish({**lab.document, "experiments": [{**run, **each} for each in shape(size)]})
        work.append(_calls(lambda: lab.sync_quietly(method="manifest", dry_run=True)))
    assert work[1] < 11 * work[0]


# -- terminals -----------------------------------------------------------------------------


def test_texts_that_are_only_shown_reach_no_terminal_raw(lab: Lab) -> None:
    evil = lab.document
    turned = f"{PROJECT_RUN}/media/\u202egnp.exe"
    lab.offer(turned)
    run_named(evil)["files"].append(an_entry(turned))
    for name in ("server_hostname", "remote_root", "generator"):
        evil[name] = f"{EVIL}{name}"[:60]
    evil["problems"] = [{"path": EVIL, "kind": EVIL, "message": EVIL}]
    evil["problem_count"] = 3
    for run in evil["experiments"]:
        run["project"], run["name"], run["status"] = EVIL, EVIL, EVIL
    evil["generated_at"] = 1.0
    lab.publish(evil)
    assert "media/\\u202egnp.exe" in lab.attack("-v", "--dry-run", "--delete").expect(0).out
    done = lab.attack("-v").expect(0)
    assert "3 problems" in done.err
    assert "day" in done.err
    done = lab.attack("--json", "--dry-run").expect(0)
    lab.matches()


def _at(document: dict[str, Any], place: tuple[Any, ...], value: str) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return changed


def _texts(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(each, (*place, key))


def test_text_of_every_single_field_reaches_no_terminal_raw(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    from runicorn.cli import main

    lab.document["problems"] = [{"path": "a", "kind": "link", "message": "m"}]
    places = [place for place in _texts(lab.document) if "files" not in place or place[3] == 0]
    assert len(places) >= 20
    for place in places:
        lab.publish(_at(lab.document, place, EVIL))
        assert main(["sync", str(lab.root), str(lab.mirror), "-v", "--method", "manifest"]) in (0, 3, 7), (
            place
        )
        shown = "".join(capfd.readouterr())
        assert shown
        for mark in EVIL:
            assert mark.isalnum() or mark in "];[" or mark not in shown, place


def test_every_text_hostile_at_once_is_refused(lab: Lab) -> None:
    lab.publish(every_text(lab.document, lambda text: text + EVIL))
    lab.refuses()
    lab.recovers()


# -- replay and mass deletion --------------------------------------------------------------


def _older(document: dict[str, Any]) -> None:
    document["revision"] = 1


def _other_lineage(document: dict[str, Any]) -> None:
    document["lineage"] = "another"


def _no_lineage(document: dict[str, Any]) -> None:
    del document["lineage"]


def _incomplete(document: dict[str, Any]) -> None:
    document["complete"] = False


def _problem_at_all(document: dict[str, Any]) -> None:
    document["problems"], document["problem_count"] = [], 2


@pytest.mark.parametrize("change", [_older, _other_lineage, _no_lineage, _incomplete, _problem_at_all])
def test_listing_that_proves_no_deletion_deletes_nothing(
    quick: Lab, change: Callable[[dict[str, Any]], None]
) -> None:
    quick.publish(quick.document)
    quick.sync_quietly()
    quick.document["revision"] += 1
    evil = copy.deepcopy(quick.document)
    # One file of many goes, so that no other rule stands in the way.
    run = run_named(evil)
    run["files"] = [entry for entry in run["files"] if not entry["path"].endswith("a.png")]
    change(evil)
    quick.publish(evil)
    before = run_files(quick.mirror)
    done = quick.attack("--delete", "--force-delete").expect(3)
    assert "kept" in done.err
    assert run_files(quick.mirror) == before
    quick.recovers()


def test_restored_snapshot_is_compared_and_deletes_nothing(lab: Lab) -> None:
    lab.publish(lab.document)
    lab.sync_quietly()
    old = copy.deepcopy(lab.document)
    old["revision"] -= 1
    entry = file_named(run_named(old), "summary.json")
    (lab.root / entry["path"]).write_text('{"best": 1}', encoding="utf-8")
    del entry["sha256"], entry["mtime_ns"]
    entry.update(size=11, mtime=1704060000.0)
    old["experiments"] = [run_named(old)]
    lab.publish(old)
    before = run_files(lab.mirror)
    done = lab.attack("--delete", "--force-delete").expect(3)
    assert "older" in done.err
    assert run_files(lab.mirror) == {**before, entry["path"]: b'{"best": 1}'}


def test_same_revision_with_another_snapshot_is_not_taken_for_no_changes(lab: Lab) -> None:
    lab.sync_quietly()
    (lab.mirror / PROJECT_RUN / "meta.json").stat()
    again = copy.deepcopy(lab.document)
    again["snapshot_id"] = "another"
    run_named(again)["files"] = run_named(again)["files"][:1]
    lab.publish(again)
    assert not lab.attack("--json").expect(0).statistics["skipped"]


@pytest.mark.parametrize("force", [[], ["--force-delete"]])
def test_emptied_manifest_deletes_nothing(lab: Lab, force: list[str]) -> None:
    lab.publish(lab.document)
    lab.sync_quietly()
    before = run_files(lab.mirror)
    empty = {**lab.document, "experiments": [], "revision": lab.document["revision"] + 1}
    lab.publish(empty)
    done = lab.attack("--delete", *force).expect(3)
    assert "no run at all" in done.err
    assert run_files(lab.mirror) == before
    lab.document["revision"] += 1
    lab.recovers()


def test_more_than_half_is_deleted_only_with_a_second_leave(lab: Lab) -> None:
    lab.publish(lab.document)
    lab.sync_quietly()
    before = run_files(lab.mirror)
    lab.document["revision"] += 1
    run = run_named(lab.document)
    lab.document["experiments"] = [{**run, "files": run["files"][:2]}]
    lab.publish(lab.document)
    done = lab.attack("--delete").expect(3)
    assert "--force-delete" in done.err
    assert run_files(lab.mirror) == before
    lab.attack("--delete", "--force-delete").expect(0)
    lab.matches()


# -- modes and links in the mirror ---------------------------------------------------------


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


LINKED_FOLDERS = ["vision", "vision/resnet", "vision/resnet/runs", PROJECT_RUN, f"{PROJECT_RUN}/media"]
LINKED_FILES = [f"{PROJECT_RUN}/{name}" for name in ("summary.json", "events.jsonl", "media/a.png")]


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
