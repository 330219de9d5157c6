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
from jaxtyping import Float, Int
from torch import Tensor, nn

from skilloc.experiment.axes import one
from skilloc.experiment.hooks import read_activations
from skilloc.mistakes import WrongValue
from skilloc.tasks import Examples, fold, joined
from skilloc.units import Bank, Units

ZERO, MEAN, FLAT_MEAN, RESAMPLE, PAIRED, GIVEN = "zero", "mean", "flat mean", "resample", "paired", "given"
MEANS = (MEAN, FLAT_MEAN)
REFERENCES = (ZERO, MEAN, FLAT_MEAN, RESAMPLE, PAIRED)

LEAST = 16
"""Roles that fewer examples have are pooled: the mean of a few values is noise."""


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


def flat_mean_reference(model: nn.Module, examples: Mapping[str, Examples], units: Units) -> Reference:
    """Hold units at their mean activation over all examples and positions.

    reference[u] = mean over subtasks, rows r and positions t of activation[r, t, u]; a head's is a vector over d_head.
    Each subtask weighs the same. Take examples of another split than the measured one.
    """
    totals: dict[str, Tensor] = {}
    for own in examples.values():
        found = read_activations(model, own, units)
        for hook, bank in _places(units):
            mean = _flat(found[hook].double(), bank, own)
            totals[hook] = totals.get(hook, 0) + mean / len(examples)
    return Reference(FLAT_MEAN, {hook: value.float() for hook, value in totals.items()}, _tokens(examples))


def mean_reference(
    model: nn.Module, examples: Mapping[str, Examples], units: Units, *, measured: Mapping[str, Examples] | None = None
) -> Reference:
    """Hold units at their mean activation at each position, or, where rows differ in length, for each role.

    reference[t, u] = mean over subtasks and rows r of activation[r, t, u]. Each subtask weighs the same. The role of a
    position is its names (subject, answer, last), or else its place counted from the first token that is no padding;
    roles that fewer than `LEAST` rows have are pooled, but for the first.

    Args:
        model: the model to be measured.
        examples: what the mean is taken over; of another split than the measured ones.
        units: the unit axis.
        measured: the examples that will be measured; needed where rows differ in length.

    Raises:
        ValueError: if rows differ in length and `measured` is not given.
    """
    given = [*examples.values(), *(measured or {}).values()]
    if len({own.positions for own in given}) > 1 or any(own.mask is not None or own.at for own in given):
        if measured is None:
            raise WrongValue(
                "`examples` differ in length, so that a mean by role needs the `measured` examples; pass both"
            )
        return _by_role(model, examples, units, measured)
    totals: dict[str, Tensor] = {}
    for own in examples.values():
        for hook, value in read_activations(model, own, units).items():
            totals[hook] = totals.get(hook, 0) + value.double().mean(dim=0) / len(examples)
    return Reference(MEAN, {hook: value.float() for hook, value in totals.items()}, _tokens(examples))


def _by_role(
    model: nn.Module, examples: Mapping[str, Examples], units: Units, measured: Mapping[str, Examples]
) -> Reference:
    both = joined([*examples.values(), *measured.values()])
    roles, count = roles_of(both)
    behind = len(joined(list(examples.values())).first)
    own, asked = roles[:behind], roles[behind:]
    source = joined(list(examples.values()))
    rows = torch.bincount(torch.cat([row.unique() for row in own]), minlength=count)
    pooled = (rows < LEAST) & (torch.arange(count, device=rows.device) > 1)
    own, asked = (part.where(~pooled[part], count) for part in (own, asked))
    weights = _subtask_weights(examples, source)
    values = {}
    for hook, activation in read_activations(model, source, units).items():
        flat = activation.double().flatten(0, 1)
        index = own[:, : activation.shape[1]].flatten()
        weight = (weights[:, None].expand(activation.shape[:2]).flatten() * (index > 0)).view(
            -1, *[1] * (flat.ndim - 1)
        )
        sums = flat.new_zeros(count + 1, *flat.shape[1:]).index_add(0, index, flat * weight)
        total = flat.new_zeros(count + 1, *[1] * (flat.ndim - 1)).index_add(0, index, weight)
        overall = sums[1:].sum(dim=0) / total[1:].sum(dim=0)
        table = torch.where(total > 0, sums / total.clamp(min=1e-30), overall)
        values[hook] = table[asked[:, : _longest(measured)]].float()
    return Reference(MEAN, values, {**_tokens(examples), "by": "role"}, per_row=True)


