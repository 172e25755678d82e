"""On your machine: mirror several servers at once: `python client.py MIRRORS HOST:PATH...`.

Each root gets a folder of its own below MIRRORS, named after host and path, a thread, and one connection over
your own ssh (or over the program that RUNICORN_SSH names). SIGTERM or Ctrl-C ends all of them.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from runicorn.errors import RunicornError
from runicorn.remote_storage import LiveSession, Selection, SyncOptions, Watcher
from runicorn.remote_storage.report import (
    ConnectionLost,
    Event,
    PublicationStale,
    SyncFailed,
    SyncFinished,
)
from runicorn.remote_storage.transport import SshTarget, connect_ssh

SSH = tuple(shlex.split(os.environ.get("RUNICORN_SSH", "ssh")))
OPTIONS = SyncOptions(selection=Selection(media=False))  # metrics and logs; no images


def tell(source: str, event: Event) -> None:
    """Print what a person wants to know of one root."""
    if isinstance(event, SyncFinished):
        report = event.report
        print(
            f"{source}: {report.files_synced} files, {report.failed_count} failed, by {report.method}",
            flush=True,
        )
    elif isinstance(event, ConnectionLost | SyncFailed):
        print(f"{source}: {event.error}; again in {event.retry_in:.0f} s", flush=True)
    elif isinstance(event, PublicationStale):
        print(f"{source}: nothing published for {event.unchanged:.0f} s: is the generator dead?", flush=True)


def mirror(source: str, folder: Path, stop: threading.Event, failures: list[str]) -> None:
    """Watch one root until `stop` is set, or until it fails in a way that cannot pass by itself."""
    host, _, path = source.partition(":")
    observer = partial(tell, source)
    connect = partial(connect_ssh, SshTarget(host, command=SSH))
    session = LiveSession(connect, path, folder, OPTIONS, observer, cancel=stop)
    try:
        Watcher(session, observer=observer).run(stop)
    except RunicornError as error:
        if not stop.is_set():
            failures.append(f"{source}: {error} (exit code {error.exit_code}) {error.hint}")


def main() -> int:
    """Mirror all roots side by side; returns the exit code."""
    stop, failures, signals = threading.Event(), list[str](), list[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: signals.append(received))
    threads = []
    for source in sys.argv[2:]:
        folder = Path(sys.argv[1], source.replace(":", "").replace("/", "-"))
        folder.mkdir(parents=True, exist_ok=True)
        thread = threading.Thread(target=mirror, args=(source, folder, stop, failures), name=source)
        thread.start()
        threads.append(thread)
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
            if signals:  # not set where the signal comes: its lock may be held there
                stop.set()
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
