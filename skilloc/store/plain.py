"""Specs and metrics as canonical JSON, and the key that names a result."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from skilloc.mistakes import WrongType


def canonical(spec: Mapping[str, Any]) -> str:
    """Return the spec as canonical JSON: keys sorted, no spaces, ASCII only.

    Tuples become lists and numpy scalars plain numbers. 1 and 1.0 stay different.

    Raises:
        TypeError: naming the key path of a value that JSON cannot hold (NaN and infinity included).
    """
    return dumps(plain(spec, "spec", finite=True))


def key(spec: Mapping[str, Any]) -> str:
    """Return the name of a result: the first 16 hex digits of the sha256 of its canonical spec."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:16]


def plain(value: Any, path: str, *, finite: bool) -> Any:
    """Return the value in JSON's own types.

    Args:
        value: what to convert.
        path: how messages call it.
        finite: whether NaN and infinity are refused; otherwise they become None.

    Raises:
        TypeError: naming the key path of a value that JSON cannot hold.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        if finite:
            raise WrongType(f"`{path}` is {value}, and JSON has no such number; use a finite number or None")
        return None
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise WrongType(f"`{path}` has the key {name!r} of type {type(name).__name__}; make every key a string")
        return {name: plain(entry, f"{path}.{name}", finite=finite) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, f"{path}[{place}]", finite=finite) for place, entry in enumerate(value)]
    raise WrongType(
        f"`{path}` is of type {type(value).__name__}, which JSON cannot hold; use numbers, strings, booleans, None, "
        "lists and mappings there, and pass arrays as `arrays`"
    )


def dumps(value: Any) -> str:
    """Return a value of JSON's own types as canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
