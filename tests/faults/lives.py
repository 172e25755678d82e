"""The life of a root, change by change, each recorded first; and faults of time, rights and processes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed import trees
from testbed.history import LOG_NAMES, History, is_log
from testbed.selected import MARKERS

YEAR = 365 * 86_400
STATE_NAMES = ("status.json", "summary.json", "assets.json", "meta.json")
PLACES = tuple(
    place.format(run)
    for run in ("r1", "r2", "r3")
    for place in ("vision/resnet/runs/{}", "runs/nlp/bert/base/{}", "runs/{}")
)
"""Run folders of both layouts."""

DIGITS = 8
KILLED, STOPPED = -signal.SIGKILL, 3
"""How a process ended: by a kill, by being told to stop."""

STEPS = {
    "close",
    "fdatasync",
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "open",
    "pread",
    "pwrite",
    "read",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "unlink",
    "utime",
    "write",
}
"""Calls to the system between which a process is ended; those of the database count too."""


class RootLife:
    """One root that is written to.

    Args:
        root: its folder, made here.
        history: is told of each change before it is made.
    """

    def __init__(self, root: Path, history: History) -> None:
        self.root = root
        self.history = history
        self._serial = 0
        root.mkdir(parents=True)

    # -- what there is -----------------------------------------------------------------------------

    def runs(self) -> list[str]:
        """The folders of all runs, also of those that are hidden."""
        found = {path.parent.relative_to(self.root).as_posix() for path in self.root.rglob("logs.txt")}
        return sorted(found)

    def files(self) -> list[str]:
        """The files of runs, as they lie there."""
        paths = (path for run in self.runs() for path in (self.root / run).rglob("*"))
        plain = (path for path in paths if path.is_file() and not path.is_symlink())
        return sorted(
            path.relative_to(self.root).as_posix() for path in plain if not path.name.startswith(".")
        )

    def read(self, path: str) -> bytes:
        """The content of a file."""
        return (self.root / path).read_bytes()

    # -- content -----------------------------------------------------------------------------------

    def _next(self) -> bytes:
        self._serial += 1
        return b"%0*d" % (DIGITS, self._serial)

    def state(self, path: str, pad: int, status: str = "running") -> bytes:
        """A new content of a state file; two with the same padding and status are of one size."""
        said = b'"status": "%s", ' % status.encode() if path.endswith("status.json") else b""
        return b'{%s"n": "%s", "pad": "%s"}' % (said, self._next(), b"x" * pad)

    def lines(self, count: int, *, half: bool) -> bytes:
        """New records, maybe with a half one behind them."""
        whole = b"".join(b'{"n": "%s"}\n' % self._next() for _ in range(count))
        return whole + (b'{"n": "%s' % self._next() if half else b"")

    # -- changes of files --------------------------------------------------------------------------

    def replace(self, path: str, content: bytes) -> None:
        """A new file takes the name."""
        self.history.record(path, content)
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        trees.replace_file(self.root / path, content)

    def rewrite(self, path: str, content: bytes) -> None:
        """The same file gets another content."""
        self.history.record(path, content)
        with (self.root / path).open("r+b") as stream:
            stream.truncate()
            stream.write(content)

    def append(self, path: str, data: bytes) -> None:
        """A log grows."""
        self.history.record_append(path, data)
        with (self.root / path).open("ab") as log:
            log.write(data)

    def edit(self, path: str, *, restore: bool) -> None:
        """Another content of the same size, in place; maybe the time is put back to what it was."""
        before = (self.root / path).stat().st_mtime_ns
        content = self.read(path)
        at = next((at for at in range(len(content)) if content[at : at + DIGITS].isdigit()), None)
        if at is None or not content[at : at + DIGITS].isdigit():
            return
        self.rewrite(path, content[:at] + self._next() + content[at + DIGITS :])
        if restore:
            os.utime(self.root / path, ns=(before, before))

    def remove_file(self, path: str) -> None:
        """A file goes."""
        self.history.record_removed(path)
        (self.root / path).unlink()

    def shift(self, path: str, seconds: float) -> None:
        """The time of a file jumps."""
        at = (self.root / path).stat().st_mtime_ns + int(seconds * 1e9)
        os.utime(self.root / path, ns=(at, at))

    # -- changes of runs ---------------------------------------------------------------------------

    def create(self, run: str, pad: int) -> None:
        """A new run, or one that was there before and begins again."""
        if (self.root / run).exists():
            return
        for name in ("meta.json", "status.json", "summary.json"):
            self.replace(f"{run}/{name}", self.state(name, pad))
        for name in LOG_NAMES:
            self.replace(f"{run}/{name}", self.lines(2, half=False))

    def remove(self, run: str) -> None:
        """A run goes."""
        self.history.record_tree_removed(self.root, self.root / run)
        shutil.rmtree(self.root / run)

    def move(self, run: str, new: str) -> None:
        """A run gets another name, maybe in the other layout."""
        if (self.root / new).exists():
            return
        for path in sorted((self.root / run).rglob("*")):
            if path.is_file() and not path.is_symlink():
                name = path.name.removeprefix(".").removesuffix(".away")
                inner = path.with_name(name).relative_to(self.root / run).as_posix()
                self.history.record(f"{new}/{inner}", path.read_bytes())
        self.history.record_tree_removed(self.root, self.root / run)
        (self.root / new).parent.mkdir(parents=True, exist_ok=True)
        (self.root / run).rename(self.root / new)

    def hide(self, run: str) -> None:
        """A run loses its markers, and so is none any more; or it gets them back."""
        folder = self.root / run
        hidden = [folder / f".{name}" for name in MARKERS if (folder / f".{name}").exists()]
        for path in hidden:
            if not path.with_name(path.name[1:]).exists():
                path.rename(path.with_name(path.name[1:]))
        if hidden:
            return
        self.history.record_tree_removed(self.root, folder)
        for name in MARKERS:
            if (folder / name).is_file() and not (folder / name).is_symlink():
                (folder / name).rename(folder / f".{name}")

    def obstruct(self, path: str) -> None:
        """Something else lies in the place of a file for a while: a link to it. Or it is put back."""
        place = self.root / path
        away = place.with_name(f".{place.name}.away")
        if away.exists():
            place.unlink()
            away.rename(place)
        elif place.is_file() and not place.is_symlink():
            place.rename(away)
            place.symlink_to(away.name)

    def tidy(self) -> None:
        """All that is hidden or obstructed comes back."""
        for away in list(self.root.rglob(".*.away")):
            self.obstruct(away.relative_to(self.root).as_posix().replace("/.", "/").removesuffix(".away"))
        for run in self.runs():
            if any((self.root / run / f".{name}").exists() for name in MARKERS):
                self.hide(run)

    def is_whole(self, path: str) -> bool:
        """Whether a file is a log that ends with a whole record, or no log."""
        return not is_log(path) or self.read(path).endswith(b"\n") or not self.read(path)


Change = tuple[str, int, int, bool]
"""A change: what, of which of the runs or files, and a number and a choice that say how."""


class Changes:
    """Changes of a root by name, for those who draw them."""

    def __init__(self, life: RootLife) -> None:
        self._life = life

    @staticmethod
    def names() -> list[str]:
        """What there is; appending most often, as in life."""
        found = [name for name in vars(Changes) if not name.startswith("_") and name not in {"names", "make"}]
        return sorted([*found, "append", "append", "create_run", "write_state"])

    def make(self, change: Change) -> None:
        """Make a change; none when there is nothing to make it of."""
        name, pick, number, choice = change
        of_files = name in {"edit", "truncate", "rotate", "obstruct", "time_jumps"}
        found = self._life.files() if of_files else self._life.runs()
        if name == "create_run":
            found = list(PLACES)
        if found:
            getattr(self, name)(found[pick % len(found)], number, choice)

    def append(self, run: str, number: int, half: bool) -> None:
        """A log grows, also by half a record."""
        path = f"{run}/{LOG_NAMES[number % 2]}"
        if path in self._life.files():
            self._life.append(path, self._life.lines(number // 2, half=half))

    def rotate(self, path: str, number: int, in_place: bool) -> None:
        """A log begins anew."""
        if is_log(path):
            way = self._life.rewrite if in_place else self._life.replace
            way(path, self._life.lines(number // 2, half=number % 2 == 1))

    def truncate(self, path: str, number: int, _choice: bool) -> None:
        """A log is cut, anywhere."""
        if is_log(path):
            content = self._life.read(path)
            self._life.rewrite(path, content[: len(content) * number // 4])

    def write_state(self, run: str, number: int, in_place: bool) -> None:
        """A state file gets other content."""
        path = f"{run}/{STATE_NAMES[number]}"
        is_there = path in self._life.files()
        way = self._life.rewrite if in_place and is_there else self._life.replace
        if is_there or not (self._life.root / path).is_symlink():
            way(path, self._life.state(path, number))

    def end_or_go_on(self, run: str, number: int, torn: bool) -> None:
        """A run says that it has ended, or that it goes on; maybe it has left half a record."""
        files, status = self._life.files(), ("finished", "failed", "running", "running")[number]
        if torn and f"{run}/logs.txt" in files:
            self._life.append(f"{run}/logs.txt", self._life.lines(1, half=True))
        if f"{run}/status.json" in files:
            self._life.replace(f"{run}/status.json", self._life.state("status.json", 0, status))

    def edit(self, path: str, _number: int, restore: bool) -> None:
        """Other content of the same size, maybe under the time of before."""
        self._life.edit(path, restore=restore)

    def media(self, run: str, number: int, gone: bool) -> None:
        """A media file comes, changes or goes."""
        path = f"{run}/media/{('a.png', 'b/c.png', 'b/d/e.json', 'b/d/e.json')[number]}"
        if path in self._life.files() and gone:
            self._life.remove_file(path)
        elif not (self._life.root / path).is_symlink():
            self._life.replace(path, self._life.state(path, number))

    def time_jumps(self, path: str, number: int, back: bool) -> None:
        """The time of a file is set."""
        self._life.shift(path, (1, 2, 3600, YEAR)[number] * (-1 if back else 1))

    def create_run(self, place: str, number: int, _choice: bool) -> None:
        """A run begins, maybe in the place of one that is gone."""
        self._life.create(place, number)

    def delete_run(self, run: str, number: int, _choice: bool) -> None:
        """A run goes, or all others; seldom the last one."""
        runs = self._life.runs()
        if number == 0:
            runs.remove(run)
        elif number == 1 or len(runs) > 1:
            runs = [run]
        else:
            return
        for each in runs:
            self._life.remove(each)

    def move_run(self, run: str, number: int, other: bool) -> None:
        """A run gets another name or the other layout."""
        self._life.move(run, PLACES[(PLACES.index(run) + (3 if other else 1) + number) % len(PLACES)])

    def hide_run(self, run: str, _number: int, _choice: bool) -> None:
        """A run ceases to be one, or is one again."""
        self._life.hide(run)

    def obstruct(self, path: str, _number: int, _choice: bool) -> None:
        """Something else lies in the place of a file."""
        self._life.obstruct(path)


# -- faults around ---------------------------------------------------------------------------------


@contextmanager
def clock(shift: float) -> Iterator[None]:
    """The clock of this machine is wrong by so many seconds; that of the file system is right."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + shift
    time.time_ns = lambda: real_ns() + int(shift * 1e9)
    try:
        yield
    finally:
        time.time, time.time_ns = real, real_ns


