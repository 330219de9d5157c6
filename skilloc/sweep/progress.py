"""How far a sweep is: how many cells there are of each kind, beside what every long work shows."""

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType

from skilloc.store.progress import counter


class Progress:
    """Shows the counts of done, cached and failed cells on stderr, and the time left.

    Args:
        total: number of cells.
        counts: how many are known from the start.
        shown: whether to show anything.
    """

    def __init__(self, total: int, counts: Mapping[str, int], *, shown: bool) -> None:
        self.seen, self._stack = sum(counts.values()), ExitStack()
        self._bar = self._stack.enter_context(counter(total, "sweep", initial=self.seen, shown=shown))
        self._bar.set_postfix_str(_words(counts))

    def __enter__(self) -> "Progress":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the last state."""
        self._stack.close()

    def show(self, counts: Mapping[str, int]) -> None:
        """Show these counts now, or when the next line is due."""
        self._bar.set_postfix_str(_words(counts), refresh=False)
        seen = sum(counts.values())
        self._bar.update(seen - self.seen)
        self.seen = seen


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts.get(word, 0)} {word}" for word in ("done", "cached", "failed"))
