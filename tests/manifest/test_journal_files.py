"""What lies in a journal's folder: bases, epochs, HEAD; options; bounds."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from runicorn.cli import main
from runicorn.errors import PublishError, UsageError
from runicorn.journal.frames import FrameReader, Kind, beginning, file_name
from runicorn.journal.head import decode_head
from runicorn.journal.sections import decode_files
from runicorn.manifest import ManifestGenerator, ManifestType
from runicorn.manifest.external_sort import sorted_records
from tests.manifest.helpers import (
    PATH_RUN,
    PROJECT_RUN,
    WhileReading,
    append,
    generate,
    inside,
    make_run,
    remove,
    replace,
    settle,
    write,
)
from tests.manifest.journal_reader import Replica, epochs, head, journal

MIB = 1024 * 1024


def base_paths(root: Path) -> list[tuple[int, str]]:
    """Offset of the frame, and path, of each file in the current base."""
    at = head(root)
    reader = FrameReader(beginning(at.epoch))
    reader.feed((journal(root) / file_name(at.epoch)).read_bytes()[: at.base.offset])
    found = []
    offset = 0
    for frame in reader.frames():
        if frame.kind is Kind.FILES:
            for section in decode_files(frame):
                found += [(offset, change.entry.path) for change in section.changes]
        offset = frame.end.offset
    return found


def test_a_base_begins_with_what_is_most_useful(tmp_path: Path) -> None:
    for number, folder in enumerate(["p/n/runs/old", "a/n/runs/new", "z/n/runs/newest"]):
        run = make_run(tmp_path, folder, summary="{}", assets="{}")
        for path in run.rglob("*"):
            os.utime(path, (1_000_000 + number, 1_000_000 + number))
    generate(tmp_path)
    paths = [path for _, path in base_paths(tmp_path)]
    runs = ["z/n/runs/newest", "a/n/runs/new", "p/n/runs/old"]
    names = [
        ["status.json", "meta.json"],
        ["summary.json", "assets.json"],
        ["events.jsonl", "logs.txt"],
        ["media/a.png"],
    ]
    assert paths == [f"{run}/{name}" for group in names for run in runs for name in group]


def test_head_tells_where_media_lie(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for number in range(5):
        write(run / f"media/{number}.bin", random.Random(number).randbytes(MIB // 2))
    generate(tmp_path)
    media = head(tmp_path).media
    for offset, path in base_paths(tmp_path):
        assert (media.begin <= offset < media.end.offset) == ("/media/" in path)
    file = journal(tmp_path) / file_name(head(tmp_path).epoch)
    with file.open("rb") as stream:
        reader = FrameReader(media.end)
        stream.seek(media.end.offset)
        reader.feed(stream.read())
        assert [frame.kind for frame in reader.frames()] == [Kind.COMMIT]


def test_a_base_without_media(tmp_path: Path) -> None:
    (make_run(tmp_path) / "media/a.png").unlink()
    generate(tmp_path)
    at = head(tmp_path)
    assert at.media.begin == at.media.end.offset < at.base.offset == at.end.offset


def test_an_empty_root(tmp_path: Path) -> None:
    generate(tmp_path)
    replica = Replica()
    assert replica.sync(tmp_path).total_files == 0
    assert replica.frames == [Kind.BEGIN, Kind.COMMIT]
    make_run(tmp_path)
    generate(tmp_path)
    replica.sync(tmp_path)
    replica.check(tmp_path)


def test_what_a_base_does_not_carry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, status="running")
    write(run / "media/large", b"x" * (MIB + 1))
    write(run / "media/edge", b"x" * MIB)
    write(run / "summary.json", b"changes")
    write(run / "events.jsonl", b"y" * MIB + b"\n")
    write(run / "logs.txt", b"y" * (MIB - 1) + b"\n" + b"tail" * (MIB // 4))
    WhileReading(monkeypatch, run / "summary.json", lambda: replace(run / "summary.json", b"changed"))
    generate(tmp_path)
    replica = Replica()
    replica.sync(tmp_path)
    names = {"media/large", "summary.json", "events.jsonl"}
    assert replica.listed == {f"{PROJECT_RUN}/{name}" for name in names - {"summary.json"}}
    assert len(replica.data[f"{PROJECT_RUN}/logs.txt"]) == MIB
    assert head(tmp_path).base_bytes == replica.carried
    append(run / "logs.txt", b"\n")
    generate(tmp_path)
    replica.carried = 0
    replica.sync(tmp_path)
    assert replica.carried == 0 or replica.frames


def test_a_file_that_changes_before_the_base_is_listed_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runicorn.manifest import base

    run = make_run(tmp_path, status="running", summary="{}", assets="{}")
    real = base.write_base

    def late(*args: object) -> object:
        replace(run / "summary.json", "{1}")
        (run / "assets.json").unlink()
        append(run / "logs.txt", b"more\n")  # what was listed is still there
        replace(run / "events.jsonl", b"another log\n")
        (run / "media").rename(run / "was_media")
        (run / "media").symlink_to(run / "was_media")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("runicorn.manifest.journal_writer.write_base", late)
    generate(tmp_path)
    monkeypatch.undo()
    replica = Replica()
    replica.sync(tmp_path)
    missing = ["summary.json", "assets.json", "events.jsonl", "media/a.png"]
    assert replica.listed == {f"{PROJECT_RUN}/{name}" for name in missing}
    (run / "media").unlink()
    (run / "was_media").rename(run / "media")
    generate(tmp_path)
    replica.sync(tmp_path)
    replica.check(tmp_path)
    assert replica.listed == {f"{PROJECT_RUN}/media/a.png"}


def test_options_of_the_constructor(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        ManifestGenerator(tmp_path, journal=False, compact=True)


def test_no_journal_removes_the_one_that_is_there(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = generate(tmp_path)
    second = generate(tmp_path, journal=False)
    assert second.header.identity == first.header.identity
    assert "journal" not in inside(tmp_path / ".runicorn")
    append(run / "logs.txt", b"more\n")
    third = generate(tmp_path, journal=False)
    assert third.revision == 2
    assert sorted(inside(tmp_path / ".runicorn")) == [
        "full_manifest.json",
        "full_manifest.json.gz",
        "generator.lock",
        "scan_state.gz",
    ]
    fourth = generate(tmp_path)
    assert fourth.header.identity == third.header.identity
    replica = Replica()
    replica.sync(tmp_path)
    replica.check(tmp_path)


def test_head_is_removed_before_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    gone: list[str] = []
    real = os.unlink

    def noting(path: object, **options: int) -> None:
        gone.append(Path(os.fsdecode(path)).name)  # type: ignore[arg-type]
        real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("os.unlink", noting)
    epoch = epochs(tmp_path)[0]
    generate(tmp_path, journal=False)
    assert [name for name in gone if name == "HEAD" or name.endswith(".journal")] == [
        "HEAD",
        f"{epoch}.journal",
    ]


def test_manifests_are_the_same_with_and_without_a_journal(tmp_path: Path) -> None:
    make_run(tmp_path)
    make_run(tmp_path, PATH_RUN)
    one = generate(tmp_path)
    bodies = []
    for journal_kept in (True, False):
        generate(tmp_path, journal=journal_kept)
        text = (tmp_path / ".runicorn/full_manifest.json").read_bytes()
        bodies.append([line for line in text.splitlines() if not line.startswith(b'"generated_at"')])
    assert bodies[0] == bodies[1]
    assert one.total_files == 10


def test_no_frame_is_larger_than_the_page_says(tmp_path: Path) -> None:
    for number in range(2):
        run = make_run(tmp_path, f"p/n/runs/r{number}")
        write(run / "summary.json", b"x" * (MIB - 2000))
        if number:
            write(run / "environment.json", b"x" * MIB)
        for path in run.glob("*.json"):
            os.utime(path, (9e8 - number, 9e8 - number))
        for name in ("events.jsonl", "logs.txt", "media/a.png"):
            os.utime(run / name, (1, 1))
    generate(tmp_path)
    at = head(tmp_path)
    reader = FrameReader(beginning(at.epoch))
    reader.feed((journal(tmp_path) / file_name(at.epoch)).read_bytes())
    assert max(len(frame.data) for frame in reader.frames()) < 2 * MIB


def test_head_names_the_manifest_that_was_there(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = generate(tmp_path)
    assert head(tmp_path).manifest is None
    size = (tmp_path / ".runicorn/full_manifest.json.gz").stat().st_size
    place = head(tmp_path).end
    for kind in (ManifestType.ACTIVE, ManifestType.ACTIVE, ManifestType.FULL):
        append(run / "logs.txt", b"more\n")
        generate(tmp_path, kind)
        known = head(tmp_path).manifest
        assert known is not None
        assert (known.identity, known.place, known.size) == (first.header.identity, place, size)
    generate(tmp_path)
    known = head(tmp_path).manifest
    assert known is not None
    assert (known.identity, known.place) == (head(tmp_path).identity, head(tmp_path).end)
    generate(tmp_path, compact=True)
    known = head(tmp_path).manifest
    assert known is not None
    assert known.place == head(tmp_path).end


def test_an_active_generation_keeps_the_journal_up(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    old = make_run(tmp_path, PATH_RUN)
    for path in old.rglob("*"):
        os.utime(path, (5, 5))
    generate(tmp_path)
    append(run / "logs.txt", b"more\n")
    manifest = generate(tmp_path, ManifestType.ACTIVE)
    assert manifest.total_experiments == 1
    replica = Replica()
    assert replica.sync(tmp_path).total_experiments == 2
    replica.check(tmp_path)


def test_problems_alone_make_a_commit(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    generate(tmp_path)
    replica = Replica()
    replica.sync(tmp_path)
    replica.frames.clear()
    (run / "media/link").symlink_to("/")
    generate(tmp_path)
    at = replica.sync(tmp_path)
    assert replica.frames == [Kind.COMMIT]
    assert (at.problem_count, at.complete) == (1, True)
    assert replica.header is not None
    assert replica.header.problems[0].kind == "link"


def test_thousands_of_problems_fit(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for number in range(1200):
        (run / f"media/{'x' * 200}{number}").symlink_to("/")
    for _ in range(2):
        generate(tmp_path, compact=True)
        replica = Replica()
        assert replica.sync(tmp_path).problem_count == 1200
        assert replica.header is not None
        assert 50 <= len(replica.header.problems) <= 100


@pytest.mark.parametrize("journal_there", [False, True])
def test_a_run_that_is_too_large_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal_there: bool
) -> None:
    settle(monkeypatch)
    before = make_run(tmp_path, "a/n/runs/r")
    run = make_run(tmp_path, "b/n/runs/r")
    after = make_run(tmp_path, "c/n/runs/r")
    if journal_there:
        generate(tmp_path)
    replica = Replica()
    if journal_there:
        replica.sync(tmp_path)
    monkeypatch.setattr("runicorn.manifest.scan_run.MAX_RUN", 60_000)
    chance = random.Random(5)
    for number in range(300):
        write(run / f"media/{number:03}.bin", chance.randbytes(10_000))
    append(before / "logs.txt", b"more\n")
    append(after / "logs.txt", b"more\n")
    manifest = generate(tmp_path)
    assert [each.kind for each in manifest.problems] == ["too_large"]
    replica.sync(tmp_path)
    assert {path.partition("/")[0] for path in replica.entries} == {"a", "c"}
    size = sum(path.stat().st_size for path in journal(tmp_path).iterdir())
    assert size < 20_000


def test_a_run_with_many_changes_comes_in_several_frames(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="running")
    generate(tmp_path)
    replica = Replica()
    replica.sync(tmp_path)
    chance = random.Random(5)
    for number in range(10):
        write(run / f"media/{number:03}.bin", chance.randbytes(MIB // 2))
    replace(run / "status.json", '{"status": "done"}')
    generate(tmp_path)
    replica.frames.clear()
    replica.sync(tmp_path)
    replica.check(tmp_path)
    assert replica.frames.count(Kind.FILES) >= 5
    assert replica.statuses[PROJECT_RUN] == "done"
    for path in run.glob("media/*"):
        path.unlink()
    generate(tmp_path)
    replica.sync(tmp_path)
    replica.check(tmp_path)


MEASURE = """
import re, sys
from pathlib import Path
from runicorn.manifest import ManifestGenerator
header, _ = ManifestGenerator(Path(sys.argv[1])).publish()
# ru_maxrss would also tell what the parent had when it started this
status = Path("/proc/self/status").read_text()
print(header.total_files, re.search("VmHWM:\\s*([0-9]+)", status)[1])
"""


def measured(root: Path) -> tuple[int, int]:
    """Number of files, and the peak of memory, KiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(root)], capture_output=True, text=True, check=True, timeout=110
    )
    files, peak = done.stdout.split()
    return int(files), int(peak)


