"""Work done ahead: the next result is prepared while the caller is busy with the one before it."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Ahead", "one_ahead"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ahead(Generic[_T]):
    """A result that may not be there yet."""

    _future: "Future[_T]"

    def result(self) -> tuple[_T, float]:
        """Wait for the result.

        Returns:
            The result, and the seconds spent waiting.

        Raises:
            Exception: Whatever the job raised.
        """
        began = time.monotonic()
        return self._future.result(), time.monotonic() - began


def one_ahead(jobs: Iterable[Callable[[], _T]]) -> Iterator[Ahead[_T]]:
    """Start each job while the caller still works with the one before it, in order.

    Jobs run in one background thread, one at a time, so at most two results are held: the one
    yielded last and the next. What a job raises is raised by `Ahead.result` of that job. Tokenizers
    written in Rust release Python's lock, and a GPU needs it only to be given work, so neither
    holds up the other.

    Args:
        jobs: Functions without arguments, taken one ahead of the caller.

    Yields:
        Their results, to be waited for.
    """
    stream = iter(jobs)
    current = _start(next(stream, None))
    while current is not None:
        # The next job begins once this one has ended: two at a time would hold three results.
        following = _start(next(stream, None), after=current)
        yield Ahead(current)
        current = following


def _start(job: Callable[[], _T] | None, *, after: "Future | None" = None) -> "Future[_T] | None":
    if job is None:
        return None
    future: Future[_T] = Future()

    def work() -> None:
        if after is not None:
            after.exception()
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)

    # A daemon: a caller that fails is not held up by a download it no longer needs.
    threading.Thread(target=work, daemon=True, name="prefetch").start()
    return future
