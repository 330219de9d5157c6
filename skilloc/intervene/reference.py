"""References: the value that a unit is held at when it is ablated.

The kind of ablation is data. Zero takes the unit away as if its weights were zero; the mean keeps what it adds on
average; activations of other examples keep its distribution and destroy only what it says about this example.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from skilloc.intervene.hooks import read_activations
from skilloc.intervene.losses import fold
from skilloc.tasks import Batch
from skilloc.units import Units, kind_of


@dataclass(frozen=True)
class Reference:
    """The values that units are held at.

    Attributes:
        name: "zero", "mean", "resample" or "given".
        values: per hook, a tensor that broadcasts against the activations there: a scalar, `neuron`, `head d_head`, or
            one value per example of the batches that it was made for, in their order.
        made: what it was made from. JSON only.
    """

    name: str
    values: Mapping[str, Tensor]
    made: Mapping[str, object] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Reference":
        """Return the same values on `device`."""
        return Reference(self.name, {hook: value.to(device) for hook, value in self.values.items()}, self.made)

    def on(self, hook: str, rows: slice) -> Tensor:
        """Return the values at a hook for some of the examples."""
        value = self.values[hook]
        # One value per neuron has one axis, with examples (and positions, which an MLP has not) there are more.
        per_example = value.ndim == 4 if kind_of(hook) == "head" else value.ndim > 1
        return value[rows] if per_example else value

    def of(self, hook: str, position: int, rows: slice) -> Tensor:
        """Return one unit's value at a hook, as it broadcasts against `example *pos` (and d_head, for a head)."""
        value = self.on(hook, rows)
        if value.ndim == 0:
            return value
        return value[..., position, :] if kind_of(hook) == "head" else value[..., position]

    def record(self) -> dict[str, object]:
        """Return the name, the making and a hash of the values."""
        state = hashlib.sha256()
        for hook in sorted(self.values):
            array = self.values[hook].detach().cpu().contiguous().numpy()
            state.update(f"{hook}{array.shape}".encode())
            state.update(array.tobytes())
        return {"name": self.name, "made": dict(self.made), "digest": state.hexdigest()[:16]}


def zero_reference(units: Units) -> Reference:
    """Hold units at 0: the same as zeroing their outgoing weights."""
    return Reference("zero", {hook: torch.zeros(()) for hook in units.hooks})


def mean_reference(model: nn.Module, batches: Mapping[str, Batch], units: Units) -> Reference:
    """Hold units at their mean activation over all examples and positions of some batches.

    reference[u] = mean over subtasks, examples e and positions t of activation[e, t, u]; a head's is a vector over
    d_head. Each subtask weighs the same. Take batches of another split than the measured one.
    """
    totals: dict[str, Tensor] = {}
    for batch in batches.values():
        for hook, value in read_activations(model, batch, units).items():
            mean = value.double().mean(dim=tuple(range(value.ndim - (2 if kind_of(hook) == "head" else 1))))
            totals[hook] = totals.get(hook, 0) + mean / len(batches)
    made = {"tokens": {name: batch.digest for name, batch in batches.items()}}
    return Reference("mean", {hook: value.float() for hook, value in totals.items()}, made)


def resample_reference(model: nn.Module, batches: Mapping[str, Batch], units: Units, *, seed: int) -> Reference:
    """Hold units at their activations on another example, drawn from the examples of all subtasks.

    reference[e, t, u] = activation[other(e), t, u], with other(e) != e drawn uniformly, the same for all units.

    Args:
        model: the model to be measured.
        batches: the batches that will be measured: the reference has one row for each of their examples.
        units: the unit axis.
        seed: which draw.

    Raises:
        ValueError: if there is only one example, or the sequences have different lengths.
    """
    lengths = {name: batch.inputs.shape[1] for name, batch in batches.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"`batches` have lengths {lengths}; resampling needs one length, as positions must correspond")
    batch = fold(batches, 1).batch
    if len(batch) < 2:
        raise ValueError("`batches` hold 1 example; resampling needs another one to take activations from")
    step = np.random.default_rng(seed).integers(1, len(batch), size=len(batch))
    others = torch.from_numpy((np.arange(len(batch)) + step) % len(batch))
    activations = read_activations(model, batch, units)
    made = {"seed": seed, "tokens": {name: b.digest for name, b in batches.items()}}
    return Reference("resample", {hook: value[others.to(value.device)] for hook, value in activations.items()}, made)


def given_reference(units: Units, values: Float[np.ndarray, "unit"]) -> Reference:
    """Hold each unit at a value of its own; for a head, all of d_head at that value.

    Raises:
        ValueError: if there is not one value per unit.
    """
    if values.shape != (len(units),):
        raise ValueError(
            f"`reference` has shape {values.shape} but `units` has length {len(units)}; pass one value per unit"
        )
    parts = units.split(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)))
    return Reference("given", {h: p[:, None] if kind_of(h) == "head" else p for h, p in parts.items()})


def as_reference(reference: Reference | Float[np.ndarray, "unit"] | None, units: Units) -> Reference:
    """Return the reference that an argument means: zero for None, and one value per unit for an array."""
    if reference is None:
        return zero_reference(units)
    if isinstance(reference, Reference):
        for hook in set(units.hooks) - set(reference.values):
            raise ValueError(f"`reference` has no values for {hook}; build it from the same units")
        return reference
    return given_reference(units, reference)
