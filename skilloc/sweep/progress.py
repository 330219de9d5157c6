"""How far a sweep is: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from tqdm import tqdm

EVERY = 30.0
"""Seconds between two lines where stderr is no terminal."""


class Progress:
    """Shows the counts of done, cached and failed cells on stderr, and the time left.

    Args:
        total: number of cells.
        counts: how many are known from the start.
        shown: whether to show anything.
    """

    def __init__(self, total: int, counts: Mapping[str, int], *, shown: bool) -> None:
        self.total, self.counts, self.shown = total, counts, shown
        self.known = sum(counts.values())
        self.began = self.last = time.monotonic()
        terminal = shown and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=self.known, unit="cell", file=sys.stderr) if terminal else None
        if self.bar is not None:
            self.bar.set_postfix_str(self._words())
        elif shown:
            self._line()

    def __enter__(self) -> "Progress":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the last state."""
        if self.bar is not None:
            self.bar.close()
        elif self.shown:
            self._line()

    def show(self, counts: Mapping[str, int]) -> None:
        """Show these counts now, or when the next line is due."""
        self.counts = counts
        if self.bar is not None:
            self.bar.set_postfix_str(self._words(), refresh=False)
            self.bar.update(sum(counts.values()) - self.bar.n)
        elif self.shown and time.monotonic() - self.last > EVERY:
            self._line()

    def _words(self) -> str:
        return ", ".join(f"{self.counts.get(word, 0)} {word}" for word in ("done", "cached", "failed"))

    def _line(self) -> None:
        self.last = time.monotonic()
        seen = sum(self.counts.values())
        run, ahead = seen - self.known, self.total - seen
        left = f", {tqdm.format_interval((self.last - self.began) / run * ahead)} left" if run and ahead else ""
        sys.stderr.write(f"sweep: {seen} of {self.total} cells: {self._words()}{left}\n")
        sys.stderr.flush()
