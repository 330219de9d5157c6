"""The plain module inside a bridge: what runs, and is saved, without hooks.

Where a checkpoint fuses projections (GPT-2, GPT-NeoX, Phi-3), transformer-lens runs on the parts that it split off, and
leaves the fused matrix as it was. That one goes stale when the parts are trained, and is written anew here.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from skilloc.models.weights import unwrapped

FUSED = "skilloc_fused_rows"
"""Attribute of a part that was cut: per projection, which rows of the fused matrix are its own now."""


def plain(model: Any, copies: dict[int, Any] | None = None) -> Any:
    """Return the module of transformers (or of transformer-lens) inside a bridge, without the bridge's components.

    It shares its weights with the bridge, except for fused matrices that have gone stale.

    Args:
        model: a `TransformerBridge`.
        copies: is filled with the module that stands for each module of the bridge, by id.
    """
    made: dict[int, Any] = {} if copies is None else copies
    inner = model.original_model
    for tensor in [*inner.parameters(), *inner.buffers(), *model.parameters()]:
        made[id(tensor)] = tensor
    forget_passes(inner, made)
    module = copy.deepcopy(inner, made).eval()
    _unwrap(module)
    for block in model.blocks if "blocks" in model._modules else ():
        for part in block._modules.values():
            fused = fused_of(part)
            if fused is not None and id(fused) in made:
                _write(part, made[id(fused)])
    return module


def forget_passes(model: nn.Module, copies: dict[int, Any]) -> None:
    """Leave out of a copy what the bridges of some attentions remember of their last pass, graph and all."""
    for module in model.modules():
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:
                copies[id(value)] = None


def fused_of(part: Any) -> Any:
    """Return the module that holds several of a part's projections in one matrix, or None."""
    modules = getattr(part, "_modules", {})
    for name in ("qkv", "gate_up"):
        if name in modules:
            return unwrapped(modules[name])
    found = getattr(getattr(part, "original_component", None), getattr(part, "fused_attr", ""), None)
    return None if found is None else unwrapped(found)


def fused_rows(part: Any) -> dict[str, Int[Tensor, " row"]]:
    """Return, per projection, which outputs of the fused matrix are its own, found by splitting a matrix of numbers."""
    if hasattr(part, FUSED):
        known: dict[str, Tensor] = getattr(part, FUSED)
        return known
    fused, owner = fused_of(part), part.original_component
    attention = hasattr(part, "split_qkv_matrix")
    split = part.split_qkv_matrix if attention else part.split_gate_up_matrix
    names = ("q", "k", "v") if attention else ("gate", "in")
    numbers = torch.arange(outputs(fused), dtype=torch.float32)
    numbered = torch.empty(fused.weight.shape)
    numbered.copy_(numbers if transposed(fused) else numbers[:, None])
    # Stand-ins for the module and for its owner, so that the model stays as it is.
    stand_in, holder = _shallow(fused), _shallow(owner)
    stand_in._parameters["weight"] = nn.Parameter(numbered)
    for name, module in owner._modules.items():
        if module is not None and unwrapped(module) is fused:
            holder._modules[name] = stand_in
    with torch.random.fork_rng(devices=[]):  # some splits make modules with initial values, to overwrite them
        pieces = split(holder)
    return {name: piece.weight[:, 0].detach().long() for name, piece in zip(names, pieces, strict=True)}


def transposed(projection: Any) -> bool:
    """Whether a linear map keeps its weights as `d_in d_out`, as GPT-2 does."""
    return type(projection).__name__ == "Conv1D"


def outputs(projection: Any) -> int:
    """Return the number of outputs of a linear map."""
    return int(projection.weight.shape[1 if transposed(projection) else 0])


def by_output(projection: Any) -> Tensor:
    """Return the weights of a linear map as a view `d_out d_in`."""
    weight: Tensor = projection.weight
    return weight.T if transposed(projection) else weight


def cut_fused(part: Any, places: Mapping[str, Int[Tensor, " _"]], cut: Any, before: Mapping[str, Tensor]) -> None:
    """Cut the fused matrix of a part to the outputs that its projections still have, and write it anew from them."""
    rows = {name: own[places[name]] for name, own in before.items()}
    left = torch.cat(list(rows.values())).sort().values
    cut(fused_of(part), left)
    setattr(part, FUSED, {name: torch.searchsorted(left, own) for name, own in rows.items()})
    _write(part, fused_of(part))


def unfuse(part: Any) -> None:
    """Write the projections of a part from its fused matrix."""
    fused = fused_of(part)
    with torch.no_grad():
        for name, rows in fused_rows(part).items():
            own = unwrapped(part._modules[name])
            by_output(own).copy_(by_output(fused)[rows.to(own.weight.device)])
            if own.bias is not None:
                own.bias.copy_(fused.bias[rows.to(own.bias.device)])


def _write(part: Any, fused: Any) -> None:
    """Give a fused module the weights of the projections that were split off it, if it has others."""
    rows = fused_rows(part)
    weight, bias = by_output(fused).detach().clone(), None if fused.bias is None else fused.bias.detach().clone()
    for name, own_rows in rows.items():
        own, place = unwrapped(part._modules[name]), own_rows.to(weight.device)
        weight[place] = by_output(own).detach()
        if bias is not None:
            bias[place] = own.bias.detach()
    if torch.equal(weight, by_output(fused)) and (bias is None or torch.equal(bias, fused.bias)):
        return
    fused.weight = nn.Parameter(weight.T.contiguous() if transposed(fused) else weight)
    if bias is not None:
        fused.bias = nn.Parameter(bias)


def _shallow(module: Any) -> Any:
    made = copy.copy(module)
    made._parameters, made._modules = dict(module._parameters), dict(module._modules)
    return made


def _unwrap(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        module._modules[name] = unwrapped(child)
        _unwrap(module._modules[name])  # type: ignore[arg-type]
