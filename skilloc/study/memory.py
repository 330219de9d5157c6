"""How many examples may pass through a model at once, so that a study stays within some gigabytes.

    bytes = weights + libraries + residual streams + rows (logits of a row, several times + what a row keeps)

What a row keeps are the tensors that the way back needs, and activations, gradients and products of all units: measured
on one example, where a study estimates effects from gradients, and nothing where it does not. An exact sweep holds the
residual stream before each block, on all rows.
"""

import torch
from torch import Tensor

from skilloc.ablation.cost import PASSES
from skilloc.attribution.passes import Pass
from skilloc.experiment import Experiment
from skilloc.mistakes import WrongValue, real
from skilloc.models.losses import MAX_LOGITS
from skilloc.models.makers import units_of
from skilloc.units import HEAD, NEURON

LIBRARIES = 0.6e9
"""Bytes of a process that has imported everything and opened nothing."""

SLOPES = 28
"""Bytes per activation of a unit on the way back: itself, its change and its gradient in single precision, their
product and its sum in double."""


AT_ONCE = 2
"""Blocks whose way back is there at once: what the last one kept is not all given back before the next."""


def entries_within(experiment: Experiment, gigabytes: float, *, gradients: bool) -> int:
    """Return the entries of the largest tensor of a pass (`Experiment.entries`) that a process has room for.

    A power of two of rows, so that small differences between machines change nothing, and at most 2^26 entries.

    Args:
        experiment: what is measured on what.
        gigabytes: of 10^9 bytes, of a process with one thread; each further thread has passes of its own.
        gradients: whether effects are estimated.

    Raises:
        ValueError: if one row at a time takes more.
    """
    real("memory", gigabytes, 0.0)
    rows, positions = len(experiment.folded.examples.first), experiment.folded.examples.positions
    row = positions * experiment.face.widest
    weights = [*experiment.model.parameters(), *experiment.model.buffers()]
    fixed = LIBRARIES + sum(weight.nbytes for weight in weights) + _streams(experiment, rows * positions)
    each = row * PASSES * weights[0].element_size() + (_kept(experiment) if gradients else 0)
    most = (1e9 * gigabytes - fixed) / each
    if most < 1:
        raise WrongValue(
            f"`memory` is {gigabytes:g}, but one row at a time takes {(fixed + each) / 1e9:.1f} GB; give that, or "
            "shorter or fewer examples"
        )
    count = 1
    while 2 * count <= min(most, max(1, MAX_LOGITS // row)):
        count *= 2
    return count * row


def _streams(experiment: Experiment, tokens: int) -> float:
    """Return the bytes of the residual streams that an exact sweep holds."""
    face = experiment.face
    if not face.stream:
        return 0.0
    hook = next(bank.name for bank in units_of(experiment.model).banks if bank.kind in (NEURON, HEAD))
    write = face.write(hook)
    return float(tokens * write.shape[-1] * (face.depth + 1) * write.element_size())


def _kept(experiment: Experiment) -> float:
    """Return the bytes that a row keeps for the way back."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    own = {weight.untyped_storage().data_ptr() for weight in experiment.model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        one = Pass(experiment, slice(0, 1))
    kept = sum(size for place, size in seen.items() if place not in own) + SLOPES * one.activations
    return AT_ONCE * float(kept / len(one.examples.first))
