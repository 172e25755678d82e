"""Shows a sync on this machine, with an SFTP server of its own on the loopback interface.

Every step is checked; the exit code is 0 only if each did what it says.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
from pathlib import Path

from demo.scene import DemoError, Scene
from demo.steps import STEPS
from runicorn.errors import RunicornError


def _folder(wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="runicorn-demo-"))
    wanted.mkdir(parents=True, exist_ok=True)
    if any(wanted.iterdir()):
        raise DemoError(f"the folder {wanted} is not empty")
    return wanted.resolve()


def _show(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        scene = Scene(folder, stack)
        for number, step in enumerate(STEPS, 1):
            print(f"\n{number}. {step.__doc__}\n", flush=True)
            step(scene)
    print(f"""
All steps did what they say. Server and training have ended; the files stay:

  {scene.root}   the runs, as on a server
  {scene.root}/.runicorn/full_manifest.json   what generate-manifest published
  {scene.mirror}   the mirror, equal to the last byte
  {scene.mirror}/.runicorn/state.db   what the client remembers

Try it: append to a log of a run, then
  .venv/bin/runicorn generate-manifest --root {scene.root}
  .venv/bin/runicorn sync {scene.root} {scene.mirror}
Remove it: rm -r {folder}""")


def main() -> int:
    """Run all steps; returns the exit code."""
    arguments = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    arguments.add_argument("folder", nargs="?", type=Path, help="an empty folder to use; default: a new one")
    # The server's library logs each connection that ends without a farewell, as ssh ends them.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    try:
        _show(_folder(arguments.parse_args().folder))
    except (DemoError, RuntimeError, RunicornError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
