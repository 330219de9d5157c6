"""Where the hooks of a bridge lie in the model that it wraps."""

from typing import Any

from torch import nn

from skilloc.models.experts import expert_banks, mixture_of
from skilloc.models.weights import unwrapped

WRAPPED = "._original_component"


def component_at(model: Any, hook: str) -> tuple[nn.Module, str]:
    """Return the component that a hook point belongs to, and whether it sees what goes "in" or comes "out".

    Raises:
        LookupError: if the hook is not where a component begins or ends.
    """
    point = model.hook_dict.get(hook)
    for module in model.modules() if point is not None else ():
        for side in ("in", "out"):
            if getattr(module, f"hook_{side}", None) is point:
                # An MLP that is no module of its own (OPT) begins and ends where its projections do.
                ends = module._modules.get(side) if getattr(module, "name", "") is None else None
                return ends or module, side
    raise LookupError(f"{hook} is not where a module of the wrapped model begins or ends")


def paths_of(model: Any, hook: str) -> tuple[tuple[str, ...], str]:
    """Return the paths under which the wrapped model has the module that a hook lies on, and the side; experts: "out".

    A bridge adds names of its own to those of transformers, which is why there may be several.

    Raises:
        LookupError: if the hook lies on no module of the wrapped model.
    """
    experts = {bank.name: bank.layer for bank in expert_banks(model)}
    if hook in experts:
        mixture = mixture_of(model, experts[hook])
        assert mixture is not None
        target, side = mixture[1], "out"
    else:
        component, side = component_at(model, hook)
        target = unwrapped(component)
    every = model.original_model.named_modules(remove_duplicate=False)
    found = dict.fromkeys(path.replace(WRAPPED, "") for path, module in every if module is target)
    if not found:
        raise LookupError(f"{hook} lies on a module that transformer-lens made")
    return tuple(found), side
