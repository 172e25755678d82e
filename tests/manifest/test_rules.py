"""Which names belong, which are safe, how they are shown; digests of blocks."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicorn.manifest import rules
from runicorn.manifest.digest import BLOCK_SIZE, BlockHasher, block_digest


@pytest.mark.parametrize(
    "status",
    [
        "running",
        "RUNNING",
        " running ",
        "unknown",
        "pending",
        "queued",
        "created",
        "starting",
        "initializing",
        "paused",
        "resuming",
        "",
    ],
)
def test_a_run_goes_on(status: str) -> None:
    assert not rules.has_ended(status)


@pytest.mark.parametrize("status", ["completed", "finished", "failed", "killed", "whatever"])
def test_a_run_has_ended(status: str) -> None:
    assert rules.has_ended(status)


@pytest.mark.parametrize(
    ("inner", "priority"),
    [
        ("meta.json", 1),
        ("status.json", 1),
        ("summary.json", 2),
        ("environment.json", 2),
        ("artifacts_created.json", 2),
        ("artifacts_used.json", 2),
        ("assets.json", 2),
        ("events.jsonl", 3),
        ("logs.txt", 3),
        ("media/a", 4),
        ("media/a/b/c.png", 4),
        ("media/" + "d/" * 32 + "x", 4),
        ("media/" + "d/" * 33 + "x", None),
        ("media", None),
        ("media/.x", None),
        ("media/.d/x", None),
        ("media/x.LOCK", None),
        ("media/x~", None),
        ("Meta.json", None),
        ("x/meta.json", None),
        ("weights.bin", None),
    ],
)
def test_priority(inner: str, priority: int | None) -> None:
    assert rules.priority_in_run(inner) == priority


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("p/n/runs/r", ("p", "n")),
        ("runs/r", ("", "")),
        ("runs/p/r", ("p", "")),
        ("runs/p/a/b/r", ("p", "a/b")),
        ("runs/n/runs/r", ("n", "runs")),
        ("runs/" + "d/" * 32 + "r", ("d", "/".join("d" * 31))),
        ("runs/" + "d/" * 33 + "r", None),
        ("runs", None),
        ("p/n/r", None),
        ("p/n/other/r", None),
        ("p/n/runs/a/r", None),
        (".p/n/runs/r", None),
        ("runs/.x/r", None),
    ],
)
def test_project_and_name(folder: str, found: tuple[str, str] | None) -> None:
    assert rules.project_and_name(folder) == found


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 日本", "plain ü 日本"),
        ("a\nb\tc\x1b", r"a\x0ab\x09c\x1b"),
        ("\x7f\x85", r"\x7f\x85"),
        ("a\\b", r"a\\b"),
        ("\u0100\xa0\xff", "\u0100\xa0\xff"),
        ("\u202e\u200b\ufeff\u2028", r"\u202e\u200b\ufeff\u2028"),
        ("a\u061cb\u00ad\u180e\ufff9\u206a", r"a\u061cb\xad\u180e\ufff9\u206a"),
        ("\U000e0041\U0001d173", r"\U000e0041\U0001d173"),
        ("\u00a0\u3000\U0001f600\u0601", "\u00a0\u3000\U0001f600\u0601"),
        ("\udce9", r"\xe9"),
        ("\ud800", r"\ud800"),
        ("\udc7f\udc80\udcff\udd00", r"\udc7f\x80\xff\udd00"),
    ],
)
def test_escape(text: str, shown: str) -> None:
    assert rules.escape(text) == shown
    assert rules.visible(text.replace("\\", "/")) == shown.replace(r"\\", "/")


def test_what_was_escaped_is_not_escaped_again() -> None:
    assert rules.visible(r"a\x0a" + "\n") == r"a\x0a\x0a"


@given(st.text(st.characters()))
def test_escaped_text_is_one_printable_line(text: str) -> None:
    shown = rules.escape(text)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert not any(ord(each) < 0x20 or 0x7F <= ord(each) < 0xA0 for each in shown)


@given(st.text(st.characters(), max_size=300))
def test_a_safe_path_is_made_of_safe_names(path: str) -> None:
    if rules.unsafe_path(path) is None:
        assert all(rules.unsafe_name(part) is None for part in path.split("/"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty or a dot name"),
        (".", "empty or a dot name"),
        ("..", "empty or a dot name"),
        ("a/b", "it holds a slash"),
        ("a\\b", r"it holds the character \\"),
        ("a\nb", r"it holds the character \x0a"),
        ("\udcff", r"it holds the character \xff"),
        ("x" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
        ("\U0001f600" * 64, "longer than 255 bytes"),
    ],
)
def test_unsafe_names(name: str, reason: str) -> None:
    assert rules.unsafe_name(name) == reason


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "\U0001f600" * 63, "...", " ", "a:b", "con"])
def test_safe_names(name: str) -> None:
    assert rules.unsafe_name(name) is None
    assert rules.unsafe_path(f"{name}/{name}") is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty or absolute"),
        ("/", "empty or absolute"),
        ("/etc/passwd", "empty or absolute"),
        ("a\\b", r"it holds the character \\"),
        ("a/b\0", r"it holds the character \x00"),
        ("a//b", "it has an empty part or a dot part"),
        ("a/", "it has an empty part or a dot part"),
        ("./a", "it has an empty part or a dot part"),
        ("a/../b", "it has an empty part or a dot part"),
        ("a/b/..", "it has an empty part or a dot part"),
        ("a/" * 80 + "a", "more than 80 parts"),
        ("é/" * 80 + "é", "more than 80 parts"),
        ("a/" + "x" * 256, "it has a part longer than 255 bytes"),
        ("é" * 128 + "/a", "it has a part longer than 255 bytes"),
        ("\U0001f600" * 64 + "/a", "it has a part longer than 255 bytes"),
        (("x" * 203 + "/") * 20 + "x" * 17, "longer than 4096 bytes"),
        (("\U0001f600" * 51 + "/") * 20 + "x" * 9, "longer than 4096 bytes"),
    ],
)
def test_unsafe_paths(path: str, reason: str) -> None:
    assert rules.unsafe_path(path) == reason


@pytest.mark.parametrize(
    "path",
    ["a", "a/b", "a/" * 79 + "a", "é/" * 79 + "é", ("x" * 203 + "/") * 20 + "x" * 16, "...", "a/.b", ".a"],
)
def test_safe_paths(path: str) -> None:
    assert rules.unsafe_path(path) is None


@pytest.mark.parametrize(
    ("folder", "may"),
    [
        (".", True),
        ("p", True),
        ("p/n", True),
        ("p/n/runs", True),
        ("p/n/runs/r", True),
        ("runs", True),
        ("runs/a/b/c/d/e", True),
        ("p/n/other", False),
        ("p/n/runs/r/media", False),
        (".p", False),
        ("p/.n", False),
        ("runs/.r", False),
    ],
)
def test_what_may_lead_to_runs(folder: str, may: bool) -> None:
    assert rules.may_lead_to_runs(folder) is may


@pytest.mark.parametrize(
    ("path", "run_id", "folders"),
    [
        ("p/n/runs/r/meta.json", "r", ["p/n/runs/r"]),
        ("p/n/runs/r/media/r/x", "r", ["p/n/runs/r"]),
        ("runs/media/media/x", "media", ["runs/media"]),
        ("runs/media/media/media/x", "media", ["runs/media", "runs/media/media"]),
        ("runs/r/meta.json", "r", ["runs/r"]),
        ("runs/r/weights.bin", "r", []),
        ("p/n/other/r/meta.json", "r", []),
        ("r/meta.json", "r", []),
        ("runs/r", "r", []),
        ("runs/r/meta.json", "other", []),
    ],
)
def test_run_folders_of_a_path(path: str, run_id: str, folders: list[str]) -> None:
    assert rules.run_folders(path, run_id) == folders


@pytest.mark.parametrize(
    ("path", "does"),
    [
        ("runs/r/meta.json", True),
        ("runs/r/x", False),
        ("runs/rx/meta.json", False),
        ("runs/meta.json", False),
    ],
)
def test_which_paths_belong_to_a_run(path: str, does: bool) -> None:
    assert rules.belongs(path, "runs/r") is does


@pytest.mark.parametrize("size", [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE])
@pytest.mark.parametrize("step", [BLOCK_SIZE, 700_001])
def test_block_hashes(size: int, step: int) -> None:
    data = b"ab" * (size // 2) + b"c" * (size % 2)
    hasher = BlockHasher()
    for at in range(0, size, step):
        hasher.update(data[at : at + step])
    blocks = [data[at : at + BLOCK_SIZE] for at in range(0, size, BLOCK_SIZE)] or [b""]
    expected = [hashlib.sha256(block).digest() for block in blocks]
    assert hasher.hashes() == expected
    assert hasher.size == size
    assert block_digest(expected) == hashlib.sha256(b"".join(expected)).hexdigest()


def test_marks_of_a_hasher_keep_what_it_had_seen() -> None:
    data = bytes(range(256)) * (BLOCK_SIZE // 256)
    pieces = [b"", b"ab", data[2:], b"c", data[1:], data, b""]
    hasher, marks = BlockHasher(), []
    for piece in pieces:
        hasher.update(piece)
        marks.append((hasher.mark(), hasher.hashes(), hasher.size))
    hasher.update(b"and more")
    for mark, hashes, size in marks:
        assert hasher.hashes_at(mark) == hashes
        assert (mark.size, mark.full) == (size, size // BLOCK_SIZE)


def test_a_hasher_goes_on_from_full_blocks_and_copies() -> None:
    start = BlockHasher()
    start.update(b"x" * (BLOCK_SIZE + 5))
    again = BlockHasher(start.hashes()[:1])
    assert again.size == BLOCK_SIZE
    again.update(b"x" * 5)
    assert again.hashes() == start.hashes()
    twin = again.copy()
    twin.update(b"more")
    assert twin.hashes() != again.hashes() == start.hashes()
    assert BlockHasher().hashes() == [hashlib.sha256().digest()]
