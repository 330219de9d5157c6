"""A way to run cells that has their results already, for tests of what an analysis makes of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _frame import Cells


@dataclass(frozen=True)
class Answered(Cells):
    """Gives what a function says of a cell function and the specs of its cells."""

    folder: Path = Path()
    answer: Callable[[Any, list[Any]], list[Any]] = lambda cell, specs: []

    def __call__(self, cell: Any, specs: Any) -> list[Any]:
        return self.answer(cell, list(specs))
