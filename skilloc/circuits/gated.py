"""The loss of one subtask with a gate on every unit or edge, and its gradient with respect to the gates."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from skilloc.experiment import Experiment
from skilloc.experiment.gating import gating
from skilloc.experiment.reference import Reference
from skilloc.mistakes import WrongValue

ENTRIES = 2**20
"""Of the widest activation of a pass, up to which more examples pass together: a small one is all overhead."""

SLACK = 1e-3
"""Below the untouched model's loss on an example by less than this, in its unit, counts as above."""


@dataclass(frozen=True)
class Gated:
    """One subtask's examples in random order, and gates on the units, or on the edges between some of them.

    Attributes:
        experiment: about that subtask alone; its examples were shuffled, its held values with them.
        batch: examples that pass through the model together.
        count: number of gates.
        run: from the gates and a block of examples to the logits; differentiable in the gates.
        wanted: loss of each example that is wanted, of which it counts how far it is missed; None where less is better.
    """

    experiment: Experiment
    batch: int
    count: int
    run: Callable[[Float[Tensor, " gate"], slice], Tensor]
    wanted: Float64[Tensor, " example"] | None = None

    def __len__(self) -> int:
        return len(self.experiment.folded.examples)

    def turn(self, step: int, count: int) -> list[slice]:
        """Return the next `count` examples as slices, round and round; every turn begins where the last one ended."""
        total, found, first = len(self), [], step * count % len(self)
        left = min(count, total)
        while left:
            last = min(first + left, total)
            found.append(slice(first, last))
            left, first = left - (last - first), 0
        return found

    def slopes(
        self, gates: Float[np.ndarray, " gate"], examples: list[slice]
    ) -> tuple[float, Float64[np.ndarray, " gate"]]:
        """Return the mean loss over some examples, and its gradient with respect to the gates.

        Where losses are wanted, that of an example is wanted[e] + |loss[e] - wanted[e]|.

            slope[g] = mean over examples e of d loss[e] / d gate[g],     in the loss's unit per open gate

        Minus the slope of an open gate estimates what its unit or edge does under all other gates as they are.

        Raises:
            ValueError: if the loss has no gradient or is not finite.
        """
        own = self.experiment
        count, loss = _count(examples), 0.0
        leaf = torch.as_tensor(gates, dtype=torch.float32, device=own.device).requires_grad_(True)
        total = np.zeros(len(gates))
        for part in _pieces(examples, self.batch):
            some, known = own.part(part)
            with torch.enable_grad():
                logits = self.run(leaf, part)
            upstream = own.metric.slopes(logits.detach(), some, known).to(logits)
            with torch.no_grad():
                held = own.metric(logits.detach(), some, known)
                loss += float(self._missed(held, part).sum())
            if self.wanted is not None:
                sign = torch.where(held > self.wanted[part] - SLACK, 1.0, -1.0).to(upstream)
                rows = sign if some.owner is None else sign[some.owner]
                upstream = upstream * rows.view(-1, *[1] * (upstream.ndim - 1))
            (found,) = torch.autograd.grad(logits, leaf, upstream)
            total += found.double().cpu().numpy()
        _check(loss)
        return loss / count, total / count

    def loss(self, gates: Float[np.ndarray, " gate"], examples: list[slice]) -> float:
        """Return the mean loss over some examples.

        Raises:
            ValueError: if it is not finite.
        """
        own = self.experiment
        count, loss = _count(examples), 0.0
        leaf = torch.as_tensor(gates, dtype=torch.float32, device=own.device)
        for part in _pieces(examples, self.batch):
            some, known = own.part(part)
            with torch.no_grad():
                loss += float(self._missed(own.metric(self.run(leaf, part), some, known), part).sum())
        _check(loss)
        return loss / count

    def _missed(self, losses: Float64[Tensor, " example"], part: slice) -> Float64[Tensor, " example"]:
        return losses if self.wanted is None else self.wanted[part] + (losses - self.wanted[part]).abs()


def gated(experiment: Experiment, *, subtask: str, batch: int, seed: int, beyond: bool = False) -> Gated:
    """Return one subtask's examples in random order, with a gate on every unit.

    Args:
        experiment: what is measured on what.
        subtask: whose loss.
        batch: examples that pass through the model together; more, where they are small.
        seed: of the order.
        beyond: of a loss that has no end, whether less is better; else the untouched model's loss on each example is
            wanted.

    Raises:
        ValueError: if there is no such subtask, or the loss has no gradient.
    """
    own = shuffled(experiment, subtask=subtask, seed=seed)
    wanted = None if beyond or own.metric.ends else torch.from_numpy(own.losses()).to(own.device)

    def run(gates: Float[Tensor, " unit"], part: slice) -> Tensor:
        edits = gating(own.units, gates, own.held, own.rows_of(part), where=own.where)
        with own.face.attached(edits):
            return own.face.run(own.part(part)[0].inputs)

    together = ENTRIES // (own.face.widest * own.folded.examples.positions)
    return Gated(own, max(batch, together), len(own.units), run, wanted)


def shuffled(experiment: Experiment, *, subtask: str, seed: int) -> Experiment:
    """Return an experiment about one subtask, its examples in random order, its held values with them.

    Raises:
        ValueError: if there is no such subtask, or the loss has no gradient.
    """
    experiment.metric.check_differentiable()
    own = experiment.only(subtask)
    examples = own.folded.examples
    order = np.random.default_rng(seed).permutation(len(examples))
    parts = [examples.rows_of(slice(int(e), int(e) + 1)) for e in order]
    rows = torch.cat([torch.arange(part.start, part.stop) for part in parts]).to(own.device)
    at = own.at if isinstance(own.at, str) else own.where[rows]  # type: ignore[index]  # a mask is never None
    return replace(
        own, subtasks={subtask: examples.chosen(order.tolist())}, folds=1, at=at, reference=_of_rows(own.held, rows)
    )


def _of_rows(reference: Reference, rows: torch.Tensor) -> Reference:
    if not reference.per_row:
        return reference
    return replace(reference, values={hook: value[rows] for hook, value in reference.values.items()})


def _pieces(examples: list[slice], most: int) -> list[slice]:
    return [
        slice(first, min(first + most, part.stop)) for part in examples for first in range(part.start, part.stop, most)
    ]


def _count(examples: list[slice]) -> int:
    return sum(int(part.stop - part.start) for part in examples)


def _check(loss: float) -> None:
    if not np.isfinite(loss):
        raise WrongValue(f"the loss with gates is {loss}; look at the reference, or for what your loss makes of it")
