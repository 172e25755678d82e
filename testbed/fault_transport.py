"""A transport that fails on purpose."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence

from runicorn.errors import RequestError, TransportError
from runicorn.remote_storage.transport.base import Answer, Job, Operation, Traffic, Transport


class FaultTransport:
    """Passes everything on to ``inner``, but the ``nth`` operation (from 1) fails with ``error``.

    A `RequestError` is the operation's answer; any other `TransportError` ends the run and the connection.
    """

    def __init__(self, inner: Transport, nth: int, error: TransportError) -> None:
        self._inner = inner
        self._nth = nth
        self._error = error
        self.operations = 0
        """Operations asked for so far."""

    @property
    def traffic(self) -> Traffic:
        """What the inner transport has done."""
        return self._inner.traffic

    def run(self, jobs: Iterable[Job]) -> None:
        """See `Transport.run`. Raises ``error`` at the nth operation, if it is not a RequestError."""
        try:
            self._inner.run(self._watch(jobs))
        except TransportError as error:
            if error is self._error:
                self._inner.close()
            raise

    def open_more(self, count: int) -> list[Transport]:
        """See `Transport.open_more`; the further connections have no fault."""
        return self._inner.open_more(count)

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()

    def _watch(self, jobs: Iterable[Job]) -> Iterator[Job]:
        return (self._relay(job) for job in jobs)

    def _relay(self, job: Job) -> Generator[Sequence[Operation], Sequence[Answer], None]:
        try:
            batch = next(job)
            while True:
                refused = self._refused(batch)
                kept = [operation for index, operation in enumerate(batch) if index != refused]
                answers = list((yield kept)) if kept or refused is None else []
                if refused is not None and isinstance(self._error, RequestError):
                    answers.insert(refused, self._error)
                batch = job.send(answers)
        except StopIteration:
            return
        finally:
            job.close()

    def _refused(self, batch: Sequence[Operation]) -> int | None:
        first = self.operations + 1
        self.operations += len(batch)
        if not first <= self._nth <= self.operations:
            return None
        if not isinstance(self._error, RequestError):
            raise self._error
        return self._nth - first
