"""The experts of a mixture as units.

An expert's activation is what it adds to the output of its layer, `row pos expert d_model`: its answer times the weight
that the router gives it, and nothing where the router does not choose it. These add up to the output of the layer, so
that an expert is held like a head. Held at zero, it is silent where the router chooses it, and the router's own row,
and with it the weights of the other experts, stay as they are: that is what a model computes whose expert has only
zeros as weights, and not what one would compute whose router never had the row.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from skilloc.models.face import Weights
from skilloc.models.weights import unwrapped
from skilloc.units import EXPERT, Bank

_ARGUMENTS = ["hidden_states", "top_k_index", "top_k_weights"]


def expert_banks(model: Any) -> tuple[Bank, ...]:
    """Return the experts of each layer that is a mixture of transformers' kind."""
    found = []
    for layer in range(len(model.blocks)):
        mixture = mixture_of(model, layer)
        if mixture is not None:
            hook = hook_of(layer)
            found.append(Bank(hook, int(mixture[1].num_experts), EXPERT, layer, f"L{layer}E", axis=-2))
    return tuple(found)


def hook_of(layer: int) -> str:
    """Return the name of the place where the experts of a layer live."""
    return f"blocks.{layer}.mlp.experts"


def mixture_of(model: Any, layer: int) -> tuple[nn.Module, Any] | None:
    """Return the mixture of a layer and its experts, or None where it has none, or of another kind."""
    block = model.blocks[layer]._modules.get("mlp")
    if block is None:
        return None
    mixture: nn.Module = unwrapped(block)
    experts: Any = getattr(mixture, "experts", None)
    if experts is None or not isinstance(getattr(experts, "num_experts", None), int):
        return None
    arguments = list(inspect.signature(type(experts).forward).parameters)[1:4]
    return (mixture, experts) if arguments == _ARGUMENTS else None


def expert_weights(model: Any, layer: int) -> Weights:
    """Return the weights of each expert, as views `expert 1 ...`."""
    found = mixture_of(model, layer)
    assert found is not None
    experts = found[1]
    return {
        name: parameter.unsqueeze(1)
        for name, parameter in experts.named_parameters()
        if len(parameter) == experts.num_experts
    }


@contextmanager
def attached_to_experts(mixture: nn.Module, experts: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a function see, and replace, what each expert adds."""
    shape: list[tuple[int, ...]] = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        shape[:] = [tuple(hidden.shape)]

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        given = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
        hidden, index, weights = (given[name] for name in _ARGUMENTS)
        each = [
            module.forward(hidden, index, weights * (index == e))
            for e in range(int(module.num_experts))  # type: ignore[arg-type]
        ]
        added = torch.stack(each, dim=-2)
        changed = function(added.view(*shape[0][:-1], *added.shape[-2:]))
        return changed.sum(dim=-2).view(output.shape).to(output.dtype)

    handles = [
        mixture.register_forward_pre_hook(enter, with_kwargs=True),
        experts.register_forward_hook(leave, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
