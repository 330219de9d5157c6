"""beartype for functions that are made again at each call: their checks are compiled once, not each time."""

import inspect
from collections.abc import Callable
from typing import Any

from beartype import beartype

_checked: dict[tuple[str, str, str], Any] = {}


def checked(function: Callable[..., Any]) -> Any:
    """Return a function with its arguments and result checked.

    jaxtyping hands over a stand-in that has nothing of the function but its signature, so one will do for all functions
    that an inner `def` makes.
    """
    if "<locals>" not in function.__qualname__:
        return beartype(function)
    key = (function.__module__, function.__qualname__, str(inspect.signature(function)))
    if key not in _checked:
        _checked[key] = beartype(function)
    return _checked[key]
