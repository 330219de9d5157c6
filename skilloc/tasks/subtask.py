"""What a subtask is: a named distribution of examples, with disjoint splits."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from skilloc.mistakes import WrongType, WrongValue, a_name, a_seed, whole
from skilloc.tasks.examples import Examples
from skilloc.tasks.items import Item
from skilloc.tasks.items import Split as Split


@dataclass(frozen=True)
class Subtask:
    """A named distribution of examples.

    Attributes:
        name: how results call it.
        sample: `sample(n, split, seed)` gives n examples of a split; a pure function of its arguments.
        atoms: names of the atomic subtasks that a composite needs; empty for an atomic one.
        made: what the examples come from (files, settings, hashes), for the record of results.
        items: the prompts and answers, as text, of the examples that `sample` gives; None where there are none.

    Example:
        >>> import torch
        >>> import skilloc as sk
        >>> def sample(n, split, seed):
        ...     bits = torch.rand(n, 4, generator=torch.Generator().manual_seed(seed)).round()
        ...     return sk.Examples(bits, bits.sum(1).long() % 2)
        >>> len(sk.Subtask("parity", sample).draw(5))
        5
    """

    name: str
    sample: Callable[[int, Split, int], Examples]
    atoms: tuple[str, ...] = ()
    made: Mapping[str, object] | None = None
    items: Callable[[int, Split, int], list[Item]] | None = None

    def __post_init__(self) -> None:
        a_name("name", self.name)

    def draw(self, n: int, *, split: Split = "report", seed: int = 0) -> Examples:
        """Return n examples of a split.

        Same arguments, same examples.

        Args:
            n: number of examples.
            split: which of the disjoint splits to draw from.
            seed: which draw.

        Raises:
            ValueError: if n is below 1, the split is unknown, or a finite subtask has fewer than n examples.
        """
        a_seed("seed", seed)
        whole("n", n)
        if split not in get_args(Split):
            raise WrongValue(f'unknown split "{split}"; use one of {", ".join(get_args(Split))}')
        return self.sample(n, split, seed)


def as_subtasks(subtasks: Mapping[str, Subtask] | Iterable[Subtask], called: str) -> list[Subtask]:
    """Return subtasks that were given one after the other, or by name, as a list.

    Args:
        subtasks: the subtasks.
        called: how messages call them.

    Raises:
        TypeError: if something else is among them.
    """
    found = list(subtasks.values() if isinstance(subtasks, Mapping) else subtasks)
    for one in found:
        if not isinstance(one, Subtask):
            raise WrongType(
                f"`{called}` has a {type(one).__name__}; pass subtasks, from which examples can be drawn, as "
                "parity_subtasks and subtasks_of make them"
            )
    return found
