"""Is the circuit the skill? The loss with only the circuit, and with only the rest.

With L(C) the loss when every unit that is not in C is at its reference, so that L(all) is the untouched model's and
L(none) the floor,

    faithfulness(C) = (L(none) - L(C)) / (L(none) - L(all))       share of the skill that the circuit keeps
    completeness(C) = (L(rest) - L(all)) / (L(none) - L(all))     share of the skill that is lost without the circuit

[faithfulness as in Marks et al. 2403.19647; completeness is one minus the faithfulness of the rest]. Both are 1 for
all units and 0 for none, and neither is bound to that range. Beside each circuit stand random ones with as many units
on every hook, and none of its own where that can be (`disjoint_draws`); and the circuit itself with its inputs at their
reference, which is the same for every example (`blind`). Shares are ratios of means over folds, their
intervals a jackknife over folds; of random circuits it is the mean, and where 95 % of single ones lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from einops import rearrange
from jaxtyping import Float, Float64

from skilloc.ablation import mask_effects
from skilloc.circuits.blind import blind_losses
from skilloc.circuits.graph import Record, number
from skilloc.experiment import Experiment
from skilloc.locality.intervals import Interval, t_quantile
from skilloc.locality.uncertainty import standard_error
from skilloc.masks import DRAWS, Mask, disjoint_draws, matched_random, top
from skilloc.mistakes import WrongValue, a_seed, in_share, of_kind, whole

PER_DOUBLING = 8
"""Sizes that are tried per factor of two, when the smallest circuit that keeps a share is looked for."""


@dataclass(frozen=True)
class Curve:
    """What circuits of one subtask keep, and what is lost without them.

    Everything but `baseline` is a loss minus that of the untouched model.

    Attributes:
        sizes: number of units of each circuit.
        floor: with every unit at its reference.
        baseline: loss of the untouched model itself.
        circuit: with only the circuit.
        rest: with only the rest.
        random: with only a random circuit.
        random_rest: without a random circuit.
        blind: with only the circuit, its inputs at their reference; NaN where inputs are not known.
        unit: of the losses.
        disjoint: by size, whether the random circuits have none of the circuit's own units (or, where it keeps most
            units of a hook, drop none of those that it drops).
    """

    sizes: tuple[int, ...]
    floor: Float64[np.ndarray, " fold"]
    baseline: Float64[np.ndarray, " fold"]
    circuit: Float64[np.ndarray, "size fold"]
    rest: Float64[np.ndarray, "size fold"]
    random: Float64[np.ndarray, "draw size fold"]
    random_rest: Float64[np.ndarray, "draw size fold"]
    blind: Float64[np.ndarray, "size fold"]
    unit: str = "nats"
    disjoint: tuple[bool, ...] = ()

    def faithfulness(self, place: int) -> Interval:
        """Return the faithfulness of one of the circuits."""
        return share_kept(self.circuit[place], self.floor)

    def completeness(self, place: int) -> Interval:
        """Return the completeness of one of the circuits."""
        return _one_minus(share_kept(self.rest[place], self.floor))

    def random_faithfulness(self, place: int) -> Interval:
        """Return the mean faithfulness of the random circuits of one size, and where 95 % of single ones lie."""
        return _over_draws(self.random[:, place], self.floor)

    def blind_faithfulness(self, place: int) -> Interval:
        """Return what one of the circuits keeps whatever the example is."""
        return share_kept(self.blind[place], self.floor)

    def random_completeness(self, place: int) -> Interval:
        """Return the mean completeness of the random circuits of one size, and where 95 % of single ones lie."""
        return _one_minus(_over_draws(self.random_rest[:, place], self.floor))

    def records(self) -> list[Record]:
        """Return one record per size, as `graph` documents it."""
        found = []
        for place, size in enumerate(self.sizes):
            parts = {
                "faithfulness": self.faithfulness(place),
                "random": self.random_faithfulness(place),
                "blind": self.blind_faithfulness(place),
                "completeness": self.completeness(place),
                "completeness_random": self.random_completeness(place),
            }
            record: Record = {"size": size}
            for name, interval in parts.items():
                ends = "" if name == "faithfulness" else f"{name}_"
                record |= {
                    name: number(interval.value),
                    f"{ends}low": number(interval.low),
                    f"{ends}high": number(interval.high),
                }
            if self.disjoint:
                record["random_disjoint"] = self.disjoint[place]
            record["loss"] = number(float((self.circuit[place] + self.baseline).mean()))
            record["rest_loss"] = number(float((self.rest[place] + self.baseline).mean()))
            found.append(record)
        return found


def faithfulness(
    experiment: Experiment, circuits: Sequence[Mask], *, subtask: str, draws: int = DRAWS, seed: int = 0
) -> Curve:
    """Measure the faithfulness and completeness of some circuits on one subtask, beside random circuits.

    Args:
        experiment: what is measured on what; not on the examples on which the circuits were chosen.
        circuits: masks that keep a circuit's units, of rising size.
        subtask: whose loss.
        draws: number of random circuits beside each.
        seed: of the random circuits.

    Raises:
        ValueError: if there is no such subtask, the circuits' sizes fall, or the model is no better on the subtask than
            with every unit at its reference.
    """
    of_kind("experiment", experiment, Experiment, "pass Experiment(model, subtasks)")
    whole("draws", draws, 1)
    a_seed("seed", seed)
    sizes = [int(circuit.keep.sum()) for circuit in circuits]
    if sizes != sorted(sizes):
        raise WrongValue(f"`circuits` have {', '.join(map(str, sizes))} units; give them in the order of their sizes")
    units, own, unit = experiment.units, experiment.only(subtask), experiment.metric.unit
    masks = [Mask(units, np.zeros(len(units), dtype=bool))]
    for circuit in circuits:
        masks += [circuit, ~circuit]
        for d in range(draws):
            other = matched_random(circuit, seed=seed * draws + d)
            masks += [other, ~other]
    found, baseline = mask_effects(own, masks)
    floor = found[0, :, 0]
    check_floor(floor, subtask, unit)
    # Of each circuit: itself and its rest, then each random one and its rest.
    table = rearrange(found[1:, :, 0], "(size draw part) fold -> part draw size fold", size=len(circuits), part=2)
    return Curve(
        sizes=tuple(sizes),
        floor=floor,
        baseline=baseline[:, 0],
        circuit=table[0, 0],
        rest=table[1, 0],
        random=table[0, 1:],
        random_rest=table[1, 1:],
        blind=blind_losses(own, circuits),
        unit=unit,
        disjoint=tuple(map(disjoint_draws, circuits)),
    )


def minimality(experiment: Experiment, circuit: Mask) -> Float64[np.ndarray, "fold subtask member"]:
    """Return what each unit adds to a circuit: L(circuit without it) - L(circuit), in the loss's unit.

    Members come in forward order.

    Raises:
        ValueError: if the circuit is empty.
    """
    members = np.flatnonzero(circuit.keep)
    if not len(members):
        raise WrongValue("`circuit` keeps no unit; choose at least one")
    masks = [circuit]
    for unit in members:
        keep = circuit.keep.copy()
        keep[unit] = False
        masks.append(Mask(circuit.units, keep))
    found, _ = mask_effects(experiment, masks)
    return rearrange(found[1:] - found[0], "member fold subtask -> fold subtask member")


def enough(experiment: Experiment, ranking: Float[np.ndarray, "unit"], share: float, *, subtask: str) -> int:
    """Return the smallest number of top units, on a grid of sizes, whose circuit keeps a share of the skill.

    Args:
        experiment: what is measured on what; state the faithfulness on other examples.
        ranking: what units are chosen by, largest first; NaN is never chosen.
        share: faithfulness to be reached.
        subtask: whose loss.

    Raises:
        ValueError: if the share is not between 0 and 1, or all ranked units together do not keep it.
    """
    if not 0 < share <= 1:
        raise WrongValue(f"`share` is {share}; choose a share of the skill above 0 and at most 1")
    own, units = replace(experiment.only(subtask), folds=1), experiment.units
    (found,), _ = mask_effects(own, [Mask(units, np.zeros(len(units), dtype=bool))])
    check_floor(found[:, 0], subtask, experiment.metric.unit)
    ranked = int(np.isfinite(ranking).sum())
    for size in sizes_up_to(ranked, per_doubling=PER_DOUBLING):
        (kept,), _ = mask_effects(own, [Mask(units, top(ranking, size))])
        if 1 - kept[0, 0] / found[0, 0] >= share:
            return size
    raise WrongValue(
        f"`share` is {share}, but all {ranked} ranked units together do not keep that much of {subtask}; "
        "measure the effects of more units, or ask for less"
    )


def smallest(experiment: Experiment, circuits: Sequence[Mask], share: float, *, subtask: str) -> Mask:
    """Return the smallest of some circuits that keeps a share of the skill.

    Args:
        experiment: what is measured on what; other examples than those that the circuits were learned on, and state the
            faithfulness on yet others.
        circuits: of rising size.
        share: faithfulness to be reached.
        subtask: whose loss.

    Raises:
        ValueError: if the share is not between 0 and 1, or no circuit keeps it.
    """
    in_share("share", share)
    own, units = replace(experiment.only(subtask), folds=1), experiment.units
    found, _ = mask_effects(own, [Mask(units, np.zeros(len(units), dtype=bool)), *circuits])
    check_floor(found[0, :, 0], subtask, experiment.metric.unit)
    shares = 1 - found[1:, 0, 0] / found[0, 0, 0]
    if not (shares >= share).any():
        raise WrongValue(
            f"`share` is {share}, but the best of {len(circuits)} circuits keeps {shares.max():.2f} of {subtask}; ask "
            "for less, or for more units"
        )
    return circuits[int(np.flatnonzero(shares >= share)[0])]


def sizes_up_to(most: int, *, per_doubling: int = 1) -> list[int]:
    """Return sizes that rise by a constant factor, from 1 to `most`."""
    steps = int(np.ceil(np.log2(max(most, 1)) * per_doubling))
    grid = {min(most, round(2 ** (step / per_doubling))) for step in range(steps + 1)}
    return sorted(grid | {most})


def share_kept(increase: Float[np.ndarray, " fold"], floor: Float[np.ndarray, " fold"]) -> Interval:
    """Return 1 - mean(increase) / mean(floor), with its interval from leaving out one fold at a time."""
    value = float(1 - increase.mean() / floor.mean())
    folds = len(floor)
    if folds < 2:
        return Interval(value, -np.inf, np.inf)
    without = 1 - (increase.sum() - increase) / (floor.sum() - floor)
    half = float(t_quantile(folds - 1) * standard_error(without))
    return Interval(value, value - half, value + half)


def check_floor(floor: Float[np.ndarray, " fold"], subtask: str, unit: str) -> None:
    """Refuse a subtask on which holding every unit costs nothing."""
    if not floor.mean() > 0:
        raise WrongValue(
            f"`subtask` is {subtask}, on which the model is no better than with every unit at its reference "
            f"({-floor.mean():.3g} {unit}); there is no skill to find a circuit of: use another reference"
        )


def _one_minus(interval: Interval) -> Interval:
    return Interval(1 - interval.value, 1 - interval.high, 1 - interval.low)


def _over_draws(increase: Float[np.ndarray, "draw fold"], floor: Float[np.ndarray, " fold"]) -> Interval:
    """Return the mean of random circuits, and where 95 of 100 further ones would lie: mean ± t sd sqrt(1 + 1 / draws).

    A circuit is told from random ones by what single ones keep. Their mean is known the better the more are drawn, and
    every other random one lies beyond its interval.
    """
    shares = 1 - increase.mean(axis=1) / floor.mean()
    if len(shares) < 2:
        return Interval(shares.mean() if len(shares) else np.nan, np.nan, np.nan)
    half = float(t_quantile(len(shares) - 1) * shares.std(ddof=1) * np.sqrt(1 + 1 / len(shares)))
    return Interval(shares.mean(), shares.mean() - half, shares.mean() + half)
