"""What the norms of a decoder compute, found by trying rather than by their names."""

import copy
from typing import Any, NamedTuple

import torch

from skilloc.mistakes import WrongValue
from skilloc.models.stream import NORM, POST, Part, width_of
from skilloc.models.weights import architecture


class Form(NamedTuple):
    """What a norm computes: (x - centred * mean) / sqrt(mean square + eps) * (weight + offset) + bias.

    Attributes:
        centred: whether it is a LayerNorm; else an RMSNorm.
        gain: whether there is a weight.
        offset: what is added to the weight, 0 or 1.
        epsilon: the attribute that holds eps.
    """

    centred: bool
    gain: bool
    offset: float
    epsilon: str


def form_of(model: Any, part: Part) -> Form:
    """Return what a norm of the stream computes.

    Raises:
        ValueError: if it is neither an RMSNorm nor a LayerNorm.
    """
    found = norm_form(part.module, width_of(model))
    if found is None:
        raise WrongValue(
            f"`model` is a {architecture(model)}, whose {part.name} ({type(part.module).__name__}) is neither an "
            'RMSNorm nor a LayerNorm; ask for units of other kinds than "residual"'
        )
    return found


def forms_of(model: Any, parts: list[Part]) -> list[tuple[Part, Form]]:
    """Return the norms among some parts, and what they compute."""
    return [(part, form_of(model, part)) for part in parts if part.role in (NORM, POST)]


@torch.no_grad()
def norm_form(norm: Any, width: int) -> Form | None:
    """Return what a norm computes, found by giving it a row of numbers; None if it is of another form."""
    known = getattr(norm, "form", None)
    if isinstance(known, Form):
        return known
    weight, bias = (getattr(norm, name, None) for name in ("weight", "bias"))
    row = torch.linspace(-1, 2, width)
    epsilon = "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps"
    eps = float(getattr(norm, epsilon, 1e-5))
    given = copy.deepcopy(norm).float().cpu()(row[None])[0]
    for centred in (False, True):
        x = row - row.mean() if centred else row
        x = x / (x.square().mean() + eps).sqrt()
        for offset in (0.0, 1.0) if weight is not None else (0.0,):
            made = x if weight is None else x * (weight.float().cpu() + offset)
            made = made if bias is None else made + bias.float().cpu()
            if torch.allclose(made, given, rtol=1e-3, atol=1e-4 * float(given.abs().max())):
                return Form(centred, weight is not None, offset, epsilon)
    return None
