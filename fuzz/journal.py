"""Codecs, frames and sections of the journal. Chains are made here, so that they stop no fuzzer."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import replace

from fuzz import documents
from fuzz.artefacts import journals
from fuzz.target import Plain, Target, attempt, require_harmless
from runicorn.errors import RunicornError
from runicorn.journal import sections
from runicorn.journal.codecs import Codec, compress, expand
from runicorn.journal.frames import (
    MAX_JSON,
    MAX_PAYLOAD,
    Frame,
    FrameReader,
    Kind,
    StoredFrame,
    beginning,
    encode_frame,
)
from runicorn.journal.sections import decode_begin, decode_commit, decode_files, decode_seal
from runicorn.manifest import rules
from runicorn.manifest.model import Header
from tests.journal import forge
from tests.journal.damage import _shuffled

_NOWHERE = beginning(forge.ONE)


# -- what a frame may hold ---------------------------------------------------------------------


def read(frame: Frame) -> None:
    """What is in a frame, and that it can do no harm."""
    if frame.kind is Kind.BEGIN:
        name, lineage = decode_begin(frame)
        assert len(name) == 32
        assert 1 <= len(lineage) <= 64
        _require_same(frame, sections.encode_begin(name, lineage, 1.0), decode_begin)
    elif frame.kind is Kind.COMMIT:
        _read_commit(frame)
    elif frame.kind is Kind.SEAL:
        seal = decode_seal(frame, "l")
        assert 0 <= seal.place.offset < 2**53
        assert len(seal.place.chain) == 32
        _require_same(frame, sections.encode_seal(seal), lambda each: decode_seal(each, "l"))
    else:
        _read_files(frame)


def _require_same(frame: Frame, head: bytes, decode: object, data: bytes = b"") -> None:
    """What was decoded is decoded again from what the writer makes of it."""
    assert callable(decode)
    text, _ = encode_frame(_NOWHERE, frame.kind, head, data)
    reader = FrameReader(_NOWHERE)
    reader.feed(text)
    (again,) = reader.frames()
    assert decode(again) == decode(frame)


def _read_commit(frame: Frame) -> None:
    header = decode_commit(frame)
    assert header.identity.lineage is not None
    assert len(header.problems) <= min(100, header.problem_count)
    assert all(0 <= number < 2**63 for number in (header.total_files, header.total_bytes))

    def comparable(each: Frame) -> Header:
        # The writer names fewer problems when their text is long, and no window.
        found = decode_commit(each)
        return replace(found, problems=found.problems[:1], active_window=None)

    if sum(len(each.path) + len(each.kind) + len(each.message) for each in header.problems) < 60_000:
        _require_same(frame, sections.encode_commit(header), comparable)


def _read_files(frame: Frame) -> None:
    taken = 0
    listed = list(decode_files(frame))
    for section in listed:
        folder = section.run.folder
        assert rules.project_and_name(folder) is not None
        paths = [change.entry.path for change in section.changes]
        assert len(set(paths)) == len(paths)
        paths += [f"{folder}/{inner}" for inner in section.removed]
        for path in paths:
            assert rules.unsafe_path(path) is None
            assert rules.belongs(path, folder)
        for change in section.changes:
            assert 0 <= change.entry.size < 2**63
            carried = change.carried
            if carried is not None:
                taken += len(carried.data)
                assert carried.start >= 0
                assert carried.end <= change.entry.size
                assert len(carried.digest) == 64
    assert taken == len(frame.data)
    head = sections.encode_files([_encoded(section) for section in listed])
    if len(head) <= MAX_JSON and len(head) + taken + 4 <= MAX_PAYLOAD:
        _require_same(frame, head, lambda each: list(decode_files(each)), bytes(frame.data))


def _encoded(section: sections.Section) -> str:
    run = section.run
    changes = []
    for entry, carried in ((change.entry, change.carried) for change in section.changes):
        inner = entry.path[len(run.folder) + 1 :]
        if carried is None:
            changes.append(sections.encode_change(entry, inner))
        else:
            digest = "" if carried.end == entry.size else carried.digest
            size = len(carried.data)
            changes.append(sections.encode_change(entry, inner, size, carried.start, digest))
    return sections.encode_section(
        (run.folder, run.status, run.created_at, run.updated_at), changes, section.removed
    )


# -- frames ------------------------------------------------------------------------------------


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Frames as far as their lengths lead, and the bytes behind them."""
    found, at = [], 0
    while len(data) - at >= forge.HEADER:
        end = at + forge.HEADER + int(struct.unpack_from(">I", data, at + 8)[0])
        if end > len(data):
            break
        found.append(data[at:end])
        at = end
    return found, data[at:]


def rechained(data: bytes) -> bytes:
    """The same frames with the chain of a writer who means it."""
    frames, rest = _split(data)
    raw = (_raw(each) for each in frames)
    return b"".join(each for each, _ in forge.chained(_NOWHERE.chain, raw)) + rest


def _raw(frame: bytes) -> forge.Raw:
    magic, kind, codec, zero, _, expanded = struct.unpack_from(">4sBBHII", frame)
    return forge.Raw(kind, frame[forge.HEADER :], expanded, codec, magic, zero)


def _fed(data: bytes, step: int) -> tuple[list[Frame], RunicornError | None]:
    reader = FrameReader(_NOWHERE)
    frames: list[Frame] = []
    try:
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
            frames += reader.frames()
            assert reader.place.offset + reader.held == min(at + step, len(data))
            assert 0 < reader.wanted <= forge.HEADER + MAX_PAYLOAD or reader.held >= forge.HEADER
    except RunicornError as error:
        return frames, error
    return frames, None


