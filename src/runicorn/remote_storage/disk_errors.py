"""The one place that maps failures of the mirror's disk to our errors."""

from __future__ import annotations

import errno
import sys

from runicorn.errors import DiskFullError, MirrorError
from runicorn.manifest import rules
from runicorn.remote_storage.folders import SpelledOtherwise

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk is full."""


def require_utf8_names() -> None:
    """Refuse to name files in another encoding than that of manifests: nobody would find them again.

    Raises:
        MirrorError: this system's locale wants another one.
    """
    encoding = sys.getfilesystemencoding()
    if encoding.lower() != "utf-8":
        raise MirrorError(
            f"this system's locale names files in {encoding}, manifests in UTF-8",
            hint="set the environment variable PYTHONUTF8=1",
        )


def mirror_error(error: OSError, path: str = "") -> MirrorError:
    """What a failure of the mirror's file system means for a path of the mirror, or for all of it."""
    what = rules.escape(path) or "the mirror"
    reason = error.strerror or str(error)
    if isinstance(error, SpelledOtherwise):
        other = rules.escape(error.other)
        message = f"this disk cannot hold it beside {other}: the names look the same to it"
        return MirrorError(message, path=path, hint="rename one of them on the server")
    if error.errno in NO_ROOM:
        return DiskFullError(f"cannot write {what}: {reason}", path=path)
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        reason = "a link or a file is in the place of a folder"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        return MirrorError(
            f"cannot write {what}: {reason}", path=path, hint="raise the limit: ulimit -n 1024"
        )
    elif error.errno == errno.EXDEV:
        reason = "another disk is mounted within the mirror, which has to lie on one"
    elif error.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
        reason = "a folder is in the place of a file"
    return MirrorError(
        f"cannot write {what}: {reason}", path=path, hint="look at what lies there in the mirror"
    )
