"""The table of what is fuzzed."""

from __future__ import annotations

from fuzz import head, journal, manifest, sftp
from fuzz.target import Target

TARGETS: dict[str, Target] = {
    "head": head.TARGET,
    "manifest": manifest.TARGET,
    "journal-codecs": journal.CODECS,
    "journal-frames": journal.FRAMES,
    "journal-sections": journal.SECTIONS,
    "sftp-jobs": sftp.JOBS,
    "sftp-stream": sftp.STREAM,
    "sftp-walk": sftp.WALK,
}
"""By the name of their folders in `tests/corpus`."""