def test_memory_does_not_grow_with_what_changed(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="running")
    generate(tmp_path)
    for number in range(3_000):
        path = run / f"media/{number:05}"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as stream:
            stream.truncate(100_000)
    write(run / "events.jsonl", b"x" * 1000 + b"\n")
    with (run / "logs.txt").open("wb") as stream:
        stream.truncate(30 * MIB)
    files, peak = measured(tmp_path)
    assert files == 3_005
    assert peak < 100 * 1024


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_sorting_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("runicorn.manifest.external_sort._CHUNK", 1000)
    monkeypatch.setattr("runicorn.manifest.external_sort._WAYS", 5)
    monkeypatch.setattr("runicorn.manifest.external_sort._BUFFER", 100)
    chance = random.Random(count)
    records = [chance.randbytes(chance.randrange(1, 400)) for _ in range(count)]
    found = list(sorted_records(iter(records), tmp_path))
    assert found == sorted(records)
    assert all(one <= other for one, other in pairwise(found))
    assert inside(tmp_path) == []


def test_a_journal_folder_that_is_a_file(tmp_path: Path) -> None:
    make_run(tmp_path)
    write(tmp_path / ".runicorn/journal", "x")
    with pytest.raises(PublishError, match="is something else, where a folder of the generator belongs"):
        generate(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "dangling"])
