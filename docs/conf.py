"""Sphinx: the pages of this folder as a site, `make site`.

The pages are plain Markdown that a forge shows as well, so what only the site needs is added here: the
tables of contents, from the lists of index.md, the docstrings, below the headings of api.md, and the programs
that examples.md links to.
"""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

from runicorn import __version__

HERE = Path(__file__).parent

project = "runicorn"
copyright = "The runicorn authors, MIT licence"  # noqa: A001 - Sphinx wants this name
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
source_suffix = {".md": "markdown"}
exclude_patterns = ["img"]
smartquotes = False  # options and messages are shown as they are
default_role = "code"  # what stands in single backquotes in a docstring
highlight_language = "text"

myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]

napoleon_use_ivar = True  # fields of dataclasses are members already

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("Event", "Job", "Observer", "ProgressCallback")}

html_theme = "furo"
html_title = f"runicorn {__version__}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"


def _contents(text: str) -> str:
    """A hidden table of contents for each list of index.md; pages that none names come last."""
    tables = []
    named = {"index"}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, rest = part.partition("\n")
        pages = re.findall(r"^- \[[^]]+\]\(([\w/-]+)\.md\)", rest, re.MULTILINE)
        named.update(pages)
        tables.append((title, pages))
    found = {path.relative_to(HERE).with_suffix("").as_posix() for path in HERE.rglob("*.md")}
    tables[-1][1].extend(sorted(found - named))
    blocks = [
        "\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```"])
        for title, pages in tables
    ]
    return "\n\n".join([text, *blocks])


def _docstrings(text: str) -> str:
    """The docstrings of each module that a heading names, below what is said there."""

    def with_docstrings(section: re.Match[str]) -> str:
        tree = ["   :show-inheritance:"] if section[1] == "runicorn.errors" else []
        lines = ["```{eval-rst}", f".. automodule:: {section[1]}", *tree, "```"]
        return "\n".join([section[0].rstrip(), "", *lines, "", ""])

    return re.sub(r"^## (runicorn[\w.]*)\n(?:(?!## ).*\n?)*", with_docstrings, text, flags=re.MULTILINE)


def _is_noise(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Skip the fields of named tuples, which the docstring of the class tells of."""
    del app, what, name, skip, options
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None


def _plain_enums(  # noqa: PLR0913, PLR0917 - Sphinx calls it like this
    app: Sphinx, what: str, name: str, member: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, None] | None:
    """Nobody makes members of an enumeration by the parameters of `enum`."""
    del app, name, options, signature, returned
    return ("", None) if what == "class" and issubclass(member, Enum) else None


def _programs(text: str) -> str:
    """The programs of examples.md, each behind the paragraph that links to it."""
    languages = {"py": "python", "sh": "sh"}
    parts = []
    for part in text.split("\n\n"):
        parts.append(part)
        for path, suffix in re.findall(r"\]\((\.\./examples/\w+\.(\w+))\)", part):
            parts.append(f"```{{literalinclude}} {path}\n:language: {languages[suffix]}\n```")
    return "\n\n".join(parts)


def _tell_length(app: Sphinx, doctree: nodes.document) -> None:
    """Let site.css see which names are too long to stay whole."""
    del app
    for literal in doctree.findall(nodes.literal):
        literal["classes"].append("long" if len(literal.astext()) > 24 else "short")


def _pictures(text: str) -> str:
    """Pictures for light and dark pages, by the means of the theme, which follow its switch."""
    found = r'<picture>\n  <source [^>]*srcset="([^"]+)">\n  <img src="([^"]+)" alt="([^"]+)">\n</picture>'
    image = "```{{image}} {}\n:class: only-{}\n:alt: {}\n```"

    def both(picture: re.Match[str]) -> str:
        dark, light, words = picture.groups()
        return image.format(light, "light", words) + "\n\n" + image.format(dark, "dark", words)

    return re.sub(found, both, text)


def _complete(app: Sphinx, name: str, source: list[str]) -> None:
    del app
    if name == "index":
        source[0] = _contents(source[0])
    elif name == "api":
        source[0] = _docstrings(source[0])
    elif name == "examples":
        source[0] = _programs(source[0])
    elif name == "performance":
        source[0] = _pictures(source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _complete)
    app.connect("doctree-read", _tell_length)
    app.connect("autodoc-skip-member", _is_noise)
    app.connect("autodoc-process-signature", _plain_enums)
    for language in ("crontab", "sshconfig", "sshdconfig"):
        app.add_lexer(language, TextLexer)
