"""The plan: what is decided for each file, and that it leads to what is listed."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher, block_digest
from runicorn.manifest.model import FileEntry, Run
from runicorn.remote_storage.diff import (
    Action,
    Append,
    Fetch,
    Gone,
    Note,
    SyncPlan,
    decide,
    may_be_later,
    may_be_prefix,
    plan_run,
)
from runicorn.remote_storage.known import Known, Listed, LocalFile
from tests.remote_storage.helpers import OLD, RUN, a_known, a_run, an_entry

LOG = f"{RUN}/events.jsonl"
ONE, TWO = hashlib.sha256(b"one"), hashlib.sha256(b"two")
STATE = an_entry(size=3, sha256=ONE.hexdigest())
BARE_STATE = an_entry(size=3)


def made(words: str, run: Run, entry: FileEntry, known: Known | None) -> Action | None:
    """The action that words name: ``Fetch`` with its reason, ``Append``, ``Note`` or ``nothing``.

    ``Unless`` is a ``Fetch`` unless the log that is held turns out to be later.
    """
    name, _, reason = words.partition(" ")
    if name == "Unless":
        assert known is not None
    if name in {"Fetch", "Unless"}:
        held = entry.size if reason == "longer than listed" else 0
        return Fetch(run, entry, reason, held, later=known if name == "Unless" else None)
    if name == "nothing":
        return None
    assert known is not None
    return Append(run, entry, known) if name == "Append" else Note(run, entry, known)


def hashes(data: bytes) -> tuple[bytes, ...]:
    hasher = BlockHasher()
    hasher.update(data)
    return tuple(hasher.hashes())


def a_log(data: bytes, *, digest: bool = True, tail: bool = True, mtime: int = OLD) -> FileEntry:
    blocks = hashes(data)
    return an_entry(
        LOG,
        len(data),
        mtime=float(mtime),
        block_digest=block_digest(blocks) if digest else None,
        tail_hash=blocks[-1].hex() if digest and tail else None,
    )


def holding(data: bytes, listed: FileEntry | None = None, extends: bool | None = None) -> Known:
    local = LocalFile(len(data), OLD * 10**9, 7)
    return Known(local, hashes(data), Listed.of(listed) if listed else None, extends=extends)


STATE_CASES = {
    "not there": (STATE, None, "Fetch new"),
    "as listed": (STATE, a_known(3, (ONE.digest(),), Listed.of(STATE)), "nothing"),
    "listed without digest before": (STATE, a_known(3, (ONE.digest(),), Listed.of(BARE_STATE)), "Note"),
    "listed without exact time before": (
        replace(STATE, mtime_ns=OLD * 10**9 + 5),
        a_known(3, (ONE.digest(),), Listed.of(STATE)),
        "Note",
    ),
    "touched": (replace(STATE, mtime=OLD + 9.0), a_known(3, (ONE.digest(),), Listed.of(STATE)), "Note"),
    "found on disk": (STATE, a_known(3, (ONE.digest(),)), "Note"),
    "other content": (STATE, a_known(3, (TWO.digest(),), Listed.of(BARE_STATE)), "Fetch changed"),
    "other content on disk": (STATE, a_known(3, (TWO.digest(),)), "Fetch changed"),
    "no digest, as listed": (BARE_STATE, a_known(3, (ONE.digest(),), Listed.of(STATE)), "nothing"),
    "no digest, looks like it": (BARE_STATE, a_known(3), "Note"),
    "no digest, looks like it in a part of a second": (
        replace(BARE_STATE, mtime=OLD + 0.25),
        Known(LocalFile(3, OLD * 10**9 + 500_000_000, 7), (bytes(32),), None),
        "Note",
    ),
    "no digest, other size": (BARE_STATE, a_known(4), "Fetch changed"),
    "no digest, other time": (replace(BARE_STATE, mtime=OLD + 1.0), a_known(3), "Fetch changed"),
    "no digest, listed otherwise": (
        replace(BARE_STATE, mtime=OLD + 1.0),
        a_known(3, listed=Listed.of(BARE_STATE)),
        "Fetch changed",
    ),
}


@pytest.mark.parametrize("case", STATE_CASES)
def test_decide_state_file(case: str) -> None:
    entry, known, expected = STATE_CASES[case]
    run = a_run(entry)
    assert decide(run, entry, known) == made(expected, run, entry, known)


A, B = b"a\n" * 50, b"b\n" * 50
BIG = bytes(BLOCK_SIZE) + A
LOG_CASES = {
    "not there": (a_log(A), None, "running", "Fetch new"),
    "as listed": (a_log(A), holding(A, a_log(A)), "running", "nothing"),
    "torn end withheld": (a_log(A + b"t"), holding(A, a_log(A + b"t")), "running", "nothing"),
    "torn end of an ended run": (a_log(A + b"t"), holding(A, a_log(A + b"t")), "done", "Append"),
    "listed without digest before": (a_log(A), holding(A, a_log(A, digest=False)), "running", "Note"),
    "touched": (a_log(A, mtime=OLD + 9), holding(A, a_log(A)), "running", "Note"),
    "found on disk": (a_log(A), holding(A), "running", "Note"),
    "grown": (a_log(A + B), holding(A, a_log(A)), "running", "Append"),
    "grown, found on disk": (a_log(A + B), holding(A), "running", "Append"),
    "grown from nothing": (a_log(A), holding(b"", a_log(b"")), "running", "Append"),
    "same size and time, other content than was brought without a digest": (
        a_log(B),
        holding(A, a_log(A, digest=False)),
        "running",
        "Unless rewritten",
    ),
    "torn end withheld, brought without a digest": (
        a_log(A + b"t"),
        holding(A, a_log(A + b"t", digest=False)),
        "running",
        "Append",
    ),
    "same size, other content": (
        a_log(B),
        holding(A, a_log(A, mtime=OLD - 1)),
        "running",
        "Unless rewritten",
    ),
    "shorter": (a_log(B), holding(A + A, a_log(A + A), extends=False), "running", "Unless rewritten"),
    "shorter, a prefix, later": (
        a_log(A, mtime=OLD + 9),
        holding(A + B, a_log(A + B), extends=True),
        "running",
        "Unless longer than listed",
    ),
    "held is newer than the listing": (
        a_log(A, mtime=OLD - 9),
        holding(A + B, a_log(A + B), extends=True),
        "running",
        "Unless longer than listed",
    ),
    "held is of the second of the listing, which no walk tells more exactly": (
        replace(a_log(A), mtime_ns=OLD * 10**9 + 5),
        holding(A + B, a_log(A + B, digest=False), extends=True),
        "running",
        "Unless longer than listed",
    ),
    "longer on disk": (a_log(A), holding(A + B, extends=True), "running", "Unless longer than listed"),
    "longer on disk, other": (a_log(A), holding(B + B, extends=False), "running", "Unless rewritten"),
    "rewritten within the block, seen": (
        a_log(BIG + B),
        holding(b"\1" + BIG[1:], a_log(A)),
        "running",
        "Unless rewritten",
    ),
    "noted as later than listed, and other than is listed now": (
        a_log(B),
        holding(A + A, a_log(A), extends=False),
        "running",
        "Unless rewritten",
    ),
    "rewritten within the block, unseen": (
        a_log(BIG + B, tail=False),
        holding(b"\1" + BIG[1:], a_log(A)),
        "running",
        "Append",
    ),
    "no digest, grown": (
        a_log(A + B, digest=False),
        holding(A, a_log(A, digest=False)),
        "running",
        "Append",
    ),
    "no digest, shorter": (
        a_log(A, digest=False),
        holding(A + B, a_log(A + B, digest=False)),
        "running",
        "Unless rewritten",
    ),
    "no digest, looks like it": (a_log(A, digest=False), holding(A), "running", "Note"),
    "longer on disk, same time, a prefix": (
        a_log(A),
        holding(A + B, a_log(A + B, mtime=OLD - 9), extends=True),
        "running",
        "Unless longer than listed",
    ),
    "as long as listed, said to extend": (
        a_log(B),
        holding(A, a_log(A, mtime=OLD - 1), extends=True),
        "running",
        "Unless rewritten",
    ),
    "no digest, touched": (a_log(A, digest=False, mtime=OLD + 9), holding(A), "running", "Append"),
    "listed without exact time before": (
        replace(a_log(A), mtime_ns=OLD * 10**9 + 5),
        holding(A, a_log(A)),
        "running",
        "Note",
    ),
}


@pytest.mark.parametrize("case", LOG_CASES)
def test_decide_log(case: str) -> None:
    entry, known, state, expected = LOG_CASES[case]
    run = a_run(entry, state=state)
    assert decide(run, entry, known) == made(expected, run, entry, known)


def young(known: Known, seen: float | None) -> Known:
    assert known.listed is not None
    return replace(known, listed=replace(known.listed, young_at=seen))


@pytest.mark.parametrize(
    ("now", "settled"), [(1001.9, False), (1002.0, True), (5000.0, True), (900.0, False)]
)
def test_young_file_without_digest_is_looked_at_again_until_enough_time_lies_between(
    now: float, settled: bool
) -> None:
    state, known = BARE_STATE, young(a_known(3, listed=Listed.of(BARE_STATE)), 1000.0)
    run = a_run(state)
    expected: Action = Fetch(run, replace(state, settled=settled), "may have changed")
    for entry in (state, replace(state, settled=False)):
        assert decide(run, entry, known, now) == expected
        assert list(plan_run(run, [entry], {"summary.json": known}, now)) == [expected]
    log = a_log(A, digest=False)
    known = young(holding(A, log), 1000.0)
    for entry in (log, replace(log, settled=False)):
        expected = Append(run, replace(log, settled=settled), known)
        assert decide(run, entry, known, now) == expected
        assert list(plan_run(run, [entry], {"events.jsonl": known}, now)) == [expected]


def test_young_file_of_which_the_digest_is_known_is_not_looked_at_again() -> None:
    assert (
        decide(a_run(STATE), STATE, young(a_known(3, (ONE.digest(),), Listed.of(STATE)), 1000.0), 5000.0)
        is None
    )
    assert decide(a_run(a_log(A)), a_log(A), young(holding(A, a_log(A)), 1000.0), 5000.0) is None
    assert decide(a_run(BARE_STATE), BARE_STATE, a_known(3, listed=Listed.of(BARE_STATE)), 5000.0) is None


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (BARE_STATE, "nothing"),
        (STATE, "Fetch may have changed"),
        (replace(BARE_STATE, mtime_ns=OLD * 10**9 + 5), "Fetch may have changed"),
        (replace(STATE, mtime_ns=OLD * 10**9 + 5), "Fetch may have changed"),
    ],
)
def test_file_that_is_young_now_is_looked_at_when_its_last_listing_knew_more(
    told: FileEntry, expected: str
) -> None:
    entry, known = replace(BARE_STATE, settled=False), a_known(3, listed=Listed.of(told))
    run = a_run(entry)
    assert decide(run, entry, known) == made(expected, run, entry, known)


@pytest.mark.parametrize(
    ("known", "later"),
    [
        (holding(A, a_log(A)), False),
        (holding(A, a_log(A + B)), False),
        (holding(A), True),
        (holding(A, a_log(A, digest=False)), True),
        (holding(A + b"b", a_log(A)), True),
    ],
)
def test_log_may_be_later_than_any_published_state(known: Known, later: bool) -> None:
    assert may_be_later(known) is later


@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("more", [1, 100])
def test_may_be_prefix_looks_at_all_that_can_be_known(blocks: int, more: int) -> None:
    data = bytes(range(256)) * (BLOCK_SIZE // 256 * blocks) + b"x" * 50
    entry = a_log(data + b"y" * more)
    assert may_be_prefix(entry, holding(data))
    assert may_be_prefix(entry, holding(b"")) is True
    if blocks:
        assert not may_be_prefix(entry, holding(b"?" + data[1:]))
        assert may_be_prefix(replace(entry, tail_hash=None), holding(b"?" + data[1:]))
        assert may_be_prefix(entry, holding(data[: BLOCK_SIZE - 1])) is True


def test_may_be_prefix_when_the_log_ends_with_a_block() -> None:
    data = bytes(BLOCK_SIZE)
    assert may_be_prefix(a_log(data + data), holding(data))
    assert not may_be_prefix(a_log(data + data), holding(b"\1" + data[1:]))
    assert may_be_prefix(a_log(data + b"y"), holding(data))
    assert not may_be_prefix(a_log(data + b"y"), holding(b"\1" + data[1:]))
    assert may_be_prefix(a_log(data), holding(data))
    assert not may_be_prefix(a_log(data), holding(b"\1" + data[1:]))


def test_transfers_are_in_order() -> None:
    plan = SyncPlan()
    for updated in (OLD, OLD + 5):
        for priority in (4, 1, 3, 2):
            for name in ("b", "a"):
                entry = an_entry(f"{RUN}/{name}", 1, priority=priority)
                plan.transfers.append(Fetch(a_run(entry, updated=updated), entry, "new"))
    plan.put_in_order()
    order = [(each.entry.priority, each.run.updated_at, each.entry.path[-1]) for each in plan.transfers]
    assert order == [(p, u, n) for p in (1, 2, 3, 4) for u in (OLD + 5, OLD) for n in "ab"]


def test_expected_bytes() -> None:
    entry = a_log(A + B)
    plan = SyncPlan([Fetch(a_run(entry), entry, "new"), Append(a_run(entry), entry, holding(A))])
    assert plan.total_bytes == len(A + B) + len(B)
    assert Append(a_run(entry), entry, holding(A + B + B)).bytes_expected == 0
    assert Fetch(a_run(entry), entry, "", held=len(A)).bytes_expected == len(B)
    assert Gone(RUN, "meta.json", holding(A)).path == f"{RUN}/meta.json"


def test_plan_run_goes_by_the_path_within_the_run() -> None:
    entries = (STATE, a_log(A))
    known = {"summary.json": a_known(3, (ONE.digest(),), Listed.of(STATE))}
    (action,) = plan_run(a_run(*entries), entries, known)
    assert action.entry == entries[1]


# -- a model of transfer and mirror ----------------------------------------------------------

contents = st.lists(st.sampled_from([b"a\n", b"b\n", b"torn"]), max_size=6).map(b"".join)


def outcome(action: Action | None, held: bytes, listed: bytes, ended: bool) -> bytes:
    """What the file holds after an action that is carried out as the laws say."""
    if action is None or isinstance(action, Note):
        return held
    if isinstance(action, Append) and listed.startswith(held):
        end = len(listed) if ended else max(len(held), listed.rfind(b"\n") + 1)
        return listed[:end]
    return listed if ended else listed[: listed.rfind(b"\n") + 1]


@given(st.lists(contents, min_size=1, max_size=5), st.booleans(), st.booleans())
def test_any_history_of_a_log_is_followed(versions: list[bytes], digest: bool, ended: bool) -> None:
    held, known = b"", None
    for number, content in enumerate(versions):
        last = ended and number == len(versions) - 1
        entry = a_log(content, digest=digest, mtime=OLD + number)
        run = a_run(entry, state="done" if last else "running")
        for _ in range(2):
            if known is not None and len(held) > len(content) and digest:
                known = replace(known, extends=held.startswith(content))
            action = decide(run, entry, known)
            held = outcome(action, held if known else b"", content, last)
            local = LocalFile(len(held), entry.mtime_ns or int(entry.mtime) * 10**9, 7)
            known = Known(local, hashes(held), Listed.of(entry))
        assert decide(run, entry, known) is None
        assert held == content if last else held == content[: content.rfind(b"\n") + 1]


@given(st.lists(st.sampled_from([b"1", b"2", b"33"]), min_size=1, max_size=6), st.booleans())
def test_any_history_of_a_state_file_is_followed(versions: list[bytes], digest: bool) -> None:
    held, known = b"", None
    for number, content in enumerate(versions):
        sha = hashlib.sha256(content)
        entry = an_entry(
            size=len(content), mtime=float(OLD + number), sha256=sha.hexdigest() if digest else None
        )
        action = decide(a_run(entry), entry, known)
        held = content if isinstance(action, Fetch) else held
        known = a_known(len(held), (hashlib.sha256(held).digest(),), Listed.of(entry))
        assert held == content
        assert decide(a_run(entry), entry, known) is None
