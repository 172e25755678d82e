"""Manifests with entries that attack the client that reads them: each is refused, named, and survived."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runicorn.errors import DamagedError, UnsafeError
from testbed.sshd import Sshd
from tests.faults.attacks import ESCAPES, FOLDERS, NUMBERS, UNREQUESTED
from tests.faults.lab import RAW, Lab, an_entry, file_named, run_named
from tests.faults.process import left_behind, over, run_files, snapshot, sync
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN

# -- path escapes --------------------------------------------------------------------------


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
