"""Servers that break off, lie, stall and list what they should not: each is named and survived."""

from __future__ import annotations

import os
import shlex
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicorn.errors import DamagedError, ProtocolError, StallError, UnsafeError
from runicorn.remote_storage import SyncOptions, SyncReport, synchronize, transfer, walk
from runicorn.remote_storage.transport import FdChannel, SftpEngine
from testbed.fault_sftp import FaultServer
from testbed.sftp_faults import DripForever, Fault, FlipByte, NamesWith, RefuseOpen, StallForever
from testbed.sftp_packets import NAME, READDIR, Request, packet, text
from testbed.sshd import Sshd
from tests.faults.lab import Lab
from tests.faults.process import PROJECT_ROOT, ROOM, Done, left_behind, over, run_files, snapshot, sync
from tests.faults.tally import Tried, count
from tests.manifest.helpers import PATH_RUN, PROJECT_RUN, write

FAULT_SERVER = PROJECT_ROOT / "testbed/fault_sftp.py"
SHORT = 0.3
"""Seconds that a server may be silent where the test waits for the deadline."""


@pytest.fixture(scope="module", params=["journal", "manifest"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab.build(tmp_path_factory.mktemp("lab"), journal=request.param == "journal")


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done in this process tries again at once."""
    monkeypatch.setattr(transfer, "BACKOFF", (0.0, 0.0))


@pytest.fixture
def lab(built: Lab, tmp_path: Path) -> Iterator[Lab]:
    lab = built.moved(tmp_path)
    before = snapshot(lab.place, without=[lab.mirror, lab.root])
    yield lab
    assert snapshot(lab.place, without=[lab.mirror, lab.root]) == before


def command_of(*faults: str) -> str:
    """A command in the place of ssh that is a server with faults; it takes ssh's arguments in vain."""
    server = [sys.executable, str(FAULT_SERVER), *(word for fault in faults for word in ("--fault", fault))]
    return shlex.join(["sh", "-c", f"exec {shlex.join(server)}", "ssh"])


def attack(lab: Lab, *faults: str, method: str = "auto", more: tuple[str, ...] = ()) -> Done:
    """Sync with the real command from a server with faults; no file of the mirror may be torn by it."""
    old, new = run_files(lab.mirror), run_files(lab.root)
    arguments = ("--ssh", command_of(*faults), "--method", method, *more)
    done = sync(f"host:{lab.root}", lab.mirror, *arguments)
    for path, content in run_files(lab.mirror).items():
        assert content in (old.get(path), new.get(path)), path
    assert left_behind(lab.mirror) == []
    count(Tried.HOSTILE_INPUTS)
    return done


def quickly(lab: Lab, *faults: Fault, method: str = "auto", timeout: float = 20.0) -> SyncReport:
    """Sync in this process from a server with faults."""
    old, new = run_files(lab.mirror), run_files(lab.root)
    try:
        with FaultServer(Path("/"), faults) as server:
            engine = SftpEngine(FdChannel(*server.connect()), timeout=timeout)
            try:
                options = SyncOptions(method=method)
                return synchronize(engine, str(lab.root), lab.mirror, options).report
            finally:
                engine.close()
    finally:
        for path, content in run_files(lab.mirror).items():
            assert content in (old.get(path), new.get(path)), path
        assert left_behind(lab.mirror) == []
        count(Tried.HOSTILE_INPUTS, len(faults[:1]))


# -- connections that end or go silent -----------------------------------------------------


def test_first_sync_cut_at_many_bytes_goes_on_where_it_stopped(lab: Lab) -> None:
    cuts = 0
    for size in (1_000, 1_800, 2_600, 4_000, 10_000_000):
        done = attack(lab, f"CutAfter:{size}")
        if done.code:
            done.refused(4, "the connection ended")
            cuts += 1
    assert cuts >= 1
    lab.matches()


@pytest.mark.parametrize(
    ("fault", "answers"),
    # Dripping is taken for a slow line as long as a reply that big may take: only small ones are tested.
    [*((StallForever, answers) for answers in (0, 1, 3, 6, 9, 14)), (DripForever, 0), (DripForever, 1)],
)
def test_server_that_goes_silent_is_left_in_time(
    lab: Lab, fault: type[StallForever | DripForever], answers: int
) -> None:
    if lab.journal:
        answers //= 3  # there are fewer of them
    begun = time.monotonic()
    with pytest.raises(StallError):
        quickly(lab, fault(answers), timeout=SHORT)
    # Not how fast it is, only that it ends: a broken deadline waits for ever.
    assert time.monotonic() - begun < 30
    quickly(lab)
    lab.matches()


# -- answers that lie ----------------------------------------------------------------------

LIES = {
    "wrong-ids": ("WrongIds", 4),
    "double-reply": ("DoubleReply", 4),
    "huge-length": ("HugeLength", 4),
    "length-4-gib": ("HugeLength:4294967295", 4),
    "length-0": ("HugeLength:0", 4),
    "wrong-type": ("WrongType", 4),
    "too-much-data": ("TooMuchData", 4),
    "much-too-much-data": ("TooMuchData:100000", 4),
    "text-first": ("TextFirst", 4),
}


@pytest.mark.parametrize(("fault", "code"), LIES.values(), ids=list(LIES))
def test_answer_that_breaks_the_protocol_ends_the_sync(lab: Lab, fault: str, code: int) -> None:
    before = run_files(lab.mirror)
    done = attack(lab, fault).refused(code)
    assert ("hint: `ssh HOST true` must print nothing" in done.err) == (fault == "TextFirst")
    assert run_files(lab.mirror) == before
    lab.recovers()


def test_text_of_a_talkative_server_is_quoted_and_escaped(lab: Lab) -> None:
    done = attack(lab, "TextFirst:Welcome \x1b]0;owned\x07 here\n").refused(4)
    assert "x1b]0;owned" in done.err


def test_number_of_names_that_lies_ends_the_walk(lab: Lab) -> None:
    before = run_files(lab.mirror)
    attack(lab, "LiesAboutCount", method="walk").refused(4)
    assert run_files(lab.mirror) == before
    lab.recovers()


def test_flipped_bits_in_files_are_never_put_in_place(lab: Lab) -> None:
    before = run_files(lab.mirror)
    with pytest.raises(DamagedError):
        quickly(lab, FlipByte(), method="manifest")
    assert run_files(lab.mirror) == before

    class FlipLater(FlipByte):
        """Leaves the manifest whole."""

        def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
            return packets if request.length > 1_000 else super().reply(request, packets)

    report = quickly(lab, FlipLater(), method="manifest")
    assert report.failed_count == 4
    assert all("is not what was published" in failure.error for failure in report.failed)
    assert run_files(lab.mirror) == before
    quickly(lab)
    lab.matches()


@pytest.mark.parametrize("size", [0, 5])
def test_files_that_shrink_while_they_are_read_fail_or_are_whole(lab: Lab, size: int) -> None:
    done = attack(lab, f"TruncateDuringRead:{size}", method="manifest")
    assert done.code in (3, 7), done
    lab.recovers()


def test_server_with_one_handle_and_no_limits_is_only_slower(lab: Lab) -> None:
    for method in ("walk", "manifest"):
        attack(lab, "OneHandle", "NoLimits", "ShortReads:40", "ReorderReplies:3", method=method).expect(0)
    lab.matches()


@pytest.mark.parametrize("code", [3, 4])
def test_refused_file_is_named_and_the_rest_is_synced(lab: Lab, code: int) -> None:
    report = quickly(lab, RefuseOpen("resnet/runs/r1/summary", code), method="manifest")
    assert [failure.path for failure in report.failed] == [f"{PROJECT_RUN}/summary.json"]
    assert report.files_synced == 3
    lab.recovers()


def test_refused_folder_is_a_problem_and_no_deletion(lab: Lab) -> None:
    lab.sync_quietly()
    before = run_files(lab.mirror)
    with FaultServer(Path("/"), [RefuseOpen("vision", 3)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()))
        options = SyncOptions(method="walk", delete=True, force_delete=True)
        report = synchronize(engine, str(lab.root), lab.mirror, options).report
        engine.close()
    assert report.problem_count == 1
    assert report.removed_count == 0
    assert run_files(lab.mirror) == before


# -- listings ------------------------------------------------------------------------------

NAMES: list[str | bytes] = [
    "../escape",
    "..",
    ".",
    "",
    "/etc/passwd",
    "a/b",
    "a\nb",
    "\x1b[2Jx",
    "a\\b",
    b"\xff\xfe",
    "x" * 300,
    "y" * 100_000,
    "meta.json/",
    ".ssh",
    ".runicorn",
    "\u202egnp.exe",
]


class FoldersWith(NamesWith):
    """The names are those of folders."""

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        file, folder = (struct.pack(">IQIII", 13, 5, mode, 0, 0) for mode in (0o100644, 0o040755))
        return [each.replace(file, folder) for each in super().reply(request, packets)]


@pytest.mark.parametrize("fault", [NamesWith, FoldersWith])
def test_hostile_names_in_listings_are_never_asked_for(lab: Lab, fault: type[NamesWith]) -> None:
    lab.sync_quietly()
    before = run_files(lab.mirror)
    with FaultServer(Path("/"), [fault(NAMES)]) as server:
        engine = SftpEngine(FdChannel(*server.connect()))
        report = synchronize(engine, str(lab.root), lab.mirror, SyncOptions(method="walk")).report
        engine.close()
        asked = {os.fsdecode(request.value) for request in server.seen if b"/" in request.value}
    assert not any(path.endswith(("/a/b", "\\b")) for path in asked)
    assert report.problem_count > 5
    for path in asked:
        inner = path.removeprefix(str(lab.root)).lstrip("/")
        assert not any(part in ("..", ".") or part.startswith(".") for part in inner.split("/")), path
        assert not any(ord(mark) < 32 or "\ud800" <= mark <= "\udfff" for mark in path)
    assert {name: run_files(lab.mirror)[name] for name in before} == before
    assert set(run_files(lab.mirror)) - set(before) <= {f"{PROJECT_RUN}/media/\u202egnp.exe"}


def test_hostile_names_reach_no_terminal_raw(lab: Lab) -> None:
    fault = "NamesWith:../escape,a\nb,\x1b]0;owned\x07,\u202egnp.exe"
    old = run_files(lab.mirror)
    done = sync(f"host:{lab.root}", lab.mirror, "--ssh", command_of(fault), "--method", "walk", "-v")
    done.expect(done.code)
    assert done.code in (0, 3)
    assert "could not list everything" in done.err or "not on the server" in done.err
    assert {
        name: content for name, content in run_files(lab.mirror).items() if name in old
    }.keys() == old.keys()


class Listing(Fault):
    """Every listing gives these names with this mode and size, again and again or once."""

    def __init__(self, names: list[str], mode: int, size: int = 5, mtime: int = 0) -> None:
        file = struct.pack(">IQIII", 13, size, mode, 0, mtime)
        self.body = b"".join(text(os.fsencode(name)) + text(b"") + file for name in names)
        self.count = len(names)
        self.endless = True

    def answer(self, _server: FaultServer, request: Request) -> bytes | None:
        if request.kind != READDIR:
            return None
        return packet(NAME, struct.pack(">II", request.number, self.count) + self.body)


@pytest.mark.parametrize("names", [["same"], [f"n{number}" for number in range(50)]])
@pytest.mark.parametrize("mode", [0o040755, 0o100644])
def test_listing_without_an_end_is_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, names: list[str], mode: int
) -> None:
    monkeypatch.setattr(walk, "MAX_ENTRIES", 3_000)
    before = run_files(lab.mirror)
    with pytest.raises(UnsafeError, match="more than 3000 names"):
        quickly(lab, Listing(names, mode), method="walk")
    assert run_files(lab.mirror) == before


def test_names_without_end_fill_no_memory(tmp_path: Path) -> None:
    lab = Lab.build(tmp_path)
    before = run_files(lab.mirror)
    arguments = ("--ssh", command_of("ListsForever:200000"), "--method", "walk")
    sync(f"host:{lab.root}", lab.mirror, *arguments, room=ROOM).refused(7, "names of more than")
    assert run_files(lab.mirror) == before


def test_folders_without_end_end_at_the_bound(lab: Lab) -> None:
    folder = lab.root / "runs"
    for _ in range(60):
        folder /= "d"
    write(folder / "meta.json", "{}")
    with FaultServer(Path("/")) as server:
        engine = SftpEngine(FdChannel(*server.connect()))
        report = synchronize(engine, str(lab.root), lab.mirror, SyncOptions(method="walk")).report
        engine.close()
    assert report.problem_count == 1
    assert not any("/d/d/" in path for path in run_files(lab.mirror))


SPECIAL = {"link": 0o120777, "fifo": 0o010644, "socket": 0o140644, "block": 0o060644, "character": 0o020644}


@pytest.mark.parametrize("kind", SPECIAL)
def test_link_or_device_in_a_listing_is_never_opened(lab: Lab, kind: str) -> None:
    class Special(Fault):
        """Files of runs are listed as what they are not."""

        def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
            if request.kind != READDIR or packets[0][4] != NAME:
                return packets
            file, other = (struct.pack(">I", mode) for mode in (0o100644, SPECIAL[kind]))
            for name in (b"summary.json", b"media"):
                at = packets[0].find(text(name))
                if at >= 0:
                    mode = at + len(text(name)) + 4 + 4 + 8
                    packets[0] = packets[0].replace(packets[0][at : mode + 4], packets[0][at:mode] + other)
            assert file != other
            return packets

    before = run_files(lab.mirror)
    with FaultServer(Path("/"), [Special()]) as server:
        engine = SftpEngine(FdChannel(*server.connect()))
        report = synchronize(engine, str(lab.root), lab.mirror, SyncOptions(method="walk")).report
        engine.close()
        asked = [request.value for request in server.seen]
    assert not any(b"summary.json" in value or b"media" in value for value in asked)
    assert report.problem_count >= 2
    after = run_files(lab.mirror)
    for folder in (PROJECT_RUN, PATH_RUN):
        assert after[f"{folder}/summary.json"] == before[f"{folder}/summary.json"]
        assert after[f"{folder}/events.jsonl"] != before[f"{folder}/events.jsonl"]


@pytest.mark.parametrize(("size", "mtime"), [(2**64 - 1, 0), (2**63, 0), (5, 2**32 - 1)])
def test_numbers_in_listings_are_bounded(lab: Lab, size: int, mtime: int) -> None:
    class Numbers(Fault):
        """A file of a run has these numbers."""

        def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
            at = packets[0].find(text(b"summary.json"))
            if request.kind == READDIR and at >= 0:
                start = at + len(text(b"summary.json"))
                length = struct.unpack_from(">I", packets[0], start)[0]
                place = start + 4 + length
                attributes = struct.pack(">IQIII", 13, size, 0o100644, 0, mtime)
                packets[0] = packets[0][:place] + attributes + packets[0][place + len(attributes) :]
            return packets

    report = quickly(lab, Numbers(), method="walk")
    assert report.problem_count == (2 if size >= 2**63 else 0)
    lab.recovers()


# -- behind a real sshd --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "code"),
    [(["CutAfter:600"], 4), (["WrongIds"], 4), (["OneHandle", "NoLimits", "ShortReads:100"], 0)],
    ids=["cut", "wrong-ids", "meagre"],
)
def test_hostile_subsystem_of_a_real_server(lab: Lab, faults: list[str], code: int) -> None:
    words = [sys.executable, "-I", "-S", str(FAULT_SERVER)]
    words += [word for fault in faults for word in ("--fault", fault)]
    old, new = run_files(lab.mirror), run_files(lab.root)
    with Sshd(subsystem=shlex.join(words)) as server:
        done = sync(f"{server.host}:{lab.root}", lab.mirror, *over(server))
    assert done.code == code, done
    for path, content in run_files(lab.mirror).items():
        assert content in (old.get(path), new.get(path))
    assert left_behind(lab.mirror) == []
    lab.recovers()


def test_server_that_dies_in_the_middle_is_a_lost_connection(lab: Lab) -> None:
    with pytest.raises(ProtocolError):
        quickly(lab, Garbage())
    lab.recovers()


class Garbage(Fault):
    """After the greeting comes noise."""

    def stream(self, data: bytes) -> bytes:
        return data if data[4:5] == b"\x02" else bytes(byte ^ 0x5A for byte in data)
