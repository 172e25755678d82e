"""Writes the journal of ``tests/golden``; done once per format version and never again.

``python -m tests.journal.make_golden FOLDER`` makes the folder, which must not be there. The compressed
frames are those of the libraries of that day: the bytes in ``tests/golden`` count, not what this would write.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from tests.journal.forge import (
    BEGIN,
    COMMIT,
    FILES,
    LINEAGE,
    MIB,
    ONE,
    SEAL,
    TWO,
    Raw,
    chained,
    checksummed,
    epoch_of,
    frame,
    seed,
)

A_RUN = "my_project/experiment_1/runs/20250101_120000_abc123"
B_RUN = "runs/nlp/bert/base/20250102_080000_öß"
T0 = 1704060000


def noise(name: str, size: int) -> bytes:
    """Fixed bytes that no codec makes smaller."""
    parts = (hashlib.sha256(f"{name} {number}".encode()).digest() for number in range(size // 32 + 1))
    return b"".join(parts)[:size]


def lines(name: str, first: int, last: int) -> bytes:
    """Records of a log."""
    return b"".join(json.dumps({"step": at, name: at / 8}).encode() + b"\n" for at in range(first, last))


A_EVENTS = lines("loss", 0, 40)
A_MORE = lines("loss", 40, 60)
A_LAST = lines("loss", 60, 64) + b'{"step": 64, "end": true}'
B_LOG = b"begin\nepoch 1\n"
B_TORN = b"epoch 2: ha"
B_REST = b"lf done\n"
IMAGE = noise("image", 300)
PLOT = noise("plot", 1200)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def block_digest(data: bytes) -> str:
    """Of a log of one block."""
    assert len(data) <= MIB
    return sha(hashlib.sha256(data).digest())


def entry(path: str, time: float, priority: int, size: int, **more: Any) -> dict[str, Any]:
    exact = {"mtime_ns": int(time * 10**9)}
    return {"path": path, "size": size, "mtime": time, "priority": priority, **exact, **more}


def state(path: str, data: bytes, time: float, priority: int, *, carried: bool = True) -> dict[str, Any]:
    more = {"data": len(data)} if carried else {}
    return entry(path, time, priority, len(data), sha256=sha(data), **more)


def log(path: str, data: bytes, time: float, start: int, end: int) -> dict[str, Any]:
    digest = {} if end == len(data) else {"digest": block_digest(data[:end])}
    listed = {"block_digest": block_digest(data), "tail_hash": sha(data)}
    return entry(path, time, 3, len(data), **listed, data=end - start, **{"from": start}, **digest)


def section(
    folder: str, status: str, times: tuple[float, float], files: list[Any], *removed: str
) -> dict[str, Any]:
    gone = {"removed": list(removed)} if removed else {}
    return {
        "folder": folder,
        "status": status,
        "created_at": times[0],
        "updated_at": times[1],
        "files": files,
        **gone,
    }


def json_file(**fields: object) -> bytes:
    return json.dumps(fields, indent=1).encode() + b"\n"


A_META = json_file(created_at=T0, tags=["a", "ö"])
A_RUNNING = json_file(status="running", started_at=T0 + 1)
A_ENDED = json_file(status="completed", started_at=T0 + 1)
A_SUMMARY = json_file(loss=0.5, seeds=[1, 2, 3], **{f"metric_{at}": at for at in range(40)})
B_META = json_file(created_at=T0 + 86400.0)
B_STATUS = json_file(status="running")

SNAPSHOTS = {
    7: "550e8400-e29b-41d4-a716-446655440007",
    8: "550e8400-e29b-41d4-a716-446655440008",
    9: "550e8400-e29b-41d4-a716-446655440009",
    10: "550e8400-e29b-41d4-a716-446655440010",
}
PROBLEMS = [
    {"path": "my_project/locked", "kind": "unreadable", "message": "Permission denied"},
    {
        "path": "my_project/new\\x0aline",
        "kind": "unsafe_name",
        "message": "it holds the character \\x0a",
    },
]


def commit(revision: int, files: int, size: int, problems: list[dict[str, str]], codec: int) -> Raw:
    fields = {
        "format_version": "1.0",
        "revision": revision,
        "snapshot_id": SNAPSHOTS[revision],
        "generated_at": T0 + 90000.0 + revision,
        "server_hostname": "ml-server-01",
        "remote_root": "/data/experiments",
        "lineage": LINEAGE,
        "complete": not problems,
        "statistics": {"total_experiments": 2, "total_files": files, "total_bytes": size},
        "generator": "runicorn 0.9.0",
        "problem_count": 3 if problems else 0,
        "problems": problems,
    }
    return frame(COMMIT, fields, codec=codec)


def begin(epoch: str, created_at: float) -> Raw:
    fields = {"format_version": "1.0", "epoch": epoch, "lineage": LINEAGE, "created_at": created_at}
    return frame(BEGIN, fields)


A, B = (T0, T0 + 50.5), (T0 + 86400.0, T0 + 86500.0)
MODEL = entry("media/model.bin", T0 + 20, 4, 3 * MIB, sha256=sha(b"model"))
LISTED = entry("media/new/plot.png", T0 + 99.25, 4, len(PLOT), sha256=sha(PLOT))


def one() -> list[Raw]:
    """The first epoch up to its seal: a base, two revisions."""
    return [
        begin(ONE, T0 + 90000.5),
        # The base: revision 7.
        frame(
            FILES,
            {
                "runs": [
                    section(
                        B_RUN,
                        "running",
                        B,
                        [
                            state("status.json", B_STATUS, T0 + 86500.0, 1),
                            state("meta.json", B_META, T0 + 86400.0, 1),
                        ],
                    ),
                    section(
                        A_RUN,
                        "running",
                        A,
                        [
                            state("status.json", A_RUNNING, T0 + 1.0, 1),
                            state("meta.json", A_META, T0 + 0.25, 1),
                        ],
                    ),
                ]
            },
            B_STATUS + B_META + A_RUNNING + A_META,
            codec=2,
        ),
        frame(
            FILES,
            {"runs": [section(A_RUN, "running", A, [state("summary.json", A_SUMMARY, T0 + 30.0, 2)])]},
            A_SUMMARY,
            codec=1,
        ),
        frame(
            FILES,
            {
                "runs": [
                    section(
                        A_RUN,
                        "running",
                        A,
                        [log("events.jsonl", A_EVENTS, T0 + 50.5, 0, len(A_EVENTS))],
                    ),
                    section(
                        B_RUN, "running", B, [log("logs.txt", B_LOG + B_TORN, T0 + 86499.0, 0, len(B_LOG))]
                    ),
                ]
            },
            A_EVENTS + B_LOG,
            codec=2,
        ),
        frame(
            FILES,
            {
                "runs": [
                    section(
                        A_RUN,
                        "running",
                        A,
                        [
                            state("media/loss 1.png", IMAGE, T0 + 10.0, 4),
                            state("media/new/plot.png", PLOT, T0 + 11.0, 4),
                            MODEL,
                        ],
                    )
                ]
            },
            IMAGE + PLOT,
        ),
        commit(7, 10, sum(map(len, STATE_7)) + 3 * MIB, [], 1),
        # Revision 8: an append, a time that moved, a record that was completed, problems.
        frame(
            FILES,
            {
                "runs": [
                    section(
                        A_RUN,
                        "running",
                        (T0, T0 + 99.25),
                        [
                            log(
                                "events.jsonl",
                                A_EVENTS + A_MORE,
                                T0 + 98.0,
                                len(A_EVENTS),
                                len(A_EVENTS + A_MORE),
                            ),
                            LISTED,
                        ],
                    ),
                    section(
                        B_RUN,
                        "running",
                        (T0 + 86400.0, T0 + 86600.0),
                        [
                            log(
                                "logs.txt",
                                B_LOG + B_TORN + B_REST,
                                T0 + 86600.0,
                                len(B_LOG),
                                len(B_LOG + B_TORN + B_REST),
                            )
                        ],
                    ),
                ]
            },
            A_MORE + B_TORN + B_REST,
            codec=1,
        ),
        commit(8, 10, sum(map(len, STATE_8)) + 3 * MIB, PROBLEMS, 2),
        # Revision 9: removals.
        frame(
            FILES,
            {
                "runs": [
                    section(A_RUN, "running", (T0, T0 + 99.25), [], "media/loss 1.png", "media/model.bin")
                ]
            },
        ),
        commit(9, 8, sum(map(len, STATE_8)) - len(IMAGE), [], 0),
    ]


STATE_7 = (A_RUNNING, A_META, A_SUMMARY, A_EVENTS, B_STATUS, B_META, B_LOG, B_TORN, IMAGE, PLOT)
STATE_8 = (*STATE_7, A_MORE, B_REST)


def base_of_two() -> list[Raw]:
    """The base of the second epoch: revision 9 again."""
    a_events, b_log = A_EVENTS + A_MORE, B_LOG + B_TORN + B_REST
    a_times, b_times = (T0, T0 + 99.25), (T0 + 86400.0, T0 + 86600.0)

    def of_a(*files: dict[str, Any]) -> dict[str, Any]:
        return section(A_RUN, "running", a_times, list(files))

    def of_b(*files: dict[str, Any]) -> dict[str, Any]:
        return section(B_RUN, "running", b_times, list(files))

    b_first = (state("status.json", B_STATUS, T0 + 86500.0, 1), state("meta.json", B_META, T0 + 86400.0, 1))
    a_first = (state("status.json", A_RUNNING, T0 + 1.0, 1), state("meta.json", A_META, T0 + 0.25, 1))
    b_logs = log("logs.txt", b_log, T0 + 86600.0, 0, len(b_log))
    a_logs = log("events.jsonl", a_events, T0 + 98.0, 0, len(a_events))
    image = state("media/new/plot.png", PLOT, T0 + 99.25, 4)
    return [
        begin(TWO, T0 + 90009.5),
        frame(
            FILES,
            {"runs": [of_b(*b_first), of_a(*a_first)]},
            B_STATUS + B_META + A_RUNNING + A_META,
            codec=1,
        ),
        frame(FILES, {"runs": [of_a(state("summary.json", A_SUMMARY, T0 + 30.0, 2))]}, A_SUMMARY, codec=2),
        frame(FILES, {"runs": [of_b(b_logs), of_a(a_logs)]}, b_log + a_events, codec=2),
        frame(FILES, {"runs": [of_a(image)]}, PLOT),
        commit(9, 8, sum(map(len, STATE_8)) - len(IMAGE), [], 1),
    ]


def rest_of_two() -> list[Raw]:
    """Revision 10: a run ends, its log without newline; a file too large to be carried."""
    whole = A_EVENTS + A_MORE + A_LAST
    return [
        frame(
            FILES,
            {
                "runs": [
                    section(
                        A_RUN,
                        "completed",
                        (T0, T0 + 200.0),
                        [
                            state("status.json", A_ENDED, T0 + 200.0, 1),
                            log(
                                "events.jsonl",
                                whole,
                                T0 + 199.0,
                                len(A_EVENTS + A_MORE),
                                len(whole),
                            ),
                            entry("media/checkpoint.bin", T0 + 198.0, 4, 5 * MIB, sha256=sha(b"checkpoint")),
                        ],
                    )
                ]
            },
            A_ENDED + A_LAST,
            codec=2,
        ),
        commit(10, 9, SIZE_10, [], 2),
    ]


SIZE_10 = (
    sum(map(len, STATE_8)) - len(IMAGE) - len(A_RUNNING) + len(A_ENDED) + len(A_LAST) + 5 * MIB
)  # bytes of revision 10


def place(epoch: str, frames: list[Raw]) -> dict[str, Any]:
    """The place behind these frames."""
    offset, chain = 0, seed(epoch)
    for data, behind in chained(chain, frames):
        offset, chain = offset + len(data), behind
    return {"epoch": epoch, "offset": offset, "chain": chain.hex()}


def files() -> dict[str, bytes]:
    """The journal's files by name."""
    base, rest = base_of_two(), rest_of_two()
    carriable = sum(map(len, STATE_8)) - len(IMAGE)
    seal = {**place(TWO, base), "revision": 9, "snapshot_id": SNAPSHOTS[9]}
    media_begin, media_end = place(TWO, base[:4]), place(TWO, base[:5])
    base_end, end = place(TWO, base), place(TWO, base + rest)
    head = {
        "format_version": "1.0",
        "lineage": LINEAGE,
        "revision": 10,
        "snapshot_id": SNAPSHOTS[10],
        "generated_at": T0 + 90020.0,
        "epoch": TWO,
        "length": end["offset"],
        "chain": end["chain"],
        "base_length": base_end["offset"],
        "base_chain": base_end["chain"],
        "base_bytes": carriable,
        "media": {"begin": media_begin["offset"], "end": media_end["offset"], "chain": media_end["chain"]},
        "statistics": {"total_experiments": 2, "total_files": 9, "total_bytes": SIZE_10},
        "complete": True,
        "problem_count": 0,
        "manifest": {"revision": 8, "snapshot_id": SNAPSHOTS[8], **place(ONE, one()[:8]), "bytes": 1234},
    }
    return {
        "HEAD": checksummed(head),
        f"{ONE}.journal": epoch_of(ONE, *one(), frame(SEAL, seal)),
        f"{TWO}.journal": epoch_of(TWO, *base, *rest),
    }


