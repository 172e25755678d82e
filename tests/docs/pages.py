"""The documents: their pages, blocks and tables, and the errors that they explain."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from runicorn import errors

PROJECT_ROOT = Path(__file__).resolve().parents[2]
COMMAND_SECONDS = 30.0
"""How long a command of a document may take."""

NOT_EXECUTED = {
    "README.md": 1,
    "docs/api.md": 0,
    "docs/architecture.md": 1,
    "docs/cli.md": 14,
    "docs/client.md": 0,
    "docs/comparison.md": 0,
    "docs/examples.md": 0,
    "docs/howto/backups.md": 0,
    "docs/howto/filters.md": 0,
    "docs/howto/many-servers.md": 1,
    "docs/howto/monitoring.md": 2,
    "docs/howto/nfs.md": 0,
    "docs/howto/sftp-only.md": 0,
    "docs/howto/ssh.md": 1,
    "docs/howto/systemd.md": 3,
    "docs/index.md": 0,
    "docs/journal-format.md": 0,
    "docs/manifest-format.md": 0,
    "docs/performance.md": 1,
    "docs/python.md": 1,
    "docs/quickstart.md": 1,
    "docs/reliability.md": 0,
    "docs/server.md": 1,
    "docs/sync-json.md": 0,
    "docs/troubleshooting.md": 0,
}
"""How many blocks of each document nobody runs: pictures, help texts, and those that say why."""

PAGES = sorted(NOT_EXECUTED)
_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not executed: \S.*-->\n\Z")
_CHECKED = ("bash", "console", "crontab", "python", "ini", "sshconfig", "sshdconfig")


class Block(NamedTuple):
    """A fenced block of a document."""

    page: str
    line: int
    language: str
    text: str
    is_marked: bool

    @property
    def is_checked(self) -> bool:
        return self.language in _CHECKED and not self.is_marked

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    """The text of a document."""
    return (PROJECT_ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """All blocks of a document, in their order."""
    text = read(page)
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found[1],
            found[2],
            bool(_MARK.search(text, 0, found.start())),
        )
        for found in _FENCE.finditer(text)
    ]


def checked(*languages: str) -> list[Block]:
    """The blocks of all documents that are in one of these languages and are run."""
    return [
        block for page in PAGES for block in blocks(page) if block.is_checked and block.language in languages
    ]


def table(page: str, title: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    section = re.split(rf"^#+ {re.escape(title)}$", read(page), flags=re.MULTILINE)[1]
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def error_classes(
    base: type[errors.RunicornError] = errors.RunicornError,
) -> Iterator[type[errors.RunicornError]]:
    """Every class of errors of the program."""
    yield base
    for each in base.__subclasses__():
        yield from error_classes(each)
