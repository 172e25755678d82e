"""The pages as a site: it is built without a warning, and every link in it leads somewhere."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[1]
BUILD_SECONDS = 100.0


class Page(HTMLParser):
    """What a page links to or loads, and the places in it that a link may lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.loaded: set[str] = set()
        self.places: set[str] = set()
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if not value:
                continue
            if name == "id":
                self.places.add(value)
            elif name == "href" and tag == "a":
                self.targets.add(value)
            elif name == "src" or (name == "href" and tag == "link"):
                self.loaded.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` does it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [PROJECT_ROOT / "scripts/site.sh", folder / "html"],
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        env={"PATH": "/usr/bin:/bin"},  # none of what a test run sets
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


@pytest.mark.timeout(120)
def test_site_is_built_without_a_warning_and_its_links_lead_somewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 20
    for path, page in pages.items():
        for target in page.targets | page.loaded:
            link = urlsplit(target)
            if link.scheme or link.netloc:
                continue
            name = unquote(link.path)
            found = (path.parent / name).resolve() if name else path
            assert found.is_file(), f"{path.name} links to {target}"
            if link.fragment and found in pages:
                assert unquote(link.fragment) in pages[found].places, f"{path.name} links to {target}"


def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        elsewhere = {each for each in Page(path).loaded if urlsplit(each).scheme not in ("", "data")}
        assert not elsewhere, path.name


def test_every_document_is_a_page_and_in_the_contents(site: Path) -> None:
    docs = PROJECT_ROOT / "docs"
    contents = Page(site / "index.html").targets
    for path in docs.rglob("*.md"):
        name = path.relative_to(docs).with_suffix(".html").as_posix()
        assert (site / name).is_file()
        assert name == "index.html" or name in contents, name


@pytest.mark.parametrize("module", ["runicorn.manifest", "runicorn.remote_storage"])
def test_public_names_are_in_the_api_reference(site: Path, module: str) -> None:
    places = Page(site / "api.html").places
    for name in importlib.import_module(module).__all__:
        full = f"{module}.{name}"
        assert full in places, full


def test_names_tell_whether_they_may_be_cut(site: Path) -> None:
    """By classes of site.css: a column of long names would take a whole table."""
    text = (site / "reliability.html").read_text(encoding="utf-8")
    assert re.search(r'<code class="long [^"]*"><span class="pre">tests/faults/test_kill_client.py', text)
    assert re.search(r'<code class="short [^"]*"><span class="pre">--delete', text)
    assert (site / "_static/site.css").is_file()


def _imported() -> set[str]:
    """What the examples, and the Python of the documents, import of runicorn."""
    texts = [path.read_text(encoding="utf-8") for path in (PROJECT_ROOT / "examples").glob("*.py")]
    for path in (PROJECT_ROOT / "docs").rglob("*.md"):
        texts += re.findall(
            r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    nodes = [node for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    return {
        f"{node.module}.{each.name}"
        for node in nodes
        for each in node.names
        if str(node.module).startswith("runicorn")
    }


def test_what_examples_import_is_in_the_api_reference(site: Path) -> None:
    names = _imported()
    assert len(names) > 15
    assert names <= Page(site / "api.html").places


def test_api_reference_is_without_noise(site: Path) -> None:
    text = Page(site / "api.html").text
    assert "Alias for field number" not in text
    assert "built-in function" not in text
    assert "qualname=None" not in text
    said = "For servers: publish a root, and read what is published."
    assert text.index(said) < text.index("class runicorn.manifest.FileEntry")


def test_example_programs_are_shown_whole(site: Path) -> None:
    text = Page(site / "examples.html").text
    programs = [path for path in (PROJECT_ROOT / "examples").iterdir() if path.is_file()]
    assert len(programs) >= 5
    for path in programs:
        assert path.read_text(encoding="utf-8").strip() in text, path.name
