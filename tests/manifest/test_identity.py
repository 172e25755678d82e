"""Lineage, revision and snapshot: when they change, and what is recovered."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runicorn.manifest import Manifest, ManifestType, read_manifest
from runicorn.manifest.checks import MAX_REVISION
from runicorn.manifest.codec import RUNS_LINE, encode_header
from runicorn.manifest.identity import identity_after, identity_without_state
from runicorn.manifest.model import Identity
from tests.manifest.helpers import (
    PROJECT_RUN,
    a_header,
    append,
    generate,
    inside,
    make_run,
    remove,
    replace,
    settle,
    write,
)

UUID4 = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch


def identity(manifest: Manifest) -> Identity:
    return manifest.header.identity


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settle(monkeypatch)
    make_run(tmp_path)
    make_run(tmp_path, "runs/a/r", status="running")
    return tmp_path


def artefacts(root: Path) -> Path:
    return root / ".runicorn"


def test_the_first_revision(root: Path) -> None:
    first = generate(root)
    assert first.revision == 1
    assert UUID4(first.snapshot_id)
    assert UUID4(first.lineage or "")
    assert first.lineage != first.snapshot_id


def test_an_unchanged_root_keeps_its_identity_and_renews_the_time(root: Path) -> None:
    first = generate(root)
    state = (artefacts(root) / "scan_state.gz").stat()
    second = generate(root)
    assert identity(second) == identity(first)
    assert second.generated_at > first.generated_at
    assert (artefacts(root) / "scan_state.gz").stat().st_ino == state.st_ino
    assert read_manifest(artefacts(root) / "full_manifest.json") == second
    assert read_manifest(artefacts(root) / "full_manifest.json.gz") == second


def test_renewal_keeps_the_body_bytes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def body(name: str) -> bytes:
        data = (artefacts(root) / name).read_bytes()
        return data[data.rindex(b"\x1f\x8b\x08") if name.endswith("gz") else data.index(RUNS_LINE) :]

    generate(root)
    before = body("full_manifest.json"), body("full_manifest.json.gz")
    monkeypatch.setattr("runicorn.manifest.publish._LEVEL", 0)  # anything compressed anew would differ
    generate(root)
    assert (body("full_manifest.json"), body("full_manifest.json.gz")) == before


CHANGES: dict[str, Callable[[Path], object]] = {
    "a log grows": lambda run: append(run / "logs.txt", b"more\n"),
    "a state file changes": lambda run: replace(run / "meta.json", "{}"),
    "a size stays, the bytes differ": lambda run: replace(run / "media/a.png", b"\x88PNG"),
    "only a time changes": lambda run: os.utime(run / "media/a.png", (5, 5)),
    "a file comes": lambda run: write(run / "summary.json", "{}"),
    "a file goes": lambda run: (run / "media/a.png").unlink(),
    "a problem comes": lambda run: (run / "media/link").symlink_to("/"),
    "a run goes": shutil.rmtree,
    "a run comes": lambda run: make_run(run.parents[3], "vision/another/runs/r"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_raises_the_revision_by_one(root: Path, change: str) -> None:
    first = generate(root)
    CHANGES[change](root / PROJECT_RUN)
    second = generate(root)
    assert (second.lineage, second.revision) == (first.lineage, 2)
    assert UUID4(second.snapshot_id)
    assert second.snapshot_id != first.snapshot_id
    assert identity(generate(root)) == identity(second)


def test_a_change_of_what_is_not_listed_keeps_the_revision(root: Path) -> None:
    first = generate(root)
    write(root / PROJECT_RUN / "weights.bin", "x")
    write(root / "notes.txt", "x")
    (root / PROJECT_RUN / "meta.json").chmod(0o600)
    assert identity(generate(root)) == identity(first)


def test_full_and_active_share_the_revision(root: Path) -> None:
    full = generate(root)
    active = generate(root, ManifestType.ACTIVE)
    assert identity(active) == identity(full)
    append(root / PROJECT_RUN / "logs.txt", b"more\n")
    active = generate(root, ManifestType.ACTIVE)
    assert active.revision == 2
    full = generate(root)
    assert identity(full) == identity(active)
    assert read_manifest(artefacts(root) / "full_manifest.json") == full


def test_another_output_counts_too(root: Path, tmp_path: Path) -> None:
    first = generate(root)
    append(root / PROJECT_RUN / "logs.txt", b"more\n")
    second = generate(root, output=tmp_path / "elsewhere/m.json")
    assert second.revision == 2
    assert read_manifest(artefacts(root) / "full_manifest.json") == first
    third = generate(root)
    assert identity(third) == identity(second)
    assert third.experiments == second.experiments


def lose(path: Path) -> None:
    path.unlink()


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def cut_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def other_form(path: Path) -> None:
    path.write_bytes(
        gzip.compress(gzip.decompress(path.read_bytes()).replace(b"scan state 2", b"scan state 9"))
    )


def no_end(path: Path) -> None:
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(lines[:-1])))


def lack_a_run(path: Path) -> None:
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([lines[0], *lines[2:]])))


def nonsense(path: Path) -> None:
    text = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(re.sub(rb'"logs": {[^}]*}', b'"logs": []', text).replace(b"//", b"/x/")))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [lose, tear, cut_to_nothing, flip, other_form, no_end, lack_a_run, nonsense]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lost_state_is_recovered_from_the_manifest(root: Path, damage: Callable[[Path], None]) -> None:
    first = generate(root)
    damage(artefacts(root) / "scan_state.gz")
    second = generate(root)
    assert identity(second) == identity(first)
    assert second.experiments == first.experiments
    assert identity(generate(root)) == identity(first)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lost_state_and_a_change(root: Path, damage: Callable[[Path], None]) -> None:
    generate(root)
    append(root / PROJECT_RUN / "logs.txt", b"more\n")
    second = generate(root)
    damage(artefacts(root) / "scan_state.gz")
    append(root / PROJECT_RUN / "logs.txt", b"more\n")
    third = generate(root)
    assert (third.lineage, third.revision) == (second.lineage, 3)
    assert third.snapshot_id != second.snapshot_id


@pytest.mark.parametrize("keep", ["full_manifest.json", "full_manifest.json.gz"])
def test_one_manifest_is_enough_to_recover(root: Path, keep: str) -> None:
    first = generate(root)
    for name in inside(artefacts(root)):
        if name != keep:
            remove(artefacts(root) / name)
    second = generate(root)
    assert second.lineage == first.lineage
    assert second.revision in (1, 2)
    assert (second.snapshot_id == first.snapshot_id) == (second.revision == 1)


def test_recovery_goes_on_from_the_highest_revision(root: Path) -> None:
    generate(root)
    append(root / PROJECT_RUN / "logs.txt", b"more\n")
    active = generate(root, ManifestType.ACTIVE)
    lose(artefacts(root) / "scan_state.gz")
    full = generate(root)
    assert (full.lineage, full.revision) == (active.lineage, active.revision + 1)


def test_nothing_left_is_a_new_lineage(root: Path) -> None:
    first = generate(root)
    shutil.rmtree(artefacts(root))
    second = generate(root)
    assert second.revision == 1
    assert second.lineage != first.lineage
    assert second.snapshot_id != first.snapshot_id


def test_damaged_manifests_are_written_anew(root: Path) -> None:
    first = generate(root)
    for name in ("full_manifest.json", "full_manifest.json.gz"):
        for damage in (lose, tear, cut_to_nothing, flip):
            damage(artefacts(root) / name)
            second = generate(root)
            assert identity(second) == identity(first)
            assert read_manifest(artefacts(root) / "full_manifest.json") == second
            assert read_manifest(artefacts(root) / "full_manifest.json.gz") == second


def test_manifests_of_other_generators_are_replaced(root: Path) -> None:
    artefacts(root).mkdir()
    (artefacts(root) / "full_manifest.json").write_text(
        '{"revision": 99, "snapshot_id": "x", "experiments": []}'
    )
    assert generate(root).revision == 1


def backup(root: Path, name: str) -> Path:
    return Path(shutil.copytree(artefacts(root), root / f".{name}"))


def put_back(root: Path, saved: Path, *names: str) -> None:
    for name in names or inside(saved):
        remove(artefacts(root) / name)
        if (saved / name).is_dir():
            shutil.copytree(saved / name, artefacts(root) / name)
        else:
            shutil.copy2(saved / name, artefacts(root) / name)


def test_older_manifests_put_back_are_brought_up_to_date(root: Path) -> None:
    generate(root)
    saved = backup(root, "saved")
    append(root / PROJECT_RUN / "logs.txt", b"more\n")
    second = generate(root)
    put_back(root, saved, "full_manifest.json", "full_manifest.json.gz")
    third = generate(root)
    assert identity(third) == identity(second)
    assert read_manifest(artefacts(root) / "full_manifest.json.gz") == third


def test_an_older_state_put_back_goes_on_from_the_manifest(root: Path) -> None:
    generate(root)
    saved = backup(root, "saved")
    for _ in range(3):
        append(root / PROJECT_RUN / "logs.txt", b"more\n")
        latest = generate(root)
    put_back(root, saved, "scan_state.gz")
    after = generate(root)
    assert (after.lineage, after.revision) == (latest.lineage, latest.revision + 1)
    assert after.snapshot_id != latest.snapshot_id
    assert after.experiments == latest.experiments


def test_everything_put_back_starts_another_branch_with_its_own_snapshots(root: Path) -> None:
    generate(root)
    saved = backup(root, "saved")
    append(root / PROJECT_RUN / "logs.txt", b"more\n")
    one = generate(root)
    put_back(root, saved)
    append(root / PROJECT_RUN / "logs.txt", b"other\n")
    other = generate(root)
    assert other.snapshot_id != one.snapshot_id


def header_with(lineage: str | None, revision: int, snapshot: str) -> object:
    return a_header(identity=Identity(lineage, revision, snapshot))


KNOWN = Identity("L", 5, "five")


@pytest.mark.parametrize(
    ("stored", "changed", "revision"),
    [
        ([], False, 5),
        ([], True, 6),
        ([("L", 5, "five")], False, 5),
        ([("L", 4, "four")], False, 5),
        ([("L", 9, "nine")], False, 10),
        ([("L", 9, "nine")], True, 10),
        ([("L", 5, "other")], False, 6),
        ([("other", 9, "nine")], False, 5),
        ([(None, 9, "nine")], True, 6),
        ([("L", MAX_REVISION - 1, "x")], False, MAX_REVISION),
        ([("L", MAX_REVISION, "x")], False, 1),
    ],
)
def test_identity_after(stored: list[tuple[str | None, int, str]], changed: bool, revision: int) -> None:
    headers = [header_with(*each) for each in stored]
    found = identity_after(KNOWN, headers, changed=changed)  # type: ignore[arg-type]
    assert found.revision == revision
    assert (found == KNOWN) == (revision == 5)
    assert (found.lineage == "L") == (revision != 1)


@pytest.mark.parametrize(
    ("stored", "same", "lineage", "revision"),
    [
        ([], True, None, 1),
        ([(None, 8, "x")], True, None, 1),
        ([("L", 5, "five")], True, "L", 5),
        ([("L", 5, "five")], False, "L", 6),
        ([("L", 5, "five"), ("L", 7, "seven")], True, "L", 7),
        ([("L", 7, "seven"), ("L", 7, "other")], True, "L", 8),
        ([("L", 5, "five"), ("M", 9, "nine")], False, "L", 6),
        ([(None, 5, "five"), ("M", 9, "nine")], False, "M", 10),
    ],
)
def test_identity_without_state(
    stored: list[tuple[str | None, int, str]], same: bool, lineage: str | None, revision: int
) -> None:
    headers = [header_with(*each) for each in stored]
    found = identity_without_state(headers, lambda header: same and header is not None)  # type: ignore[arg-type]
    assert found.revision == revision
    if lineage is None:
        assert UUID4(found.lineage or "")
    else:
        assert found.lineage == lineage


def test_a_header_can_be_read_alone(root: Path) -> None:
    manifest = generate(root)
    text = (artefacts(root) / "full_manifest.json").read_bytes()
    assert text.startswith(encode_header(manifest.header))
