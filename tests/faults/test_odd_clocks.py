"""Clocks that are wrong by a year, rights and umasks that nobody expects."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.odd import Commands
from tests.faults.process import Done, generate, left_behind, run_files
from tests.faults.tally import scale
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN, append, make_run, open_folder, replace

METHODS = ("journal", "manifest", "walk")
YEAR = 365 * 86400
EVENTS = f"{PROJECT_RUN}/events.jsonl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    make_run(made, PROJECT_RUN, "running", summary='{"best": 0}')
    make_run(made, PATH_RUN)
    return made


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


def at(seconds: int) -> str:
    """Python for `Commands.run`: this machine's clock is so many seconds ahead."""
    return f"shift({seconds})"


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("server", "client"),
    [(YEAR, -YEAR), (-YEAR, YEAR), (YEAR, 0), (-YEAR, 0), (0, YEAR), (0, -YEAR)][: scale(2, 6)],
)
def test_clocks_that_are_wrong_by_a_year_refuse_and_lose_nothing(
    commands: Commands, root: Path, mirror: Path, method: str, server: int, client: int
) -> None:
    old, new = root / PROJECT_RUN / "media/old.png", root / PROJECT_RUN / "media/new.png"
    for path, when in ((old, -YEAR), (new, YEAR)):
        replace(path, "content")
        os.utime(path, (path.stat().st_mtime + when,) * 2)

    def sync() -> Done:
        commands.run("generate-manifest", "--root", root, first=at(server)).expect(0)
        done = commands.run("sync", root, mirror, "--method", method, "--delete", first=at(client))
        done.expect(0)
        assert run_files(mirror) == run_files(root)
        return done

    sync()
    append(root / EVENTS, b'{"step": 2}\n')
    replace(root / PROJECT_RUN / "summary.json", '{"best": 1, "longer": 1}')
    sync()
    # A rewrite of the same size that puts the old times back, as far as anybody can.
    path = root / PATH_RUN / "meta.json"
    about, data = path.stat(), path.read_bytes()
    path.write_bytes(data[::-1])
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    if method != "walk":  # which knows sizes and times only, and says so in the format
        sync()
    told = json.loads(commands.run("status", mirror, "--json", first=at(client)).expect(0).out)
    assert 0 <= told["contact"]["age"] < 600
    published = told["publication"]
    if method != "walk":
        assert 0 <= published["age_at_least"] < 600
        assert published["age_at_most"] is None or 0 <= published["age_at_most"] < 600
    assert "-" not in commands.run("status", mirror, first=at(client)).expect(0).out.partition("synced")[2]
    served = json.loads(commands.run("status", "--root", root, "--json", first=at(server)).expect(0).out)
    assert 0 <= served["age"] < 600


@pytest.mark.parametrize("method", METHODS)
def test_clocks_that_jump_by_a_year_between_generations_and_syncs(
    commands: Commands, root: Path, mirror: Path, method: str
) -> None:
    for number, (server, client) in enumerate(
        [(0, 0), (YEAR, -YEAR), (-YEAR, YEAR), (0, -YEAR), (YEAR, 0), (0, 0)]
    ):
        append(root / EVENTS, b'{"step": %d}\n' % number)
        # A walk by a clock that is ahead cannot see edits of the same size within a second.
        replace(root / PROJECT_RUN / "summary.json", '{"best": 1}' + " " * number)
        compact = ["--compact"] if number % 2 else []
        commands.run("generate-manifest", "--root", root, *compact, first=at(server)).expect(0)
        commands.run("generate-manifest", "--root", root, "--active", first=at(server)).expect(0)
        # An epoch may be over too soon by such a clock: then a listing brings the mirror there.
        rung = "auto" if method == "journal" else method
        commands.run("sync", root, mirror, "--method", rung, first=at(client)).expect(0)
        assert run_files(mirror) == run_files(root)
        for clock in (client, -client):  # who looks may have another clock than who synced
            told = json.loads(commands.run("status", mirror, "--json", first=at(clock)).expect(0).out)
            ages = (told["contact"]["age"], *(told["publication"] or {}).values())
            assert all(age is None or age >= 0 for age in ages), told
            assert (
                "-"
                not in commands.run("status", mirror, first=at(clock)).expect(0).out.partition("synced")[2]
            )


