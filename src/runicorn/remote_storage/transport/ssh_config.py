"""What an OpenSSH client may be told by its configuration, without asking it: that takes longer, and runs the
commands of the user's `Match exec` once more."""

from __future__ import annotations

import glob
import os
import pwd
import re
import shlex
from collections.abc import Sequence
from typing import Final

_INCLUDE: Final = re.compile(r"^[ \t]*include[ \t=]+(.*)$", re.IGNORECASE | re.MULTILINE)
_COMMENT: Final = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_OTHER_FILE: Final = re.compile(r"-[^oilpJ\W]*F")
_DEEPEST_INCLUDE: Final = 16


def may_tell(argv: Sequence[str], keyword: str) -> bool:
    """Whether the configuration files that a command line leads to may hold a keyword.

    Args:
        argv: the command line of OpenSSH's client.
        keyword: its name, or a part of that, in lower case.
    """
    words = list(argv[1:])
    files = {os.path.join(pwd.getpwuid(os.getuid()).pw_dir, ".ssh"): "config", "/etc/ssh": "ssh_config"}
    if "-F" in words and words[words.index("-F") + 1 :][:1] == ["none"]:
        words.remove("-F")
        files = {}
    if any(_OTHER_FILE.match(word) for word in words):
        return True
    return any(mentions(os.path.join(folder, name), folder, keyword) for folder, name in files.items())


def mentions(path: str, folder: str, keyword: str, depth: int = 0) -> bool:
    """Whether a configuration file, or one that it includes, may hold a keyword; true where nobody can tell.

    Args:
        path: the file; one that is not there holds nothing.
        folder: where the names of included files begin.
        keyword: as of `may_tell`.
        depth: how many files include this one.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = _COMMENT.sub("", file.read())
    except FileNotFoundError:
        return False
    except OSError:
        return True
    if keyword in text.lower() or depth > _DEEPEST_INCLUDE:
        return True
    try:
        included = [pattern for words in _INCLUDE.findall(text) for pattern in shlex.split(words)]
    except ValueError:
        return True
    if any("%" in pattern or "$" in pattern for pattern in included):
        return True
    places = (os.path.join(folder, os.path.expanduser(pattern)) for pattern in included)
    return any(mentions(name, folder, keyword, depth + 1) for place in places for name in glob.glob(place))
