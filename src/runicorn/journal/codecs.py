"""Codecs of a frame's payload: none, zlib, and zstd where this Python has it. Pure."""

from __future__ import annotations

import functools
import importlib
import zlib
from enum import IntEnum
from typing import Any

from runicorn.errors import DamagedError, UnsupportedVersionError

_ZLIB_LEVEL = 6
_SMALL = 64 * 1024
_GAIN = 0.97
_ZSTD_WINDOW_LOG = 23
"""Binary logarithm of the window that a reader grants to zstd, bytes: no payload is larger."""


class Codec(IntEnum):
    """How a payload lies in a frame."""

    NONE = 0
    ZLIB = 1
    ZSTD = 2


@functools.cache
def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


@functools.cache
def _zstd_options() -> Any:
    """Optimal parsing with a short search: measured on events and logs, a quarter smaller than level 3, as
    level 17 is, at four times its speed; expanding is as fast as with any."""
    zstd = _zstd()
    parameter = zstd.CompressionParameter
    return {
        parameter.compression_level: 12,
        parameter.strategy: zstd.Strategy.btopt,
        parameter.window_log: 21,
        parameter.hash_log: 17,
        parameter.chain_log: 17,
        parameter.search_log: 1,
        parameter.min_match: 5,
        parameter.target_length: 48,
    }


def best_codec() -> Codec:
    """The codec that this Python writes."""
    return Codec.ZLIB if _zstd() is None else Codec.ZSTD


def compress(payload: bytes, codec: Codec | None = None) -> tuple[Codec, bytes]:
    """A payload as it is stored: in the given or the best codec, or as it is when that is not smaller."""
    codec = best_codec() if codec is None else codec
    if codec is Codec.NONE or not _is_worth_it(payload, codec):
        return Codec.NONE, payload
    if codec is Codec.ZLIB:
        stored = zlib.compress(payload, _ZLIB_LEVEL)
    else:
        stored = _zstd().compress(payload, options=_zstd_options())
    return (codec, stored) if len(stored) < len(payload) else (Codec.NONE, payload)


def _is_worth_it(payload: bytes, codec: Codec) -> bool:
    """Whether the fastest level gains anything: images are compressed already, and slow to find that out."""
    if len(payload) < _SMALL:
        return True
    quick = zlib.compress(payload, 1) if codec is Codec.ZLIB else _zstd().compress(payload, level=1)
    return len(quick) < _GAIN * len(payload)


def expand(codec: int, stored: bytes, size: int) -> bytes:
    """The payload of ``size`` bytes.

    Raises:
        DamagedError: it is not that; `UnsupportedVersionError` for a codec that this Python lacks.
    """
    if codec == Codec.NONE:
        payload = stored
    elif codec == Codec.ZLIB:
        payload = _inflate(stored, size)
    elif codec == Codec.ZSTD:
        payload = _expand_zstd(stored, size)
    else:
        raise UnsupportedVersionError(f"a frame of the journal has the unknown codec {codec}")
    if len(payload) != size:
        raise DamagedError("a frame of the journal expands to another size than it says")
    return payload


def _inflate(stored: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        payload = unpacker.decompress(stored, size + 1)
    except zlib.error as error:
        raise DamagedError("a frame of the journal does not expand") from error
    if not unpacker.eof or unpacker.unused_data:
        raise DamagedError("a frame of the journal does not end where it says")
    return payload


def _expand_zstd(stored: bytes, size: int) -> bytes:
    zstd = _zstd()
    if zstd is None:
        raise UnsupportedVersionError(
            "the journal is compressed with zstd, which this Python lacks", hint="pip install backports.zstd"
        )
    unpacker = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})
    try:
        payload: bytes = unpacker.decompress(stored, max_length=size + 1)
    except zstd.ZstdError as error:
        raise DamagedError("a frame of the journal does not expand") from error
    if not unpacker.eof or unpacker.unused_data:
        raise DamagedError("a frame of the journal does not end where it says")
    return payload
