"""``runicorn status --root``."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from runicorn.cli import main
from runicorn.manifest import ManifestGenerator
from runicorn.manifest.status import root_status
from tests.manifest.helpers import append, generate, make_run, temps
from tests.manifest.journal_reader import head


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    make_run(folder, "p/n/runs/r1", status="running")
    make_run(folder, "p/n/runs/r2")
    return folder


def status(root: Path, *options: str | Path) -> int:
    return main(["status", "--root", str(root), *map(str, options)])


def test_it_tells_what_was_published(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = generate(root)
    assert status(root) == 0
    shown = dict(re.findall(r"^(\w+): +(.+)$", capsys.readouterr().out, re.MULTILINE))
    assert shown["Revision"] == "1"
    assert shown["Runs"] == "2"
    assert shown["Files"] == str(manifest.total_files)
    assert shown["Journal"].startswith(f"epoch {head(root).epoch}, ")
    assert shown["Problems"] == "0"


def test_json_agrees_with_the_journal(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = generate(root)
    assert status(root, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    told = head(root)
    assert document["lineage"] == manifest.lineage
    assert (document["runs"], document["files"], document["bytes"]) == (
        2,
        manifest.total_files,
        manifest.total_bytes,
    )
    assert document["journal"]["length"] == told.end.offset
    assert document["journal"]["epochs"] == 1
    assert document["duration"] == told.duration
    assert document["duration"] is not None
    assert document["manifest"]["revision"] == 1


def test_epoch_that_is_being_removed_does_not_count(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(root)
    (root / f".runicorn/journal/{'0' * 32}.journal").symlink_to("/nowhere")  # listed, and gone when looked at
    assert status(root, "--json") == 0
    assert json.loads(capsys.readouterr().out)["journal"]["epochs"] == 1


def test_problems_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(root / "p/n/runs/r1/summary.json")
    generate(root)
    assert status(root) == 0
    assert "  p/n/runs/r1/summary.json: special: " in capsys.readouterr().out


def test_problem_that_somebody_else_wrote_reaches_no_terminal_raw(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "a\x1b]0;owned\x07\x9b31m\u202etxt"
    _, path = ManifestGenerator(root, journal=False).generate()
    problems = json.dumps([{"path": evil, "kind": evil, "message": evil}])
    text = path.read_text(encoding="ascii").replace('"problems": [],', f'"problems": {problems},')
    path.write_text(text.replace('"problem_count": 0,', '"problem_count": 1,'), encoding="ascii")
    path.with_name("full_manifest.json.gz").unlink()
    assert status(root) == 0
    shown = capsys.readouterr().out
    assert "owned" in shown
    assert not set(shown) & set("\x1b\x07\x9b\u202e")


def test_without_a_journal_the_manifest_tells(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(root, journal=False)
    assert status(root, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["revision"], document["journal"], document["duration"]) == (1, None, None)


def test_damaged_journal_is_told_and_the_manifest_used(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(root)
    append(root / ".runicorn/journal/HEAD", b"x")
    assert status(root, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert "checksum" in document["journal_trouble"]
    assert document["revision"] == 1


def test_too_old_has_an_exit_code_of_its_own(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(root)
    assert status(root, "--max-age", "3600") == 0
    assert status(root, "--max-age", "0") == 10
    printed = capsys.readouterr()
    assert printed.out.count("Revision:") == 2, "it is shown all the same"
    assert "0 s are allowed" in printed.err


def test_age_counts_from_the_last_look(root: Path) -> None:
    generate(root)
    looked = head(root).generated_at
    assert root_status(root, now=lambda: looked + 90).age == 90
    assert root_status(root, now=lambda: looked - 5).age == 0


def test_metrics_are_written_whole(root: Path, tmp_path: Path) -> None:
    generate(root)
    target = tmp_path / "runicorn.prom"
    assert status(root, "--prometheus", target) == 0
    lines = target.read_text().splitlines()
    values = dict(re.findall(r'^(\w+)\{root="[^"]+"\} (\S+)$', "\n".join(lines), re.MULTILINE))
    assert values["runicorn_runs"] == "2"
    assert float(values["runicorn_generated_timestamp_seconds"]) == head(root).generated_at
    for name in values:
        assert f"# TYPE {name} gauge" in lines
    assert temps(tmp_path) == []


def test_label_of_a_metric_is_escaped(tmp_path: Path) -> None:
    root = tmp_path / 'say "hi"'
    make_run(root)
    generate(root)
    target = tmp_path / "a.prom"
    assert status(root, "--prometheus", target) == 0
    assert 'say \\"hi\\""} ' in target.read_text()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [("a.txt", 2, "does not end in .prom"), ("nothing/a.prom", 1, "cannot write")],
)
def test_metrics_that_cannot_be_written(
    root: Path, tmp_path: Path, name: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(root)
    assert status(root, "--prometheus", tmp_path / name) == code
    assert message in capsys.readouterr().err


def test_nothing_published_and_no_root(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(root) == 1
    assert "nothing is published" in capsys.readouterr().err
    assert status(root / "nothing") == 6
    assert main(["status"]) == 2
    assert status(root, "--max-age", "-1") == 2


def test_json_is_documented_field_by_field(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(root)
    assert status(root, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    page = (Path(__file__).parents[2] / "docs/howto/monitoring.md").read_text(encoding="utf-8")
    table = page.split("| field of `--json` |")[1].split("\n\n")[0]
    first = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for cell in first for name in re.findall(r"`(\w+)`", cell)} == set(document)
    for name in ("journal", "manifest"):
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
        assert set(re.findall(r"`(\w+)`", row.split("|")[3])) == set(document[name])
