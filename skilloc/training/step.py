"""One optimiser step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skilloc.mistakes import Diverged, WrongValue
from skilloc.models.face import Edit, Face
from skilloc.models.makers import face_of
from skilloc.tasks import IGNORE, Examples, blocks_of
from skilloc.tasks.losses import Loss
from skilloc.tasks.losses.nll import nll_sum
from skilloc.training.gradients import Gradients, Layer, by_hand
from skilloc.training.randomness import drawing
from skilloc.training.settings import Objective, Products, Term, TrainConfig
from skilloc.training.spread import Spread, pieces_of, place_of, sum_gradients, summed

CACHED, STARTED = 2**18, 5 * 2**18
"""Entries of the widest activation of a block: of products in float32 by hand, and of those that take long to start, so
that larger blocks pay: in bfloat16, and in a pass that autograd records."""

ALONE = Spread()

Descent = Callable[[Examples, int], float]
"""From the examples of a step, and its number, to the mean loss; it gives the weights their gradients."""


class Goal(NamedTuple):
    """What is descended.

    Attributes:
        loss: the loss.
        untouched: the model before training, or a teacher, where the loss must know it.
        seed: of what the model draws (dropout).
        match: hooks of the teacher by hooks of the model, whose activations are to agree.
        weight: of their disagreement.
    """

    loss: Loss
    untouched: Face | None
    seed: int
    match: Mapping[str, str] = {}
    weight: float = 0.0


def take_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    examples: Examples,
    descent: Descent,
    terms: Mapping[str, Term],
) -> tuple[dict[str, float], int]:
    """Take one step; return the loss and the terms before it, and the number of examples."""
    _train(model)
    optimiser.zero_grad()
    found = {"loss": descent(examples, step)}
    for name, term in terms.items():
        value = term(model)
        value.backward()  # type: ignore[no-untyped-call]
        found[name] = float(value.detach())
    optimiser.step()
    return found, len(examples)


def _train(module: nn.Module) -> None:
    """Set the mode of training, unless that was done: a model's whole tree is walked, which is long beside a step."""
    if not module.training:
        module.train()


def check_finite(found: Mapping[str, float], step: int, config: TrainConfig) -> None:
    """Refuse to go on after a step whose loss or terms are not finite.

    Raises:
        FloatingPointError: if so.
    """
    for name, value in found.items():
        if not math.isfinite(value):
            raise Diverged(
                f"{name} is {value} at step {step} with `rate` {config.rate}; use a smaller `rate`, and look for NaN "
                "in the data"
            )


def goal_of(face: Face, objective: Objective, *, seed: int) -> Goal:
    """Return what is descended, with a copy of the model as it is now where the loss must know that.

    Raises:
        ValueError: if activations are to agree and there is no teacher, or it is the model itself.
    """
    if objective.match and objective.teacher is None:
        raise WrongValue("`match` names hooks, but there is no `teacher`; pass the model whose activations are meant")
    losses = (objective.loss, objective.measured)
    if not objective.match and all(loss is None or loss.prepare is None for loss in losses):
        return Goal(objective.loss, None, seed)
    if objective.teacher is face.module:
        raise WrongValue("`teacher` is the model that is trained; pass a copy of it")
    untouched = face_of(face.copy() if objective.teacher is None else objective.teacher)
    untouched.module.eval()
    return Goal(objective.loss, untouched, seed, objective.match, objective.weight)


def descent_of(face: Face, goal: Goal, *, products: Products, spread: Spread = ALONE) -> Descent:
    """Return a function that gives the weights of a model their gradients on examples.

    They are computed by hand where that can be, and by autograd elsewhere; the gradients are the same.

    Raises:
        ValueError: if the run is spread, and examples of a pass are normalised by their own mean; or no processes are
            joined.
    """
    memory: Gradients | None = None
    devices = tuple({p.device for p in face.module.parameters()})
    # Where the examples of a pass are normalised by their own mean, blocks would be other passes.
    whole = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in face.module.modules())
    place, processes = place_of(spread)
    if whole and processes * spread.accumulate > 1:
        raise WrongValue(
            "`spread` cuts a step into pieces, but `model` normalises the examples of a pass by their own mean (batch "
            'norm), so that pieces would be other passes; train "alone", with `accumulate` 1'
        )

    # Shards go from process to process block by block, so that all must have as many.
    uncut = whole or spread.way == "sharded"

    def descent(examples: Examples, step: int) -> float:
        nonlocal memory
        targets = None if goal.loss.targets is None else goal.loss.targets(examples)
        alone = spread == ALONE and face.chain is not None and targets is not None and not goal.match
        if not alone or not by_hand(face, examples, targets):
            pieces = pieces_of(examples, spread)
            parts = pieces if uncut else [part for piece in pieces for part in _blocks(piece, face.widest)]
            count = _count(goal, examples)
            with drawing(devices, goal.seed, step, place):
                # FSDP2 gives each process the mean of all gradients, of which the sum is wanted.
                over = count / (processes if spread.way == "sharded" else 1)
                loss = _autograd(face, goal, parts, over, products) * (over / count)
            if spread.way == "replicated":
                sum_gradients(face.module.parameters())
            return float(summed(loss, spread))
        assert face.chain is not None
        assert targets is not None
        if memory is None:
            memory = Gradients([Layer([m.weight], m.bias) for m in face.chain.linears], products=products)
        loss = memory(examples.first, targets, rows=rows_of(examples, face.widest, products))
        for m, slope in zip(face.chain.linears, memory.slopes, strict=True):
            m.weight.grad, m.bias.grad = slope.weights[0].contiguous(), slope.bias
        return float(loss)

    return descent


