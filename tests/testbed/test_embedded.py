from __future__ import annotations

import contextlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.embedded import EmbeddedServer


def test_the_systems_sftp_fetches_a_file(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(b"content" * 100_000)
    with EmbeddedServer(root) as server:
        connection = " ".join(server.ssh_command[1:-2])
        subprocess.run(
            ["sftp", *connection.split(), "-P", str(server.port), f"{server.host}:/file", tmp_path / "copy"],
            check=True,
            capture_output=True,
        )
    assert (tmp_path / "copy").read_bytes() == (root / "file").read_bytes()


def test_only_the_folder_is_shown_and_nothing_can_be_changed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    with (
        EmbeddedServer(root) as server,
        contextlib.closing(server.paramiko_client()) as client,
        client.open_sftp() as sftp,
    ):
        assert sorted(sftp.listdir("/")) == ["folder", "link"]
        assert sorted(sftp.listdir("/folder/../..")) == ["folder", "link"]
        for path in ("/link", "/../secret"):
            with pytest.raises(OSError, match=r"denied|No such file"):
                sftp.open(path)
        for change in (
            lambda: sftp.mkdir("/new"),
            lambda: sftp.open("/new", "w"),
            lambda: sftp.rmdir("/folder"),
        ):
            with pytest.raises(OSError, match=r"denied|nsupported"):
                change()
    assert not (root / "new").exists()


def test_other_keys_are_refused(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, EmbeddedServer(tmp_path) as other:
        stranger = replace(server.access, client_key=other.client_key)
        command = [*stranger.ssh_command(server.port), server.host, "-s", "sftp"]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 255
    assert "Permission denied" in done.stderr
