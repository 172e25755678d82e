"""What a generator must never do to files that are not its own, and never publish."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runicorn.errors import PublishError, UsageError
from runicorn.manifest import ManifestGenerator, ManifestType, read_manifest
from runicorn.manifest import scan_run as scanning
from runicorn.manifest.model import ProblemKind
from runicorn.manifest.scan_problems import Problems
from tests.manifest.helpers import ReadCounter, make_run, settle, write


def test_output_in_the_place_of_a_file_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "root")
    before = (run / "status.json").read_bytes()
    with pytest.raises(UsageError, match="not replaced"):
        ManifestGenerator(tmp_path / "root").generate(output_path=run / "status.json")
    assert (run / "status.json").read_bytes() == before


@pytest.mark.parametrize("kind", ["fifo", "link", "dangling link"])
def test_output_in_the_place_of_something_special_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    make_run(tmp_path / "root")
    place = tmp_path / "out.json"
    if kind == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(write(tmp_path / "other", "{}") if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not replaced"):
        ManifestGenerator(tmp_path / "root").generate(output_path=place)
    assert os.path.lexists(place)


def test_output_in_the_place_of_the_other_manifest_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path)
    generator = ManifestGenerator(tmp_path)
    full = tmp_path / ".runicorn" / "full_manifest.json"
    with pytest.raises(UsageError, match="another manifest"):
        generator.generate(ManifestType.ACTIVE, full)
    generator.generate()
    with pytest.raises(UsageError, match="not replaced"):
        generator.generate(ManifestType.ACTIVE, full)
    assert read_manifest(full).manifest_type is ManifestType.FULL


def test_output_over_its_own_earlier_manifest_is_renewed(tmp_path: Path) -> None:
    make_run(tmp_path / "root")
    generator = ManifestGenerator(tmp_path / "root")
    first, path = generator.generate(output_path=tmp_path / "out.json")
    second, _ = generator.generate(output_path=path)
    assert second.revision == first.revision
    assert read_manifest(path) == second


def test_fifo_in_the_place_of_a_stored_manifest_does_not_block(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / ".runicorn").mkdir()
    os.mkfifo(tmp_path / ".runicorn" / "active_manifest.json")
    assert ManifestGenerator(tmp_path).generate()[0].total_experiments == 1


def test_run_that_no_reader_takes_is_a_problem_that_hides_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path)
    monkeypatch.setattr(scanning, "MAX_RUN", 100)
    manifest, _ = ManifestGenerator(tmp_path).generate()
    assert [problem.kind for problem in manifest.problems] == ["too_large"]
    assert (manifest.complete, manifest.total_experiments) == (False, 0)


def test_problem_texts_are_bounded() -> None:
    problems = Problems()
    for number in range(900):
        problems.report("a\n" * 3000 + f"/{number}" + "/b\n" * 900, ProblemKind.UNSAFE_NAME, "no")
    problems.report("x/" + "y" * 5000, ProblemKind.LINK, "no")
    assert problems.count == 901
    assert len(problems.listed) < 901
    assert all(len(problem.path) <= 4096 for problem in problems.listed)
    assert sum(len(problem.path) for problem in problems.listed) <= 1024**2


def test_run_beside_one_whose_name_begins_its_own_inherits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    make_run(tmp_path, "p/n/runs/exp")
    counter = ReadCounter(monkeypatch)
    first, _ = ManifestGenerator(tmp_path).generate()
    of_one_run = counter.take()
    make_run(tmp_path, "p/n/runs/exp-2")
    second, _ = ManifestGenerator(tmp_path).generate()
    assert counter.take() == of_one_run
    assert {run.folder for run in second.experiments} == {"p/n/runs/exp", "p/n/runs/exp-2"}
    assert next(run for run in second.experiments if run.run_id == "exp") == first.experiments[0]


@pytest.mark.parametrize("window", [2**33 + 1, 10**30])
def test_window_beyond_what_readers_take_is_refused(tmp_path: Path, window: int) -> None:
    with pytest.raises(UsageError, match="window"):
        ManifestGenerator(tmp_path, active_window_seconds=window)


def test_root_whose_name_is_too_long_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"cannot use|does not exist"):
        ManifestGenerator(tmp_path / ("r" * 300)).generate()


def test_locale_without_utf8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(PublishError, match="UTF-8"):
        ManifestGenerator(tmp_path).generate()
