"""Attaching functions to the hook points of TransformerLens, and telling a user's own hooks from the libraries'."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from skilloc.mistakes import WrongValue

LIBRARIES = ("transformers", "transformer_lens", "accelerate", "torch", "skilloc")
"""Whose hooks are part of how a model works."""


@contextmanager
def attached_to(model: Any, functions: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Attach one function `activation -> activation` to each hook point, and take them off again, also after an error.

    Raises:
        ValueError: if the model has no such hook.
    """
    check_hooks(functions, model.hook_dict)
    # transformer-lens hands the hook point along as a keyword; only the activation matters here.
    pairs = [(hook, lambda value, hook, f=function: f(value)) for hook, function in functions.items()]
    with model.hooks(fwd_hooks=pairs):
        yield


def check_hooks(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Refuse hooks that a model has not.

    Raises:
        ValueError: naming the first.
    """
    for hook in wanted:
        if hook not in there:
            raise WrongValue(f'`model` has no hook "{hook}"; build units with units_of(model)')


def hooks_of_users(model: nn.Module) -> tuple[str, ...]:
    """Return the hooks on a model that are not its libraries' own, as `module: function`, sorted.

    They change what the model computes, so they are part of it: every route honours them, and records name them.
    """
    found = set()
    for name, module in model.named_modules():
        given = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        # A hook point keeps what it was given beside the wrapper that it registers, which is transformer-lens' own.
        given += [handle.user_hook for handle in getattr(module, "fwd_hooks", ())]
        for function in given:
            inner = getattr(function, "func", function)
            home = getattr(inner, "__module__", "") or type(inner).__module__
            if home.partition(".")[0] not in LIBRARIES:
                found.add(f"{name}: {getattr(inner, '__qualname__', type(inner).__name__)}")
    return tuple(sorted(found))
