"""What the ways of `routes` are checked on: a small piece of the examples, on which the model itself was run."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor

from skilloc.experiment import Experiment
from skilloc.experiment.axes import by_unit
from skilloc.models.face import Edit
from skilloc.tasks import Inputs
from skilloc.units import Bank

CHECK_TOKENS = 256
"""Tokens of a piece: at least two of each example, or, of padded ones, at least two whole rows."""


@dataclass(frozen=True)
class Piece:
    """Some tokens.

    Attributes:
        inputs: the first tokens of every row; of padded rows, which may begin with nothing, some whole ones.
        rows: which rows these are.
        length: positions of each.
        base: the untouched model's logits.
        strongest: by bank, the unit that is most active, which shows a wrong way best.
    """

    inputs: Inputs
    rows: slice
    length: int
    base: Tensor
    strongest: dict[str, int]

    def of(self, residual: Tensor) -> Tensor:
        """Return the part of a residual stream."""
        return residual[self.rows, : self.length]


def seen_piece(experiment: Experiment) -> Piece:
    """Run the untouched model on a piece of an experiment's examples: once for all banks."""
    examples = experiment.folded.examples
    count = len(examples.first)
    length, step = max(2, CHECK_TOKENS // count), 1
    if examples.mask is not None:
        length = examples.positions
        step = max(1, count // max(2, CHECK_TOKENS // length))
    rows = slice(0, count, step)
    inputs = first_tokens(_of_rows(examples.inputs, rows), length)
    strongest: dict[str, int] = {}
    with ExitStack() as stack:  # several banks may lie on one hook
        for hook, see in _sight(experiment.units.banks, strongest):
            stack.enter_context(experiment.face.attached({hook: see}))
        base = experiment.face.run(inputs)
    return Piece(inputs, rows, length, base, strongest)


def _sight(banks: tuple[Bank, ...], strongest: dict[str, int]) -> Iterator[tuple[str, Edit]]:
    for bank in banks:

        def see(value: Tensor, bank: Bank = bank) -> Tensor:
            size = by_unit(value, bank).abs().amax(dim=-1).flatten(0, -2).amax(dim=0)
            strongest[bank.name] = int(size.argmax())
            return value

        yield bank.writes[0], see


def first_tokens(inputs: Inputs, tokens: int) -> Inputs:
    """Return the first tokens of every row."""
    if isinstance(inputs, Tensor):
        return inputs[:, :tokens]
    return {name: value[:, :tokens] for name, value in inputs.items()}


def _of_rows(inputs: Inputs, rows: slice) -> Inputs:
    return inputs[rows] if isinstance(inputs, Tensor) else {name: value[rows] for name, value in inputs.items()}
