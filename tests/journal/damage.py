"""Random damages of a journal, by accident and by a hostile writer; for the tests of all that read one.

`damages` takes a sound journal and gives it damaged, again and again. What it gives may still be a sound
journal (a hostile writer's can be), but never one that a reader may fall over: it reads it, or refuses it.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from tests.journal.forge import (
    BEGIN,
    COMMIT,
    FILES,
    HEADER,
    MAGIC,
    MIB,
    SEAL,
    Raw,
    chained,
    checksummed,
    content,
    frame,
    seed,
    split,
    with_content,
    zlib_bomb,
    zstd_bomb,
    zstd_window,
)

Damaged = tuple[dict[str, bytes], bytes]
Damage = Callable[["Journal", random.Random], Damaged]


@dataclass
class Journal:
    """A sound journal, and how its places hang on its frames.

    Attributes:
        epochs: files by the names of their epochs.
        head: HEAD.
        frames: the frames of each epoch.
    """

    epochs: dict[str, bytes]
    head: bytes
    frames: dict[str, list[Raw]] = field(init=False)

    def __post_init__(self) -> None:
        self.frames = {name: split(data) for name, data in self.epochs.items()}

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of HEAD, to be changed at will."""
        found: dict[str, Any] = json.loads(self.head.partition(b"\n")[0])
        return found


class _Writer:
    """Writes changed frames with right chains, and HEAD and seals so that they are read."""

    def __init__(self, journal: Journal) -> None:
        self._old = journal
        self.frames = {name: list(frames) for name, frames in journal.frames.items()}
        self.fields = journal.fields
        self.current: str = self.fields["epoch"]

    def write(self, *, honest_head: bool = True) -> Damaged:
        places: dict[str, list[tuple[int, bytes]]] = {}
        epochs: dict[str, bytes] = {}
        for name in sorted(self.frames, key=lambda each: each != self.current):
            frames = [self._sealed(raw, places) for raw in self.frames[name]]
            data = list(chained(seed(name), frames))
            epochs[name] = b"".join(each for each, _ in data)
            at, places[name] = 0, [(0, seed(name))]
            for each, chain in data:
                at += len(each)
                places[name].append((at, chain))
        return epochs, self._head(places) if honest_head else self._old.head

    def _moved(
        self, epoch: str, offset: int, places: dict[str, list[tuple[int, bytes]]]
    ) -> tuple[int, str] | None:
        """Where a place of the old journal lies by now: as many frames before it, as far as there are."""
        if epoch not in places or epoch not in self._old.epochs:
            return None
        sizes = (HEADER + len(raw.stored) for raw in self._old.frames[epoch])
        count = sum(end <= offset for end in itertools.accumulate(sizes))
        if offset == len(self._old.epochs[epoch]):
            count = len(places[epoch]) - 1
        new, chain = places[epoch][min(count, len(places[epoch]) - 1)]
        return new, chain.hex()

    def _sealed(self, raw: Raw, places: dict[str, list[tuple[int, bytes]]]) -> Raw:
        if raw.kind != SEAL or not any(raw in frames for frames in self._old.frames.values()):
            return raw
        fields = json.loads(content(raw)[0])
        moved = self._moved(fields["epoch"], fields["offset"], places)
        if moved is None:
            return raw
        fields["offset"], fields["chain"] = moved
        return with_content(raw, json.dumps(fields).encode(), b"")

    def _head(self, places: dict[str, list[tuple[int, bytes]]]) -> bytes:
        fields = self.fields
        pairs = [(fields, "length", "chain"), (fields, "base_length", "base_chain")]
        pairs += [(fields["media"], "end", "chain"), (fields["media"], "begin", "")]
        targets = [(self.current, *each) for each in pairs]
        if "manifest" in fields:
            targets.append((fields["manifest"]["epoch"], fields["manifest"], "offset", "chain"))
        for epoch, where, offset, chain in targets:
            moved = self._moved(epoch, where[offset], places)
            if moved is not None:
                where[offset] = moved[0]
                if chain:
                    where[chain] = moved[1]
        return checksummed(fields)


def damages(
    epoch_bytes: dict[str, bytes], head: bytes, seed: int
) -> Iterator[tuple[str, dict[str, bytes], bytes]]:
    """Random damages of a sound journal, without end.

    Args:
        epoch_bytes: the files of the epochs by the epochs' names (without ``.journal``); every frame whole.
        head: HEAD, fitting.
        seed: of the random numbers; the same seed gives the same damages.

    Yields:
        What was done, the damaged epochs, the damaged HEAD.
    """
    journal = Journal(dict(epoch_bytes), head)
    for number in itertools.count():
        # Each damage has its own random numbers, so that each can be made again alone.
        chance = random.Random(f"{seed} {number}")
        chosen = chance.choice(ALL)
        epochs, changed = chosen(journal, chance)
        yield f"{seed}/{number} {chosen.__name__}", epochs, changed


