"""Codecs: the same bytes back, bombs cut off, streams that are not what they say."""

from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runicorn.errors import DamagedError, UnsupportedVersionError
from runicorn.journal import codecs
from runicorn.journal.codecs import Codec, best_codec, compress, expand
from tests.journal.forge import MIB, pack, zlib_bomb, zstd, zstd_bomb, zstd_window

TEXT = b"some text that repeats, " * 50
PACKED = {codec: pack(TEXT, codec) for codec in (0, 1, 2)}
SIZE = "^a frame of the journal expands to another size than it says$"
EXPAND = "^a frame of the journal does not expand$"
END = "^a frame of the journal does not end where it says$"
BOTH = pytest.mark.parametrize("codec", [1, 2])


@pytest.fixture
def without_zstd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    codecs._zstd.cache_clear()
    for name in ("compression", "compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    yield
    monkeypatch.undo()
    codecs._zstd.cache_clear()


def test_numbers_of_the_format() -> None:
    assert {codec.name: codec.value for codec in Codec} == {"NONE": 0, "ZLIB": 1, "ZSTD": 2}
    assert best_codec() is Codec.ZSTD


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000) | st.binary(max_size=10).map(lambda part: part * 500), st.sampled_from(Codec))
def test_round_trip(payload: bytes, codec: Codec) -> None:
    used, stored = compress(payload, codec)
    assert used in (codec, Codec.NONE)
    assert len(stored) <= len(payload)
    assert expand(used, stored, len(payload)) == payload


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("size", [0, 1, 8 * MIB])
def test_round_trip_at_the_bounds(codec: Codec, size: int) -> None:
    for payload in (bytes(size), random.Random(size).randbytes(size)):
        assert expand(codec, pack(payload, codec), size) == payload
        used, stored = compress(payload, codec)
        assert expand(used, stored, size) == payload


@pytest.mark.parametrize("codec", [*Codec, None])
def test_what_does_not_get_smaller_lies_as_it_is(codec: Codec | None) -> None:
    payload = random.Random(1).randbytes(1000)
    assert compress(payload, codec) == (Codec.NONE, payload)
    assert compress(b"", codec) == (Codec.NONE, b"")


def test_what_is_written_is_one_stream_that_others_read() -> None:
    used, stored = compress(TEXT, Codec.ZLIB)
    assert (used, zlib.decompress(stored)) == (Codec.ZLIB, TEXT)
    used, stored = compress(TEXT)
    assert (used, zstd().decompress(stored)) == (Codec.ZSTD, TEXT)
    assert zstd().get_frame_info(stored).decompressed_size == len(TEXT)
    assert zstd().get_frame_size(stored) == len(stored)


def test_how_hard_a_payload_is_compressed() -> None:
    log = b"".join(b'{"step": %d, "loss": %.6f}\n' % (at, 1 / (at + 1)) for at in range(4000))
    assert len(log) > 64 * 1024
    assert compress(log, Codec.ZLIB) == (Codec.ZLIB, zlib.compress(log, 6))
    used, stored = compress(log, Codec.ZSTD)
    assert used is Codec.ZSTD
    assert len(stored) < len(zstd().compress(log))


@BOTH
def test_large_payload_that_gains_less_than_three_per_cent_lies_as_it_is(codec: int) -> None:
    payload = random.Random(1).randbytes(64 * 1024) + bytes(1000)
    assert compress(payload, Codec(codec)) == (Codec.NONE, payload)
    assert compress(payload + bytes(2000), Codec(codec))[0] == codec
    assert compress(payload[-60_000:], Codec(codec))[0] == codec  # too small to be tried before


@pytest.mark.usefixtures("without_zstd")
def test_without_zstd_zlib_is_written_and_zstd_refused() -> None:
    assert best_codec() is Codec.ZLIB
    used, stored = compress(TEXT)
    assert (used, expand(used, stored, len(TEXT))) == (Codec.ZLIB, TEXT)
    with pytest.raises(UnsupportedVersionError) as refused:
        expand(2, PACKED[2], len(TEXT))
    assert str(refused.value) == "the journal is compressed with zstd, which this Python lacks"
    assert refused.value.hint == "pip install backports.zstd"


@pytest.mark.parametrize("codec", [3, 7, 255, -1])
def test_an_unknown_codec(codec: int) -> None:
    with pytest.raises(
        UnsupportedVersionError, match=f"^a frame of the journal has the unknown codec {codec}$"
    ):
        expand(codec, TEXT, len(TEXT))


@pytest.mark.parametrize("codec", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 1, len(TEXT) - 1, len(TEXT) + 1, 8 * MIB])
def test_another_size_than_said(codec: int, size: int) -> None:
    with pytest.raises(DamagedError, match=SIZE if codec == 0 or size >= len(TEXT) - 1 else END):
        expand(codec, PACKED[codec], size)


