"""What a circuit keeps with its inputs at their reference: what it does whatever the example is.

With every unit at a reference a model can be worse than one that knows nothing but how often each answer is right. A
few units can mend that, the same way for every example, without reading any: so the loss falls from the floor, and a
share of the skill seems kept. The control is the circuit itself on inputs that say nothing,

    blind(C) = (L(none) - L(C, inputs at their reference)) / (L(none) - L(all))

with inputs held as `blocks.inputs_at_reference` has it: at zero, at their mean (per position), or at those of the
paired examples. What a circuit keeps beyond that depends on the examples.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from skilloc.circuits.blocks import ONE_BY_ONE, at_reference, inputs_at_reference
from skilloc.experiment import Experiment, edits_of
from skilloc.masks import Mask
from skilloc.models.face import Edit
from skilloc.tasks import Inputs


def blind_losses(experiment: Experiment, circuits: Sequence[Mask]) -> Float64[np.ndarray, "circuit fold"]:
    """Return the loss with only a circuit and with its inputs at their reference, minus that of the untouched model.

    NaN for a model whose inputs are not known, such as a described module.

    Args:
        experiment: what is measured on what, about one subtask.
        circuits: masks that keep a circuit's units.
    """
    folds, face = len(experiment.baseline), experiment.face
    if face.entry is None and face.chain is None:
        return np.full((len(circuits), folds), np.nan)
    ends, found = inputs_at_reference(experiment), np.zeros((len(circuits), folds))
    for place, circuit in enumerate(circuits):
        losses = []
        for block in experiment.blocks:
            rows, (some, known) = experiment.rows_of(block), experiment.part(block)
            edits: dict[str, Edit] = dict(edits_of(circuit, experiment.held, rows, experiment.where))
            inputs: Inputs = some.inputs
            if face.entry is None:
                assert isinstance(inputs, Tensor)
                inputs = ends.on(ONE_BY_ONE, rows).to(inputs).expand_as(inputs).contiguous()
            else:
                edits[face.entry] = at_reference(ends.on(face.entry, rows))
            with torch.no_grad(), face.attached(edits):
                losses.append(experiment.metric(face.run(inputs), some, known))
        mean = experiment.folded.mean(torch.cat(losses).double().cpu().numpy())
        found[place] = (mean - experiment.baseline)[:, 0]
    return found
