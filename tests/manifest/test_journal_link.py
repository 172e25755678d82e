"""The link `CURRENT` beside HEAD: it leads to the epoch that HEAD names, and nothing depends on it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import pytest

from runicorn.errors import PublishError
from runicorn.journal.frames import CURRENT, file_name
from runicorn.manifest import ManifestGenerator
from tests.manifest.helpers import append, generate, inside, make_run, temps
from tests.manifest.journal_reader import head, journal


def link(root: Path) -> Path:
    return journal(root) / CURRENT


def is_right(root: Path) -> bool:
    """Whether it is a link to HEAD's epoch, and nothing is left of older ones."""
    return str(link(root).readlink()) == file_name(head(root).epoch) and temps(journal(root)) == []


def test_it_leads_to_the_epoch_of_head(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    generate(tmp_path)
    assert is_right(tmp_path)
    first = os.lstat(link(tmp_path)).st_ino
    append(run / "logs.txt", b"more\n")
    generate(tmp_path)
    assert is_right(tmp_path)
    assert os.lstat(link(tmp_path)).st_ino == first, "it is made anew although the epoch is the same"


def test_it_follows_a_new_epoch(tmp_path: Path) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    before = link(tmp_path).readlink()
    ManifestGenerator(tmp_path, compact=True).publish()
    assert link(tmp_path).readlink() != before
    assert is_right(tmp_path)


def test_one_that_is_lost_or_leads_elsewhere_comes_back(tmp_path: Path) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    link(tmp_path).unlink()
    generate(tmp_path)
    assert is_right(tmp_path)
    link(tmp_path).unlink()
    link(tmp_path).symlink_to("/etc/passwd")
    generate(tmp_path)
    assert is_right(tmp_path)


def test_a_copy_in_its_place_gives_way(tmp_path: Path) -> None:
    """Who copies a root with a program that follows links gets a file there."""
    make_run(tmp_path)
    generate(tmp_path)
    copied = link(tmp_path).read_bytes()
    link(tmp_path).unlink()
    link(tmp_path).write_bytes(copied)
    generate(tmp_path)
    assert is_right(tmp_path)


def test_a_copy_in_its_place_goes_with_head(tmp_path: Path) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    link(tmp_path).unlink()
    link(tmp_path).write_bytes(b"copy")
    ManifestGenerator(tmp_path, journal=False).publish()
    assert not os.path.lexists(journal(tmp_path))


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_something_else_in_its_place_is_told_and_stays(tmp_path: Path, kind: str) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    link(tmp_path).unlink()
    link(tmp_path).mkdir() if kind == "folder" else os.mkfifo(link(tmp_path))
    before = link(tmp_path).lstat()
    for is_kept in (True, False):
        with pytest.raises(PublishError, match=r"CURRENT' is a .*, where a link of the generator belongs"):
            ManifestGenerator(tmp_path, journal=is_kept).publish()
    assert link(tmp_path).lstat() == before
    assert temps(journal(tmp_path)) == []


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refuse)


def test_a_system_without_links_publishes_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_links(monkeypatch)
    make_run(tmp_path)
    assert generate(tmp_path).revision == 1
    assert sorted(inside(journal(tmp_path))) == sorted(["HEAD", file_name(head(tmp_path).epoch)])


def test_a_copy_goes_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold what fewer people may read by now."""
    without_links(monkeypatch)
    make_run(tmp_path)
    generate(tmp_path)
    link(tmp_path).write_bytes(b"copy")
    generate(tmp_path)
    assert not os.path.lexists(link(tmp_path))


@pytest.mark.parametrize("is_link", [True, False])
def test_it_goes_although_head_is_lost(tmp_path: Path, is_link: bool) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    if not is_link:
        link(tmp_path).unlink()
        link(tmp_path).write_bytes(b"copy")
    (journal(tmp_path) / "HEAD").unlink()
    ManifestGenerator(tmp_path, journal=False).publish()
    assert not os.path.lexists(journal(tmp_path))


@pytest.mark.parametrize("is_link", [True, False])
def test_a_copy_that_cannot_be_removed_is_told_and_a_link_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    if not is_link:
        link(tmp_path).unlink()
        link(tmp_path).write_bytes(b"copy")
    really = os.unlink

    def refuse(path: Path, **options: Any) -> None:
        if Path(path).name == CURRENT:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        really(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    told = nullcontext() if is_link else pytest.raises(PublishError, match=r"cannot remove .*CURRENT")
    with told:
        ManifestGenerator(tmp_path, journal=False).publish()
    assert inside(journal(tmp_path)) == [CURRENT]


def test_a_link_that_cannot_take_its_name_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    link(tmp_path).unlink()
    really = os.replace

    def refuse(old: Path, new: Path) -> None:
        if new.name == CURRENT:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        really(old, new)

    monkeypatch.setattr(os, "replace", refuse)
    generate(tmp_path)
    assert not os.path.lexists(link(tmp_path))
    assert temps(journal(tmp_path)) == []


def test_a_link_that_cannot_be_replaced_keeps_nobody_from_publishing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    link(tmp_path).unlink()
    link(tmp_path).symlink_to("elsewhere")
    really: dict[str, Callable[..., None]] = {"replace": os.replace, "unlink": os.unlink}

    def refuse(name: str) -> Callable[..., None]:
        def call(*paths: Path, **options: Any) -> None:
            if Path(paths[-1]).name == CURRENT:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            really[name](*paths, **options)

        return call

    for name in really:
        monkeypatch.setattr(os, name, refuse(name))
    assert generate(tmp_path).revision == 1
    assert str(link(tmp_path).readlink()) == "elsewhere"
    assert temps(journal(tmp_path)) == []


def test_what_a_killed_generator_left_of_it_is_swept(tmp_path: Path) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    left = journal(tmp_path) / f".{CURRENT}.0123456789ab.tmp"
    left.symlink_to("anything")
    generate(tmp_path)
    assert not left.is_symlink()


def test_it_goes_with_head(tmp_path: Path) -> None:
    make_run(tmp_path)
    generate(tmp_path)
    ManifestGenerator(tmp_path, journal=False).publish()
    assert not os.path.lexists(journal(tmp_path))
