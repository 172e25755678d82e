"""Who may read the journal, and whether the same people may read a file (section Access rights of the
journal's format)."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

READ = 0o4
SEARCH = 0o1
_ACL = "system.posix_acl_access"
_NO_ACL = (errno.ENODATA, errno.ENOTSUP) if hasattr(errno, "ENODATA") else ()


class Audience(NamedTuple):
    """Who may read the journal besides its owner.

    Attributes:
        others: whether everybody may.
        group: the group whose members may, when not everybody may.
        known: whether that is all of them: an access control list tells of others.
    """

    others: bool
    group: int | None
    known: bool = True

    @property
    def alone(self) -> bool:
        """Whether nobody but the owner may: what the generator can read, its owner can."""
        return self.known and not self.others and self.group is None

    @property
    def text(self) -> str:
        """Differs when the audience differs."""
        if not self.known:
            return "?"
        return "o" if self.others else "-" if self.group is None else f"g{self.group}"

    def has(self, right: int, status: os.stat_result, target: int | str) -> bool:
        """Whether all of them have a right.

        Args:
            right: `READ` for a file, `SEARCH` for a folder.
            status: what the system says about it.
            target: a handle on it, or its path.
        """
        if self.alone or not self.known:
            return self.known
        same_group = not self.others and self.group == status.st_gid
        needed = right << 3 if same_group else right * 0o111
        return status.st_mode & needed == needed and not has_acl(target)


ALONE = Audience(others=False, group=None)
UNKNOWN = Audience(others=False, group=None, known=False)
"""Nothing may be shown to these."""


def audience_of(status: os.stat_result, target: int | str) -> Audience:
    """The audience of a file.

    Args:
        status: what the system says about it.
        target: a handle on it, or its path.
    """
    if has_acl(target):
        return UNKNOWN
    others = bool(status.st_mode & stat.S_IROTH)
    group = status.st_gid if status.st_mode & stat.S_IRGRP and not others else None
    return Audience(others, group)


def has_acl(target: int | str) -> bool:
    """Whether a file or folder has a POSIX access control list, or may have one.

    Args:
        target: a handle on it, or its path.
    """
    if not hasattr(os, "getxattr"):
        return False
    try:
        os.getxattr(target, _ACL)
    except OSError as error:
        return error.errno not in _NO_ACL
    return True


def root_is_open(audience: Audience, root: str, journal: Path) -> bool:
    """Whether the audience can reach the root; who reaches a journal below it does.

    Args:
        audience: who may read the journal.
        root: the root, without links.
        journal: the journal's folder.

    Raises:
        OSError: a folder above the root cannot be looked at.
    """
    if audience.alone or os.path.commonpath((root, os.path.realpath(journal))) == root:
        return True
    folders = [Path(root), *Path(root).parents]
    return all(audience.has(SEARCH, folder.stat(), str(folder)) for folder in folders)
