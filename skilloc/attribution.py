"""Effects, estimated from gradients, for all units at once.

With delta[e, t, u] = reference - activation, g the gradient of the example's loss with respect to the activation, and
g~ the gradient of the summed negative log-likelihood of labels that are drawn from the model itself,

    first[e, u]     = sum over positions t (and d_head) of g[e, t, u] delta[e, t, u]
    curvature[e, u] = 1/2 1/T[e] mean over draws of (sum over t of g~[e, t, u] delta[e, t, u])^2
    effect[f, s, u] = mean over the examples e of fold f of subtask s of (first + curvature), in nats

The first line is activation x gradient: one forward and one backward pass for all units. The second is half the
Gauss-Newton curvature along the ablation, at one more backward pass per draw. It assumes a model that is calibrated on
the data; how far an estimate can be trusted is measured, not assumed: see `calibration`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from tqdm import tqdm

from skilloc.effects import Effects
from skilloc.intervene import (
    Folded,
    Reference,
    as_reference,
    attached,
    blocks_of_rows,
    check_losses,
    check_model,
    example_losses,
    fold,
    logits_of,
    record,
    widest,
)
from skilloc.tasks import IGNORE, Examples
from skilloc.units import Units, kind_of

PerUnit = dict[str, Tensor]
"""Per hook: values on `example unit`, float64."""


def attribution_effects(
    model: Any,
    batches: Mapping[str, Examples],
    units: Units,
    *,
    reference: Reference | Float[np.ndarray, "unit"] | None = None,
    folds: int = 8,
    select: Bool[np.ndarray, "unit"] | None = None,
    curvature: int = 8,
    seed: int = 0,
) -> Effects:
    """Estimate the effect of every unit on every subtask: activation x gradient, plus curvature.

    Args:
        model: a bridge or an `MLP` in evaluation mode; it is left as it was.
        batches: the examples of each subtask.
        units: the unit axis (`units_of(model)`).
        reference: what an ablated unit would be held at; zero if not given, or one value per unit.
        folds: number of disjoint parts of each batch.
        select: which units to keep in the result; all if not given. The others are NaN.
        curvature: number of label draws for the Gauss-Newton term; 0 leaves it out.
        seed: of the label draws.

    Raises:
        ValueError: if the model, batches, units and reference do not belong together.
        RuntimeError: if no gradient reaches the units.
    """
    made = {"method": "attribution", "curvature": curvature, "seed": seed}
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)

    def estimate(batch: Examples, held: Reference, rows: slice) -> tuple[Tensor, PerUnit]:
        return _first_and_curvature(model, batch, units, held, rows, curvature, generator)

    return _estimated(model, batches, units, reference, folds, select, made, estimate)


def integrated_gradients_effects(
    model: Any,
    batches: Mapping[str, Examples],
    units: Units,
    *,
    reference: Reference | Float[np.ndarray, "unit"] | None = None,
    folds: int = 8,
    select: Bool[np.ndarray, "unit"] | None = None,
    steps: int = 8,
) -> Effects:
    """Attribute the joint removal of a whole hook to its units, by integrated gradients.

    effect[u] = mean over k of sum over t of delta[t, u] g[t, u](activation + alpha_k delta),

    with alpha_k = (k + 1/2) / steps, where all units of a hook move together. So the effects of a hook add up to what
    removing the whole hook does (the record's `completeness` is that sum divided by the measured loss increase, per
    subtask and hook). This is another question than the ablation of single units, and a poor estimate of it.

    Args:
        model: a bridge or an `MLP` in evaluation mode; it is left as it was.
        batches: the examples of each subtask.
        units: the unit axis.
        reference: what the units move to; zero if not given, or one value per unit.
        folds: number of disjoint parts of each batch.
        select: which units to keep in the result; all if not given.
        steps: points on the path; each costs a forward and a backward pass per hook.

    Raises:
        ValueError: if the model, batches, units and reference do not belong together, or `steps` is below 1.
        RuntimeError: if no gradient reaches the units.
    """
    if steps < 1:
        raise ValueError(f"`steps` is {steps}; use at least 1")
    made = {"method": "integrated gradients", "steps": steps}
    removed: list[Tensor] = []

    def estimate(batch: Examples, held: Reference, rows: slice) -> tuple[Tensor, PerUnit]:
        found: PerUnit = {}
        gone = []
        for hook in tqdm(units.hooks, desc="integrating", disable=None, leave=False):
            per_step = []
            for k in range(steps):
                base, _, slopes = _gradients(model, batch, [hook], held, rows, shift=(k + 0.5) / steps)
                per_step.append(slopes[hook])
            found[hook] = torch.stack(per_step).mean(dim=0)
            gone.append(_gradients(model, batch, [hook], held, rows, shift=1.0)[0])
        base = _gradients(model, batch, [], held, rows, shift=0.0)[0]
        removed.append(torch.stack(gone) - base)
        return base, found

    effects = _estimated(model, batches, units, reference, folds, None, made, estimate)
    whole = fold(batches, folds).mean(torch.cat(removed, dim=1).T.cpu().numpy()).mean(axis=0)
    sums = np.stack([part.mean(axis=0).sum(axis=-1) for part in units.split(effects.values).values()], axis=-1)
    made = {**effects.made, "completeness": (sums / whole).tolist()}
    values = _only(effects.values, select)
    return Effects(values, effects.baseline, effects.subtasks, units, effects.exact, made)


def _estimated(
    model: Any,
    batches: Mapping[str, Examples],
    units: Units,
    reference: Any,
    folds: int,
    select: np.ndarray | None,
    made: Mapping[str, Any],
    estimate: Callable[[Examples, Reference, slice], tuple[Tensor, PerUnit]],
) -> Effects:
    """Collect an estimator's values over blocks of examples, and bring them into folds."""
    folded: Folded = fold(batches, folds)
    check_model(model, folded.batch)
    held = as_reference(reference, units)
    folded = folded.to(next(model.parameters()).device)
    base, parts = [], []
    for rows in blocks_of_rows(folded.batch, widest(model)):
        losses, found = estimate(Examples(folded.batch.inputs[rows], folded.batch.targets[rows]), held, rows)
        base.append(losses)
        parts.append(torch.cat([found[hook] for hook in units.hooks], dim=1))
    baseline = folded.mean(torch.cat(base).cpu().numpy())
    check_losses(baseline, folded.subtasks)
    values = folded.mean(torch.cat(parts).cpu().numpy())
    if not values.any():
        raise RuntimeError("no gradient reaches the units of `model`; measure it by ablation instead")
    made = {**made, **record(model, folded, units, held)}
    return Effects(_only(values, select), baseline, folded.subtasks, units, np.zeros(len(units), dtype=bool), made)


