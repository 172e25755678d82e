"""Numbers as people read them."""

from __future__ import annotations

_UNITS = ("KB", "MB", "GB", "TB")


def size_text(size: float) -> str:
    """Bytes in the unit that fits, 1024-based."""
    if size < 1024:
        return f"{int(size)} B"
    value = float(size)
    for unit in _UNITS:
        value /= 1024
        if round(value, 2) < 1024 or unit == _UNITS[-1]:
            break
    return f"{value:.2f} {unit}"


def duration_text(seconds: float) -> str:
    """Seconds, minutes or hours, with a precision that fits."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def time_text(seconds: float) -> str:
    """Seconds since the epoch as date and time of this machine's zone."""
    from datetime import datetime

    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def age_text(seconds: float) -> str:
    """How long ago something was, in one unit; never negative."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    count = max(0, int(seconds))
    return f"{count} second{'' if count == 1 else 's'}"
