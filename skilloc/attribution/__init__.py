"""Effects, estimated from gradients, for all units at once.

With delta[r, t, u] = reference - activation, g the gradient of the example's loss with respect to the activation, and
g~ the gradient of the summed negative log-likelihood of labels that are drawn from the model itself,

    first[e, u]     = sum over rows r of e, positions t (and d_head) of g[r, t, u] delta[r, t, u]
    curvature[e, u] = 1/2 1/T[e] mean over draws of (sum over r and t of g~[r, t, u] delta[r, t, u])^2
    effect[f, s, u] = mean over the examples e of fold f of subtask s of (first + curvature), in the loss's unit

The first line is activation x gradient: one forward and one backward pass for all units. The second is half the
Gauss-Newton curvature along the ablation, at one more backward pass per draw; it belongs to losses that are a negative
log-likelihood (`Loss.drawn`), and assumes a model that is calibrated on the data. A divergence from the untouched model
has no gradient there, and is estimated by its curvature alone; any other loss by its gradient alone. Of a unit that
acts at several places, the sum over these is taken: the derivative of fading out all that it writes. How far an
estimate can be trusted is measured, not assumed: see `calibration`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from skilloc.effects import Effects
from skilloc.experiment import Experiment, check_losses
from skilloc.experiment.axes import at_positions, over_positions, per_unit
from skilloc.masks import check_choice
from skilloc.mistakes import Unreachable, WrongValue, a_seed, whole
from skilloc.models.face import Edit
from skilloc.store.progress import progress
from skilloc.tasks.losses.nll import wide
from skilloc.units import Bank

PerUnit = dict[str, Tensor]
"""Per bank: values on `row *pos unit`, or summed over positions."""


def attribution_effects(
    experiment: Experiment, *, select: Bool[np.ndarray, "unit"] | None = None, curvature: int = 8, seed: int = 0
) -> Effects:
    """Estimate the effect of every unit on every subtask: activation x gradient, plus curvature.

    Args:
        experiment: what is measured on what.
        select: which units to keep in the result; all if not given. The others are NaN.
        curvature: number of label draws for the Gauss-Newton term; 0 leaves it out. Losses that are no negative
            log-likelihood have none, and the record says 0.
        seed: of the label draws.

    Raises:
        ValueError: if the loss has no gradient, or only a curvature and that is left out.
        TypeError: if the selection is no array of booleans.
        RuntimeError: if no gradient reaches the units.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, count=64)
        >>> estimate = sk.attribution_effects(experiment)
        >>> estimate.unit, bool(estimate.exact.any())
        ('nats', False)
    """
    if select is not None:
        check_choice("select", select, experiment.units)
    whole("curvature", curvature, 0)
    a_seed("seed", seed)
    loss = experiment.metric
    loss.check_differentiable()
    draws = curvature if loss.drawn is not None else 0
    if loss.flat and draws < 1:
        raise WrongValue(
            f'`curvature` is {curvature}, but the gradient of "{loss.name}" is zero at the untouched model; use 1 or '
            "more, 8 for instance, or integrated gradients"
        )
    generator = torch.Generator(experiment.device).manual_seed(seed)

    def estimate(block: slice) -> tuple[Tensor, Tensor]:
        return _first_and_curvature(_Pass(experiment, block), draws, generator)

    return _estimated(experiment, select, {"method": "attribution", "curvature": draws, "seed": seed}, estimate)


def integrated_gradients_effects(
    experiment: Experiment, *, select: Bool[np.ndarray, "unit"] | None = None, steps: int = 8
) -> Effects:
    """Attribute the joint removal of a whole bank to its units, by integrated gradients.

    effect[u] = mean over k of sum over t of delta[t, u] g[t, u](activation + alpha_k delta),

    with alpha_k = (k + 1/2) / steps, where all units of a bank move together. So the effects of a bank add up to what
    removing the whole bank does (the record's `completeness` is that sum divided by the measured loss increase, per
    subtask and bank). This is another question than the ablation of single units, and a poor estimate of it. Of the
    residual stream at zero, norms undo the fading of all dimensions at once up to its very end, where no point of the
    path lies: the completeness is then near 0, and the estimate is activation x gradient.

    Args:
        experiment: what is measured on what.
        select: which units to keep in the result; all if not given.
        steps: points on the path; each costs a forward and a backward pass per bank.

    Raises:
        ValueError: if `steps` is below 1, or the loss has no gradient.
        RuntimeError: if no gradient reaches the units.
    """
    if select is not None:
        check_choice("select", select, experiment.units)
    if steps < 1:
        raise WrongValue(f"`steps` is {steps}; use at least 1")
    experiment.metric.check_differentiable()
    removed: list[Tensor] = []

    def estimate(block: slice) -> tuple[Tensor, Tensor]:
        found, gone = [], []
        for bank in progress(experiment.units.banks, "integrating"):
            passes = [_Pass(experiment, block, [bank], shift=(k + 0.5) / steps) for k in range(steps)]
            found.append(torch.stack([_summed(one, one.slopes()) for one in passes]).mean(dim=0))
            gone.append(_Pass(experiment, block, [bank], shift=1.0).losses)
        base = _Pass(experiment, block, []).losses
        removed.append(torch.stack(gone) - base)
        return base, torch.cat(found, dim=1)

    effects = _estimated(experiment, None, {"method": "integrated gradients", "steps": steps}, estimate)
    whole = experiment.folded.mean(torch.cat(removed, dim=1).T.cpu().numpy()).mean(axis=0)
    sums = np.stack([part.mean(axis=0).sum(axis=-1) for part in effects.units.split(effects.values).values()], axis=-1)
    made = {**effects.made, "completeness": (sums / whole).tolist()}
    return replace(effects, values=_only(effects.values, select), made=made)


def slopes_by_position(experiment: Experiment, block: slice) -> Float64[Tensor, "row pos unit"]:
    """Return delta x gradient of some examples by position: what sums up to the first line above.

    Raises:
        ValueError: if the loss has no gradient, or one that is zero at the untouched model.
    """
    experiment.metric.check_differentiable()
    if experiment.metric.flat:
        raise WrongValue(
            f'`loss` is "{experiment.metric.name}", whose gradient is zero at the untouched model; measure its '
            "effects by position exactly"
        )
    one = _Pass(experiment, block)
    slopes = one.slopes()
    return torch.cat([slopes[bank.name] for bank in one.banks], dim=-1)


def _estimated(
    experiment: Experiment,
    select: np.ndarray | None,
    made: Mapping[str, Any],
    estimate: Callable[[slice], tuple[Tensor, Tensor]],
) -> Effects:
    """Collect an estimator's values over blocks of examples, and bring them into folds."""
    folded, units = experiment.folded, experiment.units
    made = {**made, **experiment.record()}
    base, parts = zip(*(estimate(block) for block in experiment.blocks), strict=True)
    baseline = folded.mean(torch.cat(base).cpu().numpy())
    check_losses(baseline, folded.subtasks)
    values = folded.mean(torch.cat(parts).cpu().numpy())
    if not values.any():
        raise Unreachable("no gradient reaches the units of `model`; measure it by ablation instead")
    exact = np.zeros(len(units), dtype=bool)
    unit = experiment.metric.unit
    return Effects(_only(values, select), baseline, folded.subtasks, units, exact, made, unit=unit)


