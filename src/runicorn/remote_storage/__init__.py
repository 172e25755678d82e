"""The client: mirrors of roots that lie on servers.

The names below are imported when they are used, so that a command can start to log in first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runicorn.remote_storage.cache import LocalCacheManager
    from runicorn.remote_storage.live import LiveSession
    from runicorn.remote_storage.manifest_sync import ManifestSyncClient
    from runicorn.remote_storage.options import SyncOptions
    from runicorn.remote_storage.report import SyncReport
    from runicorn.remote_storage.selection import Selection
    from runicorn.remote_storage.service import MetadataSyncService, SyncProgress
    from runicorn.remote_storage.sync import SyncResult, synchronize
    from runicorn.remote_storage.watch import Watcher, WatchOptions

__all__ = [
    "LiveSession",
    "LocalCacheManager",
    "ManifestSyncClient",
    "MetadataSyncService",
    "Selection",
    "SyncOptions",
    "SyncProgress",
    "SyncReport",
    "SyncResult",
    "WatchOptions",
    "Watcher",
    "synchronize",
]

_MODULES = {
    "LiveSession": "live",
    "LocalCacheManager": "cache",
    "ManifestSyncClient": "manifest_sync",
    "MetadataSyncService": "service",
    "Selection": "selection",
    "SyncOptions": "options",
    "SyncProgress": "service",
    "SyncReport": "report",
    "SyncResult": "sync",
    "WatchOptions": "watch",
    "Watcher": "watch",
    "synchronize": "sync",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
