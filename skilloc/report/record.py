"""Typed results as JSON: what `--json` prints and what figures are drawn from."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skilloc.relearning import Relearning, record


def as_json(value: Any) -> Any:
    """Return a result in JSON's own types; NaN and infinity become None.

    A dataclass becomes its fields, with those of `about` beside them and without those that its `repr` leaves out.
    """
    if isinstance(value, Relearning):
        return as_json(record(value))
    if hasattr(value, "record"):
        return as_json(value.record())
    if is_dataclass(value) and not isinstance(value, type):
        found = {one.name: as_json(getattr(value, one.name)) for one in fields(value) if one.repr}
        return {**found.pop("about", {}), **found}
    if hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return as_json(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not np.isfinite(value) else value