def rows_of(examples: Examples, widest: int, products: Products) -> int:
    """Return the number of rows of a block, of which all are about equally large.

    Args:
        examples: those of a step.
        widest: entries of the widest activation per position, of all networks that are run together.
        products: type of the matrix products.
    """
    return _rows(examples, widest, STARTED if products == "bfloat16" else CACHED)


def _rows(examples: Examples, widest: int, most: int) -> int:
    rows = len(examples.first)
    return -(-rows // -(-rows // max(1, most // (widest * examples.targets[0].numel()))))


def _blocks(examples: Examples, widest: int) -> list[Examples]:
    if examples.owner is not None:
        blocks = blocks_of(examples, widest, STARTED)
    else:
        rows = _rows(examples, widest, STARTED)
        blocks = [slice(first, first + rows) for first in range(0, len(examples), rows)]
    return [examples.part(block) for block in blocks]


def _count(goal: Goal, examples: Examples) -> int:
    """Return what the mean is over: scored targets for their negative log-likelihood, and examples elsewhere."""
    if goal.match or goal.loss.targets is None:
        return len(examples)
    return int((goal.loss.targets(examples) != IGNORE).sum())


def _autograd(face: Face, goal: Goal, parts: Sequence[Examples], count: float, products: Products) -> Tensor:
    """Add the gradients of the loss, its sum over some examples by `count`, to those of the weights; return it."""
    targets_of = None if goal.match else goal.loss.targets
    _train(face.module)
    loss = torch.zeros((), device=parts[0].first.device)
    for part in parts:
        seen: dict[str, Tensor] = {}
        with (
            face.attached({hook: _seen(seen, hook) for hook in goal.match}),
            torch.autocast(part.first.device.type, torch.bfloat16, enabled=products == "bfloat16"),
        ):
            logits = face.run(part.inputs)
        total = _total(goal, logits, part, seen) if targets_of is None else nll_sum(logits, targets_of(part))
        (total / count).backward()  # type: ignore[no-untyped-call]
        loss += total.detach() / count
    return loss


def _seen(into: dict[str, Tensor], hook: str) -> Edit:
    def see(value: Tensor) -> Tensor:
        into[hook] = value
        return value

    return see


def _total(goal: Goal, logits: Tensor, part: Examples, seen: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the loss over some examples, differentiable."""
    known, apart = None, logits.new_zeros(())
    if goal.untouched is not None:
        taught: dict[str, Tensor] = {}
        watched = {hook: _seen(taught, hook) for hook in goal.match.values()}
        with torch.no_grad(), goal.untouched.attached(watched):
            logits_there = goal.untouched.run(part.inputs)
            known = None if goal.loss.prepare is None else goal.loss.prepare(logits_there, part)
        pairs = [_apart(seen[own], taught[other], part, own, other) for own, other in goal.match.items()]
        apart = goal.weight * torch.stack(pairs).mean() if pairs else apart
    # Losses of one's own are written for logits of at least 32 bits.
    total = goal.loss(logits if logits.dtype == torch.float64 else logits.float(), part, known).sum() + apart
    if not total.requires_grad:
        raise WrongValue(
            f'`loss` "{goal.loss.name}" does not depend on the logits in a way that can be differentiated; write it '
            "with differentiable operations, or train on another one such as cross_entropy"
        )
    return total


def _apart(own: Tensor, other: Tensor, part: Examples, hook: str, taught: str) -> Tensor:
    """Return the sum over examples of |own - other|^2 / |other|^2; rows of one example share it out."""
    if own.shape != other.shape:
        raise WrongValue(
            f'`match` has "{hook}" of shape {tuple(own.shape)} with "{taught}" of {tuple(other.shape)}; match hooks of '
            "one shape, such as the residual stream of a student that was pruned from its teacher"
        )
    scored = part.scored if own.ndim > 2 and part.scored.ndim > 1 else None
    near, size = (own.float() - other.float()).square(), other.float().square()
    if scored is not None:
        where = scored.reshape(*scored.shape, *[1] * (own.ndim - 2))
        near, size = near * where, size * where
    rows = near.flatten(1).sum(1) / size.flatten(1).sum(1).clamp(min=1e-12)
    if part.owner is None:
        return rows.sum()
    return (part.per_example(rows) / part.per_example(torch.ones_like(rows))).sum()
