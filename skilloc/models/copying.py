"""Copy a bridge, with weights of its own, so that the copy can be trained or cut apart from the first."""

import copy
from types import CellType, FunctionType
from typing import Any

from torch import nn

from skilloc.models.unwrapped import forget_passes


def copied(model: Any) -> Any:
    """Return a copy of a bridge that runs on modules of its own.

    A plain `copy.deepcopy` of a bridge fails after a backward pass, because some attentions remember the pattern of
    their last pass, graph and all; after any pass, it has hooks that write into the first model's blocks; and where
    transformer-lens has given modules a function as `forward` (Falcon), it runs on the first model's weights.
    """
    copies: dict[int, Any] = {}
    forget_passes(model, copies)
    made = copy.deepcopy(model, copies)
    for block in made._modules.get("blocks", ()):
        if hasattr(block, "_teardown_capture_hooks"):
            block._teardown_capture_hooks()  # the next pass attaches those of this copy
    for module in made.modules():
        for name, value in module.__dict__.items():
            if isinstance(value, FunctionType):
                module.__dict__[name] = _rebound(value, copies)
    return made


def _rebound(function: FunctionType, copies: dict[int, Any]) -> FunctionType:
    """Return a function on the copies of the modules that it has inside; `deepcopy` leaves functions as they are."""
    inside = [cell.cell_contents for cell in function.__closure__ or ()]
    defaults = list(function.__defaults__ or ())
    found = [_copy_of(value, copies) for value in inside], [_copy_of(value, copies) for value in defaults]
    if all(new is old for new, old in zip(found[0] + found[1], inside + defaults, strict=True)):
        return function
    cells = tuple(CellType(value) for value in found[0])
    made = FunctionType(function.__code__, function.__globals__, function.__name__, tuple(found[1]) or None, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def _copy_of(value: Any, copies: dict[int, Any]) -> Any:
    """Return the copy that stands for a module, or for the method or function of one; anything else is left."""
    if isinstance(value, FunctionType):
        return _rebound(value, copies)
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    owner = copies.get(id(getattr(value, "__self__", None)))
    if owner is None or not isinstance(owner, nn.Module):
        return value
    return value.__func__.__get__(owner, type(owner))