# -- accidents ---------------------------------------------------------------------------------


def _pick(journal: Journal, chance: random.Random) -> str:
    """An epoch; the current one more often."""
    names = sorted(journal.epochs)
    current: str = journal.fields["epoch"]
    return chance.choice([*names, current])


def _with(journal: Journal, name: str, data: bytes) -> Damaged:
    return {**journal.epochs, name: data}, journal.head


def bit_flips(journal: Journal, chance: random.Random) -> Damaged:
    name = _pick(journal, chance)
    data = bytearray(journal.epochs[name])
    for _ in range(chance.choice([1, 1, 2, 8])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return _with(journal, name, bytes(data))


def header_flips(journal: Journal, chance: random.Random) -> Damaged:
    name = _pick(journal, chance)
    data = bytearray(journal.epochs[name])
    starts = [0]
    for raw in journal.frames[name][:-1]:
        starts.append(starts[-1] + HEADER + len(raw.stored))
    data[chance.choice(starts) + chance.randrange(HEADER)] = chance.randrange(256)
    return _with(journal, name, bytes(data))


def cut(journal: Journal, chance: random.Random) -> Damaged:
    name = _pick(journal, chance)
    data = journal.epochs[name]
    return _with(journal, name, data[: chance.randrange(len(data))])


def zero_tail(journal: Journal, chance: random.Random) -> Damaged:
    name = _pick(journal, chance)
    data = journal.epochs[name]
    at = chance.randrange(len(data))
    return _with(journal, name, data[:at] + bytes(len(data) - at + chance.choice([0, 0, 1, 48, 5000])))


def zero_hole(journal: Journal, chance: random.Random) -> Damaged:
    name = _pick(journal, chance)
    data = journal.epochs[name]
    at, size = chance.randrange(len(data)), chance.choice([1, 16, 512, 4096])
    return _with(journal, name, data[:at] + bytes(len(data[at : at + size])) + data[at + size :])


def duplicated_range(journal: Journal, chance: random.Random) -> Damaged:
    name = _pick(journal, chance)
    data = journal.epochs[name]
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return _with(journal, name, data[:end] + data[start:end] + data[end:])


def lost_range(journal: Journal, chance: random.Random) -> Damaged:
    name = _pick(journal, chance)
    data = journal.epochs[name]
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return _with(journal, name, data[:start] + data[end:])


def spliced(journal: Journal, chance: random.Random) -> Damaged:
    """From some byte or frame on, it goes on as another epoch, or as itself at another place."""
    name, other = _pick(journal, chance), chance.choice(sorted(journal.epochs))
    data, rest = journal.epochs[name], journal.epochs[other]
    if chance.random() < 0.5:
        return _with(journal, name, data[: chance.randrange(len(data))] + rest[chance.randrange(len(rest)) :])
    mine, others = _bytes_of(journal, name), _bytes_of(journal, other)
    kept, taken = chance.randrange(len(mine)), chance.randrange(len(others))
    return _with(journal, name, b"".join(mine[:kept] + others[taken:]))


def _bytes_of(journal: Journal, name: str) -> list[bytes]:
    return [data for data, _ in chained(seed(name), journal.frames[name])]


def _shuffled(frames: list[Any], chance: random.Random) -> list[Any]:
    """Frames swapped, dropped, repeated or moved."""
    frames = list(frames)
    first, second = chance.randrange(len(frames)), chance.randrange(len(frames))
    action = chance.randrange(4)
    if action == 0:
        frames[first], frames[second] = frames[second], frames[first]
    elif action == 1:
        del frames[first]
    elif action == 2:
        frames.insert(second, frames[first])
    else:
        frames.insert(second, frames.pop(first))
    return frames


def swapped_frames(journal: Journal, chance: random.Random) -> Damaged:
    name = _pick(journal, chance)
    return _with(journal, name, b"".join(_shuffled(_bytes_of(journal, name), chance)))


def swapped_files(journal: Journal, chance: random.Random) -> Damaged:
    """One epoch under the name of another."""
    names = sorted(journal.epochs)
    data = [journal.epochs[name] for name in names]
    by = chance.randrange(1, max(2, len(names)))
    return dict(zip(names, data[by:] + data[:by], strict=True)), journal.head


def lost_file(journal: Journal, chance: random.Random) -> Damaged:
    lost = _pick(journal, chance)
    return {name: data for name, data in journal.epochs.items() if name != lost}, journal.head


def rubbish(journal: Journal, chance: random.Random) -> Damaged:
    """A file of something else, or something else behind the end."""
    name = _pick(journal, chance)
    data = chance.choice([b"", MAGIC, b"PK\x03\x04", b'{"a": 1}\n']) + chance.randbytes(
        chance.choice([0, 44, 5000])
    )
    return _with(journal, name, chance.choice([b"", journal.epochs[name]]) + data)


def forged_length(journal: Journal, chance: random.Random) -> Damaged:
    """A length in a header, chain untouched."""
    name = _pick(journal, chance)
    parts = [bytearray(each) for each in _bytes_of(journal, name)]
    struct.pack_into(">I", chance.choice(parts), chance.choice([8, 12]), _length(chance))
    return _with(journal, name, b"".join(parts))


def _length(chance: random.Random) -> int:
    known = [0, 1, 3, 4, 47, 48, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 4 * MIB + 1, 2**31 - 1, 2**31, 2**32 - 1]
    return chance.choice([*known, chance.randrange(2**32), chance.randrange(5000)])


# -- a hostile writer: every chain fits --------------------------------------------------------


def _write(journal: Journal, name: str, change: Callable[[list[Raw]], list[Raw]]) -> Damaged:
    writer = _Writer(journal)
    writer.frames[name] = change(writer.frames[name])
    return writer.write()


def _change_one(journal: Journal, chance: random.Random, change: Callable[[Raw], Raw]) -> Damaged:
    def of_all(frames: list[Raw]) -> list[Raw]:
        at = chance.randrange(len(frames))
        return [*frames[:at], change(frames[at]), *frames[at + 1 :]]

    return _write(journal, _pick(journal, chance), of_all)


def chained_order(journal: Journal, chance: random.Random) -> Damaged:
    return _write(journal, _pick(journal, chance), lambda frames: _shuffled(frames, chance))


def chained_foreign_frame(journal: Journal, chance: random.Random) -> Damaged:
    """A frame of any epoch in the midst of another one."""
    taken = chance.choice(journal.frames[chance.choice(sorted(journal.epochs))])

    def insert(frames: list[Raw]) -> list[Raw]:
        at = chance.randrange(len(frames) + 1)
        return [*frames[:at], taken, *frames[at + chance.randrange(2) :]]

    return _write(journal, _pick(journal, chance), insert)


def chained_header(journal: Journal, chance: random.Random) -> Damaged:
    """Kind, codec, version, the zero bytes."""
    changes: list[dict[str, Any]] = [
        {"kind": chance.choice([0, BEGIN, FILES, COMMIT, SEAL, 5, 255])},
        {"codec": chance.choice([0, 1, 2, 3, 255])},
        {"zero": chance.choice([1, 256, 65535])},
        {"magic": chance.choice([b"RJ\x02\n", b"RJ\x00\n", b"RJ\x01\r", b"JR\x01\n", bytes(4)])},
    ]
    return _change_one(journal, chance, lambda raw: replace(raw, **chance.choice(changes)))


def chained_lengths(journal: Journal, chance: random.Random) -> Damaged:
    """Lengths in the header, the chain over what it says."""

    def change(raw: Raw) -> Raw:
        size = _length(chance)
        action = chance.randrange(4)
        if action == 0:
            return replace(raw, expanded=size)
        if action == 1:
            return replace(raw, says=size)
        if action == 2:
            return replace(raw, stored=raw.stored[: chance.randrange(len(raw.stored) + 1)])
        return replace(raw, stored=raw.stored + chance.randbytes(chance.choice([1, 48, 300])))

    return _change_one(journal, chance, change)


def chained_json_length(journal: Journal, chance: random.Random) -> Damaged:
    """The length of the JSON within the payload, or no payload at all."""

    def change(raw: Raw) -> Raw:
        head, data = content(raw)
        if chance.random() < 0.2:
            short = bytes(chance.randrange(5))
            return Raw(raw.kind, short, len(short))
        length = chance.choice(
            [_length(chance), len(head) + chance.choice([-1, 1, len(data), len(data) + 1])]
        )
        return frame(raw.kind, head, data, raw.codec, max(0, length))

    return _change_one(journal, chance, change)


def chained_data(journal: Journal, chance: random.Random) -> Damaged:
    """Data that its entries do not add up to, or other data."""

    def change(raw: Raw) -> Raw:
        head, data = content(raw)
        data = chance.choice(
            [data[:-1], data + b"\0", b"", data * 2, data[1:] + data[:1], chance.randbytes(100)]
        )
        return with_content(raw, head, data)

    return _change_one(journal, chance, change)


def chained_bits(journal: Journal, chance: random.Random) -> Damaged:
    """Flips in a stored payload, so that the codec or the JSON meets them."""

    def change(raw: Raw) -> Raw:
        if not raw.stored:
            return raw
        data = bytearray(raw.stored)
        for _ in range(chance.choice([1, 1, 3])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return replace(raw, stored=bytes(data))

    return _change_one(journal, chance, change)


@cache
def _bombs() -> tuple[tuple[int, bytes], ...]:
    zeros = (1, zlib_bomb(64 * MIB)), (2, zstd_bomb(256 * MIB))
    windows = [(2, zstd_window(log)) for log in (10, 22, 23, 24, 27, 31, 41)]
    dictionary = zlib.compressobj(zdict=b"runs")
    asking = dictionary.compress(b"runs") + dictionary.flush()
    return (*zeros, *windows, (1, asking), (2, b"\x50\x2a\x4d\x18\4\0\0\0abcd"), (2, b""), (1, b""))


def chained_bomb(journal: Journal, chance: random.Random) -> Damaged:
    codec, stored = chance.choice(_bombs())
    size = chance.choice([0, 4, 1000, 8 * MIB, 8 * MIB + 1, 64 * MIB, 256 * MIB])
    return _change_one(journal, chance, lambda raw: Raw(raw.kind, stored, size, codec))


def chained_streams(journal: Journal, chance: random.Random) -> Damaged:
    """More than one stream, a stream without its end, something behind it."""

    def change(raw: Raw) -> Raw:
        stored = chance.choice([raw.stored * 2, raw.stored + b"\0", raw.stored[:-1], raw.stored[:-5]])
        return replace(raw, stored=stored)

    return _change_one(journal, chance, change)


# -- JSON --------------------------------------------------------------------------------------

PATHS = [
    "/etc/passwd",
    "..",
    "../../x",
    "a/../../x",
    "",
    ".",
    "media",
    "media/../meta.json",
    "media/./a",
    "media//a",
    "media/a/",
    "media/.hidden",
    "media/x.tmp",
    "media/a\\b",
    "media/a\x00b",
    "media/a\nb",
    "media/\x1b[2J",
    "media/\ud800",
    "media/" + "x" * 256,
    "media/" + "d/" * 33 + "x",
    "meta.json/x",
    ".ssh/authorized_keys",
    ".bashrc",
    "runs/../x",
    "runs/.x/r",
    "p/n/runs/r",
    "events.jsonl",
    "C:/x",
    "\U0001f600" * 1100,
]
NUMBERS: list[Any] = [
    -1,
    0,
    1,
    -0.0,
    0.5,
    1e300,
    -1e300,
    2**31,
    2**53 - 1,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**400,
    -(2**63),
    4 * MIB + 1,
]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [{}], [None], {"": None}, "x", "0" * 64, "A" * 64]
TOKENS = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000, b"-" + b"9" * 5000, b'"\\ud800"', b"\xff"]
TOKENS += [b'"\xed\xa0\x80"', b"[" * 100_000, b'{"a":' * 50_000, b"01", b"1.", b"'x'", b"", b"[]" * 9]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container of a JSON value with each of its keys."""
    keys: Any = (
        value.keys() if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    )
    for key in keys:
        yield value, key
        yield from places(value[key])


def _mutated_value(value: Any, chance: random.Random) -> Any:
    action = chance.randrange(6)
    if action == 0 and type(value) is int:
        return value + chance.choice([-1, 1, 2**40, -value - 1])
    if action == 1 and isinstance(value, str):
        return chance.choice(
            [value + "\n", value[:-1], value.upper(), value * 50, "../" + value, "/" + value]
        )
    if action == 2 and isinstance(value, list):
        return value * chance.choice([0, 2, 3])
    return copy.deepcopy(chance.choice(chance.choice([PATHS, NUMBERS, OTHERS])))


def mutated(head: bytes, chance: random.Random) -> bytes:
    """JSON with some of its values changed, removed, added, moved or doubled."""
    value = json.loads(head)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        found = list(places(value))
        if not found:
            return head
        holder, key = chance.choice(found)
        action = chance.randrange(8)
        if action == 0:
            del holder[key]
        elif action == 1:
            other, there = chance.choice(found)
            holder[key] = copy.deepcopy(other[there])
        elif action == 2 and isinstance(holder, dict):
            name = chance.choice(["data", "from", "digest", "removed", "later", "sha256"])
            holder[name] = copy.deepcopy(chance.choice(NUMBERS + OTHERS))
        else:
            holder[key] = _mutated_value(holder[key], chance)
    text = json.dumps(value).encode()
    return _mutated_text(text, chance) if chance.random() < 0.25 else text


def _mutated_text(text: bytes, chance: random.Random) -> bytes:
    """What `json` would not write: tokens that are none, a field twice, other encodings, something behind."""
    action = chance.randrange(4)
    if action == 0:
        colon = chance.choice([at for at, byte in enumerate(text) if byte == ord(":")] or [0])
        end = min(
            (at for at in (text.find(mark, colon) for mark in (b",", b"}")) if at > 0), default=len(text)
        )
        return text[: colon + 1] + chance.choice(TOKENS) + text[end:]
    if action == 1:
        return text[:1] + chance.choice([text[1:-1] + b", ", b'"runs": [], ', b'"epoch": 1, ']) + text[1:]
    if action == 2:
        return text.decode().encode(chance.choice(["utf-16", "utf-32-be", "utf-8-sig", "utf-16-le"]))
    return chance.choice([text + b"{}", b" " + text + b"\n", text[:-1], b"[" + text + b"]", b"null", b""])


def chained_json(journal: Journal, chance: random.Random) -> Damaged:
    return _change_one(
        journal, chance, lambda raw: with_content(raw, mutated(content(raw)[0], chance), content(raw)[1])
    )


def chained_json_everywhere(journal: Journal, chance: random.Random) -> Damaged:
    def change(frames: list[Raw]) -> list[Raw]:
        return [
            raw
            if chance.random() < 0.5
            else with_content(raw, mutated(content(raw)[0], chance), content(raw)[1])
            for raw in frames
        ]

    return _write(journal, _pick(journal, chance), change)


# -- HEAD --------------------------------------------------------------------------------------


def head_flips(journal: Journal, chance: random.Random) -> Damaged:
    data = bytearray(journal.head)
    for _ in range(chance.choice([1, 1, 4])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return journal.epochs, bytes(data)


def head_cut(journal: Journal, chance: random.Random) -> Damaged:
    data = journal.head[: chance.randrange(len(journal.head))]
    return journal.epochs, data + chance.choice([b"", bytes(10), journal.head, b"x" * 70_000])


def head_json(journal: Journal, chance: random.Random) -> Damaged:
    """HEAD with other fields and a checksum that fits."""
    return journal.epochs, checksummed(mutated(journal.head.partition(b"\n")[0], chance))


def head_places(journal: Journal, chance: random.Random) -> Damaged:
    """A HEAD that contradicts itself or the epochs, with a checksum that fits."""
    fields = journal.fields
    spots: list[tuple[dict[str, Any], str]] = [
        (fields, "length"),
        (fields, "base_length"),
        (fields["media"], "begin"),
        (fields["media"], "end"),
    ]
    if "manifest" in fields:
        spots.append((fields["manifest"], "offset"))
    action = chance.randrange(4)
    if action == 0:
        where, name = chance.choice(spots)
        where[name] = max(0, where[name] + chance.choice([-where[name], -1, 1, 48, 10**6, 2**52]))
    elif action == 1:
        where = chance.choice([fields, fields["media"], fields.get("manifest", fields)])
        where["chain"] = chance.choice([chance.randbytes(32).hex(), fields["base_chain"], "0" * 64])
    elif action == 2:
        where = chance.choice([fields, fields.get("manifest", fields)])
        where["epoch"] = chance.choice([*journal.epochs, "0" * 32, "../" * 10 + "xx", "0" * 32 + "\n"])
    else:
        where = chance.choice([fields, fields.get("manifest", fields)])
        where["revision"] = max(0, where["revision"] + chance.choice([-1, 1, -5, 2**53]))
    return journal.epochs, checksummed(fields)


ALL: tuple[Damage, ...] = (
    bit_flips,
    header_flips,
    cut,
    zero_tail,
    zero_hole,
    duplicated_range,
    lost_range,
    spliced,
    swapped_frames,
    swapped_files,
    lost_file,
    rubbish,
    forged_length,
    chained_order,
    chained_foreign_frame,
    chained_header,
    chained_lengths,
    chained_json_length,
    chained_data,
    chained_bits,
    chained_bomb,
    chained_streams,
    *[chained_json] * 6,
    *[chained_json_everywhere] * 2,
    head_flips,
    head_cut,
    *[head_json] * 3,
    head_places,
)
"""All damages; those of which there are most kinds more than once."""
