"""Recovery curves: what an attacker gets out of a model, by number of steps.

    skill = max(0, chance - loss),    chance = loss of a model that knows nothing (cross-entropy: log(classes))

in the loss's unit, so that more is better, and a network that is confidently wrong has no skill rather than a negative
one. With a budget of t steps, the attacker takes the model as it is or repaired, whichever is better, at the best
rate, and stops at the best of the steps up to t. These are chosen on the selection split, by the mean over seeds; the
skill that comes of them is stated on the report split.
"""

from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Float64, Int

from skilloc.intervals import Survival, survival
from skilloc.relearning.result import Relearning

RECOVERED = 0.9
"""A model has recovered when its skill is this share of the original's before the attack."""


class Envelope(NamedTuple):
    """The attacker's best.

    Attributes:
        skill: on the report split, in the loss's unit.
        selection: on the selection split, mean over seeds.
        start: position of the start that was chosen: as it is, or repaired.
        rate: position of the rate that was chosen.
        stop: position of the step at which the attacker stops; 0 = before the attack.
    """

    skill: Float64[np.ndarray, "model size step seed fold"]
    selection: Float64[np.ndarray, "model size step"]
    start: Int[np.ndarray, "model size step"]
    rate: Int[np.ndarray, "model size step"]
    stop: Int[np.ndarray, "model size step"]


def skill(losses: Float[np.ndarray, "*shape"], chance: float) -> Float64[np.ndarray, "*shape"]:
    """Return max(0, chance - loss); 0 where training diverged."""
    return np.maximum(0.0, chance - np.where(np.isfinite(losses), losses, np.inf).astype(np.float64))


def envelope(found: Relearning) -> Envelope:
    """Return the attacker's best at every budget."""
    chosen = skill(found.selection, found.chance).mean(axis=-1)  # model start size rate step
    stated = skill(found.report, found.chance)
    models, starts, sizes, rates, steps = chosen.shape
    # Ties go to the earliest step, and to the model as it is: whoever need not train does not.
    ranked = rearrange(chosen, "model start size rate step -> model size step (start rate)")
    place = np.zeros((models, sizes, steps), dtype=np.int64)
    for t in range(steps):
        place[..., t] = rearrange(ranked[:, :, : t + 1], "model size step run -> model size (step run)").argmax(axis=-1)
    stop, start, rate = np.unravel_index(place, (steps, starts, rates))
    m, z, _ = np.ogrid[:models, :sizes, :1]
    at = (m, start, z, rate, stop)
    return Envelope(stated[at], chosen[at], start, rate, stop)


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
