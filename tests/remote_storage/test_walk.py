"""Walking gives the listing that the generator gives, but for digests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runicorn.errors import NoSuchRootError, RequestError, UnsafeError
from runicorn.manifest import Manifest
from runicorn.remote_storage import Selection
from runicorn.remote_storage import walk as walk_module
from runicorn.remote_storage.published import Listing
from runicorn.remote_storage.transport import LocalTransport, OpenDir, ReadDir, StatusCode, Transport
from runicorn.remote_storage.walk import Walker
from testbed.trees import Layout, make_tree
from tests.remote_storage.helpers import RUN, Meanwhile, Refuse, Relay, Site, make_run, put, sftp_server

pytestmark = pytest.mark.rungs("manifest")

NO_RIGHTS = StatusCode.PERMISSION_DENIED


def walk(site: Site, transport: Transport | None = None, **selection: object) -> Listing:
    wanted = Selection(**selection)  # type: ignore[arg-type]
    return Walker(transport or LocalTransport(), str(site.root), wanted).walk()


def entries(listing: Listing | Manifest) -> dict[str, tuple[object, ...]]:
    """What both ways tell of each file."""
    runs = listing.runs if isinstance(listing, Listing) else listing.experiments
    return {
        entry.path: (
            run.folder,
            run.run_id,
            run.project,
            run.name,
            entry.size,
            int(entry.mtime),
            entry.priority,
            entry.is_log,
        )
        for run in runs
        for entry in run.files
    }


def odd_tree(site: Site) -> None:
    root = site.root
    make_run(root, "runs/nlp/bert/base/r3")
    make_run(root, "runs/direct")
    make_run(root, "runs/alone/r4")
    make_run(root, f"{RUN}/nested/runs/inner")
    make_run(root, "runs/nlp/bert/base/r3/r5")
    make_run(root, "too/deep/a/runs/r6")
    make_run(root, ".hidden/name/runs/r7")
    make_run(root, "vision/grün 日本/runs/wörld -rf")
    put(root / "vision/resnet/runs/empty/summary.json", "{}")
    put(root / "vision/resnet/stray.json", "{}")
    put(root / "runicorn.db", "sqlite")
    run = root / RUN
    for name in (
        "media/.hidden.png",
        "media/b.PNG.tmp",
        "media/c.Lock",
        "media/d~",
        "media/.cache/e.png",
        "media/deep/er/f.png",
        "media/sp ace.png",
        "checkpoints/g.pt",
        "code.py",
    ):
        put(run / name, "x")
    (run / "media/new\nline.png").write_text("x")
    (run / "media/back\\slash.png").write_text("x")
    Path(os.fsdecode(os.fsencode(run / "media") + b"/\xff.png")).write_text("x")
    (run / "media/link.png").symlink_to("a.png")
    (run / "assets.json").symlink_to("meta.json")
    os.mkfifo(run / "environment.json")
    os.mkfifo(run / "media/fifo.png")
    (root / "vision/latest").symlink_to("resnet")
    (root / "elsewhere").symlink_to(root.parent)
    (root / "vision/resnet/runs/again").symlink_to("r1")
    (root / "vision/other").mkdir()
    (root / "vision/other/runs").symlink_to("../resnet/runs")


@pytest.mark.parametrize("kind", ["local", "sftp"])
def test_walk_lists_what_the_generator_lists(site: Site, kind: str) -> None:
    odd_tree(site)
    manifest = site.publish()
    if kind == "local":
        listing = walk(site)
    else:
        with sftp_server() as server:
            listing = walk(site, server)
    assert entries(listing) == entries(manifest)
    assert len(listing.runs) == 5
    assert listing.complete == manifest.complete is True
    assert {problem.path for problem in manifest.problems} <= set(listing.problem_paths)
    assert (listing.identity, listing.header, listing.generated_at) == (None, None, None)


@pytest.mark.parametrize("layout", ["project", "path"])
def test_walk_of_both_layouts(site: Site, layout: Layout) -> None:
    make_tree(site.root, 12, layout=layout)
    assert entries(walk(site)) == entries(site.publish())


def test_walk_with_many_files_in_a_folder(site: Site) -> None:
    for number in range(350):
        put(site.root / RUN / f"media/{number}.png", str(number))
    with sftp_server() as server:
        assert entries(walk(site, server)) == entries(site.publish())


def test_walk_does_not_enter_links(site: Site, tmp_path: Path) -> None:
    make_run(tmp_path / "outside", RUN)
    (site.root / "other").symlink_to(tmp_path / "outside/vision")
    (site.root / RUN / "media/deep").symlink_to(tmp_path / "outside")
    listing = walk(site)
    assert len(entries(listing)) == 6
    assert "other" in listing.problem_paths


def test_walk_of_folders_nested_too_deep(site: Site) -> None:
    make_run(site.root, "runs/" + "/".join("d" * 31) + "/fits/r8")
    make_run(site.root, "runs/" + "/".join("d" * 33) + "/r9")
    put(site.root / RUN / "media" / "/".join("m" * 33) / "x.png", "x")
    put(site.root / RUN / "media" / "/".join("m" * 32) / "y.png", "y")
    manifest, listing = site.publish(), walk(site)
    assert entries(listing) == entries(manifest)
    assert listing.complete == manifest.complete is False


@pytest.mark.parametrize("name", ["vision", "vision/resnet", "vision/resnet/runs", RUN, f"{RUN}/media"])
def test_unreadable_folder_hides_files(site: Site, name: str) -> None:
    make_run(site.root, "speech/whisper/runs/r2")
    listing = walk(site, Refuse(f"/root/{name}", NO_RIGHTS, OpenDir))
    assert not listing.complete
    assert set(listing.problem_paths) == {name}
    assert any(path.startswith("speech") for path in entries(listing))


def test_folder_that_cannot_be_read_to_its_end_hides_files(site: Site) -> None:
    listing = walk(site, Refuse(f"/root/{RUN}", StatusCode.FAILURE, ReadDir))
    assert (listing.complete, listing.runs) == (False, [])


def test_folder_that_vanishes_while_walking_may_come_back(site: Site) -> None:
    media = site.root / RUN / "media"

    def vanish() -> None:
        (media / "a.png").unlink()
        media.rmdir()

    listing = walk(site, Meanwhile("/media", vanish, OpenDir))
    assert (listing.complete, set(listing.problem_paths)) == (False, {f"{RUN}/media"})
    assert len(entries(listing)) == 5


def test_missing_root_is_an_error(site: Site) -> None:
    with pytest.raises(NoSuchRootError):
        Walker(LocalTransport(), str(site.root / "none"), Selection()).walk()
    with pytest.raises(NoSuchRootError):
        Walker(LocalTransport(), str(site.root / RUN / "meta.json"), Selection()).walk()


def test_unreadable_root_is_an_error(site: Site) -> None:
    with pytest.raises(RequestError):
        walk(site, Refuse("/root", NO_RIGHTS, OpenDir))


def test_empty_root_has_no_runs(site: Site) -> None:
    (site.root.parent / "empty").mkdir()
    listing = Walker(LocalTransport(), str(site.root.parent / "empty"), Selection()).walk()
    assert (listing.runs, listing.complete) == ([], True)


def test_unselected_projects_and_media_cost_nothing(site: Site) -> None:
    make_run(site.root, "speech/whisper/runs/r2")
    make_run(site.root, "runs/nlp/bert/r3")
    make_run(site.root, "runs/vision/vit/r4")
    relay = Relay()
    listing = walk(site, relay, projects=("vision",), media=False)
    assert {run.project for run in listing.runs} == {"vision"}
    assert len(listing.runs) == 2
    assert not any("speech" in path or "nlp" in path or "media" in path for path in relay.opened)


def test_server_that_lists_without_end_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_module, "MAX_ENTRIES", 5)
    with pytest.raises(UnsafeError):
        walk(site)


def test_runs_know_their_times(site: Site) -> None:
    make_run(site.root, mtime=1000)
    os.utime(site.root / RUN / "logs.txt", (2000, 2000))
    (run,) = walk(site).runs
    assert (run.created_at, run.updated_at, run.status) == (1000, 2000, "unknown")