def roles_of(examples: Examples) -> tuple[Int[Tensor, "row pos"], int]:
    """Return the role of every position, and how many roles there are: 0 for padding, 1 for the first token."""
    mask = examples.mask
    like = examples.targets if examples.tokens is None else examples.tokens
    mask = torch.ones_like(like, dtype=torch.bool) if mask is None else mask
    place = mask.long().cumsum(dim=1) - 1
    roles = torch.where(mask, place + 1, 0)
    count = like.shape[1] + 1
    for name in sorted(examples.at):
        where = examples.at[name]
        if where.dtype != torch.bool:
            where = torch.arange(like.shape[1], device=like.device) == where[:, None]
        named = where & mask & (roles > 1)
        roles = torch.where(named, count, roles)
        count += 1
    return roles, count


def _subtask_weights(examples: Mapping[str, Examples], source: Examples) -> Float[Tensor, " row"]:
    parts = [torch.full((len(own.first),), 1 / len(own.first), dtype=torch.float64) for own in examples.values()]
    return torch.cat(parts).to(source.first.device)


def _longest(examples: Mapping[str, Examples]) -> int:
    return max(own.positions for own in examples.values())


def resample_reference(model: nn.Module, examples: Mapping[str, Examples], units: Units, *, seed: int) -> Reference:
    """Hold units at their activations on another row, drawn from those of all subtasks.

    reference[r, t, u] = activation[other(r), t, u], with other(r) != r drawn uniformly, the same for all units.

    Args:
        model: the model to be measured.
        examples: those that will be measured: the reference has one value for each of their rows.
        units: the unit axis.
        seed: which draw.

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
    activations = read_activations(model, whole, units)
    values = {hook: value[others.to(value.device)] for hook, value in activations.items()}
    return Reference(RESAMPLE, values, {"seed": seed, **_tokens(examples)}, per_row=True)


def paired_reference(model: nn.Module, examples: Mapping[str, Examples], units: Units) -> Reference:
    """Hold units at their activations on the second input of each row.

    reference[r, t, u] = activation on paired[r] at [t, u].

    Args:
        model: the model to be measured.
        examples: those that will be measured, with their `paired` inputs.
        units: the unit axis.

    Raises:
        ValueError: if there are no paired inputs.
    """
    whole = fold(examples, 1).examples.swapped()
    return Reference(PAIRED, read_activations(model, whole, units), _tokens(examples), per_row=True)


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
    for hook, bank in _places(units):
        part = parts[bank.name]
        found[hook] = part[0] if bank.axis is None else part.view(-1, *[1] * (-bank.axis - 1))
    return Reference(GIVEN, found)


def as_reference(reference: Reference | Float[np.ndarray, "unit"] | None, units: Units) -> Reference:
    """Return the reference that an argument means: zero for None, and one value per unit for an array."""
    if reference is None:
        return zero_reference(units)
    if isinstance(reference, Reference):
        for hook in {hook for hook, _ in _places(units)} - set(reference.values):
            raise WrongValue(f"`reference` has no values for {hook}; build it from the same units")
        return reference
    return given_reference(units, reference)


def _places(units: Units) -> list[tuple[str, Bank]]:
    return [(hook, bank) for bank in units.banks for hook in bank.places]


def _flat(value: Tensor, bank: Bank, examples: Examples) -> Tensor:
    """Return the mean over rows and positions, without padding."""
    behind = 1 if bank.axis is None else -bank.axis
    lead = value.ndim - behind
    if examples.mask is not None and lead > 1:
        return value[examples.mask].mean(dim=0)
    return value.mean(dim=tuple(range(lead)))


def _tokens(examples: Mapping[str, Examples]) -> dict[str, object]:
    return {"tokens": {name: own.digest for name, own in examples.items()}}
