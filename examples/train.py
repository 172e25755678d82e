"""A training script that writes a run as runicorn knows it: `python train.py ROOT [--steps N]`.

Two rules make its files safe to mirror while it writes: a state file is replaced as a whole, by a rename; a
log gets whole lines, each in one write.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path


def replace(path: Path, value: dict[str, object]) -> None:
    """Write a state file so that a reader sees the old or the new one, never a part."""
    fresh = path.with_name(f".{path.name}.new")  # names that begin with a dot belong to no run
    fresh.write_text(json.dumps(value), encoding="utf-8")
    fresh.replace(path)


def append(fd: int, line: str) -> None:
    """Append one line to a log in one write."""
    os.write(fd, f"{line}\n".encode())


def train(folder: Path, steps: int, pause: float) -> None:
    """Pretend to train, and tell how it goes."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    started = time.time()
    replace(folder / "meta.json", {"project": "vision", "name": "resnet", "created_at": started})
    replace(folder / "status.json", {"status": "running", "started_at": started})
    events, logs = os.open(folder / "events.jsonl", flags, 0o666), os.open(folder / "logs.txt", flags, 0o666)
    loss = math.inf
    for step in range(steps):
        loss = 1.0 / (step + 1) + random.uniform(0.0, 0.01)
        data = {"global_step": step, "loss": loss}
        append(events, json.dumps({"ts": time.time(), "type": "metrics", "data": data}))
        append(logs, f"step {step} loss {loss:.4f}")
        time.sleep(pause)
    replace(folder / "summary.json", {"final_loss": loss, "steps": steps})
    replace(folder / "status.json", {"status": "finished", "started_at": started, "ended_at": time.time()})
    os.close(events)
    os.close(logs)


def main() -> None:
    """Make the folder of a new run, and train in it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("root", type=Path, help="the folder of all runs, such as /data/experiments")
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--pause", type=float, default=0.1, help="seconds between two steps")
    given = arguments.parse_args()
    run_id = f"{time.strftime('%Y%m%d_%H%M%S')}_{os.urandom(3).hex()}"
    folder = given.root / "vision" / "resnet" / "runs" / run_id
    folder.mkdir(parents=True)
    train(folder, given.steps, given.pause)


if __name__ == "__main__":
    main()
