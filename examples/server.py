"""On the server: publish a root on and on, and tell how it goes: `python server.py ROOT`.

As `runicorn generate-manifest --watch`, inside a program of your own. SIGTERM or Ctrl-C ends it in order.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from runicorn.errors import RunicornError
from runicorn.manifest import Header
from runicorn.manifest.status import root_status
from runicorn.manifest.watch import Watch, WatchObserver


class Teller(WatchObserver):
    """Prints a line for each new revision, and what a person should read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._revision = 0

    def said(self, text: str) -> None:
        """Something that a person should read."""
        print(text, file=sys.stderr, flush=True)

    def published(self, header: Header) -> None:
        """A state was published; the same again is a sign of life."""
        revision = header.identity.revision
        if revision == self._revision:
            return
        self._revision = revision
        status = root_status(self._root)
        print(
            f"revision {revision}: {status.runs} runs, {status.files} files, {status.size} bytes", flush=True
        )
        for problem in status.problems:
            print(f"  {problem.kind} {problem.path!r}: {problem.message}", flush=True)


def main() -> int:
    """Watch until a signal comes; returns the exit code."""
    root = Path(sys.argv[1])
    watch = Watch(root, observer=Teller(root))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watch.stop())
    try:
        watch.run()
    except RunicornError as error:
        print(f"{error} {error.hint}".strip(), file=sys.stderr)
        return error.exit_code
    finally:
        watch.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
