"""Room on the mirror's disk, and errors of the disk: regressions."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from runicorn.errors import DiskFullError, MirrorError
from runicorn.remote_storage import (
    SyncOptions,
    synchronize,
)
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.report import BytesReceived
from runicorn.remote_storage.transport import (
    Read,
)
from tests.faults.process import TIMEOUT, environment
from tests.remote_storage.helpers import (
    RUN,
    Meanwhile,
    Site,
    hollow,
    names,
)

pytestmark = pytest.mark.rungs("journal", "manifest")

KIB = 1024
MIB = 1024 * 1024
FILM = f"{RUN}/media/film.mp4"


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def leave(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """The mirror's disk has so many bytes free."""
    monkeypatch.setattr(Mirror, "free_bytes", lambda _mirror: room)


@pytest.mark.parametrize("method", ["journal", "manifest", "walk"])
def test_file_grown_beyond_the_free_space_is_refused_before_it_is_read(
    site: Site, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    hollow(site.root / FILM, 1500 * KIB)  # no journal carries that much
    site.publish()
    leave(monkeypatch, 4 * MIB)
    grow = Meanwhile("film.mp4", lambda: hollow(site.root / FILM, 50 * MIB))
    received: list[int] = []

    def watch(event: object) -> None:
        received.extend([event.count] if isinstance(event, BytesReceived) else [])

    with pytest.raises(DiskFullError, match=r"film\.mp4"):
        synchronize(grow, str(site.root), site.mirror, SyncOptions(method=method), watch)
    assert sum(received) < 4 * MIB
    assert not site.staged()


class Stop(BaseException):
    """Raised out of nowhere, as a signal is."""


def stop() -> None:
    raise Stop


def test_partial_download_counts_against_the_space_that_is_needed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    hollow(site.root / FILM, 12 * MIB)
    site.publish()
    with pytest.raises(Stop):
        site.sync(Meanwhile("film.mp4", stop, Read, nth=40))
    (partial,) = (site.mirror / ".runicorn/staging").iterdir()
    left = 12 * MIB - partial.stat().st_size
    assert 0 < left < 10 * MIB
    leave(monkeypatch, left + 1024)
    assert site.sync().failed_count == 0
    site.assert_equal()


LIMITED = """
import resource, sys
from runicorn.cli import main
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
sys.exit(main(sys.argv[1:]))
"""


def test_many_files_that_are_staged_at_once_need_few_descriptors(site: Site, no_ssh: str) -> None:
    for number in range(400):
        hollow(site.root / RUN / f"media/{number}.png", 400 * KIB)
    site.publish()
    arguments = ["sync", f"host:{site.root}", str(site.mirror), "--ssh", no_ssh, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert (report["failed_count"], report["files_synced"]) == (0, 406)
    assert names(site.mirror / RUN / "media") == names(site.root / RUN / "media")
    assert not site.staged()


def _names_full(patch: pytest.MonkeyPatch) -> None:
    _open_fails(patch, "\u00e9", errno.ENOSPC)


def _lock_full(patch: pytest.MonkeyPatch) -> None:
    _open_fails(patch, "sync.lock", errno.ENOSPC)


def _lock_over_quota(patch: pytest.MonkeyPatch) -> None:
    _open_fails(patch, "sync.lock", errno.EDQUOT)


def _open_fails(patch: pytest.MonkeyPatch, ending: str, number: int) -> None:
    opened = os.open

    def failing(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT and os.fsdecode(path).endswith(ending):
            raise refused(number)
        return opened(path, flags, mode, dir_fd=dir_fd)

    patch.setattr(os, "open", failing)


def _sweeping_broken(patch: pytest.MonkeyPatch) -> None:
    def failing(_folder: object) -> None:
        raise refused(errno.EIO)

    patch.setattr(os, "scandir", failing)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (_names_full, DiskFullError),
        (_lock_full, DiskFullError),
        (_lock_over_quota, DiskFullError),
        (_sweeping_broken, MirrorError),
    ],
)
def test_error_of_the_disk_around_the_transfers_is_told_as_such(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch], None],
    kind: type[MirrorError],
) -> None:
    site.publish()
    with monkeypatch.context() as patch:
        fault(patch)
        with pytest.raises(MirrorError) as caught:
            site.sync()
    assert type(caught.value) is kind
    assert site.sync().failed_count == 0
    site.assert_equal()
