"""Further ssh processes over the login of a first one: OpenSSH's connection sharing.

The user's own sharing is left as it is, and used. Without one, the first ssh is made a master, on a
socket that only this user reaches. A process that comes later never logs in: it finds the socket, or it ends.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import re
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Final

OPENSSH_OPTIONS: Final = (
    "-T",
    "-x",
    "-a",
    "-oClearAllForwardings=yes",
    "-oPermitLocalCommand=no",
    "-oRemoteCommand=none",
)
"""What every ssh of ours is told: no terminal, nothing forwarded, no commands beside the subsystem."""
_ASK_SECONDS: Final = 0.5
_ASKING: Final = (b"ask", b"autoask")
_INCLUDE: Final = re.compile(r'^[ \t=]*"?include"?[ \t=]+(.*)$', re.IGNORECASE | re.MULTILINE)
_OTHER_FILE: Final = re.compile(r"-[^oilpJ\W]*[FS]")
_DEEPEST_INCLUDE: Final = 16
_SOCKET: Final = "s"
# ssh binds a name with a dot and 16 characters more, and gives it the right name by a link.
_BOUND: Final = _SOCKET + "." + "x" * 16


def is_openssh(program: str) -> bool:
    """Whether a program is called as OpenSSH's client is."""
    return os.path.basename(program) == "ssh"


class Sharing:
    """How further processes reach the login of one ssh."""

    def __init__(self, argv: Sequence[str], host: str) -> None:
        """Ask ssh for the user's configuration, and make a place for a socket when that has none.

        Args:
            argv: the command line of the first ssh; its first word is OpenSSH's client.
            host: what it logs in to.
        """
        self._program = argv[0]
        self._host = host
        self._directory = ""
        self._socket = ""
        own = _control_path(argv) if _may_name_a_socket(argv) else ""
        if own is None:
            return
        self._socket = own
        if not own:
            self._directory = _private_directory()
            self._socket = os.path.join(self._directory, _SOCKET) if self._directory else ""

    @property
    def options(self) -> tuple[str, ...]:
        """What the first ssh is to be told besides, behind what the user tells it."""
        if not self._directory:
            return ()
        return "-oControlMaster=yes", f"-oControlPath={_literal(self._socket)}", "-oControlPersist=no"

    def further(self) -> list[str]:
        """The command line of a further ssh; empty when nothing is shared (any more)."""
        try:
            if not self._socket or not stat.S_ISSOCK(os.stat(self._socket).st_mode):
                return []
        except OSError:
            return []
        # Where no master answers any more, ssh would connect by itself: to a program that fails.
        alone = ("-oBatchMode=yes", "-oControlMaster=no", "-oProxyCommand=false")
        place = f"-oControlPath={_literal(self._socket)}"
        return [self._program, "-F", "none", *alone, place, *OPENSSH_OPTIONS, "-s", "--", self._host, "sftp"]

    def remove(self) -> None:
        """Take away the socket and its place. May be called more than once."""
        self._socket = ""
        directory, self._directory = self._directory, ""
        if directory:
            shutil.rmtree(directory, ignore_errors=True)


def _may_name_a_socket(argv: Sequence[str]) -> bool:
    """Whether command line or configuration may name a socket.

    To ask ssh takes longer, and runs the commands of the user's `Match exec` once more.
    """
    words = list(argv[1:])
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return True  # a user without an entry, as in some containers: ssh says what it makes of that
    files = {os.path.join(home, ".ssh"): "config", "/etc/ssh": "ssh_config"}
    if "-F" in words and words[words.index("-F") + 1 :][:1] == ["none"]:
        words.remove("-F")
        files = {}
    if any("controlpath" in word.lower() or _OTHER_FILE.match(word) for word in words):
        return True
    return any(_mentions_socket(os.path.join(folder, name), folder, 0) for folder, name in files.items())


def _mentions_socket(path: str, folder: str, depth: int) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    if "controlpath" in text.lower() or depth > _DEEPEST_INCLUDE:
        return True
    for included in _INCLUDE.findall(text):
        try:
            patterns = [os.path.expanduser(pattern) for pattern in shlex.split(included)]
        except ValueError:
            return True
        found = [name for pattern in patterns for name in glob.glob(os.path.join(folder, pattern))]
        if "%" in included or "$" in included or any(_mentions_socket(n, folder, depth + 1) for n in found):
            return True
    return False


def _control_path(argv: Sequence[str]) -> str | None:
    """The socket that the user's configuration names, "" for none, None if it is not to be used."""
    try:
        asked = subprocess.run(
            [argv[0], "-G", *argv[1:]],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_ASK_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    options = dict(line.partition(b" ")[::2] for line in asked.stdout.splitlines())
    if b"hostname" not in options:
        return None
    if options.get(b"controlmaster") in _ASKING:
        return None
    path = os.fsdecode(options.get(b"controlpath", b"none"))
    return "" if path == "none" else path


def _private_directory() -> str:
    """A new folder in which ssh can make its socket, or "" when there is none on this machine."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - a folder of our own in it
        directory = ""
        try:
            directory = tempfile.mkdtemp(prefix="runicorn-", dir=parent)
            _try_socket(directory)
        except OSError:
            # Too long a path, or a file system without sockets or links: there ssh would end itself.
            if directory:
                shutil.rmtree(directory, ignore_errors=True)
            continue
        return directory
    return ""


def _try_socket(directory: str) -> None:
    bound, linked = os.path.join(directory, _BOUND), os.path.join(directory, _SOCKET)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(bound)
        os.link(bound, linked)
    for path in (bound, linked):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _literal(path: str) -> str:
    return path.replace("%", "%%")
