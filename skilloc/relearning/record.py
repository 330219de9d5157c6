"""What a probe found, as JSON: what is written beside its pictures, and what figures are drawn from."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from skilloc.relearning.result import Relearning
from skilloc.relearning.told import tell

OPTIONAL = ("chance", "reliability", "information_removed", "by_rate")
"""What is left out where it is not there."""


def record(found: Relearning) -> dict[str, Any]:
    """Return everything that a table or a figure needs (`told.Told`). JSON only; NaN becomes None."""
    made: dict[str, Any] = _plain(tell(found))
    return made


def _plain(value: Any) -> Any:
    """Return the value in JSON's own types; a number that is not finite becomes None, and what is not there is left out
    of intervals and models."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        parts = {one.name: getattr(value, one.name) for one in fields(value)}
        return {key: _plain(part) for key, part in parts.items() if part is not None or key not in OPTIONAL}
    if hasattr(value, "_asdict"):
        return {key: _plain(part) for key, part in value._asdict().items() if part is not None or key not in OPTIONAL}
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
