"""Killed, interrupted or stopped at any step: the previous manifest is whole, no revision is used twice."""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from runicorn.manifest import ManifestGenerator, read_manifest
from tests.manifest.helpers import append, generate, inside, make_run, replace, temps

CHILD = """
import os, signal, sys
root, step, how = sys.argv[1], int(sys.argv[2]), getattr(signal, sys.argv[3])
import runicorn.cli.generate_manifest
from runicorn.cli import main
done = 0

def reached():
    global done
    done += 1
    if done == step:
        os.kill(os.getpid(), how)

def counted(real):
    def call(*args, **kwargs):
        if "dir_fd" in kwargs:  # a step of the scan, which writes nothing
            return real(*args, **kwargs)
        reached()
        result = real(*args, **kwargs)
        reached()
        return result
    return call

for name in ("open", "fsync", "replace", "unlink", "write", "utime", "ftruncate", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
sys.exit(CALL)
"""
GENERATE = "main(['generate-manifest', '--root', root])"


FARM = """
import json, os, sys, traceback
import runicorn.cli.generate_manifest, runicorn.manifest.watch, tests.manifest.test_watch_kill
for line in sys.stdin:
    code, arguments, said = json.loads(line)
    child = os.fork()
    if child == 0:
        ended = 70
        try:
            for number, path in enumerate(said, 1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["-c", *arguments]
            exec(code, {"__name__": "__main__"})
        except SystemExit as error:
            ended = error.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def farm() -> subprocess.Popen[str]:
    """A process with everything loaded, which has the others for its children; it ends with this one."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", FARM]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )

    def end() -> None:
        process.communicate(timeout=60)

    atexit.register(end)
    return process


def child(root: Path, step: int, how: str, call: str = GENERATE) -> subprocess.CompletedProcess[str]:
    process, arguments = farm(), [str(root), str(step), how]
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("out", "err")]
        order = [CHILD.replace("CALL", call), arguments, [*map(str, said)]]
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], 60)
        assert ready, "the child does not end"
        code = int(process.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(each.read_text("utf-8") for each in said))


class History:
    """What was ever published: an identity never stands for two states."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str | None, int], object] = {}
        self.highest = 0

    def look(self, root: Path) -> None:
        for name in ("full_manifest.json", "full_manifest.json.gz"):
            path = root / ".runicorn" / name
            if not path.exists():
                continue
            manifest = read_manifest(path)
            key = (manifest.lineage, manifest.revision)
            state = (manifest.snapshot_id, manifest.experiments)
            assert self.seen.setdefault(key, state) == state
            self.highest = max(self.highest, manifest.revision)


def change(root: Path, number: int) -> None:
    run = root / f"p/n/runs/r{number % 3}"
    append(run / "logs.txt", b"more\n")
    replace(run / "summary.json", f'{{"step": {number}}}')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(3):
        make_run(tmp_path, f"p/n/runs/r{number}", status="running")
    return tmp_path


def kill_at_each_step(root: Path, before: Callable[[int], object], history: History) -> int:
    """Kill one generator before and after each of its steps; returns the number of kills."""
    for step in itertools.count(1):
        before(step)
        result = child(root, step, "SIGKILL")
        history.look(root)
        if result.returncode == 0:
            return step - 1
        assert result.returncode == -signal.SIGKILL
    raise AssertionError


def test_killed_at_every_step_with_changes(root: Path) -> None:
    history = History()
    generate(root)
    history.look(root)
    kills = kill_at_each_step(root, partial(change, root), history)
    assert kills >= 40
    last = generate(root)
    history.look(root)
    assert last.revision >= history.highest
    assert last.total_bytes == sum(path.stat().st_size for path in (root / "p").rglob("*") if path.is_file())
    assert temps(root) == []


def test_killed_at_every_step_without_a_change(root: Path) -> None:
    history = History()
    first = generate(root)
    assert kill_at_each_step(root, str, history) >= 20
    last = generate(root)
    history.look(root)
    assert last.header.identity == first.header.identity
    assert temps(root) == []


def test_killed_at_every_step_of_the_first_generation(root: Path) -> None:
    def begin(step: int) -> None:
        del step
        shutil.rmtree(root / ".runicorn", ignore_errors=True)
        history.seen.clear()

    history = History()
    assert kill_at_each_step(root, begin, history) >= 40
    assert history.highest == 1


@pytest.mark.parametrize("number", range(10))
def test_killed_and_gone_on_from_there(root: Path, number: int) -> None:
    history = History()
    generate(root)
    history.look(root)
    change(root, number)
    child(root, 6 + 4 * number, "SIGKILL")
    history.look(root)
    last = generate(root)
    history.look(root)
    assert last.revision == 2
    assert temps(root) == []


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_stopped_at_every_step(root: Path, how: str) -> None:
    history = History()
    generate(root)
    history.look(root)
    for step in itertools.count(1, 2):
        change(root, step)
        result = child(root, step, how)
        assert temps(root) == []
        history.look(root)
        if result.returncode == 0:
            break
        assert (result.returncode, result.stdout) == (130, "")
        assert result.stderr.split() == ["runicorn:", "stopped"]
    assert step >= 40


LOOP = """
import sys
from functools import partial
from pathlib import Path
from runicorn.manifest import ManifestGenerator
print("ready", flush=True)
while True:
    ManifestGenerator(Path(sys.argv[1])).generate()
    print("done", flush=True)
"""


def test_killed_at_random_moments_while_runs_go_on(root: Path) -> None:
    history = History()
    chance = random.Random(11)
    for number in range(12):
        with subprocess.Popen([sys.executable, "-c", LOOP, str(root)], stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == b"ready\n"
            for again in range(chance.randrange(1, 30)):
                change(root, number + again)
                if again % 10 == 9:
                    running.stdout.readline()
            running.kill()
            running.wait(30)
        history.look(root)
    assert ManifestGenerator(root).generate()[0].revision >= history.highest
    history.look(root)
    assert temps(root) == []
    assert inside(root / ".runicorn")
