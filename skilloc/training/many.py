"""Several models on the same examples, with the same settings: each alone, or small networks side by side.

What a step of a small network costs is mostly not arithmetic: examples are drawn, dozens of operations begin, and the
optimiser goes through a list of tensors. So networks whose gradients are computed by hand (`gradients`) take their
steps together: the examples are drawn once, an operation is on all of them, and their weights are one vector. What
becomes of each is what becomes of it alone, to rounding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from skilloc.models.face import Chain
from skilloc.models.makers import face_of
from skilloc.tasks.losses import Loss, cross_entropy
from skilloc.training import train
from skilloc.training.gradients import Gradients, Layer, by_hand, cut
from skilloc.training.optimisers import optimiser_of, set_rates
from skilloc.training.settings import Rule, Sample, TrainConfig, check
from skilloc.training.step import ALONE, check_finite, rows_of

WIDTH = 400
"""Neurons of the widest layer of a stack, together, where a step's examples do not fit into one block of activations:
more would leave too few of them per block."""

Seen = TypeVar("Seen")


def retrain(
    models: Iterable[nn.Module],
    sample: Sample,
    config: TrainConfig,
    look: Callable[[nn.Module], Seen],
    *,
    loss: Loss = cross_entropy,
    rules: Callable[[nn.Module], Sequence[Rule]] | None = None,
    seed: int = 0,
    go_on: bool = False,
) -> Iterator[tuple[int, list[Seen]]]:
    """Train some models in place, and yield the place of each, and what was seen of it, as soon as it is done.

    Args:
        models: different ones; they end in evaluation mode. Those that are trained alone are taken one by one.
        sample: the examples of each step, the same for all models.
        config: the settings; `evaluate_at` says after which steps to look besides before the first and after the last.
        look: what is to be known of a model, which is in evaluation mode.
        loss: what is descended.
        rules: gives what acts on a model after each step, before the first one; with it, each is trained alone.
        seed: of what a model draws while it is trained (dropout); of those that draw, each draws the same.
        go_on: whether a loss that is not finite ends only what is seen of its model, and no error is raised.

    Raises:
        ValueError: if a setting is out of range, the loss has no gradient, or a model cannot take the examples.
        FloatingPointError: if a loss is not finite, with the step.
    """
    check(config, {}, {})
    config = replace(config, evaluate_at=tuple(sorted({*config.evaluate_at, config.steps})))
    # Rules, groups, clipping and Muon look at single weights, or at all of one model's; other processes at one model.
    single = rules is not None or bool(config.groups) or config.clip is not None or config.optimiser == "muon"
    single = single or config.spread != ALONE
    left: list[tuple[int, nn.Module]] = []
    for i, model in enumerate(models):
        if not single and _fits(model, sample, loss):
            left.append((i, model))
        else:
            own = [] if rules is None else rules(model)
            seen = _Looking(model.eval(), look)
            try:
                hear = [*own, seen]
                train(model, sample, config, evaluate={}, loss=loss, rules=hear, seed=seed, progress=False)
            except FloatingPointError:
                if not go_on:
                    raise
            yield i, seen.found
    for stack in _stacks(left, sample, config) if left else []:
        found = _together([model.eval() for _, model in stack], sample, config, look, loss, go_on)
        yield from zip([i for i, _ in stack], found, strict=True)


def _fits(model: nn.Module, sample: Sample, loss: Loss) -> bool:
    """Whether a model can be trained side by side with others."""
    face = face_of(model)
    if face.chain is None or loss.targets is None:
        return False
    first = sample(0)
    return by_hand(face, first, loss.targets(first))


def _chain(model: nn.Module) -> Chain:
    chain = face_of(model).chain
    assert chain is not None
    return chain


def _stacks(
    models: Sequence[tuple[int, nn.Module]], sample: Sample, config: TrainConfig
) -> list[list[tuple[int, nn.Module]]]:
    """Return models of the same depth, inputs and outputs that are neighbours in size, as many as fit into a stack."""
    first = sample(0)

    def shape(model: nn.Module) -> tuple[int, int, int]:
        linears = _chain(model).linears
        return len(linears), linears[0].weight.shape[1], len(linears[-1].bias)

    def width(model: nn.Module) -> int:
        return max(len(linear.bias) for linear in _chain(model).linears[:-1])

    stacks: list[list[tuple[int, nn.Module]]] = []
    for _, alike in groupby(sorted(models, key=lambda one: (shape(one[1]), width(one[1]))), lambda one: shape(one[1])):
        stacks.append([])
        total = 0
        for place, model in alike:
            total += width(model)
            if stacks[-1] and total > WIDTH and rows_of(first, total, config.products) < len(first.first):
                stacks.append([])
                total = width(model)
            stacks[-1].append((place, model))
    return stacks


def _together(
    models: Sequence[nn.Module],
    sample: Sample,
    config: TrainConfig,
    look: Callable[[nn.Module], Seen],
    loss: Loss,
    go_on: bool,
) -> list[list[Seen]]:
    """Train some networks as a stack; return what was seen of each."""
    targets_of = loss.targets
    assert targets_of is not None
    stack = Stack([_chain(model) for model in models])
    gradients = Gradients(stack.layers, products=config.products)
    stack.weights.grad = gradients.slope
    widest = max(len(layer.bias) for layer in stack.layers)
    optimiser = optimiser_of([("stack", stack.weights)], config)
    found, going = [[look(model)] for model in models], set(range(len(models)))
    try:
        for step in range(config.steps):
            set_rates(optimiser, step, config)
            examples = sample(step)
            rows = rows_of(examples, widest, config.products)
            losses = gradients(examples.first, targets_of(examples), rows=rows)
            optimiser.step()
            if not losses.isfinite().all():
                if not go_on:
                    check_finite({"loss": float(losses.sum())}, step, config)
                going &= set(losses.isfinite().nonzero()[:, 0].tolist())
                if not going:
                    break
            if step + 1 in config.evaluate_at:
                for i in going:
                    found[i].append(look(models[i]))
    finally:
        stack.part()
    return found


class Stack:
    """The weights of some networks as one vector.

    Attributes:
        weights: the vector.
        layers: the weights as views of it; the first maps, which all read the inputs, are one.
    """

    def __init__(self, chains: Sequence[Chain]) -> None:
        self._rows: list[tuple[Any, ...]] = list(zip(*(chain.linears for chain in chains), strict=True))
        own = [Layer([m.weight.detach() for m in row], torch.cat([m.bias.detach() for m in row])) for row in self._rows]
        own[0] = Layer([torch.cat(list(own[0].weights))], own[0].bias)
        self.weights = nn.Parameter(torch.empty(sum(part.numel() for layer in own for part in _tensors(layer))))
        self.layers = cut(self.weights.detach(), own)
        for row, layer, before in zip(self._rows, self.layers, own, strict=True):
            for part, value in zip(_tensors(layer), _tensors(before), strict=True):
                part.copy_(value)
            widths = [len(m.bias) for m in row]
            parts = torch.split(layer.weights[0], widths) if layer is self.layers[0] else layer.weights
            for m, weight, bias in zip(row, parts, torch.split(layer.bias, widths), strict=True):
                m.weight.data, m.bias.data = weight, bias

    def part(self) -> None:
        """Give each network memory of its own again."""
        for row in self._rows:
            for m in row:
                m.weight.data = m.weight.data.clone(memory_format=torch.contiguous_format)
                m.bias.data = m.bias.data.clone()


def _tensors(layer: Layer) -> list[Tensor]:
    return [*layer.weights, layer.bias]


class _Looking(Generic[Seen]):
    """Looks at a model before the first step, and whenever the training loop evaluates; a rule that changes nothing."""

    def __init__(self, model: nn.Module, look: Callable[[nn.Module], Seen]) -> None:
        self.model, self.look = model, look
        self.found = [look(model)]

    def after_step(self, optimiser: torch.optim.Optimizer) -> None:
        """Change nothing."""

    def after_evaluation(self, row: Mapping[str, float]) -> Mapping[str, float]:
        """Look; the row before the first step comes after it, when it is too late."""
        if row["step"] > 0:
            self.found.append(self.look(self.model))
        return {}

    def state(self) -> Mapping[str, float]:
        """Return nothing: these runs write no checkpoints."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Put back nothing."""