@BOTH
def test_cut_anywhere(codec: int) -> None:
    for cut in range(len(PACKED[codec])):
        with pytest.raises(DamagedError):
            expand(codec, PACKED[codec][:cut], len(TEXT))


@BOTH
@pytest.mark.parametrize("rest", [b"\0", b"x" * 100, None], ids=["zero", "rubbish", "another stream"])
def test_something_behind_the_stream(codec: int, rest: bytes | None) -> None:
    with pytest.raises(DamagedError, match=END):
        expand(codec, PACKED[codec] + (PACKED[codec] if rest is None else rest), len(TEXT))


@BOTH
def test_two_streams_that_add_up_are_not_one(codec: int) -> None:
    half = len(TEXT) // 2
    with pytest.raises(DamagedError, match=END):
        expand(codec, pack(TEXT[:half], codec) + pack(TEXT[half:], codec), len(TEXT))


@BOTH
def test_a_stream_that_gives_everything_and_has_no_end(codec: int) -> None:
    packer = zlib.compressobj() if codec == 1 else zstd().ZstdCompressor()
    flush = zlib.Z_SYNC_FLUSH if codec == 1 else zstd().ZstdCompressor.FLUSH_BLOCK
    with pytest.raises(DamagedError, match=END):
        expand(codec, packer.compress(TEXT) + packer.flush(flush), len(TEXT))


@BOTH
def test_what_is_no_stream(codec: int) -> None:
    for stored in (b"", b"rubbish", bytes(100), PACKED[3 - codec], b"\x1f\x8b\x08" + bytes(20)):
        with pytest.raises(DamagedError, match=f"{EXPAND}|{END}"):
            expand(codec, stored, len(TEXT))
    with pytest.raises(DamagedError, match=EXPAND):
        expand(codec, b"rubbish", len(TEXT))


def test_other_forms_of_deflate_are_no_stream() -> None:
    for bits in (-15, 31):
        packer = zlib.compressobj(6, zlib.DEFLATED, bits)
        with pytest.raises(DamagedError):
            expand(1, packer.compress(TEXT) + packer.flush(), len(TEXT))
    packer = zlib.compressobj(zdict=TEXT)
    with pytest.raises(DamagedError):
        expand(1, packer.compress(TEXT) + packer.flush(), len(TEXT))


def test_frames_of_zstd_that_hold_nothing() -> None:
    skippable = b"\x50\x2a\x4d\x18\4\0\0\0abcd"
    for stored in (skippable, skippable + PACKED[2], PACKED[2] + skippable):
        with pytest.raises(DamagedError):
            expand(2, stored, len(TEXT))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([1, 2]), st.binary(max_size=100))
def test_rubbish_is_refused(codec: int, stored: bytes) -> None:
    with pytest.raises(DamagedError):
        expand(codec, stored, 4096)


# -- bombs -------------------------------------------------------------------------------------

BOMBS = {1: zlib_bomb(256 * MIB), 2: zstd_bomb(1024 * MIB)}


@BOTH
@pytest.mark.parametrize("size", [0, 4, 1000, 8 * MIB])
def test_a_bomb_is_cut_at_what_its_header_says(codec: int, size: int) -> None:
    assert len(BOMBS[codec]) < MIB
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            expand(codec, BOMBS[codec], size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * size + 2 * MIB


def test_windows_of_zstd_up_to_8_mib_are_granted() -> None:
    for log in (10, 20, 23):
        assert expand(2, zstd_window(log), 4) == b"\0\0\0\2"
    for log in (24, 25, 27, 30, 31, 41):
        with pytest.raises(DamagedError, match="does not expand"):
            expand(2, zstd_window(log), 4)


RESIDENT = """
import resource
import sys

from runicorn.errors import DamagedError
from runicorn.journal.codecs import expand

stored = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(10):
    try:
        expand(int(sys.argv[1]), stored, 8 * 1024**2)
    except DamagedError:
        continue
    raise AssertionError("it was read")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def wide_bomb() -> bytes:
    """40 MiB of zeros with a window of 128 MiB."""
    names = zstd().CompressionParameter
    packer = zstd().ZstdCompressor(options={names.window_log: 27, names.content_size_flag: 0})
    return bytes(packer.compress(bytes(40 * MIB)) + packer.flush())


@pytest.mark.parametrize("bomb", ["zlib", "zstd", "window"])
def test_bombs_take_little_memory_of_the_process(bomb: str) -> None:
    """The window of zstd is no memory of Python's: only the process can tell."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path[:0] = {sys.path!r}\n{RESIDENT}",
            str(1 + (bomb != "zlib")),
        ],
        input=wide_bomb() if bomb == "window" else BOMBS[1 if bomb == "zlib" else 2],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) < 48 * 1024, "KiB"
