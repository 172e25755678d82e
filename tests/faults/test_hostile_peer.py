"""What a hostile peer does beside lying in artefacts: links in time, special files, texts, keys, hosts."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fuzz.manifest import laid_out
from runicorn.cli import main
from runicorn.errors import RunicornError
from runicorn.remote_storage import SyncOptions, synchronize, transfer
from runicorn.remote_storage.mirror import STATE_FOLDER
from runicorn.remote_storage.transport import FdChannel, LocalTransport, SftpEngine
from testbed import sftp_packets
from testbed.fault_sftp import FaultServer
from testbed.sshd import Sshd
from tests.faults.attacks import LINKED_FILES, LINKED_FOLDERS
from tests.faults.lab import Lab
from tests.faults.process import (
    PROJECT_ROOT,
    generate,
    left_behind,
    over,
    run_files,
    runicorn,
    snapshot,
    sync,
    sync_here,
)
from tests.faults.programs import Program
from tests.faults.tally import SOAK_END, Tried, count, scale, turns
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN, make_run, write

SEED = int(os.environ.get("RUNICORN_SWAP_SEED", "1"))
RAW = "\x1b\x07\x9b\x85\x00\r\u202e\u061c\u200b"
EVIL = "\u202etxt\u061c\u200b"
"""What a path may hold, and what no terminal may be given."""


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done in this process tries again at once."""
    monkeypatch.setattr(transfer, "BACKOFF", (0.0, 0.0))


# -- a folder of the destination becomes a link between two steps --------------------------

STEPS = ("open", "rename", "mkdir", "unlink", "rmdir", "stat")
"""What a sync does to its mirror goes by these, relative to an open folder."""


class Swap:
    """Puts a link in the place of a folder or file before the n-th step of a sync, or as soon as it is there.

    Attributes:
        trap: where the link leads: a copy of what was there, so that a step that followed it would work.
        seen: the steps so far, by what they do to which name.
    """

    def __init__(self, lab: Lab, inner: str, nth: int) -> None:
        self.path, self.nth = lab.mirror / inner, nth
        self.trap = lab.place / "client/trap"
        self.seen: list[str] = []
        self.expected: object = None

    def step(self, name: str) -> None:
        self.seen.append(name)
        if not 0 < self.nth <= len(self.seen) or self.expected is not None or not self.path.exists():
            return
        away = self.trap.with_name("away")
        shutil.copytree(self.path, self.trap) if self.path.is_dir() else shutil.copy(self.path, self.trap)
        self.expected = self._content()
        self.path.rename(away)
        self.path.symlink_to(self.trap)

    def _content(self) -> object:
        return snapshot(self.trap) if self.trap.is_dir() else self.trap.read_bytes()

    def require_untouched(self) -> bool:
        """Nothing went through the link; returns whether there was one."""
        if self.expected is None:
            return False
        assert self._content() == self.expected
        return True

    def undo(self) -> None:
        if self.path.is_symlink():
            self.path.unlink()


@contextlib.contextmanager
def stepping(tell: Callable[[str], None]) -> Iterator[None]:
    """Tells of every step before it is done."""
    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, _telling(name, getattr(os, name), tell))
        yield


def _telling(name: str, real: Callable[..., Any], tell: Callable[[str], None]) -> Callable[..., Any]:
    busy = False

    def told(*arguments: Any, **options: Any) -> Any:
        nonlocal busy
        in_folder = options.get("dir_fd") is not None or options.get("dst_dir_fd") is not None
        if in_folder and not busy and isinstance(arguments[0], str):
            busy = True
            try:
                tell(f"{name} {arguments[0]}")
            finally:
                busy = False
        return real(*arguments, **options)

    return told


def _make_lab(place: Path, method: str, *, is_new: bool = False) -> Lab:
    """A mirror that is behind by a change of each kind: an append, a new version, a removal, a new file."""
    lab = Lab.build(place, journal=method == "journal")
    if is_new:
        shutil.rmtree(lab.mirror)
    (lab.root / PATH_RUN / "media/a.png").unlink()
    write(lab.root / PROJECT_RUN / "media/b/new.png", b"new")
    lab.generate()
    return lab


