"""Arrays with named axes, as safetensors with the names in the header."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from skilloc.mistakes import WrongType, WrongValue
from skilloc.store.plain import dumps


class Labelled(NamedTuple):
    """An array and the names of its axes.

    Attributes:
        values: the numbers.
        dims: one name per axis, for instance `("fold", "subtask", "unit")`.
        coords: labels along some of the axes, for instance `{"subtask": ("parity_0", "parity_1")}`.
    """

    values: NDArray[Any]
    dims: tuple[str, ...]
    coords: Mapping[str, Sequence[str]] = {}


def to_bytes(arrays: Mapping[str, Labelled]) -> bytes:
    """Return the arrays as one safetensors file.

    Raises:
        TypeError: if an array holds neither booleans nor numbers of at most 64 bits, or a label is not a string.
        ValueError: if names or labels do not fit the array.
    """
    values, labels = {}, {}
    for name, array in arrays.items():
        if name == "__metadata__":
            raise WrongValue('`arrays` has the name "__metadata__", which safetensors keeps for itself; use another')
        raw = np.asarray(array.values)
        if raw.dtype.kind not in "biuf" or raw.dtype.itemsize > 8:
            raise WrongType(
                f"`arrays[{name!r}]` has dtype {raw.dtype}; store booleans, integers or floats of at most 64 bits, "
                "and pass strings as `coords`"
            )
        # safetensors copies raw memory: only a contiguous array is stored as what it is.
        values[name] = np.array(raw, dtype=raw.dtype.newbyteorder("="), order="C")
        labels[name] = {"dims": list(array.dims), "coords": {dim: list(names) for dim, names in array.coords.items()}}
        _check(name, raw.shape, labels[name])
    return bytes(save(values, metadata={"labels": dumps(labels)}))


def from_bytes(data: bytes) -> dict[str, Labelled]:
    """Return the arrays of `to_bytes`.

    Raises:
        ValueError: if the data are not such a file.
    """
    try:
        values = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        labels = json.loads(header["__metadata__"]["labels"])
        for name, array in values.items():
            _check(name, array.shape, labels[name])
    except (SafetensorError, TypeError, LookupError) as error:
        raise WrongValue(f"these are no labelled arrays: {error}") from error
    return {
        name: Labelled(
            values[name], tuple(entry["dims"]), {dim: tuple(names) for dim, names in entry["coords"].items()}
        )
        for name, entry in labels.items()
    }


def _check(name: str, shape: tuple[int, ...], labels: Mapping[str, Any]) -> None:
    dims, coords = labels["dims"], labels["coords"]
    if len(dims) != len(shape) or len(set(dims)) != len(dims):
        raise WrongValue(
            f"`arrays[{name!r}]` has shape {shape} but dims {tuple(dims)}; give each axis a name of its own"
        )
    for dim, names in coords.items():
        if dim not in dims:
            raise WrongValue(f"`arrays[{name!r}]` has coords for {dim!r} but dims {tuple(dims)}; use one of its dims")
        if len(names) != shape[dims.index(dim)]:
            raise WrongValue(
                f"`arrays[{name!r}]` has {len(names)} coords for {dim!r} but that axis has length "
                f"{shape[dims.index(dim)]}; give one label per entry"
            )
        if not all(isinstance(label, str) for label in (dim, *names)):
            raise WrongType(f"`arrays[{name!r}]` has coords for {dim!r} that are not strings; make each label a string")
