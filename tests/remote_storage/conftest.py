"""Fixtures of the client's tests."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from testbed.sshd import find_sftp_server
from tests.remote_storage.first_syncs import RUNS
from tests.remote_storage.helpers import RUN, Site, make_run, put
from tests.remote_storage.journal_helpers import boundaries, small_frames


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed file is tried again at once."""
    monkeypatch.setattr("runicorn.remote_storage.transfer.BACKOFF", (0.0, 0.0))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that is marked with ``rungs`` once for each of them.

    The mark of a test goes before that of its module. A test that has a ``method`` goes by that one, over a
    root that has journal and manifests.
    """
    mark = metafunc.definition.get_closest_marker("rungs")
    names = metafunc.fixturenames
    if mark is not None and "site" in names and "method" not in names:
        metafunc.parametrize("site", mark.args, indirect=True)


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    """A root with one run, and a mirror that does not exist yet."""
    made = Site(tmp_path / "root", tmp_path / "mirror", getattr(request, "param", "journal"))
    make_run(made.root)
    return made


@pytest.fixture
def no_ssh(tmp_path: Path) -> str:
    """A program in the place of ssh that starts the real sftp-server on this machine."""
    program = tmp_path / "no-ssh"
    server = shlex.quote(find_sftp_server())
    program.write_text(f'#!/bin/sh\nulimit -n "$(ulimit -H -n)"\nexec {server}\n', encoding="utf-8")
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def framed(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Some runs, published in many small frames; one file is too large to be carried."""
    for number in range(RUNS):
        make_run(site.root, f"runs/nlp/bert/n{number}", state="finished" if number % 2 else "running")
    put(site.root / RUN / "media/large.bin", os.urandom(1024**2 + 1))
    put(site.root / "runs/nlp/bert/n1/logs.txt", "first\nno newline at the end")
    with monkeypatch.context() as patch:
        small_frames(patch)
        site.publish()
    assert len(boundaries(site)) > RUNS
    return site