@pytest.mark.parametrize(
    "name", ["journal/HEAD", "journal/{epoch}.journal", "journal/" + "0" * 32 + ".journal", "scan_state.gz",
             "scan_state.gz.next", "journal"]
)  # fmt: skip
def test_what_lies_in_the_place_of_a_file_is_told_and_stays(tmp_path: Path, kind: str, name: str) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    make_run(root)
    generate(root)
    path = root / ".runicorn" / name.format(epoch=epochs(root)[0])
    if path.exists():
        remove(path)
    write(away / "HEAD", "ref: refs/heads/main\n")
    target = away / "HEAD" if kind == "link" and path.name != "journal" else away
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder" and path.name != "journal":
        path.mkdir()
    elif kind == "folder":
        write(path, "a file")
    else:
        path.symlink_to("nowhere" if kind == "dangling" else target)
    before = path.lstat()
    for _ in range(2):
        with pytest.raises(PublishError, match="of the generator belongs") as caught:
            generate(root)
        assert "remove it" in caught.value.hint
    if name == "journal":
        with pytest.raises(PublishError, match="of the generator belongs"):
            generate(root, journal=False)
    assert path.lstat().st_ino == before.st_ino
    assert inside(away) == ["HEAD"]
    assert (away / "HEAD").read_text() == "ref: refs/heads/main\n"
    path.unlink() if not path.is_dir() or path.is_symlink() else path.rmdir()
    generate(root)
    Replica().sync(root)


