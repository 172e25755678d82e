"""Mirrors of an older or a newer version, copied, moved and without their state; artefacts of other versions.

`python -m tests.faults.test_odd_mirrors` keeps today's state in `tests/golden/`, once for each version of it.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from runicorn.remote_storage.state_rows import SCHEMA_VERSION
from tests.faults.odd import Commands
from tests.faults.process import PROJECT_ROOT, generate, left_behind, run_files
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN, append, make_run, replace
from tests.remote_storage.helpers import Site
from tests.remote_storage.journal_helpers import change_head

METHODS = ("journal", "manifest", "walk")
EVENTS = f"{PROJECT_RUN}/events.jsonl"
GOLDEN = PROJECT_ROOT / "tests/golden"


def make_root(root: Path) -> Path:
    make_run(root, PROJECT_RUN, "running", summary='{"best": 1}')
    make_run(root, PATH_RUN)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root")


@pytest.fixture
def mirror(commands: Commands, root: Path, tmp_path: Path) -> Path:
    """A mirror of the root as it is published now."""
    generate(root)
    commands.run("sync", root, tmp_path / "mirror").expect(0)
    return tmp_path / "mirror"


def state(mirror: Path) -> Path:
    return mirror / ".runicorn/state.db"


def change_state(mirror: Path, *statements: str) -> None:
    with closing(sqlite3.connect(state(mirror))) as database, database:
        for statement in statements:
            database.execute(statement)


def go_on(commands: Commands, root: Path, mirror: Path, *options: str) -> int:
    """The root changes a little, and the mirror follows; how many files were fetched for that."""
    append(root / EVENTS, b'{"step": 2}\n')
    generate(root)
    done = commands.run("sync", root, mirror, *options, "--json").expect(0)
    assert run_files(mirror) == run_files(root)
    assert left_behind(mirror) == []
    return int(done.statistics["files_synced"])


# -- states of other versions ------------------------------------------------------------------------

OLDER = (
    "PRAGMA user_version = 1",
    "DROP INDEX gone_files",
    "DROP INDEX unpublished_files",
    "ALTER TABLE files DROP COLUMN gone",
    "DROP TABLE wanted",
)
NEWER = (
    f"PRAGMA user_version = {SCHEMA_VERSION + 1}",
    "ALTER TABLE files ADD COLUMN colour TEXT",
    "CREATE TABLE news (x)",
)
HALF = ("DROP TABLE meta",)
WITHOUT_HISTORY = ("DROP TABLE syncs",)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("change", [OLDER, NEWER, HALF, WITHOUT_HISTORY])
def test_state_of_another_version_is_kept_aside_and_built_anew_without_fetching(
    commands: Commands, root: Path, mirror: Path, method: str, change: tuple[str, ...]
) -> None:
    change_state(mirror, *change)
    before = state(mirror).read_bytes()
    done = commands.run("status", mirror)
    assert (
        done.expect(done.code if done.code == 0 else 1).code == (0 if change == HALF else 1) or change == HALF
    )
    assert state(mirror).read_bytes() == before  # who only looks leaves it as it is
    rung = "auto" if method == "journal" else method
    fetched = go_on(commands, root, mirror, "--method", rung)
    assert fetched == 1 or method == "walk"
    (aside,) = state(mirror).parent.glob("state.db.damaged-*")
    assert aside.read_bytes() == before
    commands.run("verify", mirror).expect(0)
    commands.run("status", mirror).expect(0)


@pytest.mark.parametrize("method", METHODS)
def test_delete_with_a_state_that_was_built_anew_takes_nothing_along(
    commands: Commands, root: Path, mirror: Path, method: str
) -> None:
    replace(mirror / PROJECT_RUN / "media/mine.png", "not from this root")
    (root / PROJECT_RUN / "media/a.png").unlink()
    generate(root)
    change_state(mirror, *OLDER)
    rung = "auto" if method == "journal" else method
    commands.run("sync", root, mirror, "--method", rung, "--delete", "--force-delete").expect(0)
    assert (mirror / PROJECT_RUN / "media/mine.png").exists()
    assert (mirror / PROJECT_RUN / "media/a.png").exists()


@pytest.mark.parametrize("version", range(2, SCHEMA_VERSION + 1))
def test_mirror_of_each_version_that_ever_was_goes_on(
    commands: Commands, root: Path, tmp_path: Path, version: int
) -> None:
    mirror = make_root(tmp_path / "mirror")
    state(mirror).parent.mkdir()
    state(mirror).write_bytes(gzip.decompress((GOLDEN / f"state-{version}.db.gz").read_bytes()))
    if version == SCHEMA_VERSION:
        told = json.loads(commands.run("status", mirror, "--json").expect(0).out)
        assert (told["revision"], told["runs"], told["files"]) == (1, 2, 11)
        commands.run("verify", mirror).expect(0)
        commands.run("explain", mirror, EVENTS).expect(0)
    generate(root)
    commands.run("sync", root, mirror).expect(0)
    assert run_files(mirror) == run_files(root)
    assert go_on(commands, root, mirror) == 1


def test_state_of_today_is_kept_and_is_what_this_version_writes(mirror: Path) -> None:
    kept = gzip.decompress((GOLDEN / f"state-{SCHEMA_VERSION}.db.gz").read_bytes())
    place = mirror.with_name("kept.db")
    place.write_bytes(kept)
    query = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    with closing(sqlite3.connect(place)) as old, closing(sqlite3.connect(state(mirror))) as new:
        assert old.execute(query).fetchall() == new.execute(query).fetchall()
        for each in (old, new):
            assert each.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


# -- copies -------------------------------------------------------------------------------------------


def _lose(mirror: Path) -> Path:
    for path in state(mirror).parent.glob("state.db*"):
        path.unlink()
    return mirror


def _lose_folder(mirror: Path) -> Path:
    shutil.rmtree(mirror / ".runicorn")
    return mirror


def _copied(mirror: Path) -> Path:
    copy = mirror.with_name("copy")
    subprocess.run(["cp", "-a", mirror, copy], check=True)
    return copy


def _copied_without_times(mirror: Path) -> Path:
    copy = mirror.with_name("copy")
    subprocess.run(["cp", "-r", mirror, copy], check=True)
    return copy


def _moved(mirror: Path) -> Path:
    return mirror.rename(mirror.with_name("moved"))


def _replaced_by_its_copy(mirror: Path) -> Path:
    copy = _copied(mirror)
    shutil.rmtree(mirror)
    return copy.rename(mirror)


def _with_an_older_state(mirror: Path) -> Path:
    """As a backup that was taken at two times leaves it."""
    change_state(mirror, "DELETE FROM files WHERE inner LIKE '%.json'")
    return mirror


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "change",
    [
        _lose,
        _lose_folder,
        _copied,
        _copied_without_times,
        _moved,
        _replaced_by_its_copy,
        _with_an_older_state,
    ],
)
def test_mirror_that_is_copied_moved_or_lost_its_state_goes_on_without_fetching_all(
    commands: Commands, root: Path, mirror: Path, method: str, change: Callable[[Path], Path]
) -> None:
    place = change(mirror)
    rung = "auto" if method == "journal" else method
    fetched = go_on(commands, root, place, "--method", rung)
    # A walk has size and time to go by alone, and looks at young files once more.
    assert fetched == 1 or method == "walk"
    commands.run("verify", place).expect(0)
    go_on(commands, root, place)
    if mirror.exists() and place != mirror:
        go_on(commands, root, mirror)


# -- artefacts of other versions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "method"), [("1.9", "journal"), ("2.0", "manifest"), ("0.1", "manifest"), ("one", "manifest")]
)
def test_journal_of_another_version_is_read_or_left_with_a_reason(
    commands: Commands, root: Path, mirror: Path, version: str, method: str
) -> None:
    append(root / EVENTS, b'{"step": 2}\n')
    generate(root)
    change_head(Site(root, mirror), format_version=version, unknown={"field": [1]})
    done = commands.run("sync", root, mirror).expect(0)
    assert f"({method}," in done.out
    assert method == "journal" or "not by the journal" in done.err, done.err
    assert run_files(mirror) == run_files(root)
    generate(root)
    commands.run("sync", root, mirror).expect(0)  # the cursor finds its place in the journal again
    assert "(journal," in commands.run("sync", root, mirror).expect(0).out


@pytest.mark.parametrize(("version", "code"), [("1.9", 0), ("2.0", 7)])
def test_manifest_of_another_version_is_read_or_refused_with_a_hint(
    commands: Commands, root: Path, mirror: Path, version: str, code: int
) -> None:
    append(root / EVENTS, b'{"step": 2}\n')
    document = generate(root, journal=False)
    document |= {"format_version": version, "unknown": {"field": [1]}}
    document["experiments"][0]["files"][0]["unknown"] = None
    for suffix, data in (
        ("", json.dumps(document).encode()),
        (".gz", gzip.compress(json.dumps(document).encode())),
    ):
        (root / f".runicorn/full_manifest.json{suffix}").write_bytes(data)
    before = run_files(mirror)
    done = commands.run("sync", root, mirror, "--method", "manifest")
    if code:
        done.refused(done.code, version)
        assert done.code in {1, 7}
        assert run_files(mirror) == before
    else:
        done.expect(0)
        assert run_files(mirror) == run_files(root)


# -- keeping today's state ------------------------------------------------------------------------------


def keep() -> None:
    """Write the state of a small mirror to the golden files."""
    with tempfile.TemporaryDirectory() as name, Commands(Path(name)) as commands:
        root, mirror = make_root(Path(name) / "root"), Path(name) / "mirror"
        generate(root)
        commands.run("sync", root, mirror).expect(0)
        change_state(mirror, "DELETE FROM syncs", "UPDATE meta SET value = '\"golden\"' WHERE key = 'source'")
        with closing(sqlite3.connect(state(mirror))) as database:
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute("VACUUM")
        packed = gzip.compress(state(mirror).read_bytes(), mtime=0)
        (GOLDEN / f"state-{SCHEMA_VERSION}.db.gz").write_bytes(packed)


if __name__ == "__main__":
    keep()
