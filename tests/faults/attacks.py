"""What attacks are made of, whatever brings them: paths, folders, numbers, links; and work, counted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

from tests.manifest.helpers import PATH_RUN, PROJECT_RUN

ESCAPES = {
    "absolute": "/client/loot",
    "absolute-and-fitting": "//vision/resnet/runs/r1/meta.json",
    "parent": "../loot",
    "parent-of-home": "../home/.ssh/authorized_keys",
    "parent-inside": f"{PROJECT_RUN}/media/../../../../../../loot",
    "parent-that-stays-inside": "vision/other/../resnet/runs/r1/summary.json",
    "dot-part": f"{PROJECT_RUN}/./summary.json",
    "empty-part": f"{PROJECT_RUN}//summary.json",
    "trailing-slash": f"{PROJECT_RUN}/media/x/",
    "empty": "",
    "only-dots": "..",
    "drive": "C:/Windows/evil.dll",
    "drive-backslash": "C:\\Windows\\evil.dll",
    "unc": "\\\\host\\share\\evil",
    "unc-slashes": "//host/share/evil",
    "backslash-parent": f"{PROJECT_RUN}/media/..\\..\\loot",
    "nul": f"{PROJECT_RUN}/media/a\x00.png",
    "newline": f"{PROJECT_RUN}/media/a\nb.png",
    "escape-character": f"{PROJECT_RUN}/media/\x1b[2J.png",
    "delete-character": f"{PROJECT_RUN}/media/\x7f.png",
    "c1-control": f"{PROJECT_RUN}/media/\x85.png",
    "lone-surrogate": f"{PROJECT_RUN}/media/\ud800.png",
    "escaped-byte": f"{PROJECT_RUN}/media/\udcff.png",
    "long-part": f"{PROJECT_RUN}/media/{'a' * 256}.png",
    "long-part-in-bytes": f"{PROJECT_RUN}/media/{'é' * 127}.png",
    "long-path": f"{PROJECT_RUN}/media/{'abcdefgh/' * 500}a.png",
    "many-parts": f"{PROJECT_RUN}/media/{'a/' * 10_000}a.png",
    "too-many-folders": f"{PROJECT_RUN}/media/{'a/' * 33}a.png",
}
"""Paths of files that lead out of the mirror, or that no client can or may write."""

UNREQUESTED = {
    "run-folder-stranger": f"{PROJECT_RUN}/train.py",
    "weights": f"{PROJECT_RUN}/model.pt",
    "hidden-in-run": f"{PROJECT_RUN}/.bashrc",
    "hidden-in-media": f"{PROJECT_RUN}/media/.evil.png",
    "hidden-folder-in-media": f"{PROJECT_RUN}/media/.ssh/authorized_keys",
    "lock-file": f"{PROJECT_RUN}/media/a.lock",
    "media-itself": f"{PROJECT_RUN}/media",
    "state-of-the-mirror": ".runicorn/state.db",
    "artefact": ".runicorn/full_manifest.json",
    "staging": ".runicorn/staging/x.partial",
    "run-in-state-folder": ".runicorn/a/runs/r9/meta.json",
    "authorized-keys": ".ssh/authorized_keys",
    "database-of-the-viewer": "runicorn.db",
    "file-of-another-run": f"{PATH_RUN}/meta.json",
    "file-of-no-run": "vision/resnet/meta.json",
}
"""Sound paths of what is no file of the run that lists it."""

FOLDERS = [
    "/vision/resnet/runs/r1",
    "../root/vision/resnet/runs/r1",
    "vision/resnet/runs",
    "vision/./runs/r1",
    "runs",
]
"""Folders of runs that fit no layout."""

NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "-1",
    str(2**63),
    "true",
    '"1"',
    "1e400",
    "1.5",
    "null",
    "[]",
    "9" * 5000,
]
"""JSON of what is no size."""

LINKED_FOLDERS = ["vision", "vision/resnet", "vision/resnet/runs", PROJECT_RUN, f"{PROJECT_RUN}/media"]
LINKED_FILES = [f"{PROJECT_RUN}/{name}" for name in ("summary.json", "events.jsonl", "media/a.png")]
"""Places in the mirror of a `Lab` where a link can be put."""


def calls(work: Callable[[], object]) -> int:
    """How many functions, also built-in ones, some work calls."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count