def _only(values: np.ndarray, select: np.ndarray | None) -> np.ndarray:
    return values if select is None else np.where(select, values, np.nan)


def _first_and_curvature(one: "_Pass", draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the losses, and the estimate on `example unit`."""
    loss, examples = one.experiment.metric, one.examples
    found = torch.zeros(()) if loss.flat else _summed(one, one.slopes(keep=draws > 0))
    if draws and loss.drawn is not None:
        draw = loss.drawn(one.logits.detach(), examples)
        for k in range(draws):
            upstream, count = draw(generator)
            slopes = _summed(one, one.back(upstream, keep=k + 1 < draws))
            found = found + slopes.square() / (2 * draws * count[:, None])
    return one.losses, found


def _summed(one: "_Pass", slopes: PerUnit) -> Float64[Tensor, "example unit"]:
    """Return the sum over positions and over the rows of an example."""
    rows = torch.cat([over_positions(slopes[bank.name]) for bank in one.banks], dim=1)
    return one.examples.per_example(rows)


class _Pass:
    """A forward pass of some examples that can be gone back through several times.

    The activations of the banks are moved by `shift` times delta first.
    """

    def __init__(
        self, experiment: Experiment, block: slice, banks: list[Bank] | None = None, *, shift: float = 0.0
    ) -> None:
        self.experiment = experiment
        self.examples, self._known = experiment.part(block)
        self.banks = list(experiment.units.banks) if banks is None else banks
        self._rows, self._shift = experiment.rows_of(block), shift
        # Made now: making them runs the model, which must not happen in the middle of a pass.
        self._held, self._where = experiment.held, experiment.where
        self._deltas: dict[str, Tensor] = {}
        self._leaves: dict[str, Tensor] = {}
        edits = {hook: self._opener(hook) for bank in self.banks for hook in bank.writes}
        with torch.enable_grad(), experiment.face.attached(edits):
            self.logits = experiment.face.run(self.examples.inputs)
        with torch.no_grad():
            self.losses = experiment.metric(self.logits.detach(), self.examples, self._known)

    def _opener(self, hook: str) -> Edit:
        def opened(value: Tensor) -> Tensor:
            delta = self._held.on(hook, self._rows).to(value) - value
            if self._where is not None:
                delta = delta * at_positions(self._where[self._rows], value)
            # A leaf of zeros added here receives the activation's gradient, whether or not the weights require one.
            self._deltas[hook], self._leaves[hook] = delta.detach(), torch.zeros_like(value, requires_grad=True)
            # What comes from earlier places of the same bank has moved too, and only 1 - shift of it goes on.
            moved = torch.add(value, delta, alpha=self._shift) if self._shift else value
            return moved + self._leaves[hook]

        return opened

    def slopes(self, *, keep: bool = False) -> PerUnit:
        """Return delta . gradient of the example's loss, per bank on `row *pos unit`."""
        return self.back(self.experiment.metric.slopes(self.logits.detach(), self.examples, self._known), keep=keep)

    def back(self, upstream: Tensor, *, keep: bool) -> PerUnit:
        """Return delta . gradient, per bank on `row *pos unit`, of what has this gradient with respect to the
        logits."""
        hooks = list(self._leaves)
        inputs = [self._leaves[hook] for hook in hooks]
        found = torch.autograd.grad(self.logits, inputs, upstream.to(self.logits), retain_graph=keep, allow_unused=True)
        products = {
            hook: self._deltas[hook].to(wide(leaf.device)) * (torch.zeros_like(leaf) if gradient is None else gradient)
            for hook, leaf, gradient in zip(hooks, inputs, found, strict=True)
        }
        return {
            bank.name: torch.stack([per_unit(products[hook], bank) for hook in bank.writes]).sum(dim=0)
            for bank in self.banks
        }
