"""Groups of examples as one: shorter rows padded, fields filled up, examples counted on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.tasks.examples import IGNORE, MASK, Examples, Inputs


def joined(parts: Sequence[Examples]) -> Examples:
    """Return several groups of examples as one, shorter rows padded on the right, where a causal model cannot see it.

    Fields of whole numbers that differ in width are filled up with IGNORE; positions keep the names that all groups
    give.

    Raises:
        ValueError: if there are none, or they differ in their kinds of input or fields.
    """
    if not parts:
        raise WrongValue("`parts` is empty; pass at least one group of examples")
    kinds = {_kind(part) for part in parts}
    if len(kinds) > 1:
        raise WrongValue(
            f"`parts` mix kinds of input {sorted(kinds)}; draw them from one world, or measure them one kind at a time"
        )
    longest = max(part.positions for part in parts)
    lengths = sorted({part.positions for part in parts})
    if len(lengths) > 1:
        parts = [_padded(part, longest) for part in parts]
    owner, base = None, 0
    if any(part.owner is not None for part in parts):
        owners = []
        for part in parts:
            own = torch.arange(len(part), device=part.first.device) if part.owner is None else part.owner
            owners.append(own + base)
            base += len(part)
        owner = torch.cat(owners)
    first = parts[0]
    return Examples(
        _concatenated([part.inputs for part in parts]),
        torch.cat([part.targets for part in parts]),
        {name: _concatenated(_filled([part.fields[name] for part in parts])) for name in first.fields},
        {name: _concatenated([part.at[name] for part in parts]) for name in _common(parts)},
        None if first.paired is None else _concatenated([part.paired for part in parts]),
        owner,
    )


def _concatenated(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    return {name: torch.cat([value[name] for value in values]) for name in first}


def _common(parts: Sequence[Examples]) -> list[str]:
    """Return the names of positions that all parts have, of one kind."""
    return [n for n in parts[0].at if len({part.at[n].ndim if n in part.at else 0 for part in parts}) == 1]


def _filled(values: Sequence[Tensor]) -> list[Tensor]:
    """Return fields of one width, as far as whole numbers can be filled up."""
    shapes = {value.shape[1:] for value in values}
    if len(shapes) == 1 or len({len(shape) for shape in shapes}) > 1 or values[0].dtype != torch.int64:
        return list(values)
    widest = [max(one) for one in zip(*shapes, strict=True)]
    found = []
    for value in values:
        wide = value.new_full((len(value), *widest), IGNORE)
        wide[tuple(slice(one) for one in value.shape)] = value
        found.append(wide)
    return found


def _padded(part: Examples, length: int) -> Examples:
    """Pad token rows on the right."""
    more = length - part.positions

    def pad(value: Tensor, filler: int | bool) -> Tensor:
        return torch.nn.functional.pad(value, (0, more), value=filler)

    def inputs(given: Inputs) -> Inputs:
        if isinstance(given, Tensor):
            return pad(given, 0)
        return {name: pad(value, False if name == MASK else 0) for name, value in given.items()}

    at = {name: value if value.ndim == 1 else pad(value, False) for name, value in part.at.items()}
    targets = pad(part.targets, IGNORE) if part.targets.ndim > 1 else part.targets
    paired = None if part.paired is None else inputs(part.paired)
    return replace(part, inputs=inputs(part.inputs), targets=targets, at=at, paired=paired)


def _kind(part: Examples) -> str:
    """Everything in which groups of examples must agree, as text."""
    given = {"": part.inputs} if isinstance(part.inputs, Tensor) else part.inputs
    shapes = {
        name: (str(value.dtype), *(() if part.tokens is not None else value.shape[1:])) for name, value in given.items()
    }
    more = (sorted(part.fields), part.paired is not None, part.targets.ndim)
    return f"{shapes} {more}"