def test_window_of_the_active_manifest_by_a_wrong_clock_hides_nothing_that_the_full_one_tells(
    commands: Commands, root: Path, mirror: Path
) -> None:
    generate(root, journal=False)
    for number, clock in enumerate((YEAR, -YEAR)):
        append(root / EVENTS, b'{"step": %d}\n' % number)
        options = ("--active", "--active-window", "60", "--no-journal")
        commands.run("generate-manifest", "--root", root, *options, first=at(clock)).expect(0)
        commands.run("sync", root, mirror).expect(0)
        commands.run("generate-manifest", "--root", root, "--no-journal").expect(0)
        commands.run("sync", root, mirror).expect(0)
        assert run_files(mirror) == run_files(root)


# -- umasks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [0o077, 0o000])
@pytest.mark.parametrize("client", [0o077, 0o000])
def test_umask_of_each_side_is_its_own(
    commands: Commands, root: Path, mirror: Path, server: int, client: int
) -> None:
    for number, method in enumerate(METHODS):
        append(root / EVENTS, b'{"step": %d}\n' % number)
        commands.run("generate-manifest", "--root", root, first=f"os.umask({server})").expect(0)
        place = mirror / method
        for _ in range(2):
            commands.run("sync", root, place, "--method", method, first=f"os.umask({client})").expect(0)
        assert run_files(place) == run_files(root)
        for path in place.rglob("*"):
            if path.name.startswith("sync.lock"):
                continue
            most = 0o777 if path.is_dir() else 0o666
            assert stat.S_IMODE(path.stat().st_mode) & ~(most & ~client) == 0, path
    for path in (root / ".runicorn").rglob("*"):
        most = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) & ~(most & ~server) == 0, path


# -- rights ----------------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
NOBODY = "nobody()"


@pytest.fixture
def shared() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@needs_root
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("folder", ["vision", f"{PROJECT_RUN}", f"{PROJECT_RUN}/media"])
def test_folder_that_the_generator_or_the_walk_may_not_read_is_told_and_nothing_of_it_is_deleted(
    commands: Commands, shared: Path, method: str, folder: str
) -> None:
    root, mirror = shared / "root", shared / "mirror"
    make_run(root, PROJECT_RUN, "running", summary="{}")
    for name in ("r3", "r4", "r5"):
        make_run(root, f"runs/nlp/bert/{name}")
    commands.run("generate-manifest", "--root", root).expect(0)
    for path in [root / ".runicorn", *(root / ".runicorn").rglob("*")]:
        os.chown(path, 65534, 65534)
    os.chown(root, 65534, 65534)
    commands.run("sync", root, mirror, "--method", method, first=NOBODY).expect(0)
    before = run_files(mirror)
    assert before == run_files(root)
    (root / folder).chmod(0o700)
    (root / "runs/nlp/bert/r5/logs.txt").unlink()
    if method != "walk":
        done = commands.run("generate-manifest", "--root", root, first=NOBODY).expect(3)
        assert f"runicorn: {folder}: unreadable" in done.err
    done = commands.run("sync", root, mirror, "--method", method, "--delete", "--force-delete", first=NOBODY)
    done.expect(3)
    kept = {path for path in before if path.startswith(folder)}
    assert kept | {"runs/nlp/bert/r5/logs.txt"} <= run_files(mirror).keys(), done.err
    (root / folder).chmod(0o755)
    if method != "walk":
        commands.run("generate-manifest", "--root", root, first=NOBODY).expect(0)
    commands.run("sync", root, mirror, "--method", method, "--delete", first=NOBODY).expect(0)
    assert run_files(mirror) == run_files(root)
    assert left_behind(mirror) == []


@needs_root
def test_artefacts_that_this_user_may_not_read_lead_to_a_walk_that_says_why(
    commands: Commands, shared: Path
) -> None:
    root, mirror = shared / "root", shared / "mirror"
    make_run(root, PROJECT_RUN, "running", summary="{}")
    commands.run("generate-manifest", "--root", root, first="os.umask(0o077)").expect(0)
    done = commands.run("sync", root, mirror, first=NOBODY).expect(0)
    assert "(walk," in done.out
    assert "journal cannot be read" in done.err
    assert run_files(mirror) == run_files(root)
    (root / EVENTS).chmod(0o600)
    append(root / EVENTS, b'{"step": 2}\n')
    done = commands.run("sync", root, mirror, first=NOBODY).expect(3)
    assert f"runicorn: {EVENTS}: " in done.err
    assert (mirror / EVENTS).exists()
