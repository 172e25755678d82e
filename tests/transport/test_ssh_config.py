"""What may be in OpenSSH's configuration, and the cipher that goes by that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runicorn.remote_storage.transport import SshConnection, SshTarget, ciphers, ssh_config
from testbed.sshd import Sshd

TIMEOUT = 30.0
AES = "aes128-gcm@openssh.com"
CHACHA = "chacha20-poly1305@openssh.com"


@pytest.fixture
def made_for_aes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Linux tells of a processor with all instructions."""
    told = tmp_path / "cpuinfo"
    told.write_text("processor : 0\nflags : fpu aes pclmulqdq avx\n")
    monkeypatch.setattr(ciphers, "_PROCESSORS", str(told))
    return told


@pytest.mark.parametrize(
    ("config", "may"),
    [
        ("Host *\n  User me\n", False),
        ("Host *\n  #  ControlPath ~/x\n", False),
        ("Host *\n  CONTROLPATH ~/x\n", True),
        ("Include other*.conf none\n", True),
        ('include "other.conf"\n', True),
        ("Include=other.conf\n", True),
        ("Include %d/x\n", True),
        ("Include a'b\n", True),
        ("Include self\n", True),
        ("# Include other.conf\n", False),
    ],
)
def test_configuration_is_searched_with_all_it_includes(tmp_path: Path, config: str, may: bool) -> None:
    (tmp_path / "self").write_text(config)
    (tmp_path / "other.conf").write_text("Host x\n\tControlPath /x\n")
    assert ssh_config.mentions(str(tmp_path / "self"), str(tmp_path), "controlpath") is may
    assert ssh_config.mentions(str(tmp_path / "missing"), str(tmp_path), "controlpath") is False
    assert ssh_config.mentions(str(tmp_path), str(tmp_path), "controlpath") is True


@pytest.mark.parametrize(
    ("told", "has"),
    [
        ("flags : fpu aes sse pclmulqdq", True),
        ("Features : fp asimd aes pmull sha1", True),
        ("flags : fpu aes sse", False),
        ("flags : fpu pclmulqdq vaes", False),
        ("", False),
    ],
)
def test_instructions_of_the_processor(made_for_aes: Path, told: str, has: bool) -> None:
    made_for_aes.write_text(f"processor : 0\n{told}\n")
    assert ciphers.has_aes() is has


def test_where_nothing_tells_of_the_processor_ssh_chooses(made_for_aes: Path) -> None:
    assert ciphers.cipher_options(["ssh", "-F", "none"])
    made_for_aes.unlink()
    assert ciphers.cipher_options(["ssh", "-F", "none"]) == ()


def test_configuration_that_may_name_ciphers_is_left_alone(
    made_for_aes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made_for_aes.exists()
    told = []

    def may_tell(argv: list[str], keyword: str) -> bool:
        told.append((argv, keyword))
        return True

    monkeypatch.setattr(ciphers, "may_tell", may_tell)
    assert ciphers.cipher_options(["ssh"]) == ()
    assert told == [(["ssh"], "cipher")]
    monkeypatch.undo()
    other = tmp_path / "config"
    other.write_text("Ciphers aes256-ctr\n")
    assert ssh_config.may_tell(["ssh", "-F", str(other)], "cipher")
    assert ssh_config.mentions(str(other), str(tmp_path), "cipher")


def ciphers_of(server: Sshd, log: Path, *words: str) -> set[str]:
    """The ciphers of both directions of one login, as ssh tells them."""
    first, *rest = server.ssh_command
    target = SshTarget(server.host, command=(first, "-v", "-E", str(log), *words, *rest))
    connection = SshConnection(target, timeout=TIMEOUT, login_timeout=TIMEOUT)
    connection.engine()
    connection.close()
    return set(re.findall("kex: .* cipher: ([^ ]+)", log.read_text()))


@pytest.mark.parametrize(
    ("words", "cipher"),
    [
        ([], AES),
        (["-c", CHACHA], CHACHA),
        ([f"-oCiphers={CHACHA}"], CHACHA),
    ],
)
def test_aes_where_the_user_says_nothing_else(
    made_for_aes: Path, tmp_path: Path, words: list[str], cipher: str
) -> None:
    assert made_for_aes.exists()
    with Sshd() as server:
        assert ciphers_of(server, tmp_path / "log", *words) == {cipher}


def test_server_without_aes_is_reached(made_for_aes: Path, tmp_path: Path) -> None:
    assert made_for_aes.exists()
    with Sshd(extra_config=[f"Ciphers {CHACHA}"]) as server:
        assert ciphers_of(server, tmp_path / "log") == {CHACHA}
