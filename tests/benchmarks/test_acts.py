"""The acts of the benchmarks, played on a tree of three runs: what they tell is what happened."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.acts import play
from benchmarks.budgets import ratios_to
from benchmarks.contenders import FLOOR, JOURNAL, LFTP, RCLONE, RSYNC, TAR, own_name
from benchmarks.lab import OWN_FOLDER, Lab, archive_files
from benchmarks.plan import (
    FAR,
    FEW,
    MANY,
    NEAR,
    PLANS,
    RATED,
    SOME,
    TINY_TREE,
    USUAL,
    Act,
    Generations,
    Line,
    Requests,
    Syncs,
    Times,
)
from benchmarks.process import METER, run
from benchmarks.profiling import ELSEWHERE, IMPORTS, NO_FRAME, by_function
from benchmarks.results import Found, Generated, LeftOut, Results, Sample, load, save
from benchmarks.scenes import CHANGED, FIRST, UNCHANGED, Tell, change_runs, too_slow
from benchmarks.server import MeteredSshd

BY_JOURNAL = own_name(JOURNAL)
ENDS_AT_ONCE = """
import os, runpy, subprocess, sys
start = subprocess.Popen.__init__
def start_and_let_end(self, *words):
    start(self, *words)
    os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
subprocess.Popen.__init__ = start_and_let_end
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a program whose commands have ended before it goes on."""


NOTHING = Results("trial", {}, {})


def _sample(name: str, seconds: float, repetition: int = 0, trouble: str = "") -> Sample:
    return Sample(name, FIRST, repetition, seconds, 0.1, 1, 0.1, 1, 1, 1, trouble)


def _syncs(runs: int, *samples: Sample, left_out: tuple[LeftOut, ...] = (), line: Line = USUAL) -> Found:
    tree = dataclasses.replace(FEW, runs=runs)
    return Found("Syncs", tree, line, samples=list(samples), left_out=list(left_out))


RCLONE_ENDED = (LeftOut(RCLONE, FIRST, "ended after 60 s"),)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, str(Path(sys.executable).with_name("runicorn")))


def test_orphans_of_a_command_are_waited_for_and_a_slow_one_is_ended(tmp_path: Path) -> None:
    end = tmp_path / "end"
    cost = run(["sh", "-c", f"(while kill -0 $$; do :; done; sleep 0.1; touch {end}) 2>/dev/null & exit 3"])
    assert cost.trouble.startswith("exit 3")
    assert end.exists()
    cost = run(["sh", "-c", "sleep 60 & sleep 60"], limit=0.2)
    assert cost.too_long
    assert 0.2 <= cost.seconds < 30


def test_command_that_ends_at_once_has_its_cost(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    subprocess.run([sys.executable, "-c", ENDS_AT_ONCE, METER, result, "5", "true"], check=True)
    assert json.loads(result.read_bytes())["code"] == 0


def test_server_tells_what_its_sessions_cost_and_serves_on() -> None:
    server = MeteredSshd()
    with server:
        for _ in range(2):
            login = run([*server.ssh_command, server.host, "head -c 20000000 /dev/zero | sha256sum"])
            assert not login.trouble
            spent = server.spent()
            assert spent.cpu_seconds > login.cpu_seconds / 10
            assert spent.peak_bytes > 1e6
        assert server.spent().cpu_seconds < spent.cpu_seconds


def test_scenes_are_played_by_all_in_turns_and_their_mirrors_compared(lab: Lab) -> None:
    act = Syncs(TINY_TREE, NEAR, (FLOOR, BY_JOURNAL), Times(1, 0, 1))
    found = play(lab, act, NOTHING, print)
    assert [(each.scene, each.contender) for each in found.samples] == [
        (scene, name) for scene in (FIRST, CHANGED) for name in act.contenders
    ]
    assert found.troubles == []
    for each in found.samples:
        assert each.seconds > 0.01
        assert each.cpu_seconds > 0.005
        assert each.server_cpu_seconds > 0.005
        assert each.peak_bytes > 1e6
        assert each.server_peak_bytes > 1e6
        assert each.bytes_down > 1_000
        assert each.bytes_up > 1_000


def test_archive_is_unpacked_in_first_syncs_alone(lab: Lab) -> None:
    found = play(lab, Syncs(TINY_TREE, NEAR, (FLOOR, TAR), Times(1, 0, 1)), NOTHING, print)
    assert [(each.scene, each.contender) for each in found.samples] == [
        *((FIRST, name) for name in (FLOOR, TAR)),
        (CHANGED, FLOOR),
    ]
    assert found.troubles == []


def test_archive_that_ends_too_early_has_failed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(root: Path, target: Path) -> None:
        archive_files(root, target)
        os.truncate(target, target.stat().st_size // 2)

    monkeypatch.setattr("benchmarks.scenes.archive_files", half)
    found = play(lab, Syncs(TINY_TREE, NEAR, (FLOOR, TAR), Times(1, 0, 0)), NOTHING, print)
    assert [each.contender for each in found.samples if each.trouble] == [TAR]


def test_contender_that_leaves_another_mirror_has_failed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    act = Syncs(TINY_TREE, NEAR, (LFTP,), Times(1, 0, 0))
    monkeypatch.setattr("benchmarks.contenders.Lftp.command", lambda *_: ["true"])
    found = play(lab, act, NOTHING, print)
    assert [each.partition(" ")[2].partition(" [")[0] for each in found.troubles] == ["files missing"]


def test_who_cannot_sync_in_time_is_left_out_and_begins_later_scenes_with_a_copy(lab: Lab) -> None:
    smaller = _syncs(1, _sample(FLOOR, 1.0), _sample(LFTP, 90.0))
    before = dataclasses.replace(NOTHING, found={"smaller": dataclasses.replace(smaller, line=NEAR)})
    act = Syncs(dataclasses.replace(FEW, runs=5), NEAR, (LFTP,), Times(1, 1, 0))
    found = play(lab, act, before, print)
    assert [(each.contender, each.scene) for each in found.left_out] == [(LFTP, FIRST)]
    played = [(each.contender, each.scene) for each in found.samples]
    assert played == [(LFTP, UNCHANGED)]
    assert found.troubles == []


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([], ""),
        ([_syncs(100, _sample(FLOOR, 1.0), _sample(RCLONE, 5.0))], ""),
        (
            [_syncs(100, _sample(FLOOR, 1.0), _sample(RCLONE, 20.0))],
            "20 s at 100 runs, so it would take longer than 50 s",
        ),
        ([_syncs(100, left_out=RCLONE_ENDED)], "left out already at 100 runs, 50 ms, no rate limit"),
        (
            [_syncs(1_000, left_out=RCLONE_ENDED, line=NEAR)],
            "left out already at 1,000 runs, 0 ms, no rate limit",
        ),
        ([_syncs(1_000, left_out=RCLONE_ENDED, line=FAR)], ""),
        ([_syncs(1_000, left_out=RCLONE_ENDED, line=RATED[USUAL])], ""),
        ([_syncs(100, _sample(FLOOR, 1.0), _sample(RCLONE, 20.0, trouble="exit 1"))], ""),
        ([_syncs(10_000, _sample(FLOOR, 1.0), _sample(RCLONE, 99.0))], ""),
    ],
)
def test_easier_acts_tell_who_is_too_slow(found: list[Found], reason: str) -> None:
    before = dataclasses.replace(NOTHING, found={str(number): each for number, each in enumerate(found)})
    assert too_slow(before, Syncs(SOME, USUAL), RCLONE, FIRST) == reason


def test_requests_of_a_contender_are_counted(lab: Lab) -> None:
    act = Requests(TINY_TREE, NEAR, (BY_JOURNAL,), has_polls=False)
    found = play(lab, act, NOTHING, print)
    assert found.troubles == []
    assert [each.scene for each in found.counted] == [FIRST, UNCHANGED, CHANGED]
    for each in found.counted:
        assert 1 <= each.requests == sum(each.by_type.values())
        assert not each.changing


def test_file_of_results_gives_them_back_and_is_gone_on_with_only_on_the_same_machine(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = Results("full", {"cores": 2}, {"ssh": "9"}, [{"begun": "now", "load": 0.1}])
    act = Syncs(MANY, USUAL)
    results.add(act, _syncs(100, _sample(FLOOR, 1.25), _sample(RCLONE, 2.5, trouble="exit 1")))
    save(results, path)
    again = load(path)
    assert again == results
    assert act.name in again.found
    assert not again.fits(results)
    assert again.fits(dataclasses.replace(results, versions={"ssh": "10"}))


def test_plan_that_was_interrupted_or_failed_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    acts = [Generations(dataclasses.replace(TINY_TREE, runs=runs), unchanged=1) for runs in (1, 2)]
    monkeypatch.setitem(PLANS, "trial", lambda: iter(acts))
    output = tmp_path / "results.json"
    command = ["--plan=trial", f"--output={output}", f"--scratch={tmp_path}", "--resume"]
    causes = iter([KeyboardInterrupt(), TimeoutError("no answer")])

    def failing(lab: Lab, act: Act, before: Results, tell: Tell) -> Found:
        if act is acts[1]:
            raise next(causes)
        return play(lab, act, before, tell)

    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.__main__.play", failing)
        with pytest.raises(KeyboardInterrupt):
            main(command)
        kept = load(output).found
        assert list(kept) == [acts[0].name]
        assert main(command) == 1
    assert main(command) == 0
    found = load(output)
    assert list(found.found) == [act.name for act in acts]
    assert found.found[acts[0].name] == kept[acts[0].name]
    assert len(found.sessions) == 2  # one that found nothing is not told
    assert found.sessions[1]["command"] == "make bench BENCH='--plan=trial --resume'"
    assert "| 1 x 6 |" in capsys.readouterr().out


def test_act_that_went_wrong_is_played_again_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, output = Generations(TINY_TREE, unchanged=1), tmp_path / "results.json"
    monkeypatch.setitem(PLANS, "trial", lambda: iter([act]))
    command = ["--plan=trial", f"--output={output}", f"--scratch={tmp_path}", "--resume"]
    failed = Generated(True, 1.0, 1.0, 1, trouble="exit 1")
    with monkeypatch.context() as patch:
        found = Found("Generations", TINY_TREE, None, generated=[failed])
        patch.setattr("benchmarks.__main__.play", lambda *_: found)
        assert main(command) == 1
    assert main(command) == 0
    results = load(output)
    assert results.found[act.name].troubles == []
    assert results.sessions[1]["failed_before"] == ["exit 1"]


def test_act_that_would_end_too_late_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = Syncs(TINY_TREE, NEAR), Syncs(TINY_TREE, NEAR, part="again")
    other = Requests(TINY_TREE, NEAR)
    monkeypatch.setitem(PLANS, "trial", lambda: iter([first, again, other]))
    played: list[Act] = []

    def long(_: Lab, act: Act, *__: object) -> Found:
        played.append(act)
        return Found(type(act).__name__, act.tree, act.where, seconds=61.0)

    monkeypatch.setattr("benchmarks.__main__.play", long)
    output = tmp_path / "results.json"
    command = ["--plan=trial", f"--output={output}", "--minutes=1"]
    assert main(command) == 0
    assert played == [first, other]
    assert main([*command, "--minutes=2", "--resume"]) == 0
    assert played == [first, other, again]
    assert main([*command, "--minutes=0"]) == 1


def test_acts_of_one_tree_and_line_are_told_as_one(lab: Lab) -> None:
    results = dataclasses.replace(NOTHING, found={})
    for part in ("", "again"):
        act = Syncs(TINY_TREE, NEAR, (FLOOR, RSYNC), Times(1, 0, 1), part=part)
        results.add(act, play(lab, act, results, print))
    (found,) = results.of("Syncs")
    assert found.troubles == []
    assert [each.repetition for each in found.samples if each.contender == RSYNC] == [0, 0, 1, 1]
    assert [each.contender for each in found.samples[-2:]] == [RSYNC, FLOOR]
    assert len(ratios_to(found, FLOOR, RSYNC, FIRST)) == 2


def test_who_was_too_slow_to_repeat_has_its_time_and_no_other(lab: Lab) -> None:
    act = Syncs(TINY_TREE, NEAR, (BY_JOURNAL,), Times(1, 1, 0), part="again")
    earlier = [_sample(BY_JOURNAL, 21.0), dataclasses.replace(_sample(BY_JOURNAL, 1.0), scene=UNCHANGED)]
    before = dataclasses.replace(NOTHING, found={"": Found("Syncs", TINY_TREE, NEAR, samples=earlier)})
    found = play(lab, act, before, print)
    assert (found.samples, found.left_out) == ([], [])


def test_tree_is_as_it_was_made_whenever_it_is_planted(lab: Lab) -> None:
    planted = lab.plant(TINY_TREE)
    before = {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in planted.logs}
    change_runs(planted.runs, 0)
    assert {path: path.stat().st_size for path in planted.logs} != {
        path: size for path, (size, _) in before.items()
    }
    lab.publish(planted)
    assert lab.plant(TINY_TREE) is planted
    assert {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in planted.logs} == before
    assert not (planted.root / OWN_FOLDER).exists()


@pytest.mark.parametrize("plan", PLANS)
def test_acts_of_a_plan_have_names_of_their_own(plan: str) -> None:
    names = [act.name for act in PLANS[plan]()]
    assert len(names) == len(set(names))


def test_smaller_trees_come_first_in_every_plan() -> None:
    for plan in PLANS.values():
        acts = [act for act in plan() if isinstance(act, Syncs) and RCLONE in act.contenders and not act.part]
        for number, act in enumerate(acts):
            like = [
                each for each in acts[number:] if (each.line, each.tree.files) == (act.line, act.tree.files)
            ]
            assert all(each.tree.runs >= act.tree.runs for each in like), act.name


def _stacks() -> Iterator[str]:
    here = 'process 1:"runicorn";main (/somewhere/bin/runicorn:8)'
    yield f"{here};run (/src/runicorn/manifest/scan.py:7);open (/lib/os.py:3) 5"
    yield f"{here};run (/src/runicorn/manifest/scan.py:9) 2"
    yield f"{here};main (/src/runicorn/cli/__init__.py:9);wait (/lib/subprocess.py:1) 3"
    yield f"{here};run (/src/runicorn/x.py:1);_find_and_load (<frozen importlib._bootstrap>:1) 4"
    yield f"{here} 1"
    yield 'process 1:"runicorn" 6'


def test_samples_of_a_profile_belong_to_the_innermost_function_of_ours() -> None:
    counted = by_function(_stacks(), "/src/runicorn/")
    assert counted == {"manifest.scan:run": 7, "cli:main": 3, IMPORTS: 4, ELSEWHERE: 1, NO_FRAME: 6}
