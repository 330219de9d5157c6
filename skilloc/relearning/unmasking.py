"""Unmasked: units whose ablation lowers the attacked loss are taken out, one after the other, before retraining.

    while some effect < -LEAST * loss:  take the unit with the lowest effect out

by exact effects at the zero reference. A unit that shouts a skill down, or closes a gate before it, has a negative
effect on the very subtask that it hides.
"""

import numpy as np
from torch import nn

from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment
from skilloc.masks import Mask
from skilloc.models.makers import face_of
from skilloc.pruning import keep
from skilloc.relearning.starts import Context
from skilloc.units import HEAD, NEURON

LEAST = 0.02
"""A unit is taken out if that lowers the loss by this part of what it is."""

MOST = 8
"""Units that are taken out, at most."""

ENOUGH, FEW_TEXTS = 128, 8
"""Examples that effects are measured on: of a chain of linear maps, and of any other model."""

LOOKED_AT = 64
"""Units of a model that is no chain whose exact effects are measured: those with the lowest estimates. Of these, all
harmful ones are taken out at once."""


def unmasked(model: nn.Module, context: Context) -> nn.Module | None:
    """Return the model without the units that harm the attacked subtask; None where there are none.

    For every model whose neurons or heads have weights of their own.
    """
    if not {NEURON, HEAD} & {bank.kind for bank in face_of(model).banks()}:
        return None
    own = face_of(model).copy().eval()
    chain = face_of(model).chain is not None
    examples = {"attacked": context.attacked.part(slice(0, ENOUGH if chain else FEW_TEXTS))}

    def experiment() -> Experiment:
        return Experiment(own, examples, kinds=(NEURON, HEAD), loss=context.loss, folds=1)

    units = experiment().units
    kept, select = np.ones(len(units), dtype=bool), None
    if not chain:
        # Exact effects of all units of a transformer take minutes; its estimates say where to look.
        guess = attribution_effects(experiment()).mean("attacked")
        select = np.zeros(len(units), dtype=bool)
        select[np.argsort(guess)[:LOOKED_AT]] = True
    for _ in range(MOST if chain else 1):
        found = ablation_effects(experiment(), select=select)
        effects = np.where(kept, np.nan_to_num(found.mean("attacked")), 0.0)
        harmful = effects < -LEAST * float(found.baseline.mean())
        worst = [int(effects.argmin())] if chain else np.argsort(effects)[:MOST].tolist()
        worst = [unit for unit in worst if harmful[unit]]
        if not worst:
            break
        kept[worst] = False
        try:
            keep(own, Mask(units, kept))
        except ValueError:  # the weights of this kind of unit cannot be told apart
            return None
    return None if kept.all() else own
