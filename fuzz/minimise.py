"""Take over into `tests/corpus` what reaches more code than it does: `python -m fuzz.minimise [TARGET ...]`.

What is there stays there: findings reach nothing new once they are mended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fuzz.__main__ import CORPUS, PROJECT, WORK, put
from fuzz.targets import TARGETS

SECONDS = 900


def _take_over(name: str) -> None:
    corpus, work = CORPUS / name, WORK / name
    before = {path.name for path in corpus.iterdir()}
    with tempfile.TemporaryDirectory() as place:
        # By edges alone: how often each was passed would keep ten times as much.
        options = ["-merge=1", "-use_counters=0", f"-merge_control_file={place}/control"]
        (merged := Path(place) / "merged").mkdir()
        for path in corpus.iterdir():
            put(merged, path.read_bytes())
        folders = [merged, work / "learned"]
        command = [sys.executable, "-m", "fuzz.run", name, *options, *map(str, folders)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, timeout=SECONDS, check=False)
        if done.returncode:
            raise SystemExit(f"fuzz: {name} ended with {done.returncode}:\n{done.stderr.decode()[-2000:]}")
        for path in merged.iterdir():
            put(corpus, path.read_bytes())
    files = list(corpus.iterdir())
    size = sum(path.stat().st_size for path in files)
    print(f"{name}: {len(files)} inputs, {len(files) - len(before)} of them new, {size:,} bytes")


def main(names: Sequence[str]) -> None:
    """Take over what the targets' fuzzers have learned."""
    for name in names or TARGETS:
        _take_over(name)


if __name__ == "__main__":
    main(sys.argv[1:])
