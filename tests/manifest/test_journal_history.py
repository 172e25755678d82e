"""The journal tells exactly what happened: random histories of live writers, replayed byte for byte."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from runicorn.journal.frames import Kind
from runicorn.manifest import ManifestGenerator, ManifestType
from tests.manifest.helpers import (
    PROJECT_RUN,
    ReadCounter,
    append,
    generate,
    make_run,
    replace,
    settle,
    write,
)
from tests.manifest.journal_reader import Replica, head, journal

BLOCK = 1024 * 1024
LOG = f"{PROJECT_RUN}/events.jsonl"


class Writer:
    """Training scripts, and people who tidy up."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.chance = random.Random(seed)
        self.count = 0

    def runs(self) -> list[Path]:
        return sorted(path.parent for path in self.root.glob("*/*/runs/*/status.json"))

    def some(self, *names: str) -> Path:
        return self.chance.choice(self.runs()) / self.chance.choice(names)

    def text(self) -> bytes:
        size = self.chance.choice([0, 1, 30, 400, 5000, 200_000, BLOCK + 5])
        data = bytearray(self.chance.randbytes(size).replace(b"\n", b"x"))
        for _ in range(self.chance.randrange(4)):
            data[self.chance.randrange(size + 1) : 0] = b"\n"
        return bytes(data) + self.chance.choice([b"\n", b"\n", b"half"])

    def step(self) -> None:
        self.count += 1
        steps = [
            self.append, self.append, self.append, self.state, self.media, self.rotate, self.truncate,
            self.delete, self.touch, self.status, self.rename, self.new_run, self.remove_run, self.chmod,
            self.spoil,
        ]  # fmt: skip
        if not self.runs():
            self.new_run()
        self.chance.choice(steps)()

    def append(self) -> None:
        append(self.some("events.jsonl", "logs.txt"), self.text())

    def state(self) -> None:
        data = json.dumps({"count": self.count, "x": "y" * self.chance.choice([0, 1, 1000, BLOCK + 1])})
        replace(self.some("summary.json", "assets.json", "meta.json"), data)

    def media(self) -> None:
        size = self.chance.choice([0, 1, 70_000, BLOCK, BLOCK + 1])
        write(self.some("media/a.png", "media/deep/b.png", "media/c.bin"), self.chance.randbytes(size))

    def rotate(self) -> None:
        replace(self.some("events.jsonl", "logs.txt"), self.text())

    def truncate(self) -> None:
        path = self.some("events.jsonl", "logs.txt")
        if path.exists():
            os.truncate(path, self.chance.randrange(path.stat().st_size + 1))

    def spoil(self) -> None:
        """A log is written anew, longer, in its place."""
        path = self.some("events.jsonl", "logs.txt")
        if path.exists():
            path.write_bytes(b"spoilt\n" * self.chance.choice([1, 1000, path.stat().st_size // 7 + 1]))

    def delete(self) -> None:
        self.some("events.jsonl", "logs.txt", "summary.json", "media/a.png").unlink(missing_ok=True)

    def touch(self) -> None:
        path = self.some("events.jsonl", "summary.json", "meta.json")
        if path.exists():
            os.utime(path)

    def chmod(self) -> None:
        path = self.some("events.jsonl", "summary.json", "meta.json")
        if path.exists():
            path.chmod(self.chance.choice([0o644, 0o755]))

    def status(self) -> None:
        replace(self.some("status.json"), json.dumps({"status": self.chance.choice(["running", "done"])}))

    def rename(self) -> None:
        run = self.chance.choice(self.runs())
        run.rename(run.with_name(f"renamed{self.count}"))

    def new_run(self) -> None:
        make_run(self.root, f"p{self.chance.randrange(3)}/n/runs/r{self.count}", status="running")

    def remove_run(self) -> None:
        if len(self.runs()) > 2:
            shutil.rmtree(self.chance.choice(self.runs()))


@pytest.mark.parametrize("seed", range(12))
def test_a_random_history(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicorn.manifest.journal_writer.SMALL_EPOCH", 0 if seed % 2 else 10**9)
    if seed % 3 == 0:
        settle(monkeypatch)
    writer = Writer(tmp_path, seed)
    for _ in range(3):
        writer.new_run()
    one, places = Replica(), set()
    for number in range(40):
        for _ in range(writer.chance.randrange(4)):
            writer.step()
        kind = writer.chance.choice([ManifestType.FULL, ManifestType.FULL, ManifestType.ACTIVE])
        incremental = writer.chance.random() < 0.8
        compact = writer.chance.random() < 0.1
        ManifestGenerator(tmp_path, incremental=incremental, compact=compact).publish(kind)
        one.sync(tmp_path)
        one.check(tmp_path)
        places.add(one.place.epoch if one.place else "")
        if number % 10 == 9:
            fresh = Replica()
            fresh.sync(tmp_path)
            fresh.check(tmp_path)
            assert fresh.entries == one.entries
            assert Kind.SEAL not in fresh.frames
    assert len(places) > 1


def test_a_client_that_was_away_carries_on_over_two_seals(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="running")
    generate(tmp_path)
    away = Replica()
    away.sync(tmp_path)
    away.carried = 0
    for _ in range(2):
        append(run / "logs.txt", b"more\n")
        generate(tmp_path)
        generate(tmp_path, compact=True)
    append(run / "logs.txt", b"last\n")
    generate(tmp_path)
    away.sync(tmp_path)
    away.check(tmp_path)
    assert away.carried == 15
    assert away.frames.count(Kind.SEAL) == 2


def test_nothing_is_appended_when_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    make_run(tmp_path)
    generate(tmp_path)
    generate(tmp_path)
    before = head(tmp_path)
    file = next(journal(tmp_path).glob("*.journal"))
    data, inode = file.read_bytes(), file.stat().st_ino
    counter = ReadCounter(monkeypatch)
    manifest = generate(tmp_path)
    assert counter.take() == []
    after = head(tmp_path)
    assert (after.end, after.identity, after.base, after.media) == (
        before.end,
        before.identity,
        before.base,
        before.media,
    )
    assert after.generated_at == manifest.generated_at > before.generated_at
    assert (file.read_bytes(), file.stat().st_ino) == (data, inode)
    assert abs(file.stat().st_mtime - manifest.generated_at) < 0.001


def test_a_change_reads_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    run = make_run(tmp_path, status="running")
    make_run(tmp_path, "runs/other/r")
    generate(tmp_path)
    counter = ReadCounter(monkeypatch)
    replica = Replica()
    replica.sync(tmp_path)
    replica.carried = 0
    append(run / "logs.txt", b"more\n")
    generate(tmp_path)
    assert counter.take() == ["logs.txt"]
    replica.sync(tmp_path)
    replica.check(tmp_path)
    assert replica.carried == 5


def one_change(root: Path, replica: Replica) -> int:
    """The bytes that the next generation carries."""
    replica.sync(root)
    replica.carried = 0
    generate(root)
    replica.sync(root)
    replica.check(root)
    return replica.carried


def test_a_log_travels_in_whole_records(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="running")
    generate(tmp_path)
    replica = Replica()
    append(run / "events.jsonl", b"half a rec")
    assert one_change(tmp_path, replica) == 0
    append(run / "events.jsonl", b"ord")
    assert one_change(tmp_path, replica) == 0
    assert replica.data[LOG] == b'{"step": 1}\n'
    assert LOG not in replica.listed
    append(run / "events.jsonl", b"\nand\nmore")
    assert one_change(tmp_path, replica) == len(b"half a record\nand\n")
    replace(run / "status.json", '{"status": "completed"}')
    assert one_change(tmp_path, replica) == len(b"more") + len('{"status": "completed"}')
    replace(run / "status.json", '{"status": "running"}')
    assert one_change(tmp_path, replica) == len('{"status": "running"}')
    append(run / "events.jsonl", b" of it\n")
    assert one_change(tmp_path, replica) == len(b" of it\n")


def test_a_touched_file_is_listed_without_its_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="running")
    generate(tmp_path)
    replica = Replica()
    for path in (run / "meta.json", run / "events.jsonl", run / "media/a.png"):
        os.utime(path, (1, 1))
    assert one_change(tmp_path, replica) == 0
    assert replica.entries[LOG].mtime == 1
    assert replica.listed == set()


@pytest.mark.parametrize("tail", [0, 10, BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("before", [0, BLOCK - 5, BLOCK, 3 * BLOCK - 7])
def test_a_long_record_is_carried_up_to_the_limit(tmp_path: Path, before: int, tail: int) -> None:
    run = make_run(tmp_path, status="running")
    write(run / "events.jsonl", b"a" * max(0, before - 1) + b"\n" * bool(before) + b"t" * tail)
    generate(tmp_path)
    replica = Replica()
    append(run / "events.jsonl", b"end\n")
    carried = one_change(tmp_path, replica)
    assert carried == (tail + 4 if tail + 4 <= BLOCK else 0)


def test_too_much_of_a_file_is_listed_only(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="running")
    generate(tmp_path)
    replica = Replica()
    append(run / "events.jsonl", b"x" * BLOCK + b"\n")
    write(run / "media/a.png", b"x" * (BLOCK + 1))
    write(run / "media/b.png", b"x" * BLOCK)
    assert one_change(tmp_path, replica) == BLOCK
    assert replica.listed == {LOG, f"{PROJECT_RUN}/media/a.png"}
    append(run / "events.jsonl", b"y\n")
    assert one_change(tmp_path, replica) == 2
