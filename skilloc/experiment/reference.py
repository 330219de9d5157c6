"""References: the value that a unit is held at when it is ablated.

The kind of ablation is data. Zero takes the unit away as if its weights were zero; a mean keeps what it adds on
average; activations of other examples keep its distribution and destroy only what it says about this example; those of
a paired input tell what the difference between the two inputs does.

A mean is taken per position, or, where prompts differ in length, per role. A unit that is silent everywhere but at the
first position has another mean there than elsewhere; one mean over all positions (`flat mean`) would inject a value
that the unit never has.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from skilloc.experiment.axes import one
from skilloc.experiment.hooks import read_activations
from skilloc.mistakes import WrongValue
from skilloc.tasks import Examples, fold
from skilloc.units import Bank, Units

ZERO, MEAN, FLAT_MEAN, RESAMPLE, PAIRED, GIVEN = "zero", "mean", "flat mean", "resample", "paired", "given"
MEANS = (MEAN, FLAT_MEAN)
REFERENCES = (ZERO, MEAN, FLAT_MEAN, RESAMPLE, PAIRED)


@dataclass(frozen=True)
class Reference:
    """The values that units are held at.

    Attributes:
        name: "zero", "mean", "flat mean", "resample", "paired" or "given".
        values: per hook, a tensor that broadcasts against the activations there from the right: a scalar, `neuron`,
            `head d_head`, `pos neuron`, ...; with one more axis in front, the rows, where `per_row` is True.
        made: what it was made from. JSON only.
        per_row: whether there is one value for every row of the examples that it was made for, in their order.
    """

    name: str
    values: Mapping[str, Tensor]
    made: Mapping[str, object] = field(default_factory=dict)
    per_row: bool = False

    def to(self, device: torch.device | str) -> "Reference":
        """Return the same values on `device`."""
        return replace(self, values={hook: value.to(device) for hook, value in self.values.items()})

    def on(self, hook: str, rows: slice) -> Tensor:
        """Return the values at a hook for some of the rows."""
        return self.values[hook][rows] if self.per_row else self.values[hook]

    def of(self, hook: str, bank: Bank, position: int, rows: slice) -> Tensor:
        """Return one unit's value at a hook, as it broadcasts against `row *pos` (and d_head, for a head)."""
        return one(self.on(hook, rows), bank, position)

    def part(self, rows: slice) -> "Reference":
        """Return the reference of some of the rows."""
        return replace(self, values={hook: self.on(hook, rows) for hook in self.values})

    def record(self) -> dict[str, object]:
        """Return the name, the making and a hash of the values."""
        state = hashlib.sha256()
        for hook in sorted(self.values):
            array = self.values[hook].detach().cpu().float().contiguous().numpy()
            state.update(f"{hook}{array.shape}".encode())
            state.update(array.tobytes())
        return {"name": self.name, "made": dict(self.made), "digest": state.hexdigest()[:16]}


def zero_reference(units: Units) -> Reference:
    """Hold units at 0: the same as zeroing their weights."""
    return Reference(ZERO, {hook: torch.zeros(()) for bank in units.banks for hook in bank.places})


def resample_reference(
    model: nn.Module, examples: Mapping[str, Examples], units: Units, *, seed: int, entries: int | None = None
) -> Reference:
    """Hold units at their activations on another row, drawn from those of all subtasks.

    reference[r, t, u] = activation[other(r), t, u], with other(r) != r drawn uniformly, the same for all units.

    Args:
        model: the model to be measured.
        examples: those that will be measured: the reference has one value for each of their rows.
        units: the unit axis.
        seed: which draw.
        entries: of the widest tensor of a pass, at most (`Experiment`).

    Raises:
        ValueError: if there is only one row, or the sequences have different lengths, also without their padding.
    """
    lengths = {name: own.positions for name, own in examples.items()}
    if len(set(lengths.values())) > 1:
        raise WrongValue(
            f"`examples` have lengths {lengths}; resampling needs one length, as positions must correspond"
        )
    whole = fold(examples, 1).examples
    count = len(whole.first)
    if whole.mask is not None and not bool((whole.mask == whole.mask[:1]).all()):
        raise WrongValue(
            "`examples` are padded to one length but differ without the padding; resampling would take what a unit "
            'does on padding: use the reference "mean" or "paired", or prompts of one length'
        )
    if count < 2:
        raise WrongValue("`examples` hold 1 row; resampling needs another one to take activations from")
    step = np.random.default_rng(seed).integers(1, count, size=count)
    others = torch.from_numpy((np.arange(count) + step) % count)
    values = read_activations(model, whole, units, order=others, entries=entries)
    return Reference(RESAMPLE, values, {"seed": seed, **tokens_of(examples)}, per_row=True)


def paired_reference(
    model: nn.Module, examples: Mapping[str, Examples], units: Units, *, entries: int | None = None
) -> Reference:
    """Hold units at their activations on the second input of each row.

    reference[r, t, u] = activation on paired[r] at [t, u].

    Args:
        model: the model to be measured.
        examples: those that will be measured, with their `paired` inputs.
        units: the unit axis.
        entries: of the widest tensor of a pass, at most (`Experiment`).

    Raises:
        ValueError: if there are no paired inputs.
    """
    whole = fold(examples, 1).examples.swapped()
    return Reference(PAIRED, read_activations(model, whole, units, entries=entries), tokens_of(examples), per_row=True)


def given_reference(units: Units, values: Float[np.ndarray, "unit"]) -> Reference:
    """Hold each unit at a value of its own, at all its places; for a head, all of d_head at that value.

    Raises:
        ValueError: if there is not one finite value per unit.
    """
    if values.shape != (len(units),):
        raise WrongValue(
            f"`reference` has shape {values.shape} but `units` has length {len(units)}; pass one value per unit"
        )
    if not np.isfinite(values).all():
        raise WrongValue(
            f"`reference` has {int((~np.isfinite(values)).sum())} values that are not finite; pass one number per unit"
        )
    parts = units.split(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)))
    found = {}
    for hook, bank in places_of(units):
        part = parts[bank.name]
        found[hook] = part[0] if bank.axis is None else part.view(-1, *[1] * (-bank.axis - 1))
    return Reference(GIVEN, found)


def as_reference(reference: Reference | Float[np.ndarray, "unit"] | None, units: Units) -> Reference:
    """Return the reference that an argument means: zero for None, and one value per unit for an array."""
    if reference is None:
        return zero_reference(units)
    if isinstance(reference, Reference):
        for hook in {hook for hook, _ in places_of(units)} - set(reference.values):
            raise WrongValue(f"`reference` has no values for {hook}; build it from the same units")
        return reference
    return given_reference(units, reference)


def places_of(units: Units) -> list[tuple[str, Bank]]:
    """Return all hooks at which units are held, each with the bank of these units."""
    return [(hook, bank) for bank in units.banks for hook in bank.places]


def tokens_of(examples: Mapping[str, Examples]) -> dict[str, object]:
    """Return what a reference was made from, for its record. JSON only."""
    return {"tokens": {name: own.digest for name, own in examples.items()}}


def shortened(reference: Reference, units: Units, longest: int, length: int) -> Reference:
    """Return values that are kept per row and position for rows that were padded to the longest, without padding."""
    if not reference.per_row:
        return reference
    values = dict(reference.values)
    for bank in units.banks:
        behind = 1 if bank.axis is None else -bank.axis
        for hook in bank.places:
            value = values[hook]
            if value.ndim > 1 + behind and value.shape[1] == longest:
                values[hook] = value[:, :length]
    return replace(reference, values=values)
