"""Texts of a manifest that a terminal would act on: no command shows them raw."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.lab import Lab, an_entry, every_text, run_named
from tests.manifest.helpers import PROJECT_RUN

EVIL = "\x1b]0;owned\x07\x9b31m\u202etxt"


def test_texts_that_are_only_shown_reach_no_terminal_raw(lab: Lab) -> None:
    evil = lab.document
    turned = f"{PROJECT_RUN}/media/\u202egnp.exe"
    lab.offer(turned)
    run_named(evil)["files"].append(an_entry(turned))
    for name in ("server_hostname", "remote_root", "generator"):
        evil[name] = f"{EVIL}{name}"[:60]
    evil["problems"] = [{"path": EVIL, "kind": EVIL, "message": EVIL}]
    evil["problem_count"] = 3
    for run in evil["experiments"]:
        run["project"], run["name"], run["status"] = EVIL, EVIL, EVIL
    evil["generated_at"] = 1.0
    lab.publish(evil)
    assert "media/\\u202egnp.exe" in lab.attack("-v", "--dry-run", "--delete").expect(0).out
    done = lab.attack("-v").expect(0)
    assert "3 problems" in done.err
    assert "day" in done.err
    done = lab.attack("--json", "--dry-run").expect(0)
    lab.matches()


def _at(document: dict[str, Any], place: tuple[Any, ...], value: str) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return changed


def _texts(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(each, (*place, key))


def test_text_of_every_single_field_reaches_no_terminal_raw(
    lab: Lab, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from runicorn.cli import main

    caplog.set_level(logging.DEBUG, "runicorn")  # as -v sets it for this process; it is put back at the end

    lab.document["problems"] = [{"path": "a", "kind": "link", "message": "m"}]
    places = [place for place in _texts(lab.document) if "files" not in place or place[3] == 0]
    assert len(places) >= 20
    for place in places:
        lab.publish(_at(lab.document, place, EVIL))
        assert main(["sync", str(lab.root), str(lab.mirror), "-v", "--method", "manifest"]) in (0, 3, 7), (
            place
        )
        shown = "".join(capfd.readouterr())
        assert shown
        for mark in EVIL:
            assert mark.isalnum() or mark in "];[" or mark not in shown, place


def test_every_text_hostile_at_once_is_refused(lab: Lab) -> None:
    lab.publish(every_text(lab.document, lambda text: text + EVIL))
    lab.refuses()
    lab.recovers()
