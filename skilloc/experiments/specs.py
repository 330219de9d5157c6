"""From a cell's spec, as a sweep stores it in JSON, back to the settings that it was made of."""

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def settings_of(kind: type[T], spec: Mapping[str, Any]) -> T:
    """Return what a spec says, with tuples for JSON's lists.

    Args:
        kind: frozen dataclass of the settings.
        spec: its fields.

    Raises:
        TypeError: if the spec has a field that the settings do not have.
    """
    return kind(**{name: _tuples(value) for name, value in spec.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