def _only(values: np.ndarray, select: np.ndarray | None) -> np.ndarray:
    return values if select is None else np.where(select, values, np.nan)


def _first_and_curvature(
    model: Any, batch: Examples, units: Units, held: Reference, rows: slice, draws: int, generator: torch.Generator
) -> tuple[Tensor, PerUnit]:
    losses, graph, found = _gradients(model, batch, list(units.hooks), held, rows, shift=0.0, keep=draws > 0)
    if graph is None:
        return losses, found
    scored = _scored(batch)
    for _ in range(draws):
        for hook, slope in graph.slopes(graph.drawn(generator)).items():
            found[hook] += slope.square() / (2 * draws * scored[:, None])
    return losses, found


class _Graph:
    """A forward pass that can be gone back through several times."""

    def __init__(self, logits: Tensor, batch: Examples, deltas: PerUnit, leaves: PerUnit) -> None:
        self.logits, self.batch, self.deltas, self.leaves = logits, batch, deltas, leaves
        self.probabilities = logits.detach().float().softmax(dim=-1)

    def slopes(self, labels: Int[Tensor, "example *pos"]) -> PerUnit:
        """Return, per hook, sum over t of delta g, where g is the gradient of the summed loss of some labels."""
        # d(-log softmax(z)[y]) / dz = softmax(z) - onehot(y): the loss itself need not be run.
        scored = (labels != IGNORE)[..., None]
        upstream = self.probabilities * scored
        upstream.scatter_add_(-1, labels.where(labels != IGNORE, 0)[..., None], -scored.to(upstream))
        hooks = list(self.leaves)
        inputs = [self.leaves[hook] for hook in hooks]
        gradients = torch.autograd.grad(self.logits, inputs, upstream.to(self.logits), retain_graph=True)
        return {
            hook: _over_positions(self.deltas[hook] * gradient, hook)
            for hook, gradient in zip(hooks, gradients, strict=True)
        }

    def drawn(self, generator: torch.Generator) -> Int[Tensor, "example *pos"]:
        """Return labels drawn from the model, at the scored positions."""
        flat = self.probabilities.flatten(0, -2)
        labels = torch.multinomial(flat, 1, generator=generator).view(self.probabilities.shape[:-1])
        return labels.where(self.batch.targets != IGNORE, IGNORE)


def _over_positions(product: Tensor, hook: str) -> Tensor:
    product = product.double()
    per_unit = product.sum(dim=-1) if kind_of(hook) == "head" else product
    return per_unit.reshape(len(per_unit), -1, per_unit.shape[-1]).sum(dim=1)


def _scored(batch: Examples) -> Float64[Tensor, "example"]:
    """Return the number of scored targets of each example."""
    return (batch.targets != IGNORE).reshape(len(batch), -1).sum(dim=1).double()


def _gradients(
    model: Any, batch: Examples, hooks: list[str], held: Reference, rows: slice, *, shift: float, keep: bool = True
) -> tuple[Tensor, _Graph | None, PerUnit]:
    """Return the losses, the graph, and per hook delta . gradient of the example's mean loss.

    The activations of the hooks are moved by `shift` times delta first.
    """
    deltas: PerUnit = {}
    leaves: PerUnit = {}

    def opener(hook: str) -> Callable[[Tensor], Tensor]:
        def opened(value: Tensor) -> Tensor:
            deltas[hook] = (held.on(hook, rows).to(value) - value).detach()
            # A leaf of zeros added here receives the activation's gradient, whether or not the weights require one.
            leaves[hook] = torch.zeros_like(value, requires_grad=True)
            return value + shift * deltas[hook] + leaves[hook]

        return opened

    with torch.enable_grad(), attached(model, {hook: opener(hook) for hook in hooks}):
        logits = logits_of(model(batch.inputs))
    losses = example_losses(logits.detach(), batch.targets)
    if not hooks:
        return losses, None, {}
    graph = _Graph(logits, batch, deltas, leaves)
    scored = _scored(batch)
    slopes = {hook: slope / scored[:, None] for hook, slope in graph.slopes(batch.targets).items()}
    return losses, graph if keep else None, slopes
