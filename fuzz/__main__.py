"""Fuzz all targets for so many seconds in all, over two processes: `python -m fuzz [SECONDS] [TARGET ...]`.

What a fuzzer finds goes to `tests/corpus/<target>/`, where `make test` replays it; then this ends with 1.
What it learned stays in `.fuzz/`, and the next run goes on from there.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.target import MEMORY, SECONDS, Target
from fuzz.targets import TARGETS

PROJECT = Path(__file__).parents[1]
CORPUS, WORK = PROJECT / "tests/corpus", PROJECT / ".fuzz"
PROCESSES = 2
_DONE = re.compile(r"^#(\d+)\s.*\bcov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)


def put(folder: Path, content: bytes) -> Path:
    """A file whose name is the beginning of the SHA-1 of its content."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha1(content, usedforsecurity=False).hexdigest()[:12]
    if not path.exists():
        path.write_bytes(content)
    return path


def words_file(place: Path, words: Sequence[bytes]) -> Path:
    """Words in the form of libFuzzer's dictionaries."""
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words if word)
    place.write_text("".join(lines), encoding="ascii")
    return place


def _fuzz(name: str, target: Target, seconds: int) -> list[Path]:
    """Fuzz one target; the findings."""
    work = WORK / name
    for seed in (*target.seeds(), *target.spoiled()):
        put(work / "seeds", seed)
    for folder in ("learned", "findings"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={int(4 * SECONDS)}",
        f"-rss_limit_mb={MEMORY // 1024**2}",
        f"-max_len={target.longest}",
        f"-dict={words_file(work / 'words', target.words)}",
        f"-artifact_prefix={work / 'findings'}/",
        "-print_final_stats=1",
    ]
    folders = [work / "learned", work / "seeds", CORPUS / name]
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.run", name, *options, *map(str, folders)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 300,
        check=False,
    )
    (work / "log").write_text(done.stderr, encoding="utf-8")
    findings = [put(CORPUS / name, path.read_bytes()) for path in sorted((work / "findings").iterdir())]
    _report(name, done, findings)
    for path in (work / "findings").iterdir():
        path.unlink()
    if done.returncode and not findings:
        raise SystemExit(f"fuzz: {name} ended with {done.returncode}, see {work / 'log'}")
    return findings


def _report(name: str, done: subprocess.CompletedProcess[str], findings: Sequence[Path]) -> None:
    last = _DONE.findall(done.stderr)
    runs, coverage, features, size = last[-1] if last else ("0", "0", "0", "0")
    print(f"{name}: {runs} inputs, {coverage} edges, {features} features, {size} kept, {len(findings)} found")
    for path in findings:
        print(f"  to repeat it: .venv/bin/python -m fuzz.run {name} {path.relative_to(PROJECT)}")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Fuzz; 1 when something was found."""
    seconds = int(arguments[0]) if arguments else 300
    names = list(arguments[1:]) or list(TARGETS)
    each = max(1, seconds * PROCESSES // len(names))
    with ThreadPoolExecutor(PROCESSES) as pool:
        found = list(pool.map(lambda name: _fuzz(name, TARGETS[name], each), names))
    return int(any(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
