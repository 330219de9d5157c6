"""How far long work is: a bar on a terminal; in a log a line every half minute with what is done and what is left."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, TypeVar, cast

from tqdm import tqdm

EVERY = 30.0
"""Seconds between two lines where stderr is no terminal."""

T = TypeVar("T")


class Counter(Protocol):
    """What counts finished items."""

    def update(self, count: int | float = 1) -> object:
        """Add some."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> object:
        """Say in words what there is beside how much is done, such as how many failed."""


def progress(
    items: Iterable[T], what: str, *, total: int | None = None, initial: int = 0, shown: bool = True
) -> Iterator[T]:
    """Yield the items, and show how far they are.

    Args:
        items: the work.
        what: is done, such as "ablating".
        total: number of items, with those before; their length if not given.
        initial: number of items that were done before.
        shown: whether to show anything.
    """
    whole = initial + len(cast(Sized, items)) if total is None else total
    with counter(whole, what, initial=initial, shown=shown) as bar:
        for item in items:
            yield item
            bar.update()


def counter(
    total: int | float, what: str, *, initial: int | float = 0, shown: bool = True
) -> AbstractContextManager[Counter]:
    """Give a counter of finished items, for work that is no loop."""
    if shown and not sys.stderr.isatty():
        return Lines(total, what, initial=initial)
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}"
    return tqdm(total=total, desc=what, initial=initial, disable=not shown, file=sys.stderr, bar_format=form)


def said(text: str) -> None:
    """Write a line to stderr, above whatever bar there is."""
    tqdm.write(text, file=sys.stderr)


class Lines:
    """Counts, and writes a line to stderr every half minute; work that is done sooner leaves none.

    Args:
        total: number of items.
        what: is done.
        initial: number of items that were done before.
    """

    def __init__(self, total: int | float, what: str, *, initial: int | float = 0) -> None:
        self.total, self.what, self.initial, self.done = total, what, initial, initial
        self.words = ""
        self.began = self.last = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.last > self.began:  # there were lines, so that the reader waits for the end
            self._line()

    def update(self, count: int | float = 1) -> None:
        """Add some finished items."""
        self.done += count
        if time.monotonic() - self.last >= EVERY:
            self._line()

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Say this at the end of the lines that come."""
        self.words = f" ({s})" if s else ""

    def _line(self) -> None:
        self.last = time.monotonic()
        spent, run = self.last - self.began, self.done - self.initial
        left = f", {duration(spent / run * (self.total - self.done))} left" if run and self.done < self.total else ""
        sys.stderr.write(
            f"{self.what}: {self.done / (self.total or 1):.0%} done, {duration(spent)} so far{left}{self.words}\n"
        )
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Return a time in words: 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