def _read_all(data: bytes) -> None:
    frames, error = _fed(data, len(data) or 1)
    again, other = _fed(data, max(7, len(data) // 50))
    assert frames == again
    assert repr(error) == repr(other)
    for frame in frames:
        attempt(lambda frame=frame: read(frame))  # type: ignore[misc]
    if error is not None:
        raise error


def check_frames(data: bytes) -> None:
    """Read an epoch as it is, and with chains that fit."""
    attempt(lambda: _read_all(data))
    attempt(lambda: _read_all(rechained(data)))


def _epochs() -> Iterator[bytes]:
    for journal in journals():
        yield from journal.epochs.values()


def _mutate_frames(data: bytes, longest: int, chance: random.Random, plain: Plain) -> bytes:
    frames, rest = _split(data)
    if not frames or chance.random() < 0.1:
        return plain(data, longest)
    if chance.random() < 0.2:
        return b"".join(_shuffled(frames, chance) if len(frames) > 1 else frames * 2) + rest
    at = chance.randrange(len(frames))
    raw = _raw(frames[at])
    changed = _change_frame(raw, *forge.content(raw), longest, chance, plain)
    frames[at] = changed.fixed + bytes(32) + changed.stored
    return b"".join(frames) + rest


def _change_frame(
    raw: forge.Raw, head: bytes, data: bytes, longest: int, chance: random.Random, plain: Plain
) -> forge.Raw:
    action = chance.randrange(10)
    if action == 0:
        return replace(raw, kind=chance.randrange(6), codec=chance.randrange(4))
    if action == 1:
        return replace(
            raw, expanded=chance.choice([0, 4, raw.expanded - 1, raw.expanded + 1, 2**23, 2**32 - 1])
        )
    if action == 2:
        return replace(raw, stored=plain(raw.stored, longest))
    if action == 3:
        return forge.with_content(raw, head, plain(data, longest))
    codec = chance.choice([raw.codec, 0, 1, 2])
    return forge.frame(raw.kind, documents.change(head, longest, chance, plain), data, codec)


# -- one payload -------------------------------------------------------------------------------


def check_sections(data: bytes) -> None:
    """The first byte is the kind, the rest a payload: a length, JSON, and carried bytes."""
    if not data:
        return
    kind, payload = Kind(1 + data[0] % 4), data[1:]
    attempt(lambda: read(StoredFrame(kind, Codec.NONE, payload, len(payload), _NOWHERE).open()))


def _payloads() -> Iterator[bytes]:
    for epoch in _epochs():
        for raw in forge.split(epoch):
            yield bytes([raw.kind - 1]) + forge.expanded(raw)


def _spoiled_payloads() -> Iterator[bytes]:
    """One frame of each kind, and a change of a log."""
    chosen = {each[0]: each for each in _payloads()}
    longest = max((each for each in _payloads() if b'"from": 1' in each or b'"removed"' in each), key=len)
    for each in (*chosen.values(), longest):
        end = 5 + int.from_bytes(each[1:5], "big")
        for head in documents.spoiled(each[5:end]):
            yield each[:1] + struct.pack(">I", len(head)) + head + each[end:]


def _mutate_sections(data: bytes, longest: int, chance: random.Random, plain: Plain) -> bytes:
    size = int.from_bytes(data[1:5], "big")
    if len(data) < 5 + size or chance.random() < 0.1:
        return plain(data, longest)
    head, carried = data[5 : 5 + size], data[5 + size :]
    if chance.random() < 0.1:
        carried = plain(carried, longest)
    else:
        head = documents.change(head, longest, chance, plain)
    return data[:1] + struct.pack(">I", len(head)) + head + carried


# -- codecs ------------------------------------------------------------------------------------


def check_codecs(data: bytes) -> None:
    """The first byte is the codec, three more the size; the rest is a payload as it is stored."""
    codec, size, stored = (
        data[0] if data else 0,
        int.from_bytes(data[1:4], "big") % (MAX_PAYLOAD + 1),
        data[4:],
    )

    def expanded() -> None:
        assert len(expand(codec, stored, size)) == size

    error = attempt(expanded)
    require_harmless(str(error))
    for each in Codec:
        used, packed = compress(stored, each)
        assert len(packed) <= len(stored)
        assert expand(used, packed, len(stored)) == stored


def _stored() -> Iterator[bytes]:
    for epoch in _epochs():
        for raw in forge.split(epoch):
            payload = forge.expanded(raw)
            for codec in Codec:
                yield bytes([codec]) + len(payload).to_bytes(3, "big") + forge.pack(payload, codec)
    for number, bomb in ((1, forge.zlib_bomb(2 * forge.MIB)), (2, forge.zstd_bomb(16 * forge.MIB))):
        yield bytes([number]) + (1000).to_bytes(3, "big") + bomb
    yield from (b"\2\0\0\4" + forge.zstd_window(log) for log in (10, 23, 24, 31))


_WORDS = tuple(
    {
        word: None
        for each in _payloads()
        for word in documents.words_of(each[5 : 5 + int.from_bytes(each[1:5], "big")])
    }
)[:400]

FRAMES = Target(check_frames, _epochs, tuple, (forge.MAGIC, *_WORDS), _mutate_frames, 16_384)
SECTIONS = Target(check_sections, _payloads, _spoiled_payloads, _WORDS, _mutate_sections, 8192)
CODECS = Target(check_codecs, _stored, tuple, (b"\x28\xb5\x2f\xfd", b"\x78\x9c"), None, 8192)
