"""SOURCE as a user writes it."""

from __future__ import annotations

import re

import pytest

from runicorn.errors import UsageError
from runicorn.remote_storage.source import Source, parse_source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/runs", Source("/data/runs")),
        ("runs", Source("runs")),
        (".", Source(".")),
        ("./a:b", Source("./a:b")),
        ("/a:b", Source("/a:b")),
        ("host:/data/runs", Source("/data/runs", "host")),
        ("host:runs", Source("runs", "host")),
        ("host:", Source(".", "host")),
        ("host:~", Source(".", "host")),
        ("host:~/runs", Source("runs", "host")),
        ("user@host:/a", Source("/a", "host", "user")),
        ("user@domain@host:/a", Source("/a", "host", "user@domain")),
        ("host:/a:b", Source("/a:b", "host")),
        ("[::1]:/a", Source("/a", "::1")),
        ("ssh://host/a", Source("/a", "host")),
        ("ssh://host", Source("/", "host")),
        ("ssh://host/~/runs", Source("runs", "host")),
        ("ssh://user@host:2222/a%20b", Source("/a b", "host", "user", 2222)),
        ("ssh://[::1]:22/a", Source("/a", "::1", None, 22)),
    ],
)
def test_source_is_read(text: str, expected: Source) -> None:
    assert parse_source(text) == expected
    assert parse_source(text).is_local is (expected.host is None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\nb",
        "a\0b",
        ":path",
        "-oProxyCommand=x:path",
        "user@-host:path",
        "-user@host:path",
        "ho st:path",
        "ssh:///a",
        "ssh://host:99999/a",
        "ssh://host:x/a",
        "ssh://user:secret@host/a",
        "ssh://host/a?b",
        "ssh://host/a#b",
        "ssh://-oProxyCommand=x/a",
    ],
)
def test_source_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_source(text)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (Source("/data/runs", "host"), "host_data_runs"),
        (Source(".", "host"), "host"),
        (Source("/", None), "local"),
        (Source("../..", "::1"), "1"),
        (Source("/a b/c:d", "h"), "h_a-b_c-d"),
        (Source("/日本", "h"), "h"),
    ],
)
def test_name_for_a_mirror_is_harmless(source: Source, name: str) -> None:
    assert re.fullmatch(re.escape(name) + "-[0-9a-f]{8}", source.folder_name())


def test_names_of_different_sources_differ() -> None:
    sources = [
        Source("/a/b", "h"),
        Source("/a_b", "h"),
        Source("/a b", "h"),
        Source("/a/b", "g"),
        Source("/a/b", "h", "user"),
        Source("/a/b", "h", None, 2222),
        Source("/a/b"),
    ]
    assert len({source.folder_name() for source in sources}) == len(sources)
