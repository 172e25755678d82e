"""Names that a disk takes for the same: regressions."""

from __future__ import annotations

import unicodedata

import pytest

from runicorn.remote_storage.collisions import NameClaims
from runicorn.remote_storage.fetch import has_to_parse
from runicorn.remote_storage.mirror import Mirror
from runicorn.remote_storage.staging_folder import StagingFolder
from tests.remote_storage.helpers import (
    OLD,
    RUN,
    Site,
    an_entry,
    make_run,
    put,
    run_files,
)

pytestmark = pytest.mark.rungs("journal", "manifest")


COMPOSED, APART = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def test_claims_of_names_that_look_the_same_go_to_the_first() -> None:
    claims = NameClaims()
    assert claims.claim("a/B/c.png") is None
    assert claims.claim("a/B/d.png") is None
    assert claims.claim("a/B/C.png") == "a/B/c.png"
    assert claims.claim("a/b/e.png") == "a/B"
    assert claims.claim("A/x") == "a"
    assert claims.claim(f"a/{COMPOSED}") is None
    assert claims.claim(f"a/{APART}") == f"a/{COMPOSED}"
    assert claims.claim(f"a/{APART.upper()}/x") == f"a/{COMPOSED}"
    assert claims.claim("a/B2/c.png") is None


def test_disk_that_tells_names_apart_is_seen_as_such(site: Site) -> None:
    with Mirror(site.mirror) as mirror:
        assert not mirror.staging.takes_names_for_the_same()
    assert not site.staged()
    for name in ("A.png", f"{COMPOSED}.png", f"{APART}.png"):
        put(site.root / RUN / "media" / name, name, OLD)
    site.publish()
    assert site.sync().failed_count == 0
    site.assert_equal()


@pytest.mark.parametrize("method", ["auto", "manifest", "walk"])
@pytest.mark.parametrize(
    "folder", ["Vision/resnet/runs/r1", "vision/resnet/runs/R1", f"vision/{APART}/runs/r1"]
)
def test_names_that_the_disk_takes_for_the_same_fail_before_anything_is_written(
    site: Site, monkeypatch: pytest.MonkeyPatch, method: str, folder: str
) -> None:
    make_run(site.root, f"vision/{COMPOSED}/runs/r1")
    make_run(site.root, folder, state="another")
    for name in ("b.png", "B.png"):
        put(site.root / RUN / "media" / name, name, OLD)
    site.publish()
    monkeypatch.setattr(StagingFolder, "takes_names_for_the_same", lambda _folder: True)
    report = site.sync(method=method)
    mirrored, failed = run_files(site.mirror), {each.path for each in report.failed}
    assert report.failed_count == len(report.failed) == len(failed)
    assert mirrored.keys() | failed == run_files(site.root).keys()
    assert not mirrored.keys() & failed
    claims = NameClaims()
    assert [claims.claim(path) for path in mirrored] == [None] * len(mirrored)
    assert not site.sync(method=method).skipped


@pytest.mark.parametrize(
    ("name", "size", "parse"),
    [
        ("summary.json", 10, True),
        ("media/table.json", 10, True),
        ("summary.json", 10**9, False),
        ("events.jsonl", 10, False),
        ("logs.txt", 10, False),
        ("media/a.png", 10, False),
        ("media/a.json.png", 10, False),
    ],
)
def test_only_small_json_has_to_parse(name: str, size: int, parse: bool) -> None:
    assert has_to_parse(an_entry(f"{RUN}/{name}", size), size) is parse
