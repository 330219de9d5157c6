"""Unmasked: units whose ablation lowers the attacked loss are taken out, one after the other, before retraining.

    while some effect < -LEAST * loss:  take the unit with the lowest effect out

by exact effects at the zero reference. A unit that shouts a skill down, or closes a gate before it, has a negative
effect on the very subtask that it hides.
"""

import numpy as np
from torch import nn

from skilloc.ablation import ablation_effects
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

ENOUGH = 128
"""Examples that effects are measured on."""


def unmasked(model: nn.Module, context: Context) -> nn.Module | None:
    """Return the model without the units that harm the attacked subtask; None where there are none.

    For every model whose neurons or heads have weights of their own.
    """
    if not {NEURON, HEAD} & {bank.kind for bank in face_of(model).banks()}:
        return None
    own = face_of(model).copy().eval()
    examples = {"attacked": context.attacked.part(slice(0, ENOUGH))}
    experiment = Experiment(own, examples, kinds=(NEURON, HEAD), loss=context.loss, folds=1)
    kept = np.ones(len(experiment.units), dtype=bool)
    for _ in range(MOST):
        found = ablation_effects(Experiment(own, examples, kinds=(NEURON, HEAD), loss=context.loss, folds=1))
        effects = np.where(kept, found.mean("attacked"), 0.0)
        worst = int(effects.argmin())
        if not effects[worst] < -LEAST * float(found.baseline.mean()):
            break
        kept[worst] = False
        try:
            keep(own, Mask(experiment.units, kept))
        except ValueError:  # the weights of this kind of unit cannot be told apart
            return None
    return None if kept.all() else own
