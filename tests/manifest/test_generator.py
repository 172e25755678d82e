"""ManifestGenerator: arguments, artefacts, text layout, active manifests, locks."""

from __future__ import annotations

import gzip
import inspect
import json
import os
import platform
import stat
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from runicorn.errors import GeneratorBusy, PublishError, UsageError
from runicorn.manifest import ManifestGenerator, ManifestType, read_manifest
from runicorn.manifest.codec import RUNS_LINE
from runicorn.manifest.generator_lock import generator_lock
from tests.manifest.helpers import (
    PATH_RUN,
    PROJECT_RUN,
    append,
    generate,
    inside,
    make_run,
    open_folder,
    settle,
    temps,
    unprivileged,
    write,
)

HOLD = """
import sys
from pathlib import Path
from runicorn.manifest.generator_lock import generator_lock
with generator_lock(Path(sys.argv[1]), 0, print):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_documented_signatures() -> None:
    init = inspect.signature(ManifestGenerator)
    defaults = {name: each.default for name, each in init.parameters.items()}
    assert defaults == {
        "remote_root": inspect.Parameter.empty,
        "output_dir": None,
        "active_window_seconds": 3600,
        "incremental": True,
        "lock_timeout": 60.0,
        "journal": True,
        "compact": False,
    }
    assert list(init.parameters.values())[5].kind is inspect.Parameter.KEYWORD_ONLY
    made = inspect.signature(ManifestGenerator.generate).parameters
    assert {name: each.default for name, each in made.items() if name != "self"} == {
        "manifest_type": ManifestType.FULL,
        "output_path": None,
    }


def test_the_example_of_the_interface_document(tmp_path: Path) -> None:
    make_run(tmp_path)
    generator = ManifestGenerator(
        remote_root=tmp_path, output_dir=None, active_window_seconds=3600, incremental=True
    )
    manifest, output_path = generator.generate(manifest_type=ManifestType.FULL)
    assert manifest.total_experiments == 1
    assert output_path == tmp_path / ".runicorn/full_manifest.json"
    assert sorted(inside(tmp_path / ".runicorn")) == [
        "full_manifest.json",
        "full_manifest.json.gz",
        "generator.lock",
        "journal",
        "scan_state.gz",
    ]


def test_what_is_returned_is_what_is_published(tmp_path: Path) -> None:
    make_run(tmp_path)
    make_run(tmp_path, PATH_RUN)
    before = time.time()
    for kind in ManifestType:
        manifest, path = ManifestGenerator(tmp_path).generate(kind)
        assert read_manifest(path) == manifest
        assert read_manifest(path.with_name(path.name + ".gz")) == manifest
        assert before <= manifest.generated_at <= time.time()
        assert manifest.header.server_hostname == platform.node()
        assert manifest.header.remote_root == str(tmp_path)
        assert manifest.header.generator.startswith("runicorn ")


def test_publish_gives_the_same_header(tmp_path: Path) -> None:
    make_run(tmp_path)
    header, path = ManifestGenerator(tmp_path).publish()
    assert read_manifest(path).header == header


def test_statistics_are_exact(tmp_path: Path) -> None:
    for number in range(7):
        make_run(tmp_path, f"p/n{number % 3}/runs/r{number}", summary="x" * number * 100)
    for _ in range(2):
        manifest = generate(tmp_path)
        files = [path for path in (tmp_path / "p").rglob("*") if path.is_file()]
        assert manifest.total_experiments == 7
        assert manifest.total_files == len(files) == 7 * 6
        assert manifest.total_bytes == sum(path.stat().st_size for path in files)


def test_text_layout_and_two_gzip_members(tmp_path: Path) -> None:
    make_run(tmp_path)
    make_run(tmp_path, PATH_RUN)
    for _ in range(2):
        generate(tmp_path)
        text = (tmp_path / ".runicorn/full_manifest.json").read_bytes()
        packed = (tmp_path / ".runicorn/full_manifest.json.gz").read_bytes()
        assert gzip.decompress(packed) == text
        first = zlib.decompressobj(wbits=31)
        head = first.decompress(packed)
        assert first.eof
        assert head.endswith(b"\n" + RUNS_LINE)
        second = zlib.decompressobj(wbits=31)
        assert head + second.decompress(first.unused_data) == text
        assert second.eof
        assert second.unused_data == b""
        document = json.loads(text)
        assert list(document)[-1] == "experiments"
        lines = text.decode("ascii").splitlines()
        assert lines[0] == "{"
        assert lines[-2:] == ["]", "}"]
        start = lines.index('"experiments": [') + 1
        listed = [json.loads(line.removesuffix(",")) for line in lines[start:-2]]
        assert listed == document["experiments"]
        assert [each["folder"] for each in listed] == [PATH_RUN, PROJECT_RUN]


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    make_run(tmp_path)
    before = os.umask(0o027)
    try:
        generate(tmp_path)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / ".runicorn").rglob("*") if path.is_file() and not path.is_symlink()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}
    assert len(files) == 6
    assert stat.S_IMODE((tmp_path / ".runicorn/journal").stat().st_mode) == 0o750


@pytest.mark.parametrize(
    "options", [{"active_window_seconds": -1}, {"lock_timeout": -1.0}, {"lock_timeout": float("nan")}]
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ManifestGenerator(tmp_path, **options)  # type: ignore[arg-type]


def test_the_root_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert generate(Path()).header.remote_root == str(tmp_path)


def test_another_output_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_run(root)
    out = tmp_path / "a/b"
    first, path = ManifestGenerator(root, out).generate()
    assert path == out / "full_manifest.json"
    assert not (root / ".runicorn").exists()
    assert "scan_state.gz" in inside(out)
    assert ManifestGenerator(root, out).generate()[0].header.identity == first.header.identity


def test_a_root_without_the_right_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    with open_folder() as place:
        make_run(place / "root")
        (place / "root").chmod(0o555)
        with unprivileged():
            with pytest.raises(PublishError, match=r"cannot make the folder '.*/\.runicorn'"):
                generate(place / "root")
            assert ManifestGenerator(place / "root", place / "out").generate()[0].total_files == 5
        assert inside(place / "root") == ["vision"]


def test_an_output_folder_without_the_right_to_write() -> None:
    with open_folder() as place:
        make_run(place / "root")
        (place / "out").mkdir()
        (place / "out").chmod(0o555)
        with unprivileged(), pytest.raises(PublishError, match=r"cannot (write|lock)"):
            ManifestGenerator(place / "root", place / "out").generate()
        assert inside(place / "out") == []
        write(place / "out/generator.lock", "").chmod(0o666)
        with unprivileged(), pytest.raises(PublishError, match=r"cannot (write|lock)"):
            ManifestGenerator(place / "root", place / "out").generate()
        assert inside(place / "out") == ["generator.lock"]


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    make_run(tmp_path)
    write(tmp_path / ".runicorn", "x")
    with pytest.raises(PublishError, match="cannot make the folder"):
        generate(tmp_path)


def test_output_path(tmp_path: Path) -> None:
    make_run(tmp_path / "root")
    target = tmp_path / "deep/er/manifest.json"
    manifest, path = ManifestGenerator(tmp_path / "root").generate(output_path=target)
    assert path == target
    assert read_manifest(target) == manifest == read_manifest(tmp_path / "deep/er/manifest.json.gz")
    assert sorted(inside(tmp_path / "root/.runicorn")) == [
        "generator.lock",
        "journal",
        "scan_state.gz",
    ]


@pytest.mark.parametrize("name", ["m.json.gz", ".runicorn/generator.lock", ".runicorn/scan_state.gz"])
def test_output_path_never_overwrites_something_else(tmp_path: Path, name: str) -> None:
    make_run(tmp_path)
    with pytest.raises(UsageError):
        generate(tmp_path, output=tmp_path / name)
    assert not (tmp_path / ".runicorn").exists()


def test_output_path_that_is_a_folder(tmp_path: Path) -> None:
    make_run(tmp_path)
    with pytest.raises(PublishError, match="is a folder"):
        generate(tmp_path, output=tmp_path)


def age(run: Path, seconds: float, *names: str) -> None:
    then = time.time() - seconds
    for path in [run / name for name in names] or [path for path in run.rglob("*") if path.is_file()]:
        os.utime(path, (then, then))


def test_the_active_window_is_judged_by_the_newest_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    old = make_run(tmp_path, "p/n/runs/old")
    grown = make_run(tmp_path, "p/n/runs/grown")
    make_run(tmp_path, "p/n/runs/new")
    for run in (old, grown):
        age(run, 5000)
    age(grown, 3000, "events.jsonl")
    os.utime(old)  # a folder's own time means nothing

    def listed(window: int) -> list[str]:
        manifest = generate(tmp_path, ManifestType.ACTIVE, active_window_seconds=window)
        assert manifest.header.active_window == window
        assert manifest.total_experiments == len(manifest.experiments)
        assert manifest.total_files == sum(len(run.files) for run in manifest.experiments)
        assert manifest.revision == 1
        return [run.run_id for run in manifest.experiments]

    assert listed(3600) == ["grown", "new"]
    assert listed(1000) == ["new"]
    assert listed(10_000) == ["grown", "new", "old"]
    assert listed(10_000) == ["grown", "new", "old"]
    age(tmp_path / "p/n/runs/new", 100)
    assert generate(tmp_path, ManifestType.ACTIVE, active_window_seconds=0).experiments == ()


def test_an_active_generation_leaves_the_full_manifest_alone(tmp_path: Path) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    before = (tmp_path / ".runicorn/full_manifest.json").stat()
    generate(tmp_path, ManifestType.ACTIVE)
    after = (tmp_path / ".runicorn/full_manifest.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert generate(tmp_path).header.active_window is None


def test_stale_temps_are_swept_and_others_are_not(tmp_path: Path) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    folder = tmp_path / ".runicorn"
    ours = [
        ".full_manifest.json.0123456789ab.tmp",
        ".scan_state.gz.0123456789ab.tmp",
        ".scratch.0123456789ab.tmp",
    ]
    others = [".cursor.0123456789ab.tmp", "full_manifest.json.tmp", ".full_manifest.json.tmp"]
    for name in ours + others:
        write(folder / name, "x")
    generate(tmp_path)
    assert not set(ours) & set(inside(folder))
    assert set(others) <= set(inside(folder))


@pytest.mark.parametrize("name", ["scan_state.gz", "full_manifest.json", "full_manifest.json.gz"])
def test_a_full_disk_leaves_the_previous_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = make_run(tmp_path)
    first = generate(tmp_path)
    append(run / "logs.txt", b"more\n")
    real = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(28, "No space left on device", str(target))
        real(source, target)

    monkeypatch.setattr("runicorn._files.os.replace", failing)
    with pytest.raises(PublishError, match="No space left on device"):
        generate(tmp_path)
    monkeypatch.undo()
    assert temps(tmp_path) == []
    assert read_manifest(tmp_path / ".runicorn/full_manifest.json.gz") == first
    second = generate(tmp_path)
    assert second.revision == 2
    assert read_manifest(tmp_path / ".runicorn/full_manifest.json.gz") == second


def test_no_handles_are_left_open(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    make_run(tmp_path, PATH_RUN)
    generate(tmp_path)
    before = sorted(inside(Path("/proc/self/fd")))
    append(run / "logs.txt", b"more\n")
    generate(tmp_path)
    generate(tmp_path, ManifestType.ACTIVE)
    (tmp_path / ".runicorn/scan_state.gz").write_bytes(b"torn")
    generate(tmp_path)
    assert len(inside(Path("/proc/self/fd"))) == len(before)


def test_a_second_generator_waits_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".runicorn")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(GeneratorBusy, match="another generator") as busy:
            generate(tmp_path, lock_timeout=0.2)
        assert busy.value.exit_code == 1
        assert len([each for each in caplog.records if "waiting" in each.message]) == 1
        holder.kill()
        assert generate(tmp_path, lock_timeout=30).revision == 1
        holder.wait(30)


def test_the_waiting_one_goes_on_when_the_first_has_ended(tmp_path: Path) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".runicorn")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        with generator_lock(tmp_path / ".runicorn", 30, holder.stdin.close):
            pass
        assert holder.wait(30) == 0


TWO = """
import sys
from pathlib import Path
from runicorn.manifest import ManifestGenerator
sys.stdin.read(1)
for step in range(8):
    with open(sys.argv[1] + "/p/n/runs/r/logs.txt", "ab") as log:
        log.write(b"more\\n")
    manifest, _ = ManifestGenerator(Path(sys.argv[1])).generate()
    print(manifest.revision, manifest.snapshot_id, manifest.total_bytes)
"""


def test_two_generators_at_once_never_share_a_revision(tmp_path: Path) -> None:
    make_run(tmp_path, "p/n/runs/r", status="running")
    generate(tmp_path)
    command = [sys.executable, "-c", TWO, str(tmp_path)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for each in both:
        assert each.stdin is not None
        each.stdin.write("x")
        each.stdin.close()
        each.stdin = None
    output = "".join(each.communicate(timeout=60)[0] for each in both)
    assert [each.returncode for each in both] == [0, 0]
    seen: dict[str, set[str]] = {}
    for line in output.splitlines():
        revision, _, state = line.partition(" ")
        seen.setdefault(revision, set()).add(state)
    assert len(output.splitlines()) == 16
    assert all(len(states) == 1 for states in seen.values())
    assert temps(tmp_path) == []
    last = generate(tmp_path)
    assert last.revision in (max(map(int, seen)), max(map(int, seen)) + 1)
    assert read_manifest(tmp_path / ".runicorn/full_manifest.json.gz") == last