def held(entry: dict[str, Any], data: bytes | None) -> dict[str, Any]:
    """An entry as the replay knows it, and the bytes that a client holds (None: it has to fetch)."""
    names = ("size", "mtime", "priority", "mtime_ns", "sha256", "block_digest", "tail_hash")
    listed = {name: entry.get(name) for name in names}
    return {**listed, "held": None if data is None else sha(data)}


def expected() -> dict[str, Any]:
    """The replayed result: from what the files are, not from the frames."""
    events, b_log = A_EVENTS + A_MORE, B_LOG + B_TORN + B_REST
    whole = events + A_LAST
    a, b = f"{A_RUN}/", f"{B_RUN}/"
    same = {
        f"{a}meta.json": held(state("meta.json", A_META, T0 + 0.25, 1), A_META),
        f"{a}summary.json": held(state("summary.json", A_SUMMARY, T0 + 30.0, 2), A_SUMMARY),
        f"{b}meta.json": held(state("meta.json", B_META, T0 + 86400.0, 1), B_META),
        f"{b}status.json": held(state("status.json", B_STATUS, T0 + 86500.0, 1), B_STATUS),
    }
    running = {f"{a}status.json": held(state("status.json", A_RUNNING, T0 + 1.0, 1), A_RUNNING)}
    plot = {f"{a}media/new/plot.png": held(LISTED, PLOT)}
    image = {f"{a}media/loss 1.png": held(state("", IMAGE, T0 + 10.0, 4), IMAGE)}
    model = {f"{a}media/model.bin": held(MODEL, None)}
    b_done = {f"{b}logs.txt": held(log("", b_log, T0 + 86600.0, 0, len(b_log)), b_log)}
    a_grown = {f"{a}events.jsonl": held(log("", events, T0 + 98.0, 0, len(events)), events)}
    seven = {
        **same,
        **running,
        **image,
        **model,
        f"{a}media/new/plot.png": held(state("", PLOT, T0 + 11.0, 4), PLOT),
        f"{a}events.jsonl": held(log("", A_EVENTS, T0 + 50.5, 0, len(A_EVENTS)), A_EVENTS),
        f"{b}logs.txt": held(log("", B_LOG + B_TORN, T0 + 86499.0, 0, len(B_LOG)), B_LOG),
    }
    nine = {**same, **running, **plot, **b_done, **a_grown}
    ten = {
        **same,
        **plot,
        **b_done,
        f"{a}status.json": held(state("", A_ENDED, T0 + 200.0, 1), A_ENDED),
        f"{a}events.jsonl": held(log("", whole, T0 + 199.0, 0, len(whole)), whole),
        f"{a}media/checkpoint.bin": held(entry("", T0 + 198.0, 4, 5 * MIB, sha256=sha(b"checkpoint")), None),
    }
    base, sealed = place(TWO, base_of_two()), one()
    return {
        "lineage": LINEAGE,
        "states": [
            _state(7, place(ONE, sealed[:6]), seven, (A[1], B[1])),
            _state(8, place(ONE, sealed[:8]), {**nine, **image, **model}, (T0 + 99.25, T0 + 86600.0)),
            _state(9, place(ONE, sealed), nine, (T0 + 99.25, T0 + 86600.0)),
            _state(9, base, nine, (T0 + 99.25, T0 + 86600.0)),
            _state(10, place(TWO, base_of_two() + rest_of_two()), ten, (T0 + 200.0, T0 + 86600.0)),
        ],
    }


def _state(
    revision: int, where: dict[str, Any], entries: dict[str, Any], updated: tuple[float, float]
) -> dict[str, Any]:
    problems = PROBLEMS if revision == 8 else []
    return {
        "revision": revision,
        "snapshot_id": SNAPSHOTS[revision],
        "generated_at": T0 + 90000.0 + revision,
        "place": where,
        "complete": not problems,
        "problems": problems,
        "problem_count": 3 if problems else 0,
        "total_experiments": 2,
        "total_files": len(entries),
        "total_bytes": sum(each["size"] for each in entries.values()),
        "runs": {
            A_RUN: {
                "status": "completed" if revision == 10 else "running",
                "created_at": float(T0),
                "updated_at": updated[0],
            },
            B_RUN: {"status": "running", "created_at": T0 + 86400.0, "updated_at": updated[1]},
        },
        "entries": dict(sorted(entries.items())),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir()
    for name, data in files().items():
        (folder / name).write_bytes(data)
    (folder / "expected.json").write_text(json.dumps(expected(), indent=1, ensure_ascii=True) + "\n")