@contextmanager
def denied(path: Path | None) -> Iterator[None]:
    """A file or folder may not be opened, as it is for those who are not root."""
    if path is None:
        yield
        return
    real = os.open

    def opening(name: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if os.path.basename(os.fsdecode(name)) == path.name:  # noqa: PTH119 - a name of any kind
            parent = os.fsdecode(os.path.dirname(name)) if dir_fd is None else f"/proc/self/fd/{dir_fd}"  # noqa: PTH120
            if Path(parent).resolve() == path.parent.resolve():
                raise PermissionError(13, os.strerror(13), name)
        return real(name, flags, mode, dir_fd=dir_fd)

    os.open = opening  # type: ignore[assignment]
    try:
        yield
    finally:
        os.open = real


@contextmanager
def unmounted(root: Path, *, when: bool) -> Iterator[None]:
    """The root is an empty folder for a while."""
    if not when:
        yield
        return
    away = root.with_name("away")
    root.rename(away)
    root.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(root)
        away.rename(root)


def in_child(work: Callable[[], None], step: int, end: Callable[[], None]) -> int:
    """Do something in a process of its own, and end that at its n-th step, or behind it when ``step`` is
    negative. Returns its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        sys.setprofile(_Ending(step, end))
        work()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException as error:  # noqa: BLE001 - nothing may go on behind a fork
        sys.setprofile(None)
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


class _Ending:
    """Ends a process at one of its steps."""

    def __init__(self, step: int, end: Callable[[], None]) -> None:
        self._left, self._event = abs(step), "c_call" if step > 0 else "c_return"
        self._end = end

    def __call__(self, _frame: Any, event: str, called: Any) -> None:
        if event != self._event or not _is_step(called):
            return
        self._left -= 1
        if self._left == 0:
            self._end()


def _is_step(called: Any) -> bool:
    if getattr(called, "__module__", None) == "posix":
        return called.__name__ in STEPS
    return type(getattr(called, "__self__", None)).__module__ == "sqlite3"


def kill_me() -> None:
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)
