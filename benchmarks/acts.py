"""Plays one act of a plan, whatever its kind."""

from __future__ import annotations

import time

from benchmarks.generating import generate
from benchmarks.lab import Lab
from benchmarks.live import watch_live
from benchmarks.plan import Act, Generations, Profiles, Requests, Syncs, Watches
from benchmarks.profiling import profile
from benchmarks.requests import count
from benchmarks.results import Found, Results
from benchmarks.scenes import Play, Tell, staged


def play(lab: Lab, act: Act, before: Results, tell: Tell) -> Found:
    """Play it, with a look at what was found before."""
    begin = time.monotonic()
    found = Found(type(act).__name__, act.tree, act.where)
    match act:
        case Syncs():
            with staged(lab, act) as stage:
                scenes = Play(act, stage, before, tell, found.samples, found.left_out)
                scenes.play()
        case Requests():
            found.counted.extend(count(lab, act, tell))
        case Generations():
            found.generated.extend(generate(lab, act))
        case Watches():
            found.watched.append(watch_live(lab, act))
        case Profiles():
            found.profiled.extend(profile(lab, act))
    return found.lasting(time.monotonic() - begin)
