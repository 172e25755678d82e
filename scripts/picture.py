"""Draws what `runicorn sync` and `runicorn status` print, as docs/img/session-{light,dark}.svg.

The commands run against a server of their own, on this machine; `--check` draws nothing, and tells whether
the pictures still show what the commands print, numbers aside.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

PROJECT_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT_ROOT))

from rich.console import Console  # noqa: E402
from rich.terminal_theme import TerminalTheme  # noqa: E402
from rich.text import Text  # noqa: E402

from runicorn.manifest import ManifestGenerator  # noqa: E402
from testbed.embedded import EmbeddedServer  # noqa: E402
from testbed.trees import make_tree  # noqa: E402

FOLDER = PROJECT_ROOT / "docs" / "img"
COLUMNS = 94
SECONDS = 60.0
ROOT = "data/experiments"
SOURCE, MIRROR = f"gpu1:/{ROOT}", "./experiments"
FONTS = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
GREEN_ON_LIGHT, GREEN_ON_DARK = (17, 99, 41), (63, 185, 80)
THEMES = {
    "light": TerminalTheme((246, 248, 250), (36, 41, 47), [(0, 0, 0), (207, 34, 46), GREEN_ON_LIGHT] * 3),
    "dark": TerminalTheme((13, 17, 23), (230, 237, 243), [(0, 0, 0), (255, 123, 114), GREEN_ON_DARK] * 3),
}
FORMAT = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>The first sync, the next one after the runs have gone on, and the status of the mirror</title>
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px FONTS; white-space: pre; }}
.{unique_id}-title {{ font: 600 16px system-ui, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
""".replace("FONTS", FONTS)


def session() -> list[tuple[str, str]]:
    """Commands and what they print."""
    with tempfile.TemporaryDirectory(prefix="runicorn-picture-") as name:
        served, work = Path(name, "served"), Path(name, "work")
        work.mkdir()
        runs = make_tree(served / ROOT, 24, running=4)
        generator = ManifestGenerator(served / ROOT)
        generator.generate()
        with EmbeddedServer(served) as server:
            ssh = server.ssh_to_any_host
            shown = [_run(f"runicorn sync {SOURCE} {MIRROR}", work, ssh)]
            for run in runs[-4:]:
                for log in ("events.jsonl", "logs.txt"):
                    with (run / log).open("ab") as appended:
                        appended.write(b'{"ts": 1750000000.0, "type": "metrics"}\n')
            generator.generate()
            shown.append(_run(f"runicorn sync {SOURCE} {MIRROR}", work, ssh))
            shown.append(_run(f"runicorn status {MIRROR}", work, ssh))
    return shown


def _run(command: str, folder: Path, ssh: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        check=True,
        cwd=folder,
        env=os.environ | {"RUNICORN_SSH": ssh},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return command, done.stdout


def draw(shown: list[tuple[str, str]], theme: str) -> str:
    """The picture of a session, as SVG."""
    console = Console(
        record=True, width=COLUMNS, force_terminal=True, color_system="standard", file=io.StringIO()
    )
    for number, (command, printed) in enumerate(shown):
        if number:
            console.print()
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text(printed.rstrip("\n")))
    return console.export_svg(
        title="on your machine", theme=THEMES[theme], code_format=FORMAT, unique_id=f"runicorn-{theme}"
    )


def text_of(picture: str) -> str:
    """The text in a picture, without blanks."""
    root = ET.fromstring(picture)  # noqa: S314 - our own file
    return "".join(
        "".join(group.itertext()) for group in root.iter() if str(group.get("class", "")).endswith("-matrix")
    )


def blotted(text: str) -> str:
    """Without blanks, numbers and units, which differ from run to run and move the ends of lines."""
    text = re.sub(r"\s", "", text).replace("seconds", "second")
    text = re.sub(r"\d+(\.\d+)?([KMG]?B(?![a-z]))?", "N", text)
    return text.replace("NsecondtoNsecond", "Nsecond")  # when the two round to the same, one is told


def main() -> int:
    """Draw, or check; returns the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true")
    check = arguments.parse_args().check
    shown = session()
    for theme in THEMES:
        path, picture = FOLDER / f"session-{theme}.svg", draw(shown, theme)
        if not check:
            path.write_text(picture, encoding="utf-8")
        elif blotted(text_of(path.read_text(encoding="utf-8"))) != blotted(text_of(picture)):
            print(f"{path.name} shows what the commands do not print: run `make picture`", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
