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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from skilloc.attribution.passes import Pass, PerUnit
from skilloc.effects import Effects
from skilloc.experiment import Experiment, check_losses
from skilloc.experiment.axes import over_positions
from skilloc.experiment.threads import one_thread
from skilloc.masks import check_choice
from skilloc.mistakes import Unreachable, WrongValue, a_seed, of_kind, whole
from skilloc.store.progress import progress
from skilloc.sweep import seed_of

Found = Float64[np.ndarray, "example loss_and_unit"]
"""The loss of each example, and behind it the estimate of each unit."""

Over = Callable[[Sequence[slice], Callable[[slice], Found]], Iterable[Found]]
"""Who estimates: from blocks of examples, and what estimates one, to what was found of each, in their order."""


def in_order(blocks: Sequence[slice], estimate: Callable[[slice], Found]) -> Iterable[Found]:
    """Estimate block after block, in this process."""
    return map(estimate, blocks)


def attribution_effects(
    experiment: Experiment,
    *,
    select: Bool[np.ndarray, "unit"] | None = None,
    curvature: int = 8,
    seed: int = 0,
    over: Over = in_order,
) -> Effects:
    """Estimate the effect of every unit on every subtask: activation x gradient, plus curvature.

    Args:
        experiment: what is measured on what.
        select: which units to keep in the result; all if not given. The others are NaN.
        curvature: number of label draws for the Gauss-Newton term; 0 leaves it out. Losses that are no negative
            log-likelihood have none, and the record says 0.
        seed: of the label draws.
        over: who estimates blocks of examples; this process, one after the other, if not given. The draws of a block
            depend on the seed and where it begins, and on no other block, so that it makes no difference who does.

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
    of_kind("experiment", experiment, Experiment, "pass Experiment(model, subtasks)")
    if select is not None:
        check_choice("select", select, experiment.units)
    draws, estimate = _draws(experiment, curvature), block_estimator(experiment, curvature=curvature, seed=seed)
    return _estimated(experiment, select, {"method": "attribution", "curvature": draws, "seed": seed}, estimate, over)


def block_estimator(experiment: Experiment, *, curvature: int, seed: int) -> Callable[[slice], Found]:
    """Return what estimates a block of examples, as `attribution_effects` does, from which the arguments are.

    Raises:
        ValueError: if the loss has no gradient, or only a curvature and that is left out.
    """
    whole("curvature", curvature, 0)
    a_seed("seed", seed)
    draws = _draws(experiment, curvature)

    def estimate(block: slice) -> Found:
        own = seed_of({"seed": seed, "first": block.start}) if block.start else seed
        generator = torch.Generator(experiment.device).manual_seed(own)
        # As every worker has it: on some processors two threads round otherwise than one.
        with one_thread():
            return _joined(*_first_and_curvature(Pass(experiment, block), draws, generator))

    return estimate


def _draws(experiment: Experiment, curvature: int) -> int:
    """Return the number of label draws, which only a negative log-likelihood has."""
    loss = experiment.metric
    loss.check_differentiable()
    draws = curvature if loss.drawn is not None else 0
    if loss.flat and draws < 1:
        raise WrongValue(
            f'`curvature` is {curvature}, but the gradient of "{loss.name}" is zero at the untouched model; use 1 or '
            "more, 8 for instance, or integrated gradients"
        )
    return draws


def _joined(losses: Float64[Tensor, " example"], values: Float64[Tensor, "example unit"]) -> Found:
    return torch.cat([losses[:, None], values], dim=1).cpu().numpy()


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
    of_kind("experiment", experiment, Experiment, "pass Experiment(model, subtasks)")
    if select is not None:
        check_choice("select", select, experiment.units)
    if steps < 1:
        raise WrongValue(f"`steps` is {steps}; use at least 1")
    experiment.metric.check_differentiable()
    removed: list[Tensor] = []

    def estimate(block: slice) -> Found:
        found, gone = [], []
        for bank in progress(experiment.units.banks, "integrating"):
            passes = [Pass(experiment, block, [bank], shift=(k + 0.5) / steps) for k in range(steps)]
            found.append(torch.stack([_summed(one, one.slopes()) for one in passes]).mean(dim=0))
            gone.append(Pass(experiment, block, [bank], shift=1.0).losses)
        base = Pass(experiment, block, []).losses
        removed.append(torch.stack(gone) - base)
        return _joined(base, torch.cat(found, dim=1))

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
    one = Pass(experiment, block)
    slopes = one.slopes()
    return torch.cat([slopes[bank.name] for bank in one.banks], dim=-1)


def _estimated(
    experiment: Experiment,
    select: np.ndarray | None,
    made: Mapping[str, Any],
    estimate: Callable[[slice], Found],
    over: Over = in_order,
) -> Effects:
    """Collect an estimator's values over blocks of examples, and bring them into folds."""
    folded, units = experiment.folded, experiment.units
    made = {**made, **experiment.record()}
    found = np.concatenate(list(over(experiment.blocks, estimate)))
    baseline = folded.mean(found[:, 0])
    check_losses(baseline, folded.subtasks)
    values = folded.mean(found[:, 1:])
    if not values.any():
        raise Unreachable("no gradient reaches the units of `model`; measure it by ablation instead")
    exact = np.zeros(len(units), dtype=bool)
    unit = experiment.metric.unit
    return Effects(_only(values, select), baseline, folded.subtasks, units, exact, made, unit=unit)


def _only(values: np.ndarray, select: np.ndarray | None) -> np.ndarray:
    return values if select is None else np.where(select, values, np.nan)


def _first_and_curvature(one: Pass, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
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


def _summed(one: Pass, slopes: PerUnit) -> Float64[Tensor, "example unit"]:
    """Return the sum over positions and over the rows of an example."""
    rows = torch.cat([over_positions(slopes[bank.name]) for bank in one.banks], dim=1)
    return one.examples.per_example(rows)
