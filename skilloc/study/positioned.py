"""Effects by position for a study: its examples drawn again, its top units held at one position after the other."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from skilloc import store
from skilloc.ablation.positions import position_effects
from skilloc.effects import Effects
from skilloc.effects.positions import PositionEffects
from skilloc.masks import top as largest
from skilloc.mistakes import WrongValue
from skilloc.models.language import Opened
from skilloc.study.redrawn import redraw


@store.working("folder")
def by_position(
    opened: Opened, effects: Effects, folder: Path, *, top: int = 8, names: Sequence[str] = ()
) -> PositionEffects:
    """Measure the top units of each subtask at each position by itself, or read it if the folder holds it already.

    Args:
        opened: the model that the effects were measured on.
        effects: effects that a study measured.
        folder: where the result is kept.
        top: number of units per subtask.
        names: names that the examples give to positions; every place of a row if not given.

    Raises:
        ValueError: if the model or the texts are not those of the effects, the folder holds another such result, or
            the examples have no positions.
    """
    measured = int(effects.measured.sum())
    if not 1 <= top <= measured:
        raise WrongValue(f"`top` is {top}; choose 1 to {measured} units, the number that was measured")
    needed = np.where(effects.measured, effects.values.mean(axis=0), np.nan)
    tops = [largest(own, top) for own in needed]
    experiment = redraw(opened, effects)
    asked = {"effects": store.key(effects.made), "top": top, "names": list(names)}
    if folder.is_dir() and any(folder.iterdir()):
        found = store.load(PositionEffects, folder)
        if {name: found.made.get(name) for name in asked} != asked:
            raise WrongValue(
                f'"{folder}" holds effects by position of other units or another study; choose another folder for `out`'
            )
        return found
    found = position_effects(experiment, names=names, select=np.any(tops, axis=0))
    chosen = {
        name: [effects.units.names[u] for u in np.flatnonzero(own)[np.argsort(-mean[own], kind="stable")]]
        for name, own, mean in zip(effects.subtasks, tops, needed, strict=True)
    }
    found = replace(found, made={**found.made, **asked, "chosen": chosen})
    store.save(found, folder)
    return found
