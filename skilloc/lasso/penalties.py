"""Penalties that make groups of weights small together, and their proximal maps.

With r[u] the norm of group u, a penalty R is a plain sum, and is added to a loss as strength * R, in the loss's unit:

    lasso   R = sum of r[u]                              group lasso [Yuan & Lin 2006; the paper's]
    half    R = sum of sqrt(r[u])                        group L1/2 [Xu et al. 2012]: kills small groups, spares large
    hoyer   R = sum over hooks of (sum of r)^2 / sum of r^2  group Hoyer [Yang et al. 2020]: of each hook, between 1
                                                         and its number of units, and the same at any scale of weights
    l1      R = sum over groups of |w|                   the plain lasso, for comparison: no group dies as one

There is no factor for the size of groups. A weight that lies in two groups counts in both.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skilloc.lasso.norms import Parts, norms_of, parts_of, root, sum_of
from skilloc.mistakes import WrongValue
from skilloc.models.makers import face_of
from skilloc.units import Units

Penalty = Literal["lasso", "half", "hoyer", "l1"]


def penalty(model: nn.Module, units: Units, kind: Penalty) -> Float[Tensor, ""]:
    """Return the penalty R of a model, differentiable.

    Gradients, with respect to a weight w of group u, of which each is 0 where r[u] = 0:

        lasso   w / r[u]
        half    w / (2 r[u]^1.5)
        hoyer   slope(r)[u] * w / r[u],    slope = 2 S / Q * (1 - r S / Q),    S = sum of r,    Q = sum of r^2
        l1      sign(w)

    Args:
        model: a bridge, an `MLP` or a described module.
        units: whose groups; those of a weight in several of them add up.
        kind: which penalty.

    Raises:
        ValueError: if the kind is unknown, or no weights belong to single units.
    """
    face = face_of(model)
    return penalty_of((parts_of(face, hook) for hook in units.hooks), kind)


def penalty_of(hooks: Iterable[Parts], kind: Penalty) -> Float[Tensor, ""]:
    """Return the penalty of the groups of some hooks."""
    return torch.stack([_of_hook(parts, kind) for parts in hooks]).sum()


def _of_hook(parts: Parts, kind: Penalty) -> Float[Tensor, ""]:
    if kind == "l1":
        return sum_of({name: part.abs() for name, part in parts.items()}).sum()
    norms = norms_of(parts)
    if kind == "lasso":
        return norms.sum()
    if kind == "half":
        return root(norms).sum()
    if kind == "hoyer":
        total = norms.square().sum()
        return norms.sum().square() / torch.where(total > 0, total, 1)
    raise WrongValue(f'unknown `penalty` "{kind}"; use lasso, half, hoyer or l1')


def shrunk(norms: Float[Tensor, "unit"], step: Float[Tensor, "unit"], kind: Penalty) -> Float[Tensor, "unit"]:
    """Return the proximal map of a penalty of norms: where a step of its own takes them.

        shrunk(r) = argmin over x >= 0 of sum of (x[u] - r[u])^2 / (2 step[u]) + R(x)

        lasso   max(r - step, 0)
        half    2/3 r (1 + cos(2/3 (pi - arccos(step / 4 (3 / r)^1.5)))) where r > 1.5 step^(2/3), and 0 elsewhere
                [half thresholding, Xu et al. 2012]
        hoyer   max(r - step slope(r), 0): of R's tangent at r, since R itself has no closed form; large norms grow

    A whole group is then scaled by shrunk(r) / r, which is the proximal map on weights.

    Raises:
        ValueError: if the penalty is not one of norms.
    """
    if kind == "lasso":
        return (norms - step).clamp(min=0)
    if kind == "half":
        inside = norms > 1.5 * step ** (2 / 3)
        angle = torch.arccos((step / 4 * (3 / torch.where(inside, norms, 1)) ** 1.5).clamp(max=1))
        return torch.where(inside, norms * (1 + torch.cos(2 / 3 * (torch.pi - angle))) * 2 / 3, 0)
    if kind == "hoyer":
        return (norms - step * slope(norms)).clamp(min=0) * (norms > 0)
    raise WrongValue(f'`penalty` is "{kind}", which is not one of norms; use lasso, half or hoyer')


def slope(norms: Float[Tensor, "unit"]) -> Float[Tensor, "unit"]:
    """Return the derivative of the Hoyer penalty of one hook with respect to its norms; 0 if all are 0."""
    total, squares = norms.sum(), norms.square().sum()
    squares = torch.where(squares > 0, squares, 1)
    return 2 * total / squares * (1 - norms * total / squares)
