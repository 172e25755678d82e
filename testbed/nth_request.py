"""The n-th request to an SFTP server of the testbed is answered wrong."""

# ruff: noqa: ARG002 - a fault takes what it is given

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from testbed.sftp_faults import CutError, Fault
from testbed.sftp_packets import (
    ATTRS,
    DATA,
    FAILURE,
    FSTAT,
    INIT,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    READ,
    STAT,
    Request,
    packet,
    status,
    text,
)

if TYPE_CHECKING:
    from testbed.fault_sftp import FaultServer


class NthRequest(Fault):
    """The n-th request (from 1, the greeting first) is answered wrong, or not at all.

    Args:
        nth: which; 0 for none.
        kind: one of `NTH_KINDS`.
        forever: whether all later requests are answered so, too.

    Attributes:
        seen: how many requests came.
        done: how many of them were answered wrong; a short read of what is no read is no fault.
    """

    def __init__(self, nth: int, kind: str, *, forever: bool = False) -> None:
        self.nth = nth
        self.kind = kind
        self.forever = forever
        self.seen = self.done = 0

    def _is_due(self) -> bool:
        return self.seen == self.nth or (self.forever and 0 < self.nth < self.seen)

    def answer(self, server: FaultServer, request: Request) -> bytes | None:
        """See Fault."""
        self.seen += 1
        if not self._is_due() or request.kind == INIT:
            return None
        if self.kind in NTH_CODES:
            self.done += 1
            return status(request.number, NTH_CODES[self.kind], "on purpose")
        if self.kind == "short read" and request.kind == READ and request.length > 1:
            self.done += 1
            request.length = max(1, request.length // 2)
        if self.kind == "empty read" and request.kind == READ:
            self.done += 1
            return packet(DATA, struct.pack(">I", request.number) + text(b""))
        return None

    def reply(self, request: Request, packets: list[bytes]) -> list[bytes]:
        """See Fault."""
        if not self._is_due():
            return packets
        if self.kind == "cut":
            self.done += 1
            raise CutError
        if self.kind == "stall":
            self.done += 1
            return []
        if self.kind == "cut within":
            self.done += 1
            self.ended = True
            return [b"".join(packets)[: len(packets[0]) // 2]]
        change = _NTH_REPLIES.get(self.kind) if request.kind != INIT else None
        if change is None:
            return packets
        self.done += 1
        return change(request, packets)


NTH_CODES = {"failure": FAILURE, "denied": PERMISSION_DENIED, "missing": NO_SUCH_FILE, "lost": 7}
"""Status errors: failure, permission denied, no such file, connection lost."""

_NTH_REPLIES: dict[str, Callable[[Request, list[bytes]], list[bytes]]] = {
    "twice": lambda _, packets: packets * 2,
    "wrong id": lambda request, packets: [
        one[:5] + struct.pack(">I", request.number + 77_777) + one[9:] for one in packets
    ],
    "wrong type": lambda request, _: [
        packet(DATA if request.kind in (STAT, FSTAT) else ATTRS, struct.pack(">II", request.number, 0))
    ],
}

NTH_KINDS = (*NTH_CODES, "short read", "empty read", "cut", "cut within", "stall", *_NTH_REPLIES)
