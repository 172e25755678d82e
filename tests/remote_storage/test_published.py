"""Reading what a server has published: every form of it, every combination, torn at any byte."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from runicorn.errors import DamagedError, NoManifestError, UnsafeError, UnsupportedVersionError
from runicorn.manifest import Manifest, ManifestType
from runicorn.manifest.model import Identity
from runicorn.remote_storage import published as published_module
from runicorn.remote_storage.published import Listing, read_published
from runicorn.remote_storage.removal import Evidence
from runicorn.remote_storage.transport import LocalTransport, Open, Read, StatusCode, Transport
from testbed.trees import make_tree
from tests.remote_storage.helpers import RUN, Refuse, Relay, Site, make_run, put

pytestmark = pytest.mark.rungs("manifest")

BARE = ("format_version", "manifest_type", "revision", "snapshot_id", "generated_at", "server_hostname")
SECOND = "vision/resnet/runs/r2"


def read(site: Site, transport: Transport | None = None, *known: Identity | None) -> Listing:
    return read_published(transport or LocalTransport(), str(site.root), *known)


def plain(site: Site, kind: str = "full") -> Path:
    return site.root / f".runicorn/{kind}_manifest.json"


def packed(site: Site, kind: str = "full") -> Path:
    return site.root / f".runicorn/{kind}_manifest.json.gz"


def store(site: Site, document: dict[str, Any], kind: str = "full", **layout: Any) -> None:
    """A manifest in another text layout, plain only."""
    put(plain(site, kind), json.dumps(document, **layout))
    packed(site, kind).unlink(missing_ok=True)


def folders(listing: Listing | Manifest) -> list[str]:
    runs = listing.runs if isinstance(listing, Listing) else listing.experiments
    return sorted(run.folder for run in runs)


def with_active(site: Site, **changes: Any) -> dict[str, Any]:
    """A full manifest, and an active one of the next revision in which the first run has ended."""
    make_run(site.root, SECOND)
    site.publish()
    document: dict[str, Any] = json.loads(plain(site).read_bytes())
    run = {**document["experiments"][0], "status": "completed"}
    sums = {
        "total_experiments": 1,
        "total_files": len(run["files"]),
        "total_bytes": sum(each["size"] for each in run["files"]),
    }
    active = {
        **document,
        "manifest_type": "active",
        "revision": document["revision"] + 1,
        "snapshot_id": "next",
        "generated_at": document["generated_at"] + 60,
        "experiments": [run],
        "statistics": sums,
        **changes,
    }
    store(site, active, "active")
    return active


# -- forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["both", "gz only", "json only", "one member", "many members", "split header"]
)
def test_every_form_gives_the_same_listing(site: Site, form: str) -> None:
    make_tree(site.root, 3)
    manifest = site.publish()
    text = plain(site).read_bytes()
    if form == "gz only":
        plain(site).unlink()
    elif form == "json only":
        packed(site).unlink()
    elif form == "one member":
        packed(site).write_bytes(gzip.compress(text))
    elif form == "many members":
        packed(site).write_bytes(
            b"".join(gzip.compress(text[at : at + 700]) for at in range(0, len(text), 700))
        )
    elif form == "split header":
        packed(site).write_bytes(gzip.compress(text[:40]) + gzip.compress(text[40:]))
    listing = read(site)
    assert listing.runs == list(manifest.experiments)
    assert listing.identity == manifest.header.identity == listing.base
    assert (listing.complete, listing.unchanged, listing.total_experiments) == (True, False, 4)
    assert read(site, None, listing.identity, listing.base).unchanged


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_other_text_layouts_are_read(site: Site, layout: dict[str, Any]) -> None:
    make_run(site.root, "vision/日本/runs/r3")
    manifest = site.publish()
    document = json.loads(plain(site).read_bytes())
    store(site, dict(sorted(document.items())), **layout)
    listing = read(site)
    assert {run.folder: run for run in listing.runs} == {run.folder: run for run in manifest.experiments}
    assert read(site, None, listing.identity, listing.base).unchanged


def test_bare_manifest_of_another_generator_is_synced(site: Site) -> None:
    site.publish()
    document = json.loads(plain(site).read_bytes())
    names = (*BARE, "remote_root", "statistics")
    bare = {name: document[name] for name in names}
    bare["experiments"] = [
        {
            **{name: value for name, value in run.items() if name not in {"folder", "files"}},
            "files": [
                {name: entry[name] for name in ("path", "size", "mtime", "priority")}
                for entry in run["files"]
            ],
        }
        for run in document["experiments"]
    ]
    store(site, bare, indent=2)
    report = site.sync()
    site.assert_equal()
    assert (report.method, report.failed_count, report.lineage) == ("manifest", 0, None)
    again = site.sync()
    assert (again.files_synced, again.bytes_downloaded) == (0, 0)


def test_large_manifest_is_read_in_pieces(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_module, "MAX_READ", 1000)
    monkeypatch.setattr("runicorn.remote_storage.fetch.MAX_READ", 1000)
    make_tree(site.root, 20)
    manifest = site.publish()
    assert packed(site).stat().st_size > 4 * 1000
    assert read(site).runs == list(manifest.experiments)


# -- nothing, or nothing usable --------------------------------------------------------------


def test_nothing_published(site: Site) -> None:
    with pytest.raises(NoManifestError, match="publishes no manifest"):
        read(site)


def test_manifest_that_may_not_be_read(site: Site) -> None:
    site.publish()
    packed(site).unlink()
    with pytest.raises(NoManifestError, match="cannot be read"):
        read(site, Refuse("full_manifest.json", StatusCode.PERMISSION_DENIED, Open))


def test_manifest_that_cannot_be_read_to_its_end(site: Site) -> None:
    site.publish()
    with pytest.raises(DamagedError):
        read(site, Refuse("full_manifest.json.gz", StatusCode.FAILURE, Read))


@pytest.mark.parametrize("name", ["json", "json.gz"])
def test_torn_at_any_byte_is_damaged(site: Site, name: str) -> None:
    site.publish()
    path = site.root / f".runicorn/full_manifest.{name}"
    whole = path.read_bytes()
    if name == "json":
        packed(site).unlink()
    cuts = set(range(0, len(whole), 37)) | {1, 2, 10, len(whole) - 9, len(whole) - 3}
    if name == "json":
        cuts -= {len(whole) - 1}  # the last newline means nothing
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedError):
            read(site)
        with pytest.raises(DamagedError):
            read(site, None, Identity("lineage", 1, "another"))


def test_changed_at_any_byte_never_crashes(site: Site) -> None:
    site.publish()
    whole = packed(site).read_bytes()
    chance = random.Random(5)
    for _ in range(150):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        packed(site).write_bytes(data)
        with contextlib.suppress(DamagedError, UnsafeError):
            assert folders(read(site)) == [RUN]


@pytest.mark.parametrize("version", ["2.0", "0.9"])
def test_unknown_major_version_is_not_used(site: Site, version: str) -> None:
    site.publish()
    store(site, {**json.loads(plain(site).read_bytes()), "format_version": version})
    with pytest.raises(UnsupportedVersionError):
        read(site)
    report = site.sync()
    assert (report.method, version in report.fallback_reason) == ("walk", True)


def test_newer_minor_version_and_unknown_fields_are_read(site: Site) -> None:
    site.publish()
    store(site, {**json.loads(plain(site).read_bytes()), "format_version": "1.7", "news": [1, {}]})
    assert folders(read(site)) == [RUN]


def test_manifest_that_is_too_large_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish()
    monkeypatch.setattr(published_module, "MAX_COMPRESSED", 100)
    with pytest.raises(UnsafeError):
        read(site)


def test_active_manifest_in_the_place_of_the_full_one_is_damaged(site: Site) -> None:
    site.publish(ManifestType.ACTIVE)
    plain(site, "active").rename(plain(site))
    packed(site, "active").rename(packed(site))
    with pytest.raises(DamagedError, match="active"):
        read(site)


# -- active over full --------------------------------------------------------------------------


def test_newer_active_manifest_is_laid_over(site: Site) -> None:
    active = with_active(site)
    listing = read(site)
    assert folders(listing) == [RUN, SECOND]
    assert {run.folder: run.status for run in listing.runs} == {RUN: "completed", SECOND: "running"}
    assert listing.identity is not None
    assert listing.base is not None
    assert (listing.identity.revision, listing.base.revision) == (active["revision"], active["revision"] - 1)
    assert (listing.generated_at, listing.total_experiments) == (active["generated_at"], 2)
    relay = Relay()
    assert read(site, relay, listing.identity, listing.base).unchanged
    assert len(relay.opened) == 2
    assert not read(site, None, listing.base, listing.base).unchanged


@pytest.mark.parametrize(
    "changes",
    [{"revision": 1}, {"lineage": "another"}, {"lineage": None}],
    ids=["not newer", "other lineage", "no lineage"],
)
def test_active_manifest_that_does_not_fit_is_left_out(site: Site, changes: dict[str, Any]) -> None:
    with_active(site, **changes)
    listing = read(site)
    assert {run.status for run in listing.runs} == {"running"}
    assert listing.identity == listing.base


def test_revisions_without_a_lineage_mean_nothing(site: Site) -> None:
    with_active(site, lineage=None)
    store(site, {**json.loads(plain(site).read_bytes()), "lineage": None})
    assert {run.status for run in read(site).runs} == {"running"}


def test_damaged_active_manifest_is_left_out(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with_active(site)
    put(plain(site, "active"), "{")
    assert {run.status for run in read(site).runs} == {"running"}
    assert "active" in caplog.text


def test_unsafe_active_manifest_refuses_all(site: Site) -> None:
    active = with_active(site)
    active["experiments"][0]["files"][0]["path"] = "/etc/passwd"
    store(site, active, "active")
    with pytest.raises(UnsafeError):
        read(site)


def test_active_manifest_alone_is_not_enough(site: Site) -> None:
    with_active(site)
    for path in (plain(site), packed(site)):
        path.unlink(missing_ok=True)
    with pytest.raises(NoManifestError):
        read(site)


def test_incomplete_active_manifest_makes_the_listing_incomplete(site: Site) -> None:
    problem = {"path": "vision/x", "kind": "unreadable", "message": "no"}
    with_active(site, complete=False, problems=[problem], problem_count=1)
    listing = read(site)
    assert (listing.complete, listing.problem_count) == (False, 1)
    evidence = Evidence.of_listing(listing)
    assert evidence.has_problem_at("vision/x/runs/r1/meta.json")
    assert not evidence.has_problem_at("vision/xy")


# -- costs -----------------------------------------------------------------------------------


def test_unchanged_manifest_is_not_read_to_its_end(site: Site) -> None:
    make_tree(site.root, 300, files=6)
    site.publish()
    listing = read(site)
    transport = LocalTransport()
    again = read(site, transport, listing.identity, listing.base)
    assert (again.unchanged, again.runs, again.total_experiments) == (True, [], 301)
    assert transport.traffic.requests <= 6
    assert transport.traffic.received <= 32 * 1024


@pytest.mark.parametrize("field", ["lineage", "revision", "snapshot_id"])
def test_each_part_of_the_identity_counts(site: Site, field: str) -> None:
    identity = site.publish().header.identity
    other: dict[str, Any] = {"lineage": "x", "revision": 99, "snapshot_id": "y"}
    values = {name: getattr(identity, name) for name in other} | {field: other[field]}
    assert not read(site, None, Identity(**values), identity).unchanged
    assert read(site, None, identity, identity).unchanged


def test_nothing_stays_open_after_an_error(site: Site) -> None:
    site.publish()
    packed(site).write_bytes(packed(site).read_bytes()[:-20])
    with pytest.raises(DamagedError):
        read(site)
