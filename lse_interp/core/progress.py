"""How far a long piece of work has come: a bar in a terminal, and elsewhere a line now and then.

Where the output is no terminal, the work says at its start how much of it there is. After its first
tenth it says how long the rest will take, and then so again every 30 seconds:

    ablation: 21 languages
    ablation: 3 of 21 languages, about 4 min left
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

from tqdm.auto import tqdm

__all__ = ["Progress", "progress"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_EVERY = 30.0
"""Seconds between two lines."""
_DELAY = 1.0
"""Seconds before a bar appears."""
_FIRST = 0.1
"""Share of the work after which the rest is estimated."""


class Progress:
    """One piece of work, inside a `with` block.

    Args:
        what: The work in words, as in "ablation".
        total: How much of it there is; None if that is unknown.
        unit: What is counted, in the singular.
        shown: Whether anything is shown.
        announced: Whether a line is written at the start, too.
        clock: Returns seconds.
    """

    def __init__(
        self,
        what: str,
        *,
        total: int | None,
        unit: str,
        shown: bool = True,
        announced: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._clock, self._began = clock, clock()
        self._told, self._is_estimated = self._began, False
        self._done = self._worked = 0.0
        self._shown = shown and total != 0
        self._bar: Any = None
        if self._shown and sys.stderr.isatty():
            form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}" if total else None
            self._bar = tqdm(total=total, desc=what, leave=False, delay=_DELAY, bar_format=form)
        elif self._shown and announced:
            amount = "" if total is None else f": {self._amount(total)}"
            logger.info("%s%s", what, amount)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __str__(self) -> str:
        # A sum of shares may miss a whole number by rounding.
        done, left = math.floor(self._done + 1e-6), self.seconds_left
        if self._total is None:
            return f"{self._what}: {self._amount(done)}"
        rest = "" if left is None else f", about {_duration(left)} left"
        return f"{self._what}: {done:,} of {self._amount(self._total)}{rest}"

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the speed so far; None before the first tenth is done."""
        if self._total is None:
            return None
        to_do = self._total - (self._done - self._worked)
        if not self._worked or self._worked < _FIRST * to_do:
            return None
        return (self._clock() - self._began) / self._worked * max(0.0, self._total - self._done)

    def advance(self, n: int | float = 1, *, worked: bool = True) -> None:
        """Count so many units as done.

        Args:
            n: How many; parts of one, too.
            worked: Whether they took time; False for what was finished before.
        """
        self._done += n
        self._worked += n if worked else 0
        if self._bar is not None:
            self._bar.initial += 0 if worked else n
            self._bar.set_description_str(str(self).partition(", about")[0], refresh=False)
            self._bar.update(n)
        elif self._shown and (self._total is None or self._done < self._total):
            self._tell()

    def _tell(self) -> None:
        now, left = self._clock(), self.seconds_left
        is_first = left is not None and left >= _EVERY and not self._is_estimated
        if is_first or now - self._told >= _EVERY:
            self._told, self._is_estimated = now, left is not None
            logger.info("%s", str(self))

    def _amount(self, n: int) -> str:
        return f"{n:,} {self._unit}{'' if n == 1 else 's'}"


def progress(
    items: Iterable[_T],
    what: str,
    *,
    unit: str,
    total: int | None = None,
    shown: bool = True,
    announced: bool = True,
) -> Iterator[_T]:
    """Give items one by one, and show how many are done; see `Progress`.

    Args:
        items: The work.
        what: The work in words.
        unit: What an item is, in the singular.
        total: How many there are; by default their length, if they have one.
        shown: Whether anything is shown.
        announced: Whether a line is written at the start, too.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(what, total=total, unit=unit, shown=shown, announced=announced) as bar:
        for item in items:
            yield item
            bar.advance()


def _duration(seconds: float) -> str:
    """Write a time as people say it.

    >>> _duration(42.4), _duration(240.0), _duration(9000.0)
    ('42 s', '4 min', '2.5 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
