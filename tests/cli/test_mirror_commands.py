"""`runicorn remote`, `status`, `verify` and `explain`, as processes of their own."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from runicorn.journal.frames import beginning
from runicorn.journal.head import decode_head
from runicorn.remote_storage.known import Cursor
from runicorn.remote_storage.mirror_view import MirrorView
from runicorn.remote_storage.opening import open_mirror
from runicorn.remote_storage.options import SyncOptions
from runicorn.remote_storage.selection import Selection
from runicorn.remote_storage.source import Source
from testbed.sshd import Sshd
from tests.faults.process import generate, over, run_files, runicorn, snapshot, sync
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN, append, make_run
from tests.remote_storage.helpers import open_site, unprivileged

EVIL = "\x1b[31m"


# -- remotes -------------------------------------------------------------------------------


def test_remote_is_synced_by_its_name(server: Sshd, root: Path, mirror: Path, home: dict[str, str]) -> None:
    runicorn("remote", "add", "gpu1", f"{server.host}:{root}", mirror, env=home).expect(0)
    sync("gpu1", *over(server), env=home).expect(0)
    assert run_files(mirror) == run_files(root)
    listed = json.loads(runicorn("remote", "list", "--json", env=home).expect(0).out)
    assert listed["remotes"] == [
        {
            "name": "gpu1",
            "source": f"{server.host}:{root}",
            "mirror": str(mirror),
            "is_default_mirror": False,
        }
    ]
    assert runicorn("remote", "list", env=home).out.split() == ["gpu1", f"{server.host}:{root}", str(mirror)]
    runicorn("remote", "remove", "gpu1", env=home).expect(0)
    assert runicorn("remote", "list", env=home).expect(0).out == ""
    assert run_files(mirror) == run_files(root)


def test_mirror_lies_in_the_data_folder_by_default(root: Path, tmp_path: Path, home: dict[str, str]) -> None:
    runicorn("remote", "add", "here", root, env=home).expect(0)
    sync("here", env=home).expect(0)
    (mirror,) = (tmp_path / "data/runicorn/mirrors").iterdir()
    assert run_files(mirror) == run_files(root)
    sync(root, env=home).expect(0)  # the same source without its name has the same mirror
    assert len(list((tmp_path / "data/runicorn/mirrors").iterdir())) == 1


def test_relative_source_and_mirror_of_a_remote_mean_the_same_everywhere(
    root: Path, tmp_path: Path, home: dict[str, str]
) -> None:
    runicorn("remote", "add", "here", "root", "mirror", env=home, cwd=tmp_path).expect(0)
    (tmp_path / "elsewhere").mkdir()
    sync("here", env=home, cwd=tmp_path / "elsewhere").expect(0)
    assert run_files(tmp_path / "mirror") == run_files(root)


def test_folder_that_is_called_like_a_remote_is_written_with_a_dot(
    root: Path, tmp_path: Path, home: dict[str, str]
) -> None:
    runicorn("remote", "add", "root", tmp_path / "nowhere", tmp_path / "other", env=home).expect(0)
    sync("root", tmp_path / "mirror", "-q", env=home, cwd=tmp_path).refused(6)
    sync("./root", tmp_path / "mirror", env=home, cwd=tmp_path).expect(0)
    assert run_files(tmp_path / "mirror") == run_files(root)


def test_wrong_remotes_are_one_clear_line(root: Path, tmp_path: Path, home: dict[str, str]) -> None:
    runicorn("remote", "add", "a/b", root, env=home).refused(2, "cannot be the name")
    runicorn("remote", "add", EVIL, root, env=home).refused(2, "\\x1b[31m")
    runicorn("remote", "add", "a", ":/x", env=home).refused(2, "names no host")
    runicorn("remote", "add", "a", root, root / "inside", env=home).refused(2, "inside each other")
    runicorn("remote", "remove", "a", env=home).refused(2, "no remote a")
    assert not (tmp_path / "config").exists()
    file = tmp_path / "config/runicorn/remotes.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[remotes.a\n")
    for arguments in (["sync"], ["sync", "a"], ["remote", "list"], ["status"], ["status", "a"]):
        runicorn(*arguments, env=home).refused(2, "cannot read", str(file))
    sync(root, tmp_path / "mirror", env=home).expect(0)  # does not need the file


# -- status --------------------------------------------------------------------------------


def test_status_tells_what_the_last_sync_left(root: Path, mirror: Path) -> None:
    sync(root, mirror).expect(0)
    before = snapshot(mirror)
    done = runicorn("status", mirror).expect(0)
    assert "2 runs, 10 files, " in done.out
    assert "revision 1, the last changes by the journal" in done.out
    assert "at least" in done.out
    found = json.loads(runicorn("status", mirror, "--json").expect(0).out)
    assert (found["runs"], found["files"], found["wanted"], found["syncing"]) == (2, 10, 0, False)
    assert found["source"] == str(root)
    assert found["failure"] is None
    assert snapshot(mirror) == before


def test_status_bounds_the_age_of_a_publication_by_two_looks(root: Path, mirror: Path) -> None:
    sync(root, mirror).expect(0)
    append(root / PROJECT_RUN / "logs.txt", b"more\n")
    generate(root)
    sync(root, mirror).expect(0)
    found = json.loads(runicorn("status", mirror, "--json").expect(0).out)["publication"]
    assert 0 <= found["age_at_least"] <= found["age_at_most"] < 120
    assert " ago, by this machine's clock alone" in runicorn("status", mirror).out


def test_status_after_this_machines_clock_was_set_back_claims_no_age(root: Path, mirror: Path) -> None:
    sync(root, mirror).expect(0)
    ahead = time.time() + 7200
    with contextlib.closing(sqlite3.connect(mirror / ".runicorn/state.db")) as database, database:
        value = json.dumps([ahead, 5.0, ahead, ahead])
        database.execute("UPDATE meta SET value = ? WHERE key = 'contact'", (value,))
    found = json.loads(runicorn("status", mirror, "--json").expect(0).out)
    assert found["contact"]["age"] is None
    assert (found["publication"]["age_at_least"], found["publication"]["age_at_most"]) == (0.0, None)
    assert "a time to come" in runicorn("status", mirror).expect(0).out


def test_status_names_what_failed_last(root: Path, mirror: Path) -> None:
    generate(root, journal=False)
    sync(root, mirror, "-q").expect(0)
    (root / PROJECT_RUN / "status.json").write_bytes(b'{"status": "completed"}')
    generate(root, journal=False)
    (root / PROJECT_RUN / "status.json").unlink()
    (root / PROJECT_RUN / "status.json").mkdir()
    sync(root, mirror, "-q").expect(3)
    done = runicorn("status", mirror).expect(0)
    assert "1 files in the sync of" in done.out
    assert "status.json" in done.out
    root.rename(root.with_name("away"))
    sync(root, mirror, "-q").expect(6)
    found = json.loads(runicorn("status", mirror, "--json").expect(0).out)
    assert found["failure"]["exit_code"] == 6
    assert "there is no folder" in found["failure"]["error"]


def test_status_of_all_remotes_goes_on_behind_a_bad_one(
    root: Path, mirror: Path, tmp_path: Path, home: dict[str, str]
) -> None:
    runicorn("remote", "add", "bad", "host:/x", tmp_path / "none", env=home).expect(0)
    runicorn("remote", "add", "good", root, mirror, env=home).expect(0)
    sync("good", env=home).expect(0)
    done = runicorn("status", env=home).expect(1)
    assert "is no mirror" in done.out
    assert "10 files" in done.out
    found = json.loads(runicorn("status", "--json", env=home).expect(1).out)["mirrors"]
    assert [each["remote"] for each in found] == ["bad", "good"]
    assert json.loads(runicorn("status", "good", "--json", env=home).expect(0).out)["remote"] == "good"


def test_status_of_a_mirror_that_may_only_be_read() -> None:
    with open_site() as site:
        make_run(site.root, PROJECT_RUN)
        site.publish()
        site.sync()
        for path in [site.mirror, *site.mirror.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        site.mirror.parent.chmod(0o555)
        with unprivileged(), MirrorView(site.mirror) as view:
            assert view.totals().files > 0
            assert not view.is_synced_now()


@pytest.mark.parametrize("command", [["status"], ["verify"], ["explain"]])
def test_what_is_no_mirror_is_one_clear_line(tmp_path: Path, command: list[str]) -> None:
    more = ["x"] if command == ["explain"] else []
    runicorn(*command, tmp_path / f"no{EVIL}", *more).refused(1, "is no mirror", "\\x1b")


# -- verify --------------------------------------------------------------------------------


def damage(mirror: Path) -> None:
    (mirror / PROJECT_RUN / "meta.json").unlink()
    (mirror / PROJECT_RUN / "status.json").write_bytes(b"{}")
    append(mirror / PATH_RUN / "logs.txt", b"more\n")


def test_verify_names_differences_and_repairs_them_over_ssh(server: Sshd, root: Path, mirror: Path) -> None:
    sync(f"{server.host}:{root}", mirror, *over(server)).expect(0)
    assert runicorn("verify", mirror).expect(0).out.startswith("all is as it was published: 10 files")
    damage(mirror)
    done = runicorn("verify", mirror).expect(3)
    assert [line.split()[0] for line in done.out.splitlines()] == ["extra", "missing", "short", "3"]
    done = runicorn("verify", mirror, "--repair", *over(server)).expect(0)
    assert "3 files are fetched again" in done.out
    assert run_files(mirror) == run_files(root)
    runicorn("verify", mirror).expect(0)


def test_verify_in_json(root: Path, mirror: Path) -> None:
    sync(root, mirror).expect(0)
    damage(mirror)
    found = json.loads(runicorn("verify", mirror, "--json").expect(3).out)
    assert [each["kind"] for each in found["differences"]] == ["extra", "missing", "short"]
    assert (found["left_count"], found["repair"]) == (3, None)
    found = json.loads(runicorn("verify", mirror, "--json", "--repair").expect(0).out)
    assert (len(found["differences"]), found["left"], found["left_count"]) == (3, [], 0)
    assert found["repair"]["files_synced"] == 2


def begun(root: Path, mirror: Path, **options: Any) -> None:
    """A mirror that knows its source and selection, and no more: a first sync was cut short."""
    with contextlib.ExitStack() as stack:
        source = Source(str(root)).identity
        selection = Selection(projects=("vision",))
        opened = open_mirror(stack, mirror, SyncOptions(source=source, selection=selection))
        head = decode_head((root / ".runicorn/journal/HEAD").read_bytes())
        place = beginning(head.epoch)
        opened.state.enter_lineage(head.identity.lineage, source)
        opened.state.begin_base(Cursor(None, selection.key, head.generated_at, place=place, **options))


def test_verify_of_a_sync_that_was_cut_short_is_code_3(root: Path, mirror: Path) -> None:
    generate(root)
    begun(root, mirror, began_empty=True)
    done = runicorn("verify", mirror).expect(3)
    assert done.out.splitlines()[0].startswith("incomplete: no sync has come to its end")
    assert done.out.splitlines()[1].startswith("0 differences: 0 files")
    found = json.loads(runicorn("verify", mirror, "--json").expect(3).out)
    assert (found["complete"], found["left_count"], found["repair"]) == (False, 0, None)
    found = json.loads(runicorn("verify", mirror, "--json", "--repair").expect(0).out)
    assert (found["complete"], found["left_count"]) == (True, 0)
    vision = {path: content for path, content in run_files(root).items() if path.startswith("vision/")}
    assert run_files(mirror) == vision
    assert runicorn("verify", mirror).expect(0).out.startswith("all is as it was published")


def test_repair_of_a_mirror_that_knows_no_selection_is_refused(root: Path, mirror: Path) -> None:
    sync(root / "nowhere", mirror).expect(6)
    runicorn("verify", mirror).expect(3)
    runicorn("verify", mirror, "--repair").refused(2, "what was selected is not known", "fetches what")
    sync(root, mirror).expect(0)
    runicorn("verify", mirror, "--repair").expect(0)


def test_repair_without_a_server_changes_nothing_for_the_worse(
    server: Sshd, root: Path, mirror: Path
) -> None:
    sync(f"{server.host}:{root}", mirror, *over(server)).expect(0)
    damage(mirror)
    before = run_files(mirror)
    runicorn("verify", mirror, "--repair", "--ssh", "false", "-q").refused(4)
    assert run_files(mirror) == before
    runicorn("verify", mirror).expect(3)


def test_repair_by_the_name_of_a_remote(root: Path, mirror: Path, home: dict[str, str]) -> None:
    runicorn("remote", "add", "here", root, mirror, env=home).expect(0)
    sync("here", env=home).expect(0)
    damage(mirror)
    runicorn("verify", "here", env=home).expect(3)
    runicorn("verify", "here", "--repair", env=home).expect(0)
    assert run_files(mirror) == run_files(root)


def test_repair_of_what_the_server_has_no_more_is_code_3(root: Path, mirror: Path) -> None:
    sync(root, mirror).expect(0)
    (mirror / PROJECT_RUN / "meta.json").unlink()
    (root / PROJECT_RUN / "meta.json").unlink()
    generate(root)
    done = runicorn("verify", mirror, "--repair").expect(3)
    assert "was not fetched" in done.out


def test_repair_whose_sync_leaves_another_file_undone_is_code_3(root: Path, mirror: Path) -> None:
    generate(root, journal=False)
    sync(root, mirror, "-q").expect(0)
    (mirror / PROJECT_RUN / "meta.json").unlink()
    (root / PROJECT_RUN / "status.json").write_bytes(b'{"status": "completed"}')
    generate(root, journal=False)
    (root / PROJECT_RUN / "status.json").unlink()
    (root / PROJECT_RUN / "status.json").mkdir()
    done = runicorn("verify", mirror, "--repair").expect(3)
    assert "1 differences" in done.out
    assert "status.json" in done.err


# -- explain -------------------------------------------------------------------------------


def test_explain_takes_relative_and_absolute_paths(root: Path, mirror: Path) -> None:
    sync(root, mirror, "--no-media").expect(0)
    done = runicorn("explain", mirror, f"{PROJECT_RUN}/logs.txt").expect(0)
    assert done.out.startswith(f"{PROJECT_RUN}/logs.txt: in place\n")
    found = json.loads(runicorn("explain", mirror, mirror / PROJECT_RUN / "logs.txt", "--json").expect(0).out)
    assert (found["verdict"], found["revision"]) == ("in_place", 1)
    assert "--no-media" in runicorn("explain", mirror, f"{PROJECT_RUN}/media/x.png").expect(0).out
    runicorn("explain", mirror, root / "x").refused(2, "can be no path of a mirror")
    runicorn("explain", mirror, f"a{EVIL}b").refused(2, "\\x1b[31m")
