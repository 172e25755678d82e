"""The oracle, as tests of killed processes ask it: whatever it finds fails the test."""

from __future__ import annotations

import json
from pathlib import Path

from testbed.history import History
from testbed.oracle import Oracle
from tests.faults.process import left_behind

NOT_RECORDED = "but the client had not synced it"
"""What a killed sync put in place and could not record any more is the client's own: the next one records it,
and may remove it then."""

OTHER_INODE = "it took another inode, and is of the same generation"
"""What a killed sync appended and could not record is more than an older manifest, or the base of the
journal, lists: going on from there, the next sync replaces the log."""

BEHIND = ("it is not as it was recorded", "it is recorded as synced, and is not there")


class Judge:
    """Holds the mirrors of one root against what the root has ever been.

    Args:
        root: the root.
        history: all that it ever held.
        patience: seconds to wait for a publication that is about to be told of.
        may_replace: whether a log may take another inode after a kill.

    Attributes:
        states: how many states it was told of.
    """

    def __init__(
        self, root: Path, history: History, patience: float = 0.0, *, may_replace: bool = False
    ) -> None:
        self._root = root
        self._killed: set[Path] = set()
        self.oracle = Oracle(history, patience=patience)
        self.may_replace = may_replace
        self.states = 0

    def killed(self, mirror: Path, *, deletes: bool = False) -> None:
        """The laws hold in a mirror of which a sync was killed."""
        self.decide(mirror, deletes=deletes)
        self._killed.add(mirror)

    def published(self, name: str = "full_manifest.json") -> None:
        """Take note of a manifest that is there, which is that of the newest revision."""
        self.states += 1
        self.oracle.published(json.loads((self._root / ".runicorn" / name).read_bytes()))

    def left_by_a_cut(self, mirror: Path, *spoiled: str) -> None:
        """A power cut left a mirror so; the ends of these logs are nobody's."""
        self._killed.add(mirror)
        self.oracle.somebody_did(mirror, *spoiled)

    def forget(self) -> None:
        """Forget all mirrors, and close their logs."""
        self._killed.clear()
        self.oracle.close()

    def decide(self, mirror: Path, *, deletes: bool = False, undisturbed: bool = False) -> None:
        """The laws hold in a mirror; its syncs have leave to delete, and that of more than half, or none."""
        faults = self.oracle.faults(mirror, deletes=deletes, force=deletes, undisturbed=undisturbed)
        if mirror in self._killed:
            allowed = (NOT_RECORDED, OTHER_INODE) if self.may_replace else (NOT_RECORDED,)
            faults = [fault for fault in faults if not (fault.endswith(allowed) or self._is_kept(fault))]
        if undisturbed:
            self._killed.discard(mirror)
        _require_none(mirror, faults)

    def _is_kept(self, fault: str) -> bool:
        """Of what the server has removed since, a record may be behind: what a killed sync brought is kept,
        and told; what it removed stays marked as gone."""
        _, path, what = fault.split(": ", 2)
        return what.startswith(BEHIND) and not (self._root / path).exists()

    def decide_complete(self, mirror: Path, *, deletes: bool = False, keeps: bool = False) -> None:
        """The same after an undisturbed sync of a root that stands still: the mirror is the root.

        Args:
            mirror: the mirror.
            deletes: whether its syncs have leave to delete.
            keeps: whether it may hold files nevertheless that the root lacks.
        """
        self.decide(mirror, deletes=deletes, undisturbed=True)
        _require_none(mirror, self.oracle.complete(mirror, self._root, deletes=deletes and not keeps))
        # What an interrupted download left of another version is there for some days.
        _require_none(mirror, [name for name in left_behind(mirror) if not name.endswith(".partial")])


def _require_none(mirror: Path, faults: list[str]) -> None:
    assert not faults, "\n".join([str(mirror), *faults])
