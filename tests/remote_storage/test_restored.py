"""A root that was put back from a backup: what only its lost future listed stays in the mirror (law 4)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.remote_storage.helpers import RUN, Site, make_run, overwrite, put, run_files, status

LATER = "vision/resnet/runs/later"

pytestmark = pytest.mark.rungs("journal", "manifest")


class Restored(Site):
    """A site whose mirror is two states ahead of the root, which was put back."""

    @classmethod
    def of(cls, site: Site, place: Path) -> Restored:
        site.publish()
        shutil.copytree(site.root, place, symlinks=True)
        make_run(site.root, LATER)
        site.publish()
        put(site.root / RUN / "status.json", status("running") + " ")
        site.publish()
        assert site.sync(delete=True).failed_count == 0
        shutil.rmtree(site.root)
        shutil.copytree(place, site.root, symlinks=True)
        return cls(site.root, site.mirror, site.rung)

    def sync_often(self) -> None:
        """As a timer does it, with every leave."""
        for _ in range(3):
            report = self.sync(delete=True, force_delete=True)
            assert (report.failed_count, report.removed_count) == (0, 0)

    def assert_kept(self) -> None:
        """All that the root has now, and the run of its lost future."""
        found = run_files(self.mirror)
        wanted = run_files(self.root)
        assert {path: found.get(path) for path in wanted} == wanted
        assert sum(path.startswith(LATER) for path in found) >= 3


@pytest.fixture
def restored(site: Site, tmp_path: Path) -> Restored:
    return Restored.of(site, tmp_path / "backup")


def test_what_only_the_lost_future_listed_is_never_removed(restored: Restored) -> None:
    restored.sync_often()
    restored.assert_kept()
    for number in range(4):
        overwrite(restored.root / RUN / "summary.json", b'{"best": %d}' % number)
        restored.publish()
        restored.sync_often()
        restored.assert_kept()


def test_it_stays_also_when_the_root_went_on_before_the_first_sync(restored: Restored) -> None:
    for number in range(1 if restored.rung == "manifest" else 4):
        overwrite(restored.root / RUN / "summary.json", b'{"best": %d}' % number)
        restored.publish()
    restored.sync_often()
    restored.assert_kept()
    restored.publish()
    restored.sync_often()
    restored.assert_kept()


def test_what_the_restored_root_removes_later_goes(restored: Restored) -> None:
    restored.sync_often()
    make_run(restored.root, "vision/resnet/runs/new")
    (restored.root / RUN / "summary.json").unlink()
    restored.publish()
    assert restored.sync(delete=True).removed_count == 1
    assert not (restored.mirror / RUN / "summary.json").exists()
    restored.assert_kept()


def test_a_run_of_the_lost_future_that_comes_again_is_the_roots_own_again(restored: Restored) -> None:
    restored.sync_often()
    make_run(restored.root, LATER)
    restored.publish()
    assert restored.sync(delete=True).failed_count == 0
    restored.assert_equal()
    shutil.rmtree(restored.root / LATER)
    restored.publish()
    assert restored.sync(delete=True, force_delete=True).removed_count >= 3
    restored.assert_equal()
