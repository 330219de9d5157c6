"""Means that units are held at: per position, or per role where prompts differ in length, or over all positions."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from skilloc.experiment.hooks import activation_blocks
from skilloc.experiment.reference import FLAT_MEAN, MEAN, Reference, places_of, tokens_of
from skilloc.mistakes import WrongValue
from skilloc.tasks import Examples, joined
from skilloc.units import Bank, Units

LEAST = 16
"""Roles that fewer examples have are pooled: the mean of a few values is noise."""


def flat_mean_reference(
    model: nn.Module, examples: Mapping[str, Examples], units: Units, *, entries: int | None = None
) -> Reference:
    """Hold units at their mean activation over all examples and positions.

    reference[u] = mean over subtasks, rows r and positions t of activation[r, t, u]; a head's is a vector over d_head.
    Each subtask weighs the same. Take examples of another split than the measured one. `entries` is as in `Experiment`.
    """
    totals: dict[str, Tensor] = {}
    for own in examples.values():
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for rows, values in activation_blocks(model, own, units, entries=entries):
            for hook, bank in places_of(units):
                total, count = _flat(values[hook].double(), bank, own.mask if own.mask is None else own.mask[rows])
                sums[hook], counts[hook] = sums.get(hook, 0) + total, counts.get(hook, 0) + count
        for hook in sums:
            totals[hook] = totals.get(hook, 0) + sums[hook] / counts[hook] / len(examples)
    return Reference(FLAT_MEAN, {hook: value.float() for hook, value in totals.items()}, tokens_of(examples))


def mean_reference(
    model: nn.Module,
    examples: Mapping[str, Examples],
    units: Units,
    *,
    measured: Mapping[str, Examples] | None = None,
    entries: int | None = None,
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
        entries: of the widest tensor of a pass, at most (`Experiment`).

    Raises:
        ValueError: if rows differ in length and `measured` is not given.
    """
    given = [*examples.values(), *(measured or {}).values()]
    if len({own.positions for own in given}) > 1 or any(own.mask is not None or own.at for own in given):
        if measured is None:
            raise WrongValue(
                "`examples` differ in length, so that a mean by role needs the `measured` examples; pass both"
            )
        return _by_role(model, examples, units, measured, entries)
    totals: dict[str, Tensor] = {}
    for own in examples.values():
        sums: dict[str, Tensor] = {}
        for _, values in activation_blocks(model, own, units, entries=entries):
            for hook, value in values.items():
                sums[hook] = sums.get(hook, 0) + value.double().sum(dim=0)
        for hook in sums:
            totals[hook] = totals.get(hook, 0) + sums[hook] / len(own.first) / len(examples)
    return Reference(MEAN, {hook: value.float() for hook, value in totals.items()}, tokens_of(examples))


def _by_role(
    model: nn.Module,
    examples: Mapping[str, Examples],
    units: Units,
    measured: Mapping[str, Examples],
    entries: int | None,
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
    sums: dict[str, Tensor] = {}
    totals: dict[str, Tensor] = {}
    for part, activations in activation_blocks(model, source, units, entries=entries):
        for hook, activation in activations.items():
            flat = activation.double().flatten(0, 1)
            index = own[part, : activation.shape[1]].flatten()
            weight = weights[part, None].expand(activation.shape[:2]).flatten() * (index > 0)
            weight = weight.view(-1, *[1] * (flat.ndim - 1))
            if hook not in sums:
                sums[hook] = flat.new_zeros(count + 1, *flat.shape[1:])
                totals[hook] = flat.new_zeros(count + 1, *[1] * (flat.ndim - 1))
            sums[hook].index_add_(0, index, flat * weight)
            totals[hook].index_add_(0, index, weight)
    values = {}
    for hook, total in totals.items():
        overall = sums[hook][1:].sum(dim=0) / total[1:].sum(dim=0)
        table = torch.where(total > 0, sums[hook] / total.clamp(min=1e-30), overall)
        values[hook] = table[asked[:, : _longest(measured)]].float()
    return Reference(MEAN, values, {**tokens_of(examples), "by": "role"}, per_row=True)


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


def _flat(value: Tensor, bank: Bank, mask: Bool[Tensor, "row pos"] | None) -> tuple[Tensor, int]:
    """Return the sum over rows and positions, without padding, and of how many."""
    behind = 1 if bank.axis is None else -bank.axis
    lead = value.ndim - behind
    flat = value[mask] if mask is not None and lead > 1 else value.flatten(0, lead - 1)
    return flat.sum(dim=0), len(flat)
