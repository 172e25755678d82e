"""A watching generator in a thread, and what it tells."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runicorn.manifest.model import Header
from runicorn.manifest.watch import Watch, WatchObserver
from tests.manifest.helpers import make_run
from tests.manifest.journal_reader import Replica

LONG = 30.0


class Told(WatchObserver):
    """Keeps what it is told, for a thread that waits for it."""

    def __init__(self) -> None:
        self.headers: queue.Queue[Header | None] = queue.Queue()
        self.lines: queue.Queue[str] = queue.Queue()

    def said(self, text: str) -> None:
        self.lines.put(text)

    def published(self, header: Header) -> None:
        self.headers.put(header)

    def until(self, wanted: Callable[[Header], bool]) -> Header:
        while True:
            header = self.headers.get(timeout=LONG)
            assert header is not None, "the watch has ended"
            if wanted(header):
                return header

    def line(self, part: str) -> str:
        while True:
            line = self.lines.get(timeout=LONG)
            if part in line:
                return line


@contextmanager
def watching(root: Path, **options: object) -> Iterator[tuple[Watch, Told]]:
    """A watch in a thread that has published once; it must end without an error."""
    told = Told()
    watch = Watch(root, observer=told, **options)  # type: ignore[arg-type]
    errors: list[BaseException] = []

    def run() -> None:
        try:
            watch.run()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
            told.headers.put(None)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert told.headers.get(timeout=LONG) is not None, errors
        yield watch, told
    finally:
        watch.stop()
        thread.join(LONG)
        watch.close()
    assert not thread.is_alive()
    assert errors == []


def three_runs(root: Path) -> Path:
    """A root with three runs under way."""
    for number in range(3):
        make_run(root, f"p/n/runs/r{number}", status="running")
    return root


def same(root: Path) -> None:
    """A client that reads the journal from its beginning gets what lies there."""
    replica = Replica()
    replica.sync(root)
    replica.check(root)