def test_no_handles_are_left_open(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    generate(tmp_path)
    before = len(inside(Path("/proc/self/fd")))
    kinds: list[dict[str, Any]] = [{}, {"compact": True}, {"journal": False}, {}]
    for options in kinds:
        append(run / "logs.txt", b"more\n")
        generate(tmp_path, **options)
    assert len(inside(Path("/proc/self/fd"))) == before


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path)
    write(tmp_path / PROJECT_RUN / "media/large", b"x" * (MIB + 1))
    command = [sys.executable, "-m", "runicorn", "generate-manifest", "--root", str(tmp_path)]
    done = subprocess.run(
        [*command, "--verbose", "--compact"], capture_output=True, text=True, check=True, timeout=60
    )
    epoch = epochs(tmp_path)[0]
    size = (journal(tmp_path) / file_name(epoch)).stat().st_size
    assert f"journal: epoch {epoch}, {size} bytes, {size} of them base\n" in done.stderr
    assert f"journal: {size} bytes in all epochs, 0.00 per byte of runs\n" in done.stderr
    assert "not carried: 0 files for their rights, 1 too large, 0 changed meanwhile\n" in done.stderr
    assert main(["generate-manifest", "--root", str(tmp_path), "--no-journal"]) == 0
    assert not journal(tmp_path).exists()
    assert main(["generate-manifest", "--root", str(tmp_path), "--no-journal", "--compact"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_head_is_small(tmp_path: Path) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    generate(tmp_path)
    text = (journal(tmp_path) / "HEAD").read_bytes()
    assert len(text) < 2000
    assert decode_head(text).total_files == 5
