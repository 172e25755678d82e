"""A watching generator killed at any step: what a client has read stays, and the next one carries on."""

from __future__ import annotations

from pathlib import Path

import pytest

from runicorn.manifest import ManifestGenerator
from runicorn.manifest.generation import Hooks
from runicorn.manifest.model import Identity
from runicorn.manifest.scan_delta import append_record, changes_since, delta_path, settle_delta
from runicorn.manifest.scan_limit import Limit
from runicorn.manifest.scan_reader import StateReader, stored_identity
from runicorn.manifest.scan_state import STATE_NAME, RunState, Summary
from runicorn.manifest.standing import Standing
from tests.manifest.helpers import generate, temps
from tests.manifest.journal_reader import Replica, epochs, head
from tests.manifest.test_journal_kill import Follower, change
from tests.manifest.test_kill import child
from tests.manifest.watching import three_runs

HERE = Path(__file__).parents[2]
MODULE = "__import__('tests.manifest.test_watch_kill', fromlist=['run'])"
CALL = f"sys.path.insert(0, {str(HERE)!r}) or {MODULE}.run(root)"


def run(root: str) -> int:
    """In a process of its own: a whole generation, and three that look only at what changed."""
    with ManifestGenerator(Path(root)).session(Standing(), Hooks()) as session:
        session.publish()
        for number in range(3):
            change(Path(root), number)
            session.publish_changes(Limit([f"p/n/runs/r{number}"]), renew=True)
    return 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return three_runs(tmp_path)


def test_killed_at_every_step(root: Path) -> None:
    generate(root)
    follower = Follower(root)
    follower.look()
    first = epochs(root)
    step = -1
    while True:
        step += 2  # after one step is before the next
        result = child(root, step, "SIGKILL", CALL)
        follower.look()
        if result.returncode == 0:
            break
        assert result.returncode == -9, result.stderr
    assert step >= 100
    generate(root)
    follower.check()
    assert epochs(root) == first, "no kill makes clients begin anew"
    replica = Replica()
    replica.sync(root)
    replica.check(root)
    assert temps(root) == []
    assert not delta_path(root / ".runicorn" / STATE_NAME).exists()


# -- the records -------------------------------------------------------------------------------


def _identity(revision: int) -> Identity:
    return Identity("lineage", revision, f"snapshot-{revision}")


class Records:
    """Three records that follow the scan state of a root with three runs."""

    def __init__(self, root: Path) -> None:
        generate(root)
        self.state = root / ".runicorn" / STATE_NAME
        base = stored_identity(self.state)
        assert base is not None
        self.base = base
        self.runs = {run.folder: run for run in StateReader(self.state).runs()}
        self.ends: list[int] = []
        known = base
        for number in range(3):
            gone: dict[str, RunState | None] = {f"p/n/runs/r{number}": None}
            summary = Summary(_identity(number + 10), "problems", 2 - number)
            append_record(self.state, known, gone, summary, first=number == 0)
            known = summary.identity
            self.ends.append(delta_path(self.state).stat().st_size)

    def folders(self) -> list[str]:
        return [run.folder for run in StateReader(self.state).runs()]


@pytest.mark.parametrize("revision", [10, 11, 12])
def test_records_up_to_the_commit_count(root: Path, revision: int) -> None:
    records = Records(root)
    assert settle_delta(records.state, records.base, _identity(revision)) == _identity(12)
    kept = revision - 9
    assert delta_path(records.state).stat().st_size == records.ends[kept - 1]
    assert records.folders() == [f"p/n/runs/r{number}" for number in range(kept, 3)]
    reader = StateReader(records.state)
    list(reader.runs())
    assert reader.summary is not None
    assert reader.summary.identity == _identity(revision)


def test_without_a_journal_all_whole_records_count(root: Path) -> None:
    records = Records(root)
    with delta_path(records.state).open("rb+") as stream:
        stream.truncate(records.ends[2] - 3)
    assert settle_delta(records.state, records.base, None) == _identity(11)
    assert delta_path(records.state).stat().st_size == records.ends[1]
    assert records.folders() == ["p/n/runs/r2"]


@pytest.mark.parametrize("base", [None, _identity(1)])
def test_records_of_another_scan_state_go(root: Path, base: Identity | None) -> None:
    records = Records(root)
    assert settle_delta(records.state, base, _identity(12)) is None
    assert not delta_path(records.state).exists()
    assert len(records.folders()) == 3


def test_commit_of_the_scan_state_itself_leaves_no_record(root: Path) -> None:
    records = Records(root)
    settle_delta(records.state, records.base, records.base)
    assert not delta_path(records.state).exists()


def test_new_and_changed_runs_are_laid_over_in_order(root: Path) -> None:
    generate(root)
    state = root / ".runicorn" / STATE_NAME
    runs = {run.folder: run for run in StateReader(state).runs()}
    base = stored_identity(state)
    assert base is not None

    def moved(folder: str) -> RunState:
        old = runs["p/n/runs/r1"]
        return RunState(folder, old.sums, old.key, old.memory, old.line)

    new: dict[str, RunState | None] = {
        each: moved(each) for each in ("z/z/runs/a", "a/a/runs/a", "p/n/runs/r1")
    }
    append_record(state, base, new, Summary(_identity(2), "", 5), first=True)
    assert [run.folder for run in StateReader(state).runs()] == [
        "a/a/runs/a",
        "p/n/runs/r0",
        "p/n/runs/r1",
        "p/n/runs/r2",
        "z/z/runs/a",
    ]
    assert changes_since(state)[0] == base
    assert head(root).identity == base
