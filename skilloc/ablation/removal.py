"""Joint removal: what happens to every subtask when the units that one of them needs most are taken away together.

    removal[f, a, b] = loss of b on fold f with the top n units of a at their reference - loss of b on fold f

Single effects say nothing about units that stand in for each other; this does. The units are chosen by cross-fitting:
those for one half of the folds by the effects on the other half, so that no choice is made on what is reported. Beside
each removal stand random masks with as many units in every bank, none of them the removed ones where that can be
(`disjoint_draws`; the record says by size whether it could).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from skilloc import locality
from skilloc.ablation import mask_effects
from skilloc.ablation.items import HERE, Hands
from skilloc.effects import Effects
from skilloc.experiment import Experiment
from skilloc.locality.intervals import Interval
from skilloc.masks import DRAWS, Mask, disjoint_draws, drop_top, matched_random, top
from skilloc.mistakes import WrongValue, a_seed, whole


@dataclass(frozen=True)
class Removal:
    """Loss increases by joint removal.

    Attributes:
        values: in the unit of the loss, on `size fold source target`.
        random: the same for random masks of equal size in every bank, on `draw size fold source target`.
        baseline: loss of the untouched model, on `fold target`.
        subtasks: names on the source and target axes.
        sizes: number of units removed, on `size`.
        made: what made it. JSON only.
        unit: of the loss: "nats", "logits", "share" or a user's own.
    """

    WHAT: ClassVar[str] = "removal"
    LABELS: ClassVar[Mapping[str, str]] = {"source": "subtasks", "target": "subtasks"}

    values: Float[np.ndarray, "size fold source target"]
    random: Float[np.ndarray, "draw size fold source target"]
    baseline: Float[np.ndarray, "fold target"]
    subtasks: tuple[str, ...]
    sizes: tuple[int, ...]
    made: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "nats"

    def at(self, size: int) -> Float[np.ndarray, "fold source target"]:
        """Return the loss increases for one number of removed units.

        Raises:
            ValueError: if that number was not measured.
        """
        return np.asarray(self.values[self._index(size)])

    def random_at(self, size: int) -> Float[np.ndarray, "draw fold source target"]:
        """Return the loss increases of the random masks of one size."""
        return np.asarray(self.random[:, self._index(size)])

    def _index(self, size: int) -> int:
        if size not in self.sizes:
            raise WrongValue(f"`size` is {size}; measured were {', '.join(map(str, self.sizes))}")
        return self.sizes.index(size)


def removal_effects(
    experiment: Experiment,
    effects: Effects,
    *,
    sizes: Sequence[int],
    draws: int = DRAWS,
    seed: int = 0,
    hands: Hands = HERE,
) -> Removal:
    """Remove the top units of each subtask together, and measure every subtask.

    Args:
        experiment: what is measured on what; on the examples that `effects` were measured on, in the same folds.
        effects: what units are chosen by; at least 2 folds.
        sizes: numbers of units to remove.
        draws: number of random masks beside each removal; an interval over them needs some 20.
        seed: of the random masks.
        hands: who measures, as of `mask_effects`.

    Raises:
        ValueError: if the effects were measured on other tokens or units, in fewer than 2 folds, or on fewer units than
            `sizes` asks for.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, count=64)
        >>> removal = sk.removal_effects(experiment, sk.ablation_effects(experiment), sizes=[4])
        >>> removal.values.shape  # size fold removed measured
        (1, 8, 2, 2)
    """
    for size in sizes:
        whole("sizes", size)
    whole("draws", draws)
    a_seed("seed", seed)
    order = _order(experiment, effects)
    folds = len(effects.values)
    if folds < 2:
        raise WrongValue(
            "`effects` have 1 fold; units are chosen on other folds than those reported, so use at least 2"
        )
    halves = (np.arange(folds) < folds // 2, np.arange(folds) >= folds // 2)
    shape = (len(sizes), folds, len(effects.subtasks), len(effects.subtasks))
    values, random = np.zeros(shape), np.zeros((draws, *shape))
    masks: list[Mask] = []
    places: list[tuple[np.ndarray, tuple[Any, ...]]] = []
    for half, other in (halves, halves[::-1]):
        for i, size in enumerate(sizes):
            for a, name in enumerate(effects.subtasks):
                mask = drop_top(effects.units, effects.of(name)[other].mean(axis=0), size)
                masks.append(mask)
                places.append((values, (i, half, a)))
                for d in range(draws):
                    masks.append(matched_random(mask, seed=seed * draws + d))
                    places.append((random, (d, i, half, a)))
    measured, baseline = mask_effects(experiment, masks, hands=hands)
    for (target, place), found in zip(places, measured[..., order], strict=True):
        target[place] = found[place[-2]]
    about = {name: value for name, value in experiment.record().items() if name in ("reference", "loss", "at", "hooks")}
    disjoint = {str(mask.dropped): True for mask in masks[:: 1 + draws]}
    for mask in masks[:: 1 + draws]:
        disjoint[str(mask.dropped)] &= disjoint_draws(mask)
    made = {"method": "joint removal", "draws": draws, "seed": seed, "disjoint": disjoint, **about}
    made["effects"] = dict(effects.made)
    unit = experiment.metric.unit
    return Removal(values, random, baseline[:, order], effects.subtasks, tuple(sizes), made, unit)


@dataclass(frozen=True)
class Interactions:
    """How pairs of units work together on one subtask.

    Attributes:
        names: of the units.
        scores: effect of both minus the sum of their single effects, in the unit of the loss, on `unit unit`; positive
            = each stands in for the other.
        unit: of the loss: "nats", "logits", "share" or a user's own.
    """

    names: tuple[str, ...]
    scores: Interval
    unit: str = "nats"


def pair_interactions(experiment: Experiment, effects: Effects, *, subtask: str, count: int = 10) -> Interactions:
    """Measure e_ij - e_i - e_j for all pairs of a subtask's top units.

    The units are chosen on the first half of the folds, and everything is measured on the second.

    Args:
        experiment: what is measured on what; on the examples that `effects` were measured on, in the same folds.
        effects: what units are chosen by; at least 6 folds, so that 3 are left for an interval.
        subtask: whose units and whose loss.
        count: number of units; count (count - 1) / 2 pairs are ablated.

    Raises:
        ValueError: if there are fewer than 6 folds, or the effects were measured on other tokens or units.
    """
    order = _order(experiment, effects)
    folds = len(effects.values)
    if folds < 6:
        raise WrongValue(
            f"`effects` have {folds} folds; pairs are chosen on one half and measured on the other, so use 6"
        )
    units = effects.units
    chosen = np.flatnonzero(top(effects.of(subtask)[: folds // 2].mean(axis=0), count))
    first, second = np.triu_indices(count, k=1)
    groups = [*chosen[:, None], *chosen[np.stack([first, second], axis=1)]]
    masks = [Mask(units, ~np.isin(np.arange(len(units)), group)) for group in groups]
    measured, _ = mask_effects(experiment, masks)
    held_out = measured[:, folds // 2 :, order[effects.subtasks.index(subtask)]].T
    single, joint = held_out[:, :count], np.zeros((len(held_out), count, count))
    joint[:, first, second] = joint[:, second, first] = held_out[:, count:]
    alone = np.eye(count, dtype=bool)
    joint[:, alone] = 2 * single
    scores = locality.interaction(
        joint, np.broadcast_to(single[:, :, None], joint.shape), np.broadcast_to(single[:, None], joint.shape)
    )
    return Interactions(tuple(units.names[u] for u in chosen), scores, experiment.metric.unit)


def _order(experiment: Experiment, effects: Effects) -> list[int]:
    """Return where each of the effects' subtasks is among the experiment's, if the effects were measured on these."""
    tokens = dict(experiment.folded.digests)
    if effects.made.get("tokens") != tokens:
        raise WrongValue(
            f"`effects` were measured on tokens {effects.made.get('tokens')} but `experiment` holds {tokens}; "
            "draw the examples of the effects again"
        )
    if effects.units != experiment.units or len(effects.values) != experiment.folded.folds:
        raise WrongValue(
            f"`effects` are of {len(effects.units)} units in {len(effects.values)} folds, but `experiment` is about "
            f"{len(experiment.units)} in {experiment.folded.folds}; make it with units=effects.units and as many folds"
        )
    return [experiment.folded.subtasks.index(name) for name in effects.subtasks]