def _swapped(lab: Lab, method: str, swap: Swap) -> None:
    transport = LocalTransport()
    options = SyncOptions(method=method, delete=True, force_delete=True, source=str(lab.root))
    try:
        with stepping(swap.step), contextlib.suppress(RunicornError):
            synchronize(transport, str(lab.root), lab.mirror, options)
    finally:
        transport.close()


@pytest.mark.timeout(scale(60, 1800))
@pytest.mark.parametrize("is_new", [False, True], ids=["behind", "new"])
@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_link_that_appears_between_any_two_steps_is_never_followed(
    tmp_path: Path, method: str, is_new: bool
) -> None:
    print(f"RUNICORN_SWAP_SEED={SEED}")
    chance = random.Random(f"{SEED} {method}")
    lab = _make_lab(tmp_path / "counted", method, is_new=is_new)
    counted = Swap(lab, "nowhere", 0)
    _swapped(lab, method, counted)
    assert len(counted.seen) > 25
    pairs = [(n + 1, inner) for n in range(len(counted.seen)) for inner in (*LINKED_FOLDERS, *LINKED_FILES)]
    chance.shuffle(pairs)
    # First those where the very next step opens what has become a link.
    pairs.sort(key=lambda pair: counted.seen[pair[0] - 1] != f"open {Path(pair[1]).name}")
    done = 0
    for turn in turns(4, 60):
        nth, inner = pairs[turn % len(pairs)]
        lab = _make_lab(tmp_path / str(turn), method, is_new=is_new)
        swap = Swap(lab, inner, nth)
        without = [lab.mirror, lab.root, swap.trap, swap.trap.with_name("away")]
        before = snapshot(lab.place, without=without)
        try:
            _swapped(lab, method, swap)
            done += swap.require_untouched()
            assert snapshot(lab.place, without=without) == before
            assert left_behind(lab.mirror) == []
            swap.undo()
            lab.sync_quietly(delete=True, force_delete=True)
            lab.sync_quietly(method="manifest")
            held = run_files(lab.mirror)
            assert held.items() >= run_files(lab.root).items()
        except BaseException as error:
            what = f"{inner} before step {nth}, {swap.seen[nth - 1 : nth]}, {method}"
            raise AssertionError(f"{what}, RUNICORN_SWAP_SEED={SEED}: {error!r}") from error
        shutil.rmtree(lab.place)
    assert done >= (1 if SOAK_END else 3)
    count(Tried.HOSTILE_INPUTS, done)


# -- what lies on the sending side ---------------------------------------------------------


def _make_traps(root: Path) -> socket.socket:
    """Everything that is no file of a run, in the places of such."""
    run = root / PROJECT_RUN
    secret = write(root.parent / "secret/meta.json", '{"secret": 1}')
    links: dict[str, str | Path] = {
        "summary.json": secret,
        "media/link.png": secret,
        "media/folder": secret.parent,
        "media/up": "..",
        "assets.json": "/dev/zero",
        "environment.json": "environment.json",
    }
    for name, target in links.items():
        (run / name).symlink_to(target)
    (root / PATH_RUN).with_name("r9").symlink_to(secret.parent)
    (root / "project").symlink_to(root.parent)
    os.mkfifo(run / "artifacts_used.json")
    os.mkfifo(run / "media/pipe.png")
    os.mkfifo(root / "runs/pipe")
    if os.geteuid() == 0:
        os.mknod(run / "media/zero.png", 0o020666, os.makedev(1, 5))
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(run)  # the path of a socket is short
    listener.bind("artifacts_created.json")
    os.chdir(here)
    return listener


