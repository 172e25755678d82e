"""The pictures in README show what the commands print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60.0


def _pictures() -> list[str]:
    readme = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r'(?:src|srcset)="([^"]+)"', readme)


def test_readme_has_a_picture_for_light_and_for_dark() -> None:
    assert sorted(_pictures()) == ["docs/img/session-dark.svg", "docs/img/session-light.svg"]


@pytest.mark.parametrize("name", _pictures())
def test_picture_is_an_image_that_needs_nothing_else(name: str) -> None:
    text = (PROJECT_ROOT / name).read_text(encoding="utf-8")
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.findall(r"url\((?!#)|href=|@import|<script|<image", text)


@pytest.mark.timeout(90)
def test_pictures_show_what_the_commands_print_numbers_aside() -> None:
    done = subprocess.run(
        [sys.executable, PROJECT_ROOT / "scripts/picture.py", "--check"],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
