"""Grids of specs, and the seed that belongs to a spec."""

import copy
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skilloc.mistakes import WrongType, WrongValue
from skilloc.store import canonical


def grid(
    base: Mapping[str, Any],
    axes: Mapping[str, Any] | None = None,
    *,
    zipped: Mapping[str, Any] | None = None,
    listed: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Return one spec per cell of a grid: every combination of `axes`, of the rows of `zipped`, and of `listed`.

    Keys with dots reach into nested mappings: `"model.width"` sets `spec["model"]["width"]`. The last axis varies
    fastest.

    Args:
        base: settings that all cells share.
        axes: values per key; all combinations are taken.
        zipped: values per key, equally many; they are taken side by side, as one axis.
        listed: explicit settings, taken one after the other, as one axis.

    Raises:
        TypeError: if the values of a key are a string or no collection.
        ValueError: if an axis is empty, zipped axes differ in length, or a key is set twice or inside a plain value.

    For instance `grid({"steps": 100}, {"seed": range(2), "model.width": [32, 64]})` gives four specs.
    """
    parts = [[{name: value} for value in _values(name, values)] for name, values in (axes or {}).items()]
    if zipped:
        columns = {name: _values(name, values) for name, values in zipped.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise WrongValue(f"`zipped` has axes of different lengths {lengths}; give each as many values")
        parts.append([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    if listed:
        parts.append([dict(entry) for entry in listed])
    names = [set().union(*part) for part in parts]
    for first, second in itertools.combinations(names, 2):
        if first & second:
            raise WrongValue(f"`{min(first & second)}` is set by two parts of the grid; keep it in one of them")
    specs = []
    for combination in itertools.product(*parts):
        spec = copy.deepcopy(dict(base))
        for part in combination:
            for name, value in part.items():
                put(spec, name, value)
        specs.append(spec)
    return specs


def put(spec: dict[str, Any], name: str, value: Any) -> None:
    """Set one entry of a nested spec, in place; dots in `name` reach into it.

    Raises:
        ValueError: if `name` reaches into a plain value.
    """
    *outer, last = name.split(".")
    place = spec
    for part in outer:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise WrongValue(f"`{name}` reaches into `{part}`, which is {place!r}; only nested settings have dots")
    place[last] = value


def seed_of(spec: Mapping[str, Any]) -> int:
    """Return a seed from 0 to 2**63 - 1 made from the spec alone: the head of the sha256 of its canonical JSON.

    Cells that differ in anything get unrelated seeds. To compare cells on the same draws, put a `seed` into the spec
    and use that instead.
    """
    return int.from_bytes(hashlib.sha256(canonical(spec).encode()).digest()[:8], "big") >> 1


def _values(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise WrongType(f"`{name}` has the values {values!r}; pass a list of values")
    listed = list(values)
    if not listed:
        raise WrongValue(f"`{name}` has no values, so the grid has no cells; give at least one, or leave the axis out")
    return listed
