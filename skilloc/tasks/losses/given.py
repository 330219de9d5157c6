"""Losses that a user writes, as functions of (logits, examples)."""

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from skilloc.mistakes import WrongType, real
from skilloc.tasks.examples import Examples
from skilloc.tasks.losses.loss import Loss


def custom(
    function: Callable[[Tensor, Examples], Tensor],
    *,
    name: str | None = None,
    unit: str | None = None,
    differentiable: bool = True,
    chance: float | None = None,
) -> Loss:
    """Make a loss of any function of (logits, examples) that gives one number per example, larger = worse.

    A function of a module's top level has an identity: its module, name and source. A lambda or a closure has none:
    its results can neither be resumed nor made by other processes.

    Args:
        function: from logits `row *pos out` and examples to `example`.
        name: how tables call it; the function's name if not given.
        unit: of its numbers, such as "nats" or "probability"; its name if not given.
        differentiable: False for counts, which are then refused for attribution.
        chance: its value for a model that knows nothing, if that is known.

    Raises:
        TypeError: if the function does not take (logits, examples).
        ValueError: if `chance` is not finite.
    """
    if chance is not None:
        real("chance", chance)
    called = name or getattr(function, "__name__", type(function).__name__).strip("<>")
    _check_takes_two(function, called)
    return Loss(
        called,
        unit or called,
        lambda logits, examples, _: function(logits, examples),
        differentiable=differentiable,
        chance=None if chance is None else lambda *_: chance,
        identity=_identity(function),
    )


def _check_takes_two(function: Any, called: str) -> None:
    """Refuse a function that cannot be called with logits and examples."""
    try:
        taken = inspect.signature(function)
    except (TypeError, ValueError):  # one of a library in C, which does not say what it takes
        return
    try:
        taken.bind(None, None)
    except TypeError as error:
        raise WrongType(
            f'`loss` "{called}" takes {taken}; pass a function of (logits, examples), such as '
            "lambda logits, examples: ... with one number per example"
        ) from error


def _identity(function: Any) -> str | None:
    """Return the module, name and source of a function at the top level of a module; None for any other."""
    name, home = getattr(function, "__qualname__", ""), getattr(function, "__module__", "")
    if not name or "<" in name or home in ("", "__main__") or getattr(function, "__closure__", None):
        return None
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return None
    return f"{home}.{name} {hashlib.sha256(source.encode()).hexdigest()[:16]}"