def test_special_files_of_the_root_are_neither_published_nor_synced(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for folder in (PROJECT_RUN, PATH_RUN):
        make_run(root, folder, "running")
    honest = run_files(root)
    with _make_traps(root):
        # A FIFO that is opened, or a device that is read, would keep it for ever.
        done = runicorn("generate-manifest", "--root", root).expect(3)
        assert "media/pipe.png: special: not a regular file" in done.err
        document = json.loads((root / ".runicorn/full_manifest.json").read_bytes())
        listed = {entry["path"] for run in document["experiments"] for entry in run["files"]}
        assert listed == set(honest)
        assert b"secret" not in b"".join(path.read_bytes() for path in (root / ".runicorn/journal").iterdir())
        for method in ("journal", "manifest", "walk"):
            mirror = tmp_path / method
            sync_here(root, mirror, "--method", method).expect(0)
            assert run_files(mirror) == honest
    count(Tried.HOSTILE_INPUTS, 4)


# -- what a server is told -----------------------------------------------------------------


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_server_is_asked_for_nothing_but_what_it_published(tmp_path: Path, method: str) -> None:
    lab = _make_lab(tmp_path, method)
    private = write(lab.mirror / PROJECT_RUN / "media/private.png", b"private")
    with FaultServer(Path("/")) as server:
        engine = SftpEngine(FdChannel(*server.connect()))
        synchronize(engine, str(lab.root), lab.mirror, SyncOptions(method=method))
        engine.close()
    reading = {"INIT", "OPEN", "CLOSE", "READ", "FSTAT", "OPENDIR", "READDIR", "STAT", "EXTENDED"}
    kinds = {getattr(sftp_packets, name) for name in reading}
    paths = {request.value for request in server.seen if request.kind in sftp_packets.PATH_REQUESTS}
    assert {request.kind for request in server.seen} <= kinds
    there = {os.fsencode(path) for path in [lab.root, *lab.root.rglob("*")]}
    # Artefacts are asked for whether they are there or not.
    strange = {path for path in paths - there if f"/{STATE_FOLDER}/".encode() not in path}
    assert strange == set()
    assert private.read_bytes() == b"private"
    count(Tried.HOSTILE_INPUTS)


# -- answers that never come to an end -----------------------------------------------------


def _behind(fault: str) -> tuple[str, ...]:
    server = [sys.executable, "-I", "-S", str(PROJECT_ROOT / "testbed/fault_sftp.py"), "--fault", fault]
    return ("--ssh", shlex.join(["sh", "-c", f"exec {shlex.join(server)}", "ssh"]))


def test_server_that_gives_some_bytes_at_a_time_is_only_slow(tmp_path: Path) -> None:
    lab = Lab.build(tmp_path, journal=True)
    sync(f"host:{lab.root}", lab.mirror, *_behind("ShortReads:7"), "--method", "manifest").expect(0)
    lab.matches()


# -- terminals -----------------------------------------------------------------------------


def _publish_evil(lab: Lab) -> str:
    """A run whose name nobody sees as it is, with a file that is not what the manifest says."""
    folder = f"vision/{EVIL}/runs/r9"
    make_run(lab.root, folder, "running", summary='{"a": 1}')
    lab.generate()
    for run in lab.document["experiments"]:
        run["status"] = RAW
        for each in run["files"]:
            if each["path"] == f"{folder}/summary.json":
                each["sha256"] = "0" * 64
    lab.document |= {"server_hostname": RAW, "remote_root": RAW, "generator": RAW, "generated_at": 1.0}
    lab.document["problems"] = [{"path": f"{folder}/media", "kind": RAW, "message": RAW}]
    lab.document["problem_count"] = 1
    lab.publish_bytes(laid_out(json.dumps(lab.document).encode()))
    return folder


def _requires_harmless(text: str) -> None:
    assert not set(text) & set(RAW), repr(text)


def test_hostile_texts_reach_no_terminal_raw_by_any_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lab = Lab.build(tmp_path)
    folder = _publish_evil(lab)
    root, mirror = str(lab.root), str(lab.mirror)

    def shown(*arguments: str) -> str:
        main(arguments)
        out, err = capfd.readouterr()
        assert "internal error" not in err
        _requires_harmless(out + err)
        return out if "--json" in arguments else out + err

    assert "r9/summary.json" in shown("sync", root, mirror, "-v", "--method", "manifest")
    assert "r9/summary.json" in shown("status", mirror)
    (lab.mirror / folder / "meta.json").write_bytes(b"{}")
    (lab.mirror / folder / "media/a.png").unlink()
    assert "r9/meta.json" in shown("verify", mirror)
    for name in ("summary.json", "meta.json", "media/a.png", "media/none.png", "assets.json"):
        assert "r9" in shown("explain", mirror, f"{folder}/{name}")
        json.loads(shown("explain", mirror, f"{folder}/{name}", "--json"))
    for command in (("status", mirror, "--json"), ("status", "--root", root, "--json")):
        json.loads(shown(*command))
    for line in shown("verify", mirror, "--json").splitlines():
        json.loads(line)
    metrics = tmp_path / "out.prom"
    assert "Problems:" in shown("status", "--root", root, "--prometheus", str(metrics))
    _requires_harmless(metrics.read_text(encoding="utf-8"))
    assert "r9/summary.json" in shown("sync", root, mirror, "--method", "manifest", "--json")
    assert "r9/summary.json" in shown("sync", root, mirror, "--method", "manifest", "--dry-run")
    count(Tried.HOSTILE_INPUTS)


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_hostile_texts_reach_no_terminal_raw_by_a_watch(tmp_path: Path, options: tuple[str, ...]) -> None:
    lab = Lab.build(tmp_path)
    _publish_evil(lab)
    watch = Program("sync", lab.root, lab.mirror, "--watch", "--method", "manifest", *options)
    with watch.running():
        watch.until(lambda: any("r9/summary.json" in line for line in watch.err))
        watch.process.send_signal(signal.SIGTERM)
        watch.process.wait(30)
    _requires_harmless("".join((*watch.out, *watch.err)))
    count(Tried.HOSTILE_INPUTS)


@pytest.mark.parametrize("options", [(), ("-v",), ("--json",)], ids=["text", "verbose", "json"])
def test_what_ssh_says_reaches_no_terminal_raw(tmp_path: Path, options: tuple[str, ...]) -> None:
    words = "\\033]0;owned\\007 \\302\\233 \\342\\200\\256 \\330\\234 line"
    command = shlex.join(["sh", "-c", f"printf '{words}\\n' >&2; exit 255"])
    done = sync("host:/root", tmp_path / "mirror", "--ssh", command, *options).expect(4)
    assert "owned" in done.err
    _requires_harmless(done.err.replace("\n", "") + done.out.replace("\n", ""))
    count(Tried.HOSTILE_INPUTS)


# -- the man in the middle -----------------------------------------------------------------


def test_key_that_changes_during_a_watch_ends_it(tmp_path: Path) -> None:
    root, mirror = tmp_path / "root", tmp_path / "mirror"
    make_run(root)
    generate(root)
    with Sshd() as server, Sshd() as other:
        watch = Program("sync", f"{server.host}:{root}", mirror, *over(server), "--watch")
        with watch.running():
            watch.until(lambda: any("fetched" in line for line in watch.out))
            line = f"[{server.host}]:{server.port} {other.access.host_key}\n"
            server.known_hosts.write_text(line, encoding="ascii")
            server.drop_connections()
            assert watch.process.wait(60) == 5, watch.tail()
            watch.until(lambda: any("host key" in line for line in watch.err))
        assert server.known_hosts.read_text(encoding="ascii") == line
    count(Tried.HOSTILE_INPUTS)


# -- names of hosts and users --------------------------------------------------------------

COMMANDS = [
    "-oProxyCommand=touch TOUCHED:/root",
    "-oProxyCommand=touch TOUCHED@host:/root",
    "ssh://-oProxyCommand=touch%20TOUCHED/root",
    "ssh://%2DoProxyCommand=x@host/root",
    "ssh://-oProxyCommand=x@host/root",
    "[-oProxyCommand=x]:/root",
    "host\n-oProxyCommand=x:/root",
    "me\nyou@host:/root",
    "host:/root\nrm -rf /",
    "ssh://me%0Ayou@host/root",
    "ho st:/root",
    "host\x00:/root",
    "",
]


@pytest.mark.parametrize("source", COMMANDS, ids=lambda text: repr(text)[:40])
def test_source_that_would_be_a_command_starts_nothing(tmp_path: Path, source: str) -> None:
    touched = tmp_path / "touched"
    command = shlex.join(["sh", "-c", f"touch {touched}; exit 255", "ssh"])
    source = source.replace("TOUCHED", str(touched))
    done = sync_here("--ssh", command, "--", source, tmp_path / "mirror")
    # What holds a slash before its colon is a local path.
    done.refused(6 if "/" in source.partition(":")[0] else 2)
    assert not touched.exists()
    assert run_files(tmp_path / "mirror") == {}
    count(Tried.HOSTILE_INPUTS)
