"""``HEAD``: which epoch is current, and how far it is valid (section HEAD of the format). Pure."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runicorn.errors import DamagedError, UnsafeError, UnsupportedVersionError
from runicorn.journal.frames import MAX_OFFSET, Place, is_epoch, parse_object
from runicorn.manifest import checks
from runicorn.manifest.model import Identity

HEAD_NAME = "HEAD"
MAX_HEAD = 64 * 1024
"""Bytes of HEAD."""

FORMAT_VERSION = "1.0"

_VERSION = re.compile(r"([0-9]{1,6})\.[0-9]{1,6}").fullmatch


@dataclass(frozen=True, slots=True)
class Media:
    """Where the media of a base lie.

    Attributes:
        begin: offset of their first frame.
        end: the place behind their last one; the base's commit follows.
    """

    begin: int
    end: Place


@dataclass(frozen=True, slots=True)
class Published:
    """The full manifest that was there when HEAD was written.

    Attributes:
        identity: which state it lists.
        place: where the journal has that state.
        size: bytes of its compressed form.
    """

    identity: Identity
    place: Place
    size: int


@dataclass(frozen=True, slots=True)
class Head:
    """What HEAD tells.

    Attributes:
        identity: the state at ``end``.
        generated_at: when the generator last looked, seconds since the epoch.
        end: the place behind the last commit.
        base: the place behind the base's commit.
        base_bytes: sum of the carriable sizes when the base was written, bytes.
        media: where the media of the base lie.
        total_experiments: number of runs.
        total_files: number of entries.
        total_bytes: sum of their sizes, bytes.
        complete: whether no problem hides a file.
        problem_count: all problems.
        manifest: the full manifest and its place, when that is known.
        written: weight of all files frames of the epoch (section Compaction); None when that is not known.
        duration: how long the last generation of the whole root took until HEAD was written, seconds; None
            when that is not known.
    """

    identity: Identity
    generated_at: float
    end: Place
    base: Place
    base_bytes: int
    media: Media
    total_experiments: int
    total_files: int
    total_bytes: int
    complete: bool
    problem_count: int
    manifest: Published | None = None
    written: int | None = None
    duration: float | None = None

    @property
    def epoch(self) -> str:
        """Name of the current epoch."""
        return self.end.epoch


def encode_head(head: Head) -> bytes:
    """HEAD as it lies on disk."""
    fields: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "lineage": head.identity.lineage,
        "revision": head.identity.revision,
        "snapshot_id": head.identity.snapshot_id,
        "generated_at": head.generated_at,
        "epoch": head.end.epoch,
        "length": head.end.offset,
        "chain": head.end.chain.hex(),
        "base_length": head.base.offset,
        "base_chain": head.base.chain.hex(),
        "base_bytes": head.base_bytes,
        "media": {
            "begin": head.media.begin,
            "end": head.media.end.offset,
            "chain": head.media.end.chain.hex(),
        },
        "statistics": {
            "total_experiments": head.total_experiments,
            "total_files": head.total_files,
            "total_bytes": head.total_bytes,
        },
        "complete": head.complete,
        "problem_count": head.problem_count,
    }
    if head.written is not None:
        fields["written"] = head.written
    if head.duration is not None:
        fields["duration"] = head.duration
    if head.manifest is not None:
        fields["manifest"] = {
            "revision": head.manifest.identity.revision,
            "snapshot_id": head.manifest.identity.snapshot_id,
            "epoch": head.manifest.place.epoch,
            "offset": head.manifest.place.offset,
            "chain": head.manifest.place.chain.hex(),
            "bytes": head.manifest.size,
        }
    line = json.dumps(fields).encode("ascii")
    return line + b"\n" + hashlib.sha256(line).hexdigest().encode("ascii") + b"\n"


@contextlib.contextmanager
def of_the_journal() -> Iterator[None]:
    """The checks are those of the manifest; what they say has to name the right thing."""
    try:
        yield
    except (DamagedError, UnsafeError) as error:
        text = str(error).replace("the manifest", "the journal")
        raise type(error)(text, hint=error.hint, path=error.path) from error


def decode_head(text: bytes) -> Head:
    """What HEAD tells.

    Raises:
        DamagedError: it is torn or makes no sense; `UnsupportedVersionError` for an unknown major version.
        UnsafeError: a number is out of bounds.
    """
    if len(text) > MAX_HEAD:
        raise UnsafeError(f"the journal's HEAD is longer than {MAX_HEAD} bytes")
    line, _, rest = text.partition(b"\n")
    if rest != hashlib.sha256(line).hexdigest().encode("ascii") + b"\n":
        raise DamagedError("the journal's HEAD does not fit its checksum")
    with of_the_journal():
        head = _head(parse_object(line))
    places = {head.media.end, head.base, head.end}
    if head.manifest is not None and head.manifest.place.epoch == head.epoch:
        places.add(head.manifest.place)
        if not head.base.offset <= head.manifest.place.offset <= head.end.offset:
            raise DamagedError("the journal's HEAD contradicts itself")
    in_order = head.media.begin <= head.media.end.offset <= head.base.offset <= head.end.offset
    if not in_order or len({place.offset for place in places}) != len(places):
        raise DamagedError("the journal's HEAD contradicts itself")
    return head


def _head(raw: dict[str, Any]) -> Head:
    require_version(raw)
    end = _place(raw, field(raw, "epoch"), "length", "chain")
    sums, media = _object(raw, "statistics"), _object(raw, "media")
    lineage = checks.text(field(raw, "lineage"), "lineage", 64, 1)
    return Head(
        identity=_identity(raw, lineage),
        generated_at=checks.seconds(field(raw, "generated_at"), "generated_at"),
        end=end,
        base=_place(raw, end.epoch, "base_length", "base_chain"),
        base_bytes=checks.integer(field(raw, "base_bytes"), "base_bytes"),
        media=Media(_offset(media, "begin"), _place(media, end.epoch, "end", "chain")),
        total_experiments=checks.integer(field(sums, "total_experiments"), "total_experiments"),
        total_files=checks.integer(field(sums, "total_files"), "total_files"),
        total_bytes=checks.integer(field(sums, "total_bytes"), "total_bytes"),
        complete=raw.get("complete") is True,
        problem_count=checks.integer(raw.get("problem_count", 0), "problem_count"),
        manifest=_published(raw["manifest"], lineage) if "manifest" in raw else None,
        written=checks.integer(raw["written"], "written") if "written" in raw else None,
        duration=checks.seconds(raw["duration"], "duration") if "duration" in raw else None,
    )


def field(raw: dict[str, Any], name: str) -> Any:
    """A required field.

    Raises:
        DamagedError: it is missing.
    """
    try:
        return raw[name]
    except KeyError:
        raise DamagedError(f"the journal lacks the field {name!r}") from None


def _object(raw: dict[str, Any], name: str) -> dict[str, Any]:
    value = field(raw, name)
    if type(value) is not dict:
        raise DamagedError(f"the field {name!r} of the journal is not an object")
    return value


def require_version(raw: dict[str, Any]) -> None:
    """Check ``format_version``.

    Raises:
        DamagedError: it is none; `UnsupportedVersionError` for an unknown major version.
        UnsafeError: it is out of bounds.
    """
    version = checks.text(field(raw, "format_version"), "format_version", 16)
    found = _VERSION(version)
    if not found:
        raise DamagedError("the field 'format_version' of the journal is not MAJOR.MINOR")
    major = FORMAT_VERSION.partition(".")[0]
    if int(found.group(1)) != int(major):
        raise UnsupportedVersionError(f"the journal has the format {version}, this program reads {major}.x")


def _identity(raw: dict[str, Any], lineage: str) -> Identity:
    return Identity(
        lineage,
        checks.integer(field(raw, "revision"), "revision", 1, checks.MAX_REVISION),
        checks.text(field(raw, "snapshot_id"), "snapshot_id", 64, 1),
    )


def _offset(raw: dict[str, Any], name: str) -> int:
    return checks.integer(field(raw, name), name, 0, MAX_OFFSET)


def epoch_name(value: object) -> str:
    """The name of an epoch, safe to be a part of a path.

    Raises:
        DamagedError: it is none.
    """
    if type(value) is not str or not is_epoch(value):
        raise DamagedError("the journal names an epoch that cannot be")
    return value


def _place(raw: dict[str, Any], epoch: object, offset: str, chain: str) -> Place:
    text = checks.digest(raw, chain)
    if text is None:
        raise DamagedError(f"the journal lacks the field {chain!r}")
    return Place(epoch_name(epoch), _offset(raw, offset), bytes.fromhex(text))


def place_of(raw: dict[str, Any]) -> Place:
    """The place that ``epoch``, ``offset`` and ``chain`` of an object name.

    Raises:
        DamagedError: they name none.
        UnsafeError: the offset is out of bounds.
    """
    return _place(raw, field(raw, "epoch"), "offset", "chain")


def _published(raw: object, lineage: str) -> Published:
    if type(raw) is not dict:
        raise DamagedError("the field 'manifest' of the journal is not an object")
    return Published(_identity(raw, lineage), place_of(raw), checks.integer(field(raw, "bytes"), "bytes"))
