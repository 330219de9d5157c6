"""Weights that are kept in half precision, in half of the memory, and computed with in float32.

    whatever is computed with a weight W:    f(W) = f(float32(W)),    W kept as bfloat16 or float16

Effects of single neurons are too small for activations in bfloat16, whose steps are 1/256 of a value; weights in
bfloat16 lose nothing where the checkpoint's are in bfloat16, as most are. So a weight here is made float32 wherever
something is done with it, for as long as that takes, and numbers are those of the same weights in float32, bit by bit.
Such weights are not to be changed: what writes to one is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from skilloc.mistakes import WrongValue

HALVES = (torch.bfloat16, torch.float16)

SAME: frozenset[Any] = frozenset(
    [
        Tensor.detach,
        Tensor.requires_grad_,
        Tensor.contiguous,
        Tensor.share_memory_,
    ]
)
"""What gives the weight itself, kept as it is."""

ABOUT: frozenset[Any] = frozenset(
    [
        Tensor.size,
        Tensor.dim,
        Tensor.numel,
        Tensor.stride,
        Tensor.is_contiguous,
        Tensor.is_floating_point,
        Tensor.__len__,
        Tensor.__hash__,
        Tensor.data_ptr,
        Tensor.untyped_storage,
        *(
            getattr(Tensor, name).__get__
            for name in (
                "shape",
                "device",
                "ndim",
                "requires_grad",
                "is_leaf",
                "grad",
                "grad_fn",
                "is_cuda",
                "layout",
                "_version",
            )
        ),
    ]
)
"""What is known of a weight without its numbers."""


class Half(Tensor):
    """A weight that is kept in half precision, and is float32 to whatever computes with it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        """Copy the weight as one of float32, which can be trained."""
        made = nn.Parameter(plain(self).float())
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Compute with float32 in the place of every such weight."""
        kwargs = kwargs or {}
        if func is Tensor.dtype.__get__:  # type: ignore[attr-defined]
            return torch.float32
        with torch._C.DisableTorchFunctionSubclass():
            if func in ABOUT:
                return func(*args, **kwargs)
            if func is Tensor.element_size:
                return torch.float32.itemsize
            if func in SAME:
                return func(*args, **kwargs).as_subclass(cls)
            if isinstance(args[0], cls) and _writes(getattr(func, "__name__", "")):
                raise WrongValue(
                    "`model` keeps its weights in half precision, so that they cannot be changed; open it without "
                    "`weights` (--weights)"
                )
            if func is F.embedding:
                rows: Tensor = func(args[0], plain(args[1]), *args[2:], **kwargs)
                return rows.float()
            return func(*tree_map(_whole, args), **tree_map(_whole, kwargs))


def _writes(name: str) -> bool:
    return name in ("__setitem__", "__set__", "__delitem__") or (name.endswith("_") and not name.endswith("__"))


def plain(weight: Tensor) -> Tensor:
    """Return a kept weight as the tensor of half precision that it is; any other as it is."""
    with torch._C.DisableTorchFunctionSubclass():
        return weight.detach().as_subclass(Tensor) if isinstance(weight, Half) else weight


def _whole(value: Any) -> Any:
    return plain(value).float() if isinstance(value, Half) else value


def compute_whole(model: nn.Module) -> None:
    """Have a model of half precision compute in float32, its weights kept as they are.

    Args:
        model: gets other parameters, which share memory with its own, and buffers in float32.
    """
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        configs: tuple[Any, Any] = getattr(module, "config", None), getattr(module, "cfg", None)
        for config in configs:
            if getattr(config, "dtype", None) in HALVES:  # what some modules make their activations, and files say
                config.dtype = torch.float32
        for name, weight in module._parameters.items():
            if weight is not None and weight.dtype in HALVES:
                found = made.setdefault(id(weight), _half(weight))
                module._parameters[name] = found
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.dtype in HALVES:
                module._buffers[name] = buffer.float()


def _half(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().as_subclass(Half), requires_grad=False)


def half_of(model: nn.Module) -> torch.dtype | None:
    """Return the half precision that a model's weights are kept in; None where they are what they are computed as."""
    first = next((weight for weight in model.parameters() if isinstance(weight, Half)), None)
    return None if first is None else plain(first).dtype
