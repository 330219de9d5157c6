"""Folds: the disjoint parts of the examples, over which every later number gets its error bar."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64

from skilloc.mistakes import WrongValue
from skilloc.tasks.examples import Examples
from skilloc.tasks.joining import joined


@dataclass(frozen=True)
class Folded:
    """The examples of several subtasks as one, and where each fold lies in it.

    Attributes:
        examples: of all subtasks, one after the other; shorter sequences are padded on the right, where a causal
            model's earlier positions cannot see it.
        subtasks: names on the subtask axis.
        parts: the examples of each fold of each subtask, first by fold and then by subtask.
        digests: the hash of each subtask's own examples.
    """

    examples: Examples
    subtasks: tuple[str, ...]
    parts: tuple[tuple[slice, ...], ...]
    digests: Mapping[str, str]

    @property
    def folds(self) -> int:
        """Number of folds."""
        return len(self.parts)

    def mean(self, per_example: Float[np.ndarray, "example *rest"]) -> Float64[np.ndarray, "fold subtask *rest"]:
        """Return the mean of per-example values over each fold of each subtask."""
        return np.array([[per_example[part].mean(axis=0, dtype=np.float64) for part in parts] for parts in self.parts])

    def of(self, subtask: str) -> slice:
        """Return the examples of one subtask."""
        s = self.subtasks.index(subtask)
        return slice(self.parts[0][s].start, self.parts[-1][s].stop)

    def to(self, device: torch.device | str) -> "Folded":
        """Return the same with the examples on `device`."""
        return Folded(self.examples.to(device), self.subtasks, self.parts, self.digests)


def fold(examples: Mapping[str, Examples], folds: int) -> Folded:
    """Put the examples of all subtasks together and cut each into folds of consecutive examples.

    Raises:
        ValueError: if there are none, a subtask has fewer examples than folds, or the kinds of input differ.
    """
    if not examples:
        raise WrongValue("`subtasks` is empty; pass at least one subtask with its examples")
    if folds < 1:
        raise WrongValue(f"`folds` is {folds}; use at least 1, and 3 or more for intervals")
    for name, own in examples.items():
        if len(own) < folds:
            raise WrongValue(
                f'subtask "{name}" has {len(own)} examples for {folds} folds; draw more, or use fewer folds'
            )
    parts, first = [], 0
    for own in examples.values():
        cuts = np.array_split(np.arange(first, first + len(own)), folds)
        parts.append([slice(int(part[0]), int(part[-1]) + 1) for part in cuts])
        first += len(own)
    digests = {name: own.digest for name, own in examples.items()}
    return Folded(joined(list(examples.values())), tuple(examples), tuple(zip(*parts, strict=True)), digests)


def blocks_of(examples: Examples, widest: int, most: int) -> list[slice]:
    """Cut examples into blocks that keep the widest tensor of a forward pass within `most` entries.

    Args:
        examples: all of them.
        widest: entries of the largest tensor, per position.
        most: entries that a block may have.
    """
    rows = len(examples.first)
    each = max(1, most // (examples.positions * max(1, widest)))
    if examples.owner is None:
        return [slice(start, min(start + each, rows)) for start in range(0, rows, each)]
    counts = torch.bincount(examples.owner).tolist()
    blocks, start, held = [], 0, 0
    for example, count in enumerate(counts):
        if held and held + count > each:
            blocks.append(slice(start, example))
            start, held = example, 0
        held += count
    return [*blocks, slice(start, len(counts))]
