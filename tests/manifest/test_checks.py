"""What is refused of a manifest is told by its name and its reason, and taken up to its very bound."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from runicorn.errors import DamagedError, UnsafeError, UnsupportedVersionError
from runicorn.manifest import checks
from runicorn.manifest.model import FileEntry, Header, Identity, ManifestType, Problem, Run

FOLDER = "p/n/runs/r"
DIGEST = "0123456789abcdef" * 4
HEADER: dict[str, Any] = {
    "format_version": "1.7",
    "manifest_type": "active",
    "revision": 3,
    "snapshot_id": "snapshot",
    "generated_at": 5,
    "server_hostname": "host",
    "remote_root": "/root",
    "lineage": "lineage",
    "complete": True,
    "statistics": {"total_experiments": 1, "total_files": 2, "total_bytes": 7},
    "active_window": 3600,
    "generator": "runicorn",
    "problem_count": 9,
    "problems": [{"path": "x", "kind": "link", "message": "a link"}],
}
RUN: dict[str, Any] = {
    "run_id": "r",
    "project": "another project",
    "name": "another name",
    "status": "running",
    "created_at": 1,
    "updated_at": 2.5,
    "folder": FOLDER,
    "files": [
        {
            "path": f"{FOLDER}/meta.json",
            "size": 3,
            "mtime": 1.5,
            "priority": 1,
            "mtime_ns": 1_500_000_001,
            "sha256": DIGEST,
            "block_digest": "ignored",
            "tail_hash": "ignored",
        },
        {
            "path": f"{FOLDER}/events.jsonl",
            "size": 4,
            "mtime": 1,
            "priority": 3,
            "sha256": "ignored",
            "block_digest": DIGEST,
            "tail_hash": DIGEST[::-1],
        },
    ],
}
SUMS, FILE, LOG, PROBLEM = ("statistics",), ("files", 0), ("files", 1), ("problems", 0)


def changed(whole: dict[str, Any], place: tuple[Any, ...], name: str, value: object) -> dict[str, Any]:
    """A copy with one field changed; ``...`` removes it."""
    fields = copy.deepcopy(whole)
    holder: Any = fields
    for part in place:
        holder = holder[part]
    if value is ...:
        del holder[name]
    else:
        holder[name] = value
    return fields


def told(check: Callable[[object], object], raw: object) -> tuple[type[Exception], str]:
    with pytest.raises((DamagedError, UnsafeError)) as refused:
        check(raw)
    return type(refused.value), str(refused.value)


def test_every_field_of_a_header() -> None:
    assert checks.header(HEADER) == Header(
        ManifestType.ACTIVE,
        Identity("lineage", 3, "snapshot"),
        5.0,
        "host",
        "/root",
        1,
        2,
        7,
        True,
        (Problem("x", "link", "a link"),),
        9,
        3600,
        "1.7",
        "runicorn",
    )
    assert type(checks.header(HEADER).generated_at) is float


def test_header_without_what_may_be_missing() -> None:
    optional = ("lineage", "complete", "active_window", "generator", "problem_count", "problems")
    header = checks.header({name: value for name, value in HEADER.items() if name not in optional})
    assert header == Header(
        ManifestType.ACTIVE,
        Identity(None, 3, "snapshot"),
        5.0,
        "host",
        "/root",
        1,
        2,
        7,
        format_version="1.7",
    )
    assert checks.header(changed(HEADER, (), "problem_count", 0)).problem_count == 1
    assert checks.header(changed(HEADER, (), "manifest_type", "full")).manifest_type is ManifestType.FULL


def test_every_field_of_a_run() -> None:
    state = FileEntry(f"{FOLDER}/meta.json", 3, 1.5, 1, False, 1_500_000_001, DIGEST)
    log = FileEntry(f"{FOLDER}/events.jsonl", 4, 1.0, 3, True, None, None, DIGEST, DIGEST[::-1])
    expected = Run(FOLDER, "r", "p", "n", "running", 1.0, 2.5, (state, log))
    assert checks.run(RUN) == expected
    assert checks.run(changed(RUN, (), "folder", ...)) == expected


INTEGERS = [
    (HEADER, (), "revision", 1, checks.MAX_REVISION),
    (HEADER, (), "active_window", 0, checks.MAX_INTEGER),
    (HEADER, (), "problem_count", 0, checks.MAX_INTEGER),
    (HEADER, SUMS, "total_experiments", 0, checks.MAX_INTEGER),
    (HEADER, SUMS, "total_files", 0, checks.MAX_INTEGER),
    (HEADER, SUMS, "total_bytes", 0, checks.MAX_INTEGER),
    (RUN, FILE, "size", 0, checks.MAX_INTEGER),
    (RUN, FILE, "priority", 0, 100),
    (RUN, FILE, "mtime_ns", 0, 2**33 * 10**9),
]
TIMES = [
    (HEADER, (), "generated_at", 0, 2**33),
    (RUN, (), "created_at", 0, 2**33),
    (RUN, (), "updated_at", 0, 2**33),
    (RUN, FILE, "mtime", 0, 2**33),
]


def check_of(whole: dict[str, Any]) -> Callable[[object], object]:
    return checks.header if whole is HEADER else checks.run


@pytest.mark.parametrize(("whole", "place", "name", "low", "high"), INTEGERS + TIMES)
def test_number_is_taken_within_its_bounds(
    whole: dict[str, Any], place: tuple[Any, ...], name: str, low: int, high: int
) -> None:
    check = check_of(whole)
    for value in (low, high):
        check(changed(whole, place, name, value))
    for value in (low - 1, high + 1):
        refusal = told(check, changed(whole, place, name, value))
        assert refusal == (UnsafeError, f"the field '{name}' of the manifest is out of bounds")


@pytest.mark.parametrize(("whole", "place", "name", "low", "high"), INTEGERS + TIMES)
def test_what_is_no_number_is_told(
    whole: dict[str, Any], place: tuple[Any, ...], name: str, low: int, high: int
) -> None:
    del low, high
    kind = "a number" if (whole, place, name) in [each[:3] for each in TIMES] else "an integer"
    values = ["1", True, [], *([] if kind == "a number" else [0.5, 1.0])]
    for value in values:
        refusal = told(check_of(whole), changed(whole, place, name, value))
        assert refusal == (DamagedError, f"the field '{name}' of the manifest is not {kind}")


@pytest.mark.parametrize(
    ("whole", "place", "name", "shortest", "longest"),
    [
        (HEADER, (), "snapshot_id", 1, 64),
        (HEADER, (), "lineage", 1, 64),
        (HEADER, (), "server_hostname", 0, 255),
        (HEADER, (), "remote_root", 0, 4096),
        (HEADER, (), "generator", 0, 64),
        (HEADER, PROBLEM, "path", 0, 8 * 4096),
        (HEADER, PROBLEM, "kind", 0, 8 * 4096),
        (HEADER, PROBLEM, "message", 0, 8 * 4096),
        (RUN, (), "project", 0, 4096),
        (RUN, (), "name", 0, 4096),
        (RUN, (), "status", 0, 64),
    ],
)
def test_text_is_taken_within_its_bounds(
    whole: dict[str, Any], place: tuple[Any, ...], name: str, shortest: int, longest: int
) -> None:
    check = check_of(whole)
    for length in (shortest, longest):
        check(changed(whole, place, name, "x" * length))
    for length in (shortest - 1, longest + 1):
        if length >= 0:
            refusal = told(check, changed(whole, place, name, "x" * length))
            assert refusal == (UnsafeError, f"the field '{name}' of the manifest is out of bounds")
    refusal = told(check, changed(whole, place, name, 5))
    assert refusal == (DamagedError, f"the field '{name}' of the manifest is not a text")


@pytest.mark.parametrize(("place", "name"), [(FILE, "sha256"), (LOG, "block_digest"), (LOG, "tail_hash")])
@pytest.mark.parametrize("value", ["", DIGEST.upper(), DIGEST[1:], DIGEST + "0", DIGEST[1:] + "g", 5])
def test_what_is_no_digest_is_told(place: tuple[Any, ...], name: str, value: object) -> None:
    refusal = told(checks.run, changed(RUN, place, name, value))
    assert refusal == (
        DamagedError,
        f"the field '{name}' of the manifest is not a SHA-256 in lower-case hex",
    )


REQUIRED = [
    *(
        (HEADER, (), name)
        for name in (
            "format_version",
            "manifest_type",
            "revision",
            "snapshot_id",
            "generated_at",
            "server_hostname",
            "remote_root",
            "statistics",
        )
    ),
    *((HEADER, SUMS, name) for name in HEADER["statistics"]),
    *((HEADER, PROBLEM, name) for name in ("path", "kind", "message")),
    *((RUN, (), name) for name in RUN if name != "folder"),
    *((RUN, FILE, name) for name in ("path", "size", "mtime", "priority")),
]


@pytest.mark.parametrize(("whole", "place", "name"), REQUIRED)
def test_missing_field_is_told(whole: dict[str, Any], place: tuple[Any, ...], name: str) -> None:
    refusal = told(check_of(whole), changed(whole, place, name, ...))
    assert refusal == (DamagedError, f"the manifest lacks the field '{name}'")


@pytest.mark.parametrize(
    ("check", "raw", "message"),
    [
        (checks.header, [], "the manifest is not an object"),
        (checks.run, [], "a run of the manifest is not an object"),
        (
            checks.header,
            changed(HEADER, (), "statistics", []),
            "the field 'statistics' of the manifest is not an object",
        ),
        (
            checks.header,
            changed(HEADER, (), "manifest_type", "FULL"),
            "the field 'manifest_type' of the manifest is neither 'full' nor 'active'",
        ),
        (
            checks.header,
            changed(HEADER, (), "format_version", "1"),
            "the field 'format_version' of the manifest is not MAJOR.MINOR",
        ),
        (
            checks.header,
            changed(HEADER, (), "problems", {}),
            "the field 'problems' of the manifest is not a list of objects",
        ),
        (
            checks.header,
            changed(HEADER, (), "problems", [{}, 1]),
            "the field 'problems' of the manifest is not a list of objects",
        ),
        *(
            (checks.run, changed(RUN, (), "files", files), "the run 'r' of the manifest has no list of files")
            for files in list[object]([[], {}, [{"path": "x"}, 1]])
        ),
    ],
)
def test_another_shape_is_told(check: Callable[[object], object], raw: object, message: str) -> None:
    assert told(check, raw) == (DamagedError, message)


def test_unknown_major_version_is_told() -> None:
    refusal = told(checks.header, changed(HEADER, (), "format_version", "2.13"))
    assert refusal == (UnsupportedVersionError, "the manifest has the format 2.13, this program reads 1.x")
    for value, message in (("1." + "0" * 15, "is out of bounds"), (1.0, "is not a text")):
        _, said = told(checks.header, changed(HEADER, (), "format_version", value))
        assert said == f"the field 'format_version' of the manifest {message}"
    checks.header(changed(HEADER, (), "format_version", "000001.000000"))


def test_problems_are_taken_up_to_their_number() -> None:
    problem = HEADER["problems"][0]
    assert len(checks.header(changed(HEADER, (), "problems", [problem] * 1000)).problems) == 1000
    refusal = told(checks.header, changed(HEADER, (), "problems", [problem] * 1001))
    assert refusal == (UnsafeError, "the manifest lists more than 1000 problems")


LONG = "a/" * 150
ELSEWHERE = "p/n/runs/q/media/" + "b" * 220


@pytest.mark.parametrize(
    ("raw", "message", "path"),
    [
        (
            changed(RUN, FILE, "path", "../x\n"),
            r"the manifest names the path '../x\x0a': it holds the character \x0a",
            "../x\n",
        ),
        (
            changed(RUN, FILE, "path", LONG + "/"),
            f"the manifest names the path '{LONG[:200]}': more than 80 parts",
            LONG + "/",
        ),
        (changed(RUN, (), "run_id", "a/b"), "the manifest names the run 'a/b'", "a/b"),
        (
            changed(RUN, (), "run_id", "a/" * 79 + "b" * 60),
            f"the manifest names the run '{('a/' * 79 + 'b' * 60)[:200]}'",
            "a/" * 79 + "b" * 60,
        ),
        (
            changed(RUN, (), "folder", "p/n/runs/q"),
            f"the manifest names '{FOLDER}/meta.json', which is no file of the run 'r'",
            f"{FOLDER}/meta.json",
        ),
        (
            changed(RUN, (), "run_id", "q"),
            f"the manifest names '{FOLDER}/meta.json', which is no file of the run 'q'",
            f"{FOLDER}/meta.json",
        ),
        (
            changed(changed(RUN, FILE, "path", f"{FOLDER}/media/a/b"), LOG, "path", f"{FOLDER}/media/a"),
            f"the manifest names '{FOLDER}/media/a' as file and as folder",
            f"{FOLDER}/media/a",
        ),
        (
            changed(RUN, LOG, "path", "p/n/runs/other/events.jsonl"),
            f"the manifest names '{FOLDER}/meta.json', which is no file of the run 'r'",
            f"{FOLDER}/meta.json",
        ),
        (
            changed(RUN, FILE, "path", ELSEWHERE),
            f"the manifest names '{ELSEWHERE[:200]}', which is no file of the run 'r'",
            ELSEWHERE,
        ),
        (
            changed(RUN, LOG, "path", f"{FOLDER}/meta.json"),
            f"the manifest names a file of '{FOLDER}' twice",
            FOLDER,
        ),
        (
            changed(changed(RUN, FILE, "path", f"{FOLDER}/media/a/b/c"), LOG, "path", f"{FOLDER}/media/a"),
            f"the manifest names '{FOLDER}/media/a' as file and as folder",
            f"{FOLDER}/media/a",
        ),
    ],
)
def test_hostile_path_is_told(raw: dict[str, Any], message: str, path: str) -> None:
    with pytest.raises(UnsafeError) as refused:
        checks.run(raw)
    assert str(refused.value) == message
    assert refused.value.path == path


def test_run_folder_is_that_of_a_layout() -> None:
    assert checks.run_folder(FOLDER) == FOLDER
    for folder in ("p/n", "p/n/other/" + "x" * 250):
        with pytest.raises(UnsafeError) as refused:
            checks.run_folder(folder)
        assert str(refused.value) == f"the manifest names '{folder[:200]}', which is no run folder"
        assert refused.value.path == folder
    assert told(checks.run_folder, 5) == (DamagedError, "the field 'path' of the manifest is not a text")
    assert told(checks.run_folder, "x" * 4097)[1] == "the field 'path' of the manifest is out of bounds"
