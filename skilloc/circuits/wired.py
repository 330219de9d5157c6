"""Edges as claims: what a circuit keeps with only some of its edges.

A drawn edge says that something passes there. Whether the drawn edges are how the circuit works is another question,
and is answered by cutting all others: the circuit with only its edges, all other paths at the reference (`wires`), has
a faithfulness of its own, beside as many random edges between the same banks. Which edges are enough is learned by
`edge_gates`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float64

from skilloc.circuits.faithfulness import Curve, check_floor
from skilloc.circuits.wires import Wiring
from skilloc.masks import DRAWS, Mask
from skilloc.mistakes import WrongValue, a_seed, whole

Keep = Bool[np.ndarray, " edge"]


def edge_faithfulness(
    places: Wiring, sets: Sequence[Keep], *, draws: int = DRAWS, seed: int = 0, rest: bool = True
) -> Curve:
    """Measure what a circuit keeps with only some of its edges, all other paths at the reference.

    In the result `sizes` are numbers of edges; "rest" is the circuit without these edges, and "random" are as many
    random edges of the circuit from the same banks to the same banks, others than these where there are enough.

    Args:
        places: of the circuit's edges, in an experiment about one subtask (`experiment.only`), and not on the examples
            that the edges were chosen by.
        sets: which edges, in the order of `places`; of rising size.
        draws: number of random sets beside each; 0 for none.
        seed: of the random sets.
        rest: whether the circuit without these edges is measured too, which takes as long again; else it is NaN.

    Raises:
        ValueError: if the experiment is about several subtasks, a set has another length, or holding all units costs
            nothing.
    """
    whole("draws", draws, 0)
    a_seed("seed", seed)
    own = places.experiment
    if len(own.folded.subtasks) > 1:
        raise WrongValue(
            f"`places` are of an experiment about {', '.join(own.folded.subtasks)}; use experiment.only(subtask)"
        )
    if any(len(keep) != len(places) for keep in sets):
        raise WrongValue(f"`sets` has lengths {[len(keep) for keep in sets]}, but there are {len(places)} edges")
    rng, wanted = np.random.default_rng(seed), []
    for keep in sets:
        for other in (keep, *(_matched(places, keep, rng) for _ in range(draws))):
            wanted += [other, ~other]
    baseline = own.baseline[:, 0]
    nothing = Mask(own.units, np.zeros(len(own.units), dtype=bool))
    floor = own.folded.mean(own.losses(nothing))[:, 0] - baseline
    check_floor(floor, own.folded.subtasks[0], own.metric.unit)
    once: dict[bytes, Float64[np.ndarray, " fold"]] = {}
    for place, keep in enumerate(wanted):
        if keep.tobytes() not in once and (rest or place % 2 == 0):
            once[keep.tobytes()] = _per_fold(places, keep)
    unknown = np.full_like(baseline, np.nan)
    found = np.stack([once[k.tobytes()] if rest or not place % 2 else unknown for place, k in enumerate(wanted)])
    found = found - baseline
    table = rearrange(found, "(size draw part) fold -> part draw size fold", size=len(sets), part=2)
    return Curve(
        sizes=tuple(int(keep.sum()) for keep in sets),
        floor=floor,
        baseline=baseline,
        circuit=table[0, 0],
        rest=table[1, 0],
        random=table[0, 1:],
        random_rest=table[1, 1:],
        blind=np.full_like(table[0, 0], np.nan),
        unit=own.metric.unit,
    )


def _per_fold(places: Wiring, keep: Keep) -> Float64[np.ndarray, " fold"]:
    """Return the mean loss over each fold with only some edges."""
    own, losses = places.experiment, []
    wires = torch.as_tensor(keep, dtype=torch.float32, device=own.device)
    with torch.no_grad():
        for block in own.blocks:
            some, known = own.part(block)
            losses.append(own.metric(places.logits(wires, block), some, known))
    found: Float64[np.ndarray, " fold"] = own.folded.mean(torch.cat(losses).double().cpu().numpy())[:, 0]
    return found


def _matched(places: Wiring, keep: Keep, rng: np.random.Generator) -> Keep:
    """Return as many random edges between the same banks, others than these first."""
    columns = np.array([node.column for node in places.nodes])[places.pairs.numpy()]
    found = np.zeros_like(keep)
    for kind in np.unique(columns[keep], axis=0):
        among = np.flatnonzero((columns == kind).all(axis=1))
        order = rng.permutation(among)
        order = order[np.argsort(keep[order], kind="stable")]
        found[order[: int(keep[among].sum())]] = True
    return found
