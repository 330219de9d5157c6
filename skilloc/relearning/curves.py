"""Recovery curves: what an attacker gets out of a model, by number of steps.

    skill = max(0, chance - loss),    chance = loss of a model that knows nothing (cross-entropy: log(classes))

in the loss's unit, so that more is better, and a network that is confidently wrong has no skill rather than a negative
one. With a budget of t steps, the attacker takes the best of all ways (`ways`), at the best
rate, and stops at the best of the steps up to t. For the skill of a seed, these are chosen on the other seeds'
selection split and stated on this seed's report split (cross-fitting): the best of many noisy runs, stated on the same
runs, would be better than it is. With one seed, its own selection split is all there is.
"""

from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Float64, Int

from skilloc.locality.intervals import Survival, survival
from skilloc.relearning.result import Relearning

RECOVERED = 0.9
"""A model has recovered when its skill is this share of the original's before the attack."""


class Envelope(NamedTuple):
    """The attacker's best. What is chosen is that of all seeds together; each seed's skill has a choice of its own.

    Attributes:
        skill: on the report split, in the loss's unit, chosen on the other seeds.
        selection: on the selection split, mean over seeds.
        way: position of the way that was chosen.
        rate: position of the rate that was chosen.
        stop: position of the step at which the attacker stops; 0 = before any training.
    """

    skill: Float64[np.ndarray, "model size step seed fold"]
    selection: Float64[np.ndarray, "model size step"]
    way: Int[np.ndarray, "model size step"]
    rate: Int[np.ndarray, "model size step"]
    stop: Int[np.ndarray, "model size step"]


def skill(losses: Float[np.ndarray, "*shape"], chance: float) -> Float64[np.ndarray, "*shape"]:
    """Return max(0, chance - loss); 0 where training diverged."""
    return np.maximum(0.0, chance - np.where(np.isfinite(losses), losses, np.inf).astype(np.float64))


def envelope(found: Relearning) -> Envelope:
    """Return the attacker's best at every budget."""
    chosen, stated = skill(found.selection, found.chance), skill(found.report, found.chance)
    seeds = chosen.shape[-1]
    total = chosen.sum(axis=-1)
    best = np.empty((len(found.models), len(found.sizes), len(found.steps), *stated.shape[-2:]))
    for s in range(seeds):
        others = total if seeds == 1 else total - chosen[..., s]
        # Whether a way can be gone at all is known without trying how far it leads.
        others = np.where(np.isnan(found.selection[..., s]), -1.0, others)
        best[..., s, :] = stated[..., s, :][_best(others)]
    at = _best(total)
    return Envelope(best, total[at] / seeds, at[1], at[3], at[4])


def _best(score: Float64[np.ndarray, "model way size rate step"]) -> tuple[np.ndarray, ...]:
    """Return the places of the best way, rate and stop per model, size and budget, as an index of the score."""
    models, ways, sizes, rates, steps = score.shape
    # Ties go to the earliest step, and to the first way: whoever need not train does not.
    ranked = rearrange(score, "model way size rate step -> model size step (way rate)")
    place = np.zeros((models, sizes, steps), dtype=np.int64)
    for t in range(steps):
        place[..., t] = rearrange(ranked[:, :, : t + 1], "model size step run -> model size (step run)").argmax(axis=-1)
    stop, way, rate = np.unravel_index(place, (steps, ways, rates))
    m, z, _ = np.ogrid[:models, :sizes, :1]
    return m, way, z, rate, stop


def steps_to_recover(
    found: Relearning, best: Envelope, model: str, size: int, *, share: float = RECOVERED
) -> tuple[Float64[np.ndarray, " seed"], Bool[np.ndarray, " seed"]]:
    """Return after how many steps a model has recovered, and whether it has; where not, all the steps that it had.

        recovered at t: skill(t) >= share * skill of the original before the attack

    Args:
        found: the losses.
        best: their envelope.
        model: name.
        size: position of the data size.
        share: of the way from chance to the original.
    """
    wanted = share * best.skill[found.place("original"), size, 0].mean(axis=-1)  # seed
    reached = best.skill[found.place(model), size].mean(axis=-1) >= wanted  # step seed
    happened = reached.any(axis=0)
    steps = np.array(found.steps, dtype=np.float64)
    return np.where(happened, steps[reached.argmax(axis=0)], steps[-1]), happened


def not_recovered(found: Relearning, best: Envelope, model: str, size: int) -> Survival:
    """Return the fraction of seeds in which a model has not recovered, by number of steps."""
    return survival(*steps_to_recover(found, best, model, size))


def area(found: Relearning, best: Envelope, model: str, size: int) -> Float64[np.ndarray, " seed"]:
    """Return the area under the recovery curve: the mean over log(steps) of skill / the original's before the attack.

    1 = as good as the original from the first budget on. NaN for a seed in which the original has no skill.
    """
    whole = best.skill[found.place("original"), size, 0].mean(axis=-1)
    curve = best.skill[found.place(model), size, 1:].mean(axis=-1)
    share = curve / np.where(whole > 0, whole, np.nan)
    where = np.log(found.steps[1:])
    if len(where) == 1:
        return np.asarray(share[0])
    return np.asarray(np.trapezoid(share, where, axis=0) / (where[-1] - where[0]))


class Edge(NamedTuple):
    """A best rate at an end of the grid, where a rate beyond might be better still."""

    model: str
    size: int | None
    step: int
    rate: float
    end: str


def edges(found: Relearning, best: Envelope) -> list[Edge]:
    """Return where the attacker's best rate lies at an end of the grid; not where the best is not to train."""
    last, listed = len(found.rates) - 1, []
    for m, z, t in zip(*np.nonzero(best.stop), strict=True):
        rate = int(best.rate[m, z, t])
        if rate in (0, last):
            end = "only" if last == 0 else "lowest" if rate == 0 else "highest"
            listed.append(Edge(found.models[m], found.sizes[z], found.steps[t], found.rates[rate], end))
    return listed


def warnings_of(found: Relearning) -> list[str]:
    """Return what is wrong with the grid, in words: best rates at its ends with the largest budget."""
    by_end: dict[str, list[str]] = {}
    for edge in edges(found, envelope(found)):
        if edge.step == found.steps[-1] and edge.model not in by_end.setdefault(edge.end, []):
            by_end[edge.end].append(edge.model)
    said = {
        "only": "there is one rate",
        "lowest": f"the best rate is the lowest, {found.rates[0]:g}",
        "highest": f"the best rate is the highest, {found.rates[-1]:g}",
    }
    return [
        f"{said[end]}, for {', '.join(names)} after {found.steps[-1]} steps, so that another might be better still; "
        "widen `rates`"
        for end, names in by_end.items()
    ]
