"""The settings of a cell function: the dataclass that its first argument is annotated with, and specs made into it."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def settings_kind(cell: Callable[..., Any]) -> type[Any] | None:
    """Return the dataclass that the first argument of a function is annotated with; None if there is none."""
    function = inspect.unwrap(cell)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # of some functions that are not written in Python
        return None
    kind = parameters[0].annotation if parameters else None
    if isinstance(kind, str):
        kind = getattr(function, "__globals__", {}).get(kind)
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def settings_of(kind: type[T], spec: Mapping[str, Any]) -> T:
    """Return what a spec says, as it was before JSON: tuples for lists, dataclasses for tables.

    Args:
        kind: dataclass of the settings.
        spec: its fields, or some of them.

    Raises:
        TypeError: if the spec has a field that the settings do not have.
    """
    hints = get_type_hints(kind)
    return kind(**{name: _made(hints.get(name), value) for name, value in spec.items()})


def _made(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return settings_of(kind, value)
    return tuple(_made(None, one) for one in value) if isinstance(value, list | tuple) else value
