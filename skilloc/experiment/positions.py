"""Positions by name: where units are held, and each of these places by itself."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.tasks import Examples

ALL, SCORED, LAST = "all", "scored", "last"


def positions_held(at: str | Bool[Tensor, "row pos"], examples: Examples) -> Bool[Tensor, "row pos"] | None:
    """Return True where units are held, on the device of the examples; None for all positions.

    Args:
        at: "all", "scored", "last", a name that the examples give to positions, or a mask.
        examples: all that are measured.

    Raises:
        ValueError: if the examples have no positions or no such name, or the mask is not theirs, or False everywhere.
    """
    if isinstance(at, str) and at == ALL:
        return None
    if examples.targets.ndim == 1 and examples.tokens is None:
        raise WrongValue(f'`at` is "{at}", but these examples have no positions; use at="all"')
    shape, device = _shape(examples), examples.first.device
    if isinstance(at, Tensor):
        if at.shape != shape or at.dtype != torch.bool:
            raise WrongValue(
                f"`at` is {at.dtype} of shape {tuple(at.shape)}, but the examples have {tuple(shape)}; "
                "pass True or False (torch.bool) for every row and position"
            )
        if not bool(at.any()):
            raise WrongValue("`at` is False everywhere, so that no unit would be held anywhere; choose positions")
        return at.to(device)
    if at == SCORED:
        return examples.scored
    found = examples.at.get(at)
    if found is None and at == LAST:
        found = torch.full((shape[0],), shape[1] - 1, device=device)
        if examples.mask is not None:
            found = shape[1] - 1 - examples.mask.flip(1).int().argmax(dim=1)
    if found is None:
        named = ", ".join(dict.fromkeys((ALL, SCORED, LAST, *sorted(examples.at))))
        why = (
            "; `subject` is a name where each prompt holds its own subject as it is written" if at == "subject" else ""
        )
        raise WrongValue(f'unknown `at` "{at}"; use {named}, or a mask{why}')
    return found if found.dtype == torch.bool else torch.arange(shape[1], device=device) == found[:, None]


def single_positions(
    examples: Examples, held: Bool[Tensor, "row pos"] | None, names: Sequence[str] = ()
) -> dict[str, Bool[Tensor, "row pos"]]:
    """Return where each position is, within those that are held: those with these names, or every place of a row.

    Places that are padding in every row, or where nothing is held, are left out.

    Raises:
        ValueError: if the examples have no positions, or not these names, or nothing is held where a name is.
    """
    if examples.tokens is None and examples.targets.ndim == 1:
        raise WrongValue(
            "these examples have no positions; measure them whole, with ablation_effects (skilloc effects)"
        )
    shape, device = _shape(examples), examples.first.device
    every = torch.ones(shape, dtype=torch.bool, device=device) if held is None else held
    if names:
        named = {name: positions_held(name, examples) for name in names}
        found = {name: every if where is None else where & every for name, where in named.items()}
        if empty := [name for name, where in found.items() if not bool(where.any())]:
            raise WrongValue(
                f'`names` has "{empty[0]}", where these effects hold no unit; name others, or measure effects at all '
                "positions"
            )
        return found
    real = every if examples.mask is None else every & examples.mask
    places = torch.arange(shape[1], device=device)
    return {str(p): (places == p) & every for p in range(shape[1]) if bool(real[:, p].any())}


def _shape(examples: Examples) -> torch.Size:
    return examples.targets.shape if examples.tokens is None else examples.tokens.shape
