"""Working ahead of a consumer: an iterator that runs in a thread, a few items in front."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from types import TracebackType
from typing import Generic, TypeVar

from runicorn.errors import CancelledError

T = TypeVar("T")

_LOOK_SECONDS = 0.05
_LEAVE_SECONDS = 60.0


class Ahead(Generic[T]):
    """Iterates over what a generator gives, which runs in a thread. A context manager and an iterator.

    Args:
        make: gives the generator; it ends soon with any exception when the event it is given is set.
        depth: how many items may wait.
        cancel: when it is set, the iteration ends with CancelledError.
    """

    def __init__(
        self,
        make: Callable[[threading.Event], Generator[T, None, None]],
        depth: int,
        cancel: threading.Event,
    ) -> None:
        self._make = make
        self._cancel = cancel
        self._stop = threading.Event()
        self._items: queue.Queue[T | BaseException | None] = queue.Queue(depth)
        self._thread = threading.Thread(target=self._run, name="runicorn-ahead", daemon=True)

    def __enter__(self) -> Ahead[T]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_LEAVE_SECONDS)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        while True:
            if self._cancel.is_set():
                raise CancelledError("the sync was stopped")
            try:
                item = self._items.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if item is None:
                raise StopIteration
            if isinstance(item, BaseException):
                raise item
            return item

    def _run(self) -> None:
        try:
            with closing(self._make(self._stop)) as items:
                for item in items:
                    if not self._put(item):
                        return
        except BaseException as error:  # noqa: BLE001 - it is raised where the items are waited for
            self._put(error)
        else:
            self._put(None)

    def _put(self, item: T | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._items.put(item, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue
            return True
        return False
