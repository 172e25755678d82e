"""What the commands print with --json is documented in docs/sync-json.md, field by field, event by event."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from runicorn.manifest import ManifestGenerator
from testbed.trees import make_tree
from tests.docs.pages import COMMAND_SECONDS, read, table

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
    "object": (dict,),
    "list of objects": (list,),
    "list of strings": (list,),
}


def _fields(title: str) -> dict[str, str]:
    return {name.strip("`"): kind for name, kind, _ in table("docs/sync-json.md", title)}


def _fits(value: Any, kind: str) -> bool:
    kinds = kind.partition(",")[0].split(" or ")
    types = tuple(each for name in kinds for each in _TYPES[name])
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


def _assert_documented(document: dict[str, Any], title: str, *, absent: frozenset[str] = frozenset()) -> None:
    fields = _fields(title)
    assert set(document) == set(fields) - absent
    wrong = {name: value for name, value in document.items() if not _fits(value, fields[name])}
    assert not wrong, f"not of the documented type: {wrong}"


def _printed(*arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "runicorn", *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def _sync_json(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    printed = _printed("sync", "--json", *arguments, code=code)
    assert printed.count("\n") == 1
    document: dict[str, Any] = json.loads(printed)
    return document


def test_json_of_a_sync_is_documented_field_by_field(tmp_path: Path) -> None:
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    runs = make_tree(root, 2, files=6)
    ManifestGenerator(root).generate()
    no_plan = frozenset({"plan"})
    title = "A sync that ended"

    _assert_documented(_sync_json(root, mirror), title, absent=no_plan)
    skipped = _sync_json(root, mirror)
    assert skipped["skipped"] is True
    _assert_documented(skipped, title, absent=no_plan)

    with (runs[0] / "logs.txt").open("ab") as log:
        log.write(b"one more line\n")
    (runs[0] / "summary.json").write_bytes(b"{}")
    (runs[1] / "summary.json").unlink()
    ManifestGenerator(root).generate()
    planned = _sync_json(root, mirror, "--dry-run")
    _assert_documented(planned, title)
    _assert_documented(planned["plan"], "`plan`")
    assert {each["action"] for each in planned["plan"]["transfers"]} == {"fetch", "append"}
    for each in planned["plan"]["transfers"]:
        _assert_documented(each, "`plan.transfers[]`")
    assert len(planned["plan"]["remove"]) == 1

    walked = _sync_json(root, mirror, "--method", "walk")
    assert walked["manifest_revision"] is walked["generated_at"] is None
    _assert_documented(walked, title, absent=no_plan)


def test_json_of_failed_files_and_failed_syncs_is_documented(tmp_path: Path) -> None:
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    (run,) = make_tree(root, 1, files=6)
    ManifestGenerator(root, journal=False).generate()  # its bytes would be in a journal
    (run / "summary.json").unlink()
    (run / "summary.json").mkdir()
    report = _sync_json(root, mirror, code=3)
    assert report["failed_count"] == 1
    (failed,) = report["failed"]
    _assert_documented(failed, "`failed[]`")

    failure = _sync_json(tmp_path / "nothing", mirror, code=6)
    _assert_documented(failure, "A sync that failed")


def _runicorn_json(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_printed(*arguments, code=code))
    return document


def test_json_of_status_and_verify_is_documented_field_by_field(tmp_path: Path) -> None:
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    (run,) = make_tree(root, 1, files=6)
    ManifestGenerator(root).generate()
    _sync_json(root, mirror)
    _assert_documented(_runicorn_json("status", mirror, "--json"), "The status of a mirror")
    _assert_documented(_runicorn_json("verify", mirror, "--json"), "A verification")
    (mirror / run.relative_to(root) / "summary.json").unlink()
    _assert_documented(_runicorn_json("verify", mirror, "--json", "--repair"), "A verification")


def test_events_of_a_watch_are_documented() -> None:
    from runicorn.cli.sync_watch import EVENT_NAMES

    section = read("docs/sync-json.md").split("\n## A watch\n")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", section.split("| event |")[1], re.MULTILINE))
    assert named == {"sync", "ended", *EVENT_NAMES.values()}
    for kind, name in EVENT_NAMES.items():
        row = next(line for line in section.splitlines() if line.startswith(f"| `{name}` |"))
        assert set(getattr(kind, "__dataclass_fields__", {})) <= set(re.findall(r"`(\w+)`", row))
