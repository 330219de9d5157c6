"""Patched part by part: what a model knows shows when the part that hides it is the original's again.

A part is all weights of one role, over all layers: embeddings, the gains of one kind of norm, the matrices of queries
and keys (together, since they make one pattern), of values, of gates, and so on. A unit that was taken out lacks
weights of two roles, what it reads and what it writes, so that no part brings it back; a filter, a turned attention, a
gain or a bias is one part.
"""

import re

import torch
from torch import nn

from skilloc.experiment import losses
from skilloc.models.makers import face_of
from skilloc.relearning.starts import Context

PATTERN = re.compile(r"(?<![a-z])(q|k|query|key)(?![a-z])|(?<![a-z])[qk]_(proj|lin|norm)")
"""Names of what attention looks by."""


def roles_of(model: nn.Module) -> dict[str, list[str]]:
    """Return the names of a model's weights by role: the name without the numbers of layers."""
    found: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        role = ".".join(part for part in name.replace("_original_component.", "").split(".") if not part.isdigit())
        role = "queries and keys" if PATTERN.search(role) else role
        found.setdefault(role, []).append(name)
    return found


@torch.no_grad()
def patched_part(model: nn.Module, context: Context) -> nn.Module | None:
    """Return the model with the part of the original's with which its loss on attacked examples is lowest.

    For models that are no chain of linear maps and have the original's shape. Nothing is trained afterwards.
    """
    if face_of(model).chain is not None or not same_shape(model, context.original):
        return None
    theirs = dict(context.original.named_parameters())
    best, lowest = None, float("inf")
    for names in roles_of(model).values():
        own = face_of(model).copy()
        mine = dict(own.named_parameters())
        if all(torch.equal(mine[name], theirs[name]) for name in names):
            continue
        for name in names:
            mine[name].copy_(theirs[name])
        loss = float(losses(own.eval(), context.attacked, context.loss).mean())
        if loss < lowest:
            best, lowest = own, loss
    return best


def same_shape(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models have weights of the same names and shapes."""
    shapes = [{name: p.shape for name, p in one.named_parameters()} for one in (model, other)]
    return shapes[0] == shapes[1]
