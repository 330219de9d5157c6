"""What a subtask is, and what one draws from it.

A subtask is a distribution of examples with a loss. The loss is the same everywhere: the mean cross-entropy, in nats,
of the scored targets of one example. A language example is a sequence with a target at each position; a
classification example has a single target. Losses stay per example, so that every later number has an error bar.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORE = -100
"""A target with this value is not scored."""

Split = Literal["train", "selection", "report"]
"""Train on `train`, choose on `selection`, state numbers on `report`."""


@dataclass(frozen=True)
class Batch:
    """Examples with their targets.

    For language, `inputs` are token ids and `targets[e, t]` is the token that follows `inputs[e, t]`; for
    classification, `inputs` are floats and `targets[e]` is a class. A target of `IGNORE` is not scored.

    Raises:
        ValueError: if the shapes do not belong together, there are no examples, or an example has no scored target.
    """

    inputs: Int[Tensor, "example pos"] | Float[Tensor, "example d_in"]
    targets: Int[Tensor, "example *pos"]

    def __post_init__(self) -> None:
        n = len(self.inputs)
        if n == 0 or len(self.targets) != n:
            raise ValueError(
                f"`targets` has {len(self.targets)} examples but `inputs` has {n}; pass one row of targets per "
                "example, and at least one example"
            )
        if not self.inputs.is_floating_point() and self.targets.shape != self.inputs.shape:
            raise ValueError(
                f"`targets` has shape {tuple(self.targets.shape)} but token `inputs` have {tuple(self.inputs.shape)}; "
                "pass the next token of every position, and IGNORE where none is scored"
            )
        scored = (self.targets.reshape(n, -1) != IGNORE).any(dim=1)
        if not bool(scored.all()):
            raise ValueError(
                f"`targets` scores nothing in example {int((~scored).nonzero()[0])}; give each example at least one "
                "target, or leave it out"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def tokens(self) -> int:
        """Number of scored targets: tokens for language, examples for classification."""
        return int((self.targets != IGNORE).sum())

    @property
    def digest(self) -> str:
        """Hash of the exact examples; every result carries it."""
        state = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            array = tensor.detach().cpu().contiguous().numpy()
            state.update(f"{array.dtype.str}{array.shape}".encode())
            state.update(array.tobytes())
        return state.hexdigest()[:16]

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same examples on `device`."""
        return Batch(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Subtask:
    """A named distribution of examples.

    Attributes:
        name: how results call it.
        sample: `sample(n, split, seed)` gives n examples of a split; a pure function of its arguments.
        atoms: names of the atomic subtasks that a composite needs; empty for an atomic one.
        made: what the examples come from (files, settings, hashes), for the record of results.
    """

    name: str
    sample: Callable[[int, Split, int], Batch]
    atoms: tuple[str, ...] = ()
    made: Mapping[str, object] | None = None

    def draw(self, n: int, *, split: Split = "report", seed: int = 0) -> Batch:
        """Return n examples of a split.

        Same arguments, same examples.

        Args:
            n: number of examples.
            split: which of the disjoint splits to draw from.
            seed: which draw.

        Raises:
            ValueError: if n is below 1, the split is unknown, or a finite subtask has fewer than n examples.
        """
        if n < 1:
            raise ValueError(f"`n` is {n}; draw at least 1 example")
        if split not in get_args(Split):
            raise ValueError(f'unknown split "{split}"; use one of {", ".join(get_args(Split))}')
        return self.sample(n, split, seed)
