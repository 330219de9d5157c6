"""Can a model still learn? The same attack with a task that nobody has seen.

Trainability is not knowledge: a network that lost most of its units, or whose units are off, learns nothing back
because it learns nothing at all. So each candidate, and a fresh network of its shape, learn something new at the rates
of the attack, for up to `BUDGETS[-1]` steps, from where they are: what is well trained is slow at first, and what is
broken does not get there. Where all seeds of both have learned all there is with the first budget, that is the end.
Ways that put in some of a fresh network are left out: they would show what that one learns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from einops import rearrange
from jaxtyping import Float64
from torch import nn

from skilloc.models.makers import face_of
from skilloc.relearning.controls import untrained
from skilloc.relearning.curves import skill
from skilloc.relearning.probe import relearn_probe
from skilloc.relearning.result import Relearning
from skilloc.relearning.rules import BROKEN, KEPT
from skilloc.relearning.settings import NEVER, ORIGINAL, Grid, Model
from skilloc.relearning.verdict import verdicts
from skilloc.relearning.ways import WAYS
from skilloc.tasks import Subtask
from skilloc.tasks.parity import FAMILY, parity_subtasks

BUDGETS = (128, 512, 2048)
"""Numbers of steps; what has been learned is read at the last one. A network that is well trained on other tasks, and
whole, has learned nothing after 512, whatever its size, and everything after 2048."""

ALL = 0.99
"""Of the way from chance to no loss, from which on nothing is left to be learned."""


def with_plasticity(
    found: Relearning,
    models: Mapping[str, Model],
    new: Subtask,
    grid: Grid,
    seeds: Sequence[int],
    *,
    out: Path | None = None,
) -> Relearning:
    """Return a result with what every candidate, and a fresh network of its shape, learn of a new task.

    Args:
        found: as `relearn_probe` gave it.
        models: as they were attacked.
        new: what nobody has seen; `unseen_parity` makes one of a parity subtask.
        grid: the settings; way and budgets are those of this module.
        seeds: of the attack.
        out: a folder for the runs.
    """
    learned = np.full(found.learned.shape, np.nan)
    # Where the skill came back, or what was kept is broken, nothing is left to be asked.
    asked = {told.model for told in verdicts(replace(found, learned=learned)) if told.word not in (KEPT, BROKEN)}
    own = replace(grid, ways=WAYS[:1], sizes=(None,), repair=0, wider=0)
    alike: dict[Any, dict[str, Sequence[nn.Module]]] = {}
    for name in found.models:
        if name in asked:
            model = models[name]
            listed = [model] * len(seeds) if isinstance(model, nn.Module) else list(model)
            shapes = tuple((key, tuple(p.shape)) for key, p in listed[0].named_parameters())
            alike.setdefault(shapes, {})[name] = listed
    for candidates in alike.values():
        first = next(iter(candidates.values()))
        if face_of(first[0]).fresh is None:
            continue
        fresh = [untrained(model, seed=seed) for model, seed in zip(first, seeds, strict=True)]
        left = dict(candidates)
        for budgets in (BUDGETS[:1], BUDGETS):
            # The probe wants an original; whoever learns from nothing is the measure here.
            beside = {ORIGINAL: fresh, NEVER: fresh, **left}
            tried = relearn_probe(beside, [new], new, replace(own, budgets=budgets), seeds, out=out)
            best = most_learned(tried)
            for name in candidates.keys() & left.keys():
                pair = best[[tried.place(name), tried.place(ORIGINAL)]]
                learned[found.place(name)] = pair
                if pair.mean(axis=-1).min() >= ALL * tried.chance:
                    del left[name]
            if not left:
                break
    return replace(found, learned=learned)


def most_learned(tried: Relearning) -> Float64[np.ndarray, "model seed fold"]:
    """Return the skill that each model gets at best with each seed, on the report split.

    Rate and stop are chosen on the seed's own selection split. Whether a network can learn is asked, not whether it
    learns at the rate that was best for other seeds: one run may get there and another not, and both be whole.
    """
    chosen = skill(tried.selection, tried.chance)[:, :, 0]  # model way rate step seed
    stated = skill(tried.report, tried.chance)[:, :, 0]
    flat = rearrange(chosen, "model way rate step seed -> model seed (way rate step)").argmax(axis=-1)
    runs = rearrange(stated, "model way rate step seed fold -> model seed (way rate step) fold")
    return np.take_along_axis(runs, flat[..., None, None], axis=2)[:, :, 0]


def unseen_parity(subtask: Subtask, known: Sequence[Subtask]) -> Subtask | None:
    """Return a parity under the control bits of a subtask, of as many bits as an atom has, that no other subtask asks.

    Its bits are such as belong to no atom, where there are any, filled up with the subtask's own; else one of each atom
    in turn. Also beside a composite it is as short as an atom, since whole networks, well trained on other tasks, learn
    that within `BUDGETS`.

    Args:
        subtask: the attacked one.
        known: all subtasks of its world that somebody may have seen.

    Returns:
        The subtask; None if the given one is no parity, or there are too few bits for another.
    """
    made = dict(subtask.made or {})
    if made.get("family") != FAMILY:
        return None
    n, code = cast(int, made["n"]), cast(list[int], made["code"])
    sets = [list(bits) for bits in cast(list[list[int]], made["sets"])]
    taken = {bit for bits in sets for bit in bits}
    free = [bit for bit in range(n) if bit not in taken]
    own = [bit for atom in code for bit in sets[atom]]
    in_turn = [bits[place] for place in range(max(map(len, sets))) for bits in sets if place < len(bits)]
    new = ([*free, *own] if free else in_turn)[: max(len(code), len(sets[code[0]]))]
    # A parity is another one as soon as one bit is.
    atoms = [[bit for bit in bits if bit not in new] for bits in sets]
    for place, atom in enumerate(code):
        atoms[atom] = new[place :: len(code)]
    if not all(atoms) or any(set(new) == _bits_of(one) for one in (subtask, *known)):
        return None
    listed = parity_subtasks(n, atoms=atoms, composites=[code] if len(code) > 1 else ()).values()
    found = next(one for one in listed if dict(one.made or {})["code"] == code)
    return Subtask(f"new_{subtask.name}", found.sample, (), found.made)


def _bits_of(subtask: Subtask) -> set[int]:
    made = dict(subtask.made or {})
    if made.get("family") != FAMILY:
        return set()
    sets = cast(list[list[int]], made["sets"])
    return {bit for atom in cast(list[int], made["code"]) for bit in sets[atom]}
