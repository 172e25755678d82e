"""Read a mirror while it syncs: the last loss of each run, `python analysis.py MIRROR`.

No lock and no copy is needed: state files are whole at every moment, and logs only grow. A log may end within
a line for the moment of a write, so only lines that have ended are read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path


def records(log: Path) -> Iterator[dict[str, dict[str, float]]]:
    """The records of a log that are complete."""
    with log.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield json.loads(line)


def last_loss(run: Path) -> tuple[int, float] | None:
    """Step and loss of the newest record that has them."""
    found = None
    for record in records(run / "events.jsonl"):
        data = record.get("data", {})
        if "loss" in data:
            found = int(data["global_step"]), data["loss"]
    return found


def main() -> None:
    """Print one line for each run of the project layout, the best one first."""
    rows = []
    for status in Path(sys.argv[1]).glob("*/*/runs/*/status.json"):
        run = status.parent
        state = json.loads(status.read_bytes())["status"]
        loss = last_loss(run) if (run / "events.jsonl").exists() else None
        if loss is not None:
            rows.append((loss[1], loss[0], state, run.name))
    for value, step, state, name in sorted(rows):
        print(f"{name}  {state:10}  step {step:6}  loss {value:.4f}")


if __name__ == "__main__":
    main()
