"""What of a root is listed, what becomes a problem, and that no link is followed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
from pathlib import Path

import pytest

from runicorn.errors import PublishError
from runicorn.manifest import ManifestGenerator, Run
from tests.manifest.helpers import (
    PATH_RUN,
    PROJECT_RUN,
    FailingOpen,
    entries,
    generate,
    inside,
    make_run,
    open_folder,
    paths,
    problems,
    runs,
    unprivileged,
    write,
)


def names(run: Run) -> list[str]:
    return [entry.path[len(run.folder) + 1 :] for entry in run.files]


def test_both_layouts_side_by_side(tmp_path: Path) -> None:
    make_run(tmp_path, PROJECT_RUN)
    make_run(tmp_path, PATH_RUN, status="running")
    found = runs(generate(tmp_path))
    assert list(found) == [PATH_RUN, PROJECT_RUN]
    assert (found[PATH_RUN].project, found[PATH_RUN].name, found[PATH_RUN].run_id) == (
        "nlp",
        "bert/base",
        "r2",
    )
    assert (found[PROJECT_RUN].project, found[PROJECT_RUN].name) == ("vision", "resnet")
    assert [found[folder].has_ended for folder in (PATH_RUN, PROJECT_RUN)] == [False, True]


@pytest.mark.parametrize(
    ("folder", "project", "name"),
    [("runs/r", "", ""), ("runs/a/r", "a", ""), ("runs/a/b/c/r", "a", "b/c"), ("p/n/runs/r", "p", "n")],
)
def test_project_and_name_come_from_the_layout(tmp_path: Path, folder: str, project: str, name: str) -> None:
    make_run(tmp_path, folder)
    (run,) = generate(tmp_path).experiments
    assert (run.folder, run.project, run.name, run.run_id) == (folder, project, name, "r")


@pytest.mark.parametrize(
    "folder", ["r", "p/r", "p/n/r", "p/n/runs/x/r", "p/runs/r", "p/n/other/r", "p/.n/runs/r"]
)
def test_other_folders_are_no_runs(tmp_path: Path, folder: str) -> None:
    make_run(tmp_path, folder)
    manifest = generate(tmp_path)
    assert manifest.experiments == ()
    assert manifest.complete


def test_runs_come_in_order_of_their_folders(tmp_path: Path) -> None:
    folders = [
        "a/n/runs/r",
        "a-b/n/runs/r",
        "a b/n/runs/r",
        "runs/x/r",
        "runs/x-y/r",
        "runsx/n/runs/r",
        "é/n/runs/r",
    ]
    for folder in folders:
        make_run(tmp_path, folder)
    assert list(runs(generate(tmp_path))) == sorted(folders)


def test_a_run_needs_a_marker(tmp_path: Path) -> None:
    for folder in ("p/n/runs/r", "runs/p/r"):
        write(tmp_path / folder / "events.jsonl", "{}\n")
    assert generate(tmp_path).experiments == ()


@pytest.mark.parametrize("marker", ["meta.json", "status.json"])
def test_each_marker_makes_a_run(tmp_path: Path, marker: str) -> None:
    write(tmp_path / "runs/r" / marker, "{}")
    assert paths(generate(tmp_path)) == [f"runs/r/{marker}"]


def test_a_folder_named_like_a_marker_is_searched(tmp_path: Path) -> None:
    make_run(tmp_path, "runs/a/meta.json/r")
    assert list(runs(generate(tmp_path))) == ["runs/a/meta.json/r"]


def test_the_search_ends_at_a_run(tmp_path: Path) -> None:
    make_run(tmp_path, "runs/a")
    make_run(tmp_path, "runs/a/media/runs/inner")
    make_run(tmp_path, "runs/a/b")
    assert list(runs(generate(tmp_path))) == ["runs/a"]


def test_files_kinds_and_priorities(tmp_path: Path) -> None:
    states = {"summary": 2, "environment": 2, "artifacts_created": 2, "artifacts_used": 2, "assets": 2}
    run = make_run(tmp_path, **dict.fromkeys(states, "{}"))
    write(run / "media/deep/er/b.gif", "GIF")
    (listed,) = generate(tmp_path).experiments
    priorities = {name: entry.priority for name, entry in zip(names(listed), listed.files, strict=True)}
    expected = {f"{name}.json": priority for name, priority in states.items()} | {
        "meta.json": 1,
        "status.json": 1,
        "events.jsonl": 3,
        "logs.txt": 3,
        "media/a.png": 4,
        "media/deep/er/b.gif": 4,
    }
    assert priorities == expected
    assert {name for name, entry in zip(names(listed), listed.files, strict=True) if entry.is_log} == {
        "events.jsonl",
        "logs.txt",
    }


@pytest.mark.parametrize(
    "name",
    [
        "other.json",
        "meta.json.lock",
        ".meta.json",
        "weights/w.bin",
        "media/.hidden",
        "media/.dir/x.png",
        "media/a.lock",
        "media/a.TMP",
        "media/a.temp",
        "media/a.part",
        "media/a.partial",
        "media/.a.swp",
        "media/a.swp",
        "media/a~",
        "runicorn.db",
    ],
)
def test_what_does_not_belong_is_passed_over(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path)
    write(run / name, "x")
    write(tmp_path / "runicorn.db", "x")
    manifest = generate(tmp_path)
    assert len(paths(manifest)) == 5
    assert manifest.problems == ()


def test_an_entry_says_what_is_on_disk(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    os.utime(run / "meta.json", ns=(5, 1704060000_123456789))
    listed = entries(generate(tmp_path))
    meta = listed[f"{PROJECT_RUN}/meta.json"]
    data = (run / "meta.json").read_bytes()
    assert (meta.size, meta.mtime_ns, meta.mtime) == (len(data), 1704060000_123456789, 1704060000.1234567)
    assert meta.sha256 == hashlib.sha256(data).hexdigest()
    assert meta.block_digest is None
    log = listed[f"{PROJECT_RUN}/logs.txt"]
    block = hashlib.sha256(b"begin\n").digest()
    assert (log.tail_hash, log.block_digest) == (block.hex(), hashlib.sha256(block).hexdigest())
    assert log.sha256 is None


def test_block_hashes_of_a_long_and_of_an_empty_log(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    data = os.urandom(2 * 1024 * 1024 + 5)
    write(run / "logs.txt", data)
    write(run / "events.jsonl", b"")
    listed = entries(generate(tmp_path))
    blocks = [hashlib.sha256(data[at : at + 1024 * 1024]).digest() for at in range(0, len(data), 1024 * 1024)]
    assert listed[f"{PROJECT_RUN}/logs.txt"].block_digest == hashlib.sha256(b"".join(blocks)).hexdigest()
    assert listed[f"{PROJECT_RUN}/logs.txt"].tail_hash == blocks[-1].hex()
    empty = hashlib.sha256().digest()
    assert listed[f"{PROJECT_RUN}/events.jsonl"].tail_hash == empty.hex()
    assert listed[f"{PROJECT_RUN}/events.jsonl"].block_digest == hashlib.sha256(empty).hexdigest()


@pytest.mark.parametrize(
    ("mtime_ns", "listed"), [(-5 * 10**9, 0), (2**33 * 10**9 + 10**9, 2**33 * 10**9), (0, 0)], ids=str
)
def test_times_out_of_bounds_are_cut(tmp_path: Path, mtime_ns: int, listed: int) -> None:
    run = make_run(tmp_path)
    os.utime(run / "meta.json", ns=(0, mtime_ns))
    entry = entries(generate(tmp_path))[f"{PROJECT_RUN}/meta.json"]
    assert (entry.mtime_ns, entry.mtime) == (listed, listed / 1e9)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('{"status": "completed"}', "completed"),
        ('{"status": ""}', ""),
        ('{"status": "' + "x" * 5000 + '"}', "x" * 64),
        ('{"status": 5}', "unknown"),
        ('{"status": null}', "unknown"),
        ('{"status": ["completed"]}', "unknown"),
        ("{}", "unknown"),
        ("[]", "unknown"),
        ("", "unknown"),
        ("{torn", "unknown"),
        ("[" * 100_000, "unknown"),
        ("\ud800".encode("utf-8", "surrogatepass"), "unknown"),
        (b"\xff\xfe\x00", "unknown"),
        ('{"status": "completed", "x": "' + "y" * 1024 * 1024 + '"}', "unknown"),
        ('{"status": "a\\nb"}', "a\nb"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_status_is_read_from_whatever_is_there(tmp_path: Path, text: bytes | str, status: str) -> None:
    run = make_run(tmp_path)
    write(run / "status.json", text)
    manifest = generate(tmp_path)
    assert manifest.experiments[0].status == status
    assert manifest.problems == ()


def test_no_status_file_means_unknown(tmp_path: Path) -> None:
    make_run(tmp_path, status=None)
    assert generate(tmp_path).experiments[0].status == "unknown"


@pytest.mark.parametrize(
    ("created", "started", "expected"),
    [
        ("1704060000", "5", 1704060000.0),
        ("1704060000.5", "5", 1704060000.5),
        ("NaN", "7.5", 7.5),
        ("Infinity", "7", 7.0),
        ("-1", "7", 7.0),
        ("1e300", "7", 7.0),
        ("9" * 400, "7", 7.0),
        ("true", "7", 7.0),
        ('"2024"', "7", 7.0),
        ("null", "null", 1000.0),
        ("[]", "true", 1000.0),
        ("9" * 5000, "7", 7.0),
    ],
    ids=lambda value: str(value)[:12],
)
def test_created_at_falls_back(tmp_path: Path, created: str, started: str, expected: float) -> None:
    run = tmp_path / "runs/r"
    write(run / "meta.json", f'{{"created_at": {created}}}')
    write(run / "status.json", f'{{"status": "failed", "started_at": {started}}}')
    os.utime(run / "meta.json", (1000, 1000))
    os.utime(run / "status.json", (2000, 2000))
    (listed,) = generate(tmp_path).experiments
    assert (listed.created_at, listed.updated_at, listed.status) == (expected, 2000.0, "failed")


ODD = [
    "日本語 µ",
    "a b",
    "'quote\"",
    "$(touch x)",
    "-rf",
    "~",
    "a:b",
    "trailing. ",
    "\u202eright",
    "x" * 255,
    "%2e",
]


@pytest.mark.parametrize("name", ODD, ids=lambda name: ascii(name)[:12])
def test_odd_names_are_listed(tmp_path: Path, name: str) -> None:
    make_run(tmp_path, f"{name}/{name}/runs/{name}")
    write(tmp_path / f"runs/r/media/{name}.png"[:250], "x") if len(name) < 200 else None
    write(tmp_path / "runs/r/meta.json", "{}")
    manifest = generate(tmp_path)
    assert manifest.problems == ()
    assert runs(manifest)[f"{name}/{name}/runs/{name}"].name == name
    again = generate(tmp_path)
    assert (again.revision, again.experiments) == (manifest.revision, manifest.experiments)


UNSAFE = [
    (b"new\nline", r"new\x0aline"),
    (b"\x1b[31m", r"\x1b[31m"),
    (b"back\\slash", r"back\\slash"),
    (b"latin\xe9", r"latin\xe9"),
    ("c1\x85".encode(), r"c1\x85"),
    (b"del\x7f", r"del\x7f"),
]


@pytest.mark.parametrize(("raw", "shown"), UNSAFE, ids=[shown for _, shown in UNSAFE])
@pytest.mark.parametrize("where", ["{}/n/runs/r", "p/{}/runs/r", "p/n/runs/{}", "runs/{}/r", "runs/p/{}"])
def test_unsafe_folder_names_are_problems(tmp_path: Path, where: str, raw: bytes, shown: str) -> None:
    make_run(tmp_path, "good/n/runs/r")
    make_run(tmp_path, where.format(os.fsdecode(raw)))
    manifest = generate(tmp_path)
    assert list(runs(manifest)) == ["good/n/runs/r"]
    prefix = where.partition("{}")[0]
    assert problems(manifest) == [(prefix + shown, "unsafe_name")]
    assert manifest.complete


@pytest.mark.parametrize(("raw", "shown"), UNSAFE, ids=[shown for _, shown in UNSAFE])
@pytest.mark.parametrize("where", ["media/{}", "media/{}/x.png", "media/d/{}"])
def test_unsafe_media_names_are_problems_again_and_again(
    tmp_path: Path, where: str, raw: bytes, shown: str
) -> None:
    run = make_run(tmp_path)
    write(run / where.format(os.fsdecode(raw)), "x")
    first = generate(tmp_path)
    assert len(paths(first)) == 5
    expected = f"{PROJECT_RUN}/{where.partition('{}')[0]}{shown}"
    assert problems(first) == [(expected, "unsafe_name")]
    second = generate(tmp_path)
    assert (second.problems, second.revision) == (first.problems, first.revision)


def test_unsafe_names_that_do_not_belong_are_no_problem(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write(run / "a\nb", "x")
    write(run / "media/a\nb.tmp", "x")
    write(tmp_path / "a\nb", "x")
    assert generate(tmp_path).problems == ()


def test_a_link_as_root_is_followed(tmp_path: Path) -> None:
    make_run(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    manifest = generate(tmp_path / "link")
    assert len(paths(manifest)) == 5
    assert manifest.header.remote_root == str(tmp_path / "link")
    assert (tmp_path / "real/.runicorn/full_manifest.json").exists()


FOLDER_PLACES = [
    "p",
    "p/n",
    "p/n/runs",
    "p/n/runs/r",
    "p/n/runs/r0/media",
    "p/n/runs/r0/media/d",
    "runs",
    "runs/a",
    "runs/a/r",
]


def folder_link(root: Path, place: str, target: Path) -> None:
    make_run(root, "p/n/runs/r0") if "r0" in place else None
    link = root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    if place.endswith("media"):
        (link / "a.png").unlink()
        link.rmdir()
    link.symlink_to(target)


@pytest.mark.parametrize("place", FOLDER_PLACES)
def test_a_link_out_of_the_root_is_a_problem_and_not_followed(tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    for folder in ("r", "n/runs/r", "runs/r", "."):
        make_run(outside, folder)
    root = tmp_path / "root"
    root.mkdir()
    folder_link(root, place, outside)
    first = generate(root)
    assert problems(first) == [(place, "link")]
    assert first.complete
    assert not any("outside" in path or path.endswith("r/meta.json") for path in paths(first))
    second = generate(root)
    assert (second.problems, second.revision) == (first.problems, first.revision)


@pytest.mark.parametrize("place", FOLDER_PLACES)
def test_a_link_to_a_place_inside_is_passed_over(tmp_path: Path, place: str) -> None:
    make_run(tmp_path, "target/n/runs/r")
    folder_link(tmp_path, place, tmp_path / "target")
    manifest = generate(tmp_path)
    # What lies behind a link in a run is listed under no name of that run.
    assert problems(manifest) == ([(place, "link")] if "/media" in place else [])
    assert {run.folder for run in manifest.experiments} <= {"target/n/runs/r", "p/n/runs/r0"}


@pytest.mark.parametrize("target", ["archive/2024/r1", ".archive/r1", "p/n/elsewhere/r1", "not/there"])
def test_a_link_to_a_place_inside_that_is_not_listed_is_a_problem(tmp_path: Path, target: str) -> None:
    make_run(tmp_path, "p/n/runs/r0")
    if target != "not/there":
        make_run(tmp_path, target)
    (tmp_path / "p/n/runs/r1").symlink_to(tmp_path / target)
    assert problems(generate(tmp_path)) == [("p/n/runs/r1", "link")]


def test_links_that_lead_nowhere_or_in_a_circle(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "up").symlink_to(".")
    (tmp_path / "gone").symlink_to("/nonexistent/disk")
    (tmp_path / "note").symlink_to("/etc/hostname")
    manifest = generate(tmp_path)
    assert problems(manifest) == [("circle", "link"), ("gone", "link")]
    assert len(paths(manifest)) == 5


@pytest.mark.parametrize(
    "name", ["meta.json", "status.json", "summary.json", "events.jsonl", "logs.txt", "media/a.png"]
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_link_in_the_place_of_a_file_is_a_problem(tmp_path: Path, name: str, inside: bool) -> None:
    secret = write(tmp_path / "secret", '{"status": "stolen"}')
    root = tmp_path / "root"
    run = make_run(root)
    target = write(root / "elsewhere", "{}") if inside else secret
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)
    first = generate(root)
    assert problems(first) == [(f"{PROJECT_RUN}/{name}", "link")]
    assert f"{PROJECT_RUN}/{name}" not in paths(first)
    assert len(paths(first)) == (5 if name == "summary.json" else 4)
    assert first.experiments[0].status != "stolen"
    second = generate(root)
    assert (second.problems, second.revision) == (first.problems, first.revision)


@pytest.mark.parametrize("name", ["meta.json", "events.jsonl", "summary.json", "media/x.png"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_special_files_are_problems_and_never_block(tmp_path: Path, name: str, kind: str) -> None:
    run = make_run(tmp_path)
    (run / name).unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(run / name)
    elif kind == "socket":
        here = os.open(run / Path(name).parent, os.O_RDONLY)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"/proc/self/fd/{here}/{Path(name).name}")
        listener.close()
        os.close(here)
    elif os.geteuid() == 0:
        os.mknod(run / name, 0o600 | 0o020000, os.makedev(1, 3))
    else:
        pytest.skip("only root makes devices")
    manifest = generate(tmp_path)
    assert problems(manifest) == [(f"{PROJECT_RUN}/{name}", "special")]
    assert manifest.complete


def test_special_files_that_do_not_belong_are_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for place in ("pipe", "media/pipe.tmp", "media/.pipe"):
        os.mkfifo(run / place)
    os.mkfifo(tmp_path / "pipe")
    assert generate(tmp_path).problems == ()


def test_folders_in_the_place_of_files_are_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "summary.json").mkdir()
    (run / "logs.txt").unlink()
    (run / "logs.txt").mkdir()
    first = generate(tmp_path)
    assert (first.problems, len(paths(first))) == ((), 4)
    assert generate(tmp_path).revision == first.revision


@pytest.mark.parametrize(
    ("place", "hidden"),
    [
        ("vision", 5),
        ("vision/resnet", 5),
        ("vision/resnet/runs", 5),
        (PROJECT_RUN, 5),
        (f"{PROJECT_RUN}/media", 1),
        (f"{PROJECT_RUN}/meta.json", 1),
        (f"{PROJECT_RUN}/logs.txt", 1),
        ("runs", 0),
        ("runs/deep", 0),
    ],
)
def test_what_may_not_be_read_is_one_problem(place: str, hidden: int) -> None:
    with open_folder() as root:
        make_run(root)
        (root / "runs/deep/er").mkdir(parents=True)
        (root / place).chmod(0)
        with unprivileged():
            manifest = generate(root)
            again = generate(root)
        assert problems(manifest) == [(place, "unreadable")]
        assert manifest.problems[0].message == "Permission denied"
        assert not manifest.complete
        assert len(paths(manifest)) == 5 - hidden
        assert again.revision == manifest.revision
        (root / place).chmod(0o755 if (root / place).is_dir() else 0o644)
        with unprivileged():
            healed = generate(root)
        assert (healed.complete, len(paths(healed)), healed.revision) == (True, 5, manifest.revision + 1)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("name", ["vision", "resnet", "r1", "media", "summary.json", "events.jsonl"])
def test_errors_of_the_system_become_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    make_run(tmp_path, summary="{}")
    FailingOpen(monkeypatch, name, number)
    manifest = generate(tmp_path)
    ((path, kind),) = problems(manifest)
    assert (path.rpartition("/")[2], kind) == (name, "unreadable")
    assert manifest.problems[0].message == os.strerror(number)
    assert not manifest.complete


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("name", ["vision", "resnet", "r1", "media", "summary.json", "events.jsonl"])
def test_too_many_open_files_are_a_failure_and_no_problem_of_what_was_to_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    make_run(tmp_path, summary="{}")
    FailingOpen(monkeypatch, name, number)
    with pytest.raises(PublishError, match="Too many open files") as failure:
        generate(tmp_path)
    assert "ulimit -n" in failure.value.hint
    assert not (tmp_path / ".runicorn/full_manifest.json").exists()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR])
@pytest.mark.parametrize("name", ["vision", "resnet", "runs", "r1", "media", "summary.json", "events.jsonl"])
def test_what_vanishes_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    make_run(tmp_path, summary="{}")
    FailingOpen(monkeypatch, name, number)
    manifest = generate(tmp_path)
    assert manifest.problems == ()
    assert manifest.complete


def test_a_media_folder_that_becomes_a_link_out_of_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "root")
    real = os.open

    def swapping(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "media" and not (run / "media").is_symlink():
            (run / "media").rename(run / "was")
            (run / "media").symlink_to(tmp_path)
        return real(path, flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]

    monkeypatch.setattr("os.open", swapping)
    manifest = generate(tmp_path / "root")
    assert problems(manifest) == [(f"{PROJECT_RUN}/media", "link")]
    assert len(paths(manifest)) == 4


def test_depth_of_the_path_layout(tmp_path: Path) -> None:
    deepest = "runs/" + "/".join(f"d{at}" for at in range(32)) + "/r"
    make_run(tmp_path, deepest)
    manifest = generate(tmp_path)
    assert list(runs(manifest)) == [deepest]
    beyond = "runs/" + "/".join(f"e{at}" for at in range(33)) + "/r"
    make_run(tmp_path, beyond)
    manifest = generate(tmp_path)
    assert list(runs(manifest)) == [deepest]
    assert problems(manifest) == [(beyond.rpartition("/")[0], "too_deep")]
    assert not manifest.complete


def test_depth_of_media(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    deepest = "media/" + "/".join(["d"] * 32)
    write(run / deepest / "x.png", "x")
    manifest = generate(tmp_path)
    assert f"{PROJECT_RUN}/{deepest}/x.png" in paths(manifest)
    assert manifest.problems == ()
    write(run / deepest / "d/y.png", "y")
    for _ in range(2):
        manifest = generate(tmp_path)
        assert problems(manifest) == [(f"{PROJECT_RUN}/{deepest}", "too_deep")]
        assert len(paths(manifest)) == 6


def test_a_path_that_is_too_long_is_a_problem(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for part in ["runs", *(["n" * 250] * 17)]:
        os.mkdir(part, dir_fd=here)
        below = os.open(part, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    marker = os.open("meta.json", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.close(marker)
    os.close(here)
    manifest = generate(tmp_path)
    assert manifest.experiments == ()
    assert [kind for _, kind in problems(manifest)] == ["unsafe_name"] * len(problems(manifest))
    assert problems(manifest)


def test_an_empty_root(tmp_path: Path) -> None:
    manifest = generate(tmp_path)
    assert (manifest.total_experiments, manifest.total_files, manifest.total_bytes) == (0, 0, 0)
    assert json.loads((tmp_path / ".runicorn/full_manifest.json").read_bytes())["experiments"] == []


def test_a_root_that_is_missing_or_a_file(tmp_path: Path) -> None:
    write(tmp_path / "file", "x")
    with pytest.raises(PublishError, match="does not exist"):
        generate(tmp_path / "missing")
    with pytest.raises(PublishError, match="is not a folder"):
        generate(tmp_path / "file")
    assert sorted(inside(tmp_path)) == ["file"]


def test_a_root_that_may_not_be_read_publishes_nothing() -> None:
    with open_folder() as place:
        make_run(place / "root")
        (place / "root").chmod(0o300)
        (place / "out").mkdir(mode=0o777)
        (place / "out").chmod(0o777)
        with unprivileged(), pytest.raises(PublishError, match="cannot read the root: Permission denied"):
            ManifestGenerator(place / "root", place / "out").generate()
        assert sorted(inside(place / "out")) == ["generator.lock", "journal"]
        assert inside(place / "out/journal") == []


def test_problems_are_bounded_and_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for number in range(1010):
        (run / f"media/{number:04d}.png").symlink_to("/dev/null")
    manifest = generate(tmp_path)
    assert (len(manifest.problems), manifest.header.problem_count) == (1000, 1010)
    assert generate(tmp_path).revision == manifest.revision
    (run / "media/1009.png").unlink()
    assert generate(tmp_path).revision == manifest.revision + 1
