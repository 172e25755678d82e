"""The folder that mirrors are kept in, as `MetadataSyncService` is given it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalCacheManager:
    """Knows where a mirror lies.

    Attributes:
        root_dir: folder of the mirror; made by the first sync.
    """

    root_dir: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root_dir", Path(self.root_dir).expanduser())
