"""The real command in odd circumstances: forked off a process that has everything loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.faults.process import TIMEOUT, Done, environment

_NURSERY = """
import ctypes, gc, importlib, json, os, pkgutil, resource, sys, time, traceback
import runicorn

# No more than these: what is loaded before `shift` may hold on to the clock of before.
import runicorn.cli.explain, runicorn.cli.generate_manifest, runicorn.cli.status, runicorn.cli.sync
import runicorn.cli.verify, runicorn.cli.sync_output, runicorn.cli.progress
import runicorn.remote_storage, runicorn.remote_storage.service, runicorn.remote_storage.verify
import runicorn.remote_storage.transport.ssh
from runicorn.cli import main

def shift(seconds):
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + seconds * 10**9

def limit(which, most):
    resource.setrlimit(which, (most, resource.getrlimit(which)[1]))

def nobody():
    # Now, as the folder of the project may be one that nobody else can reach.
    for module in pkgutil.walk_packages(runicorn.__path__, "runicorn."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    runicorn.journal.codecs.best_codec()  # which looks for zstd
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)

def child(order):
    try:
        for number, name in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(fd, number)
            os.close(fd)
        os.chdir(order["cwd"])
        exec(order["first"], globals())
        code = main(order["argv"])
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        code = 99
    os._exit(code)

gc.freeze()
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        child(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Commands:
    """Runs the command in children of one process: what an interpreter costs to start is paid once.

    Args:
        place: where outputs are kept.
    """

    def __init__(self, place: Path) -> None:
        self._place, self._count = place, 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def __enter__(self) -> Commands:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=TIMEOUT)

    def run(self, *arguments: str | Path, first: str = "", cwd: Path | None = None) -> Done:
        """Run the command to its end.

        Args:
            arguments: of the command.
            first: what the process does before, as Python.
            cwd: where; the folder of outputs by default.
        """
        self._count += 1
        names = [self._place / f"{self._count}.{name}" for name in ("out", "err")]
        for name in names:
            name.touch(mode=0o666)
            name.chmod(0o666)
        order = {
            "argv": [str(each) for each in arguments],
            "first": first,
            "cwd": str(cwd or self._place),
            "out": str(names[0]),
            "err": str(names[1]),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Done(code, *(name.read_bytes().decode("utf-8", "surrogateescape") for name in names))


def odd_names(form: str) -> str:
    """Python for `Commands.run`: the mirror's disk keeps the spelling of names and ignores their case.

    Args:
        form: of accents in which it stores names, as `unicodedata.normalize` calls it.
    """
    return _FOLDING % form


_FOLDING = """
import functools, unicodedata
FORM = %r
REAL = {name: getattr(os, name) for name in ("open", "stat", "mkdir", "unlink", "rmdir", "rename", "listdir")}

def look(name):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())

def stored(name, fd):
    if fd is None or not isinstance(name, str) or "/" in name:
        return name
    there = [each for each in REAL["listdir"](fd) if look(each) == look(name)]
    return there[0] if there else unicodedata.normalize(FORM, name)

def wrapped(call):
    @functools.wraps(call)
    def run(path, *arguments, dir_fd=None, **options):
        return call(stored(path, dir_fd), *arguments, dir_fd=dir_fd, **options)
    return run

def rename(old, new, *, src_dir_fd=None, dst_dir_fd=None):
    names = stored(old, src_dir_fd), stored(new, dst_dir_fd)
    return REAL["rename"](*names, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

for name in ("open", "stat", "mkdir", "unlink", "rmdir"):
    setattr(os, name, wrapped(REAL[name]))
os.rename = rename
"""
