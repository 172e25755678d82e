"""The file of the remotes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runicorn.errors import UsageError
from runicorn.remote_storage.remotes import Remote, Remotes, is_name
from runicorn.remote_storage.source import Source, parse_source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config/runicorn/remotes.toml"


def test_remotes_are_added_listed_and_removed(path: Path) -> None:
    remotes = Remotes(path)
    assert remotes.all() == []
    one = Remote("gpu1", "gpu1:/data/a b", Path("/mirrors/one"))
    two = Remote("lab.2-x_y", "ssh://me@[::1]:22/~/runs", None)
    remotes.add(one)
    remotes.add(two)
    assert Remotes(path).all() == [one, two]
    assert Remotes(path).get("lab.2-x_y") == two
    assert remotes.remove("gpu1") == one
    assert Remotes(path).all() == [two]
    assert [each.name for each in path.parent.iterdir()] == ["remotes.toml"]


def test_what_the_user_wrote_is_kept(path: Path) -> None:
    path.parent.mkdir(parents=True)
    text = (
        '# my servers\nformat_version = "1.9"\nfuture = [1, 2]\n\n'
        '[remotes.old]  # the old one\nsource = "old:/d"\ncolour = "red"\n\n[other]\nkey = 1\n'
    )
    path.write_text(text)
    remotes = Remotes(path)
    remotes.add(Remote("new", "new:/d", None))
    remotes.remove("new")
    assert path.read_text().split() == text.split()
    remotes.add(Remote("new", "new:/d", None))
    assert '[remotes.old]  # the old one\nsource = "old:/d"\ncolour = "red"\n' in path.read_text()
    assert [each.name for each in remotes.all()] == ["old", "new"]


def test_link_to_the_file_stays_one(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("")
    path.parent.mkdir(parents=True)
    path.symlink_to(real)
    Remotes(path).add(Remote("a", "a:/d", None))
    assert path.is_symlink()
    assert "a:/d" in real.read_text()


def test_name_is_taken_once_and_a_missing_one_is_told(path: Path) -> None:
    remotes = Remotes(path)
    remotes.add(Remote("a", "a:/d", None))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="already"):
        remotes.add(Remote("a", "b:/d", None))
    with pytest.raises(UsageError, match="no remote b"):
        remotes.remove("b")
    assert path.read_bytes() == before


def test_two_that_are_added_at_once_are_both_there(path: Path) -> None:
    threads = [
        threading.Thread(target=Remotes(path).add, args=(Remote(f"n{number}", "a:/d", None),))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.name for each in Remotes(path).all()} == {f"n{number}" for number in range(8)}


def test_lock_of_another_program_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicorn.remote_storage.remotes._LOCK_SECONDS", 0.1)
    path.parent.mkdir(parents=True)
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another program"):
            Remotes(path).add(Remote("a", "a:/d", None))
    finally:
        os.close(fd)
    assert not path.exists()


def test_mode_of_the_file_is_kept(path: Path) -> None:
    Remotes(path).add(Remote("a", "a:/d", None))
    path.chmod(0o600)
    Remotes(path).add(Remote("b", "b:/d", None))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_failure_in_the_middle_of_writing_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Remotes(path).add(Remote("a", "a:/d", None))
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("runicorn._files.os.fsync", refuse)
    with pytest.raises(UsageError, match="cannot write"):
        Remotes(path).add(Remote("b", "b:/d", None))
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["remotes.toml"]


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "a:b", "a b", "ü", "a\n", "a" * 65, "\x1b[31m"])
def test_name_that_cannot_be_is_refused(path: Path, name: str) -> None:
    assert not is_name(name)
    with pytest.raises(UsageError, match="cannot be the name"):
        Remotes(path).add(Remote(name, "a:/d", None))
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "[remotes.a\n",
        "remotes = 1\n",
        '[remotes.a]\nsource = ":/d"\n',
        '[remotes.a]\nsource = "d"\n',
        '[remotes.a]\nsource = "a:/d"\nmirror = "m"\n',
        '[remotes.a]\nsource = "a:/d"\nmirror = "~nobody-of-this-name/m"\n',
        "[remotes]\na = 1\n",
        "[remotes.a]\n",
        "[remotes.a]\nsource = 1\n",
        '[remotes.a]\nsource = "a:/d"\nmirror = 3\n',
        '[remotes."a/b"]\nsource = "a:/d"\n',
        'format_version = "2.0"\n',
        "format_version = 1\n",
        "a = \udcff",
        "x = 1\n" * 300_000,
    ],
)
def test_damaged_file_is_one_clear_line_and_stays(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = path.read_bytes()
    for act in (Remotes(path).all, lambda: Remotes(path).add(Remote("new", "n:/d", None))):
        with pytest.raises(UsageError, match="cannot read") as caught:
            act()
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot (read|write)"):
        Remotes(tmp_path / "config/remotes.toml").add(Remote("a", "a:/d", None))


@pytest.mark.parametrize(
    "source",
    [
        Source("/data", "host"),
        Source("data/x", "host", "me"),
        Source("/data x/%41?#", "host", "m@e", 22),
        Source("data", "::1", None, 2222),
        Source("data", "::1"),
        Source(".", "host"),
        Source("/", "host", None, 22),
    ],
)
def test_source_as_text_is_read_as_the_same_source(source: Source) -> None:
    assert parse_source(source.text) == source


FORMS = [
    'remotes = {a = {source = "h:/x"}, b = {source = "h:/y"}}  # c\n',
    'remotes.a.source = "h:/x"\nremotes.b.source = "h:/y"  # keep\n',
    '[remotes.a]\nsource = "h:/x"\n[other]\nk = 1\n[remotes.b]\nsource = "h:/y"  # keep\n',
    '[remotes]\na.source = "h:/x"\nb = {source = "h:/y"}\n',
    '# c\r\n[remotes.a]\r\nsource = "h:/x"\r\n[remotes.b]\r\nsource = "h:/y"\r\n',
    '[remotes.a]\nsource = "h:/x"\n[remotes.a.more]\nk = 1\n[remotes.b]\nsource = "h:/y"',
]


@pytest.mark.parametrize("form", FORMS)
def test_change_keeps_the_other_remotes_or_is_refused_however_the_file_is_written(
    path: Path, form: str
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(form.encode())
    remotes = Remotes(path)
    names = {each.name: each for each in remotes.all()}
    new = Remote("new", "new:/d", None)
    changes: list[tuple[Callable[[], object], dict[str, Remote]]] = [
        (lambda: remotes.add(new), names | {"new": new}),
        (lambda: remotes.remove("a"), {"b": names["b"], "new": new}),
    ]
    for change, expected in changes:
        before = path.read_bytes()
        try:
            change()
        except UsageError as error:
            refusal = str(error)
        else:
            assert {each.name: each for each in remotes.all()} == expected
            continue
        assert "cannot change" in refusal
        assert path.read_bytes() == before
        return


def test_links_that_go_in_a_circle_are_one_clear_line(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)
    with pytest.raises(UsageError, match=r"cannot (read|write)"):
        Remotes(path).add(Remote("a", "a:/d", None))
