"""Results that save themselves: a dataclass whose annotations name the axes of its arrays becomes a result folder.

    @dataclass(frozen=True)
    class Removal:
        WHAT: ClassVar[str] = "removal"
        LABELS: ClassVar[Mapping[str, str]] = {"source": "subtasks", "target": "subtasks"}

        values: Float[np.ndarray, "size fold source target"]
        subtasks: tuple[str, ...]
        sizes: tuple[int, ...]
        made: Mapping[str, Any] = field(default_factory=dict)

Arrays go into the tensors with the axes of their annotation; everything else goes into the spec. The labels of an axis
are those in the field of the same name in the plural (`size`: `sizes`), or in the one that `LABELS` names for it.
"""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from skilloc.mistakes import WrongType, WrongValue
from skilloc.store.aside import MANIFEST
from skilloc.store.folder import read, write
from skilloc.store.labels import Labelled

WHAT, LABELS = "WHAT", "LABELS"


@runtime_checkable
class Recorded(Protocol):
    """What has a JSON form of its own, such as a unit axis."""

    def record(self) -> Any:
        """Return the JSON form."""

    @classmethod
    def from_record(cls, record: Any) -> Any:
        """Read it."""


@runtime_checkable
class Measured(Protocol):
    """A result with numbers for `store.table`."""

    def metrics(self) -> Mapping[str, Any]:
        """Return plain numbers."""


R = TypeVar("R")


def save(result: Any, folder: Path | str) -> None:
    """Write a result to a folder, whole or not at all.

    Raises:
        TypeError: if it is no dataclass that says what it is, or JSON cannot hold a part of it.
        ValueError: if the folder holds something else already.
        OSError: if the folder cannot be written.
    """
    spec, arrays = to_parts(result)
    write(Path(folder), spec, result.metrics() if isinstance(result, Measured) else {}, arrays)


def to_parts(result: Any) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Return what `save` writes: all but the arrays, and the arrays with the names of their axes.

    Raises:
        TypeError: if the result is no dataclass that says what it is.
    """
    spec: dict[str, Any] = {"what": _what(type(result))}
    arrays = {}
    for name, hint in _fields(type(result)).items():
        value = getattr(result, name)
        if (dims := _dims(hint)) is None:
            spec[name] = value.record() if isinstance(value, Recorded) else value
        else:
            arrays[name] = Labelled(value, dims, _labels(result, dims, value.shape))
    return spec, arrays


def load(kind: type[R], folder: Path | str) -> R:
    """Read a result that `save` wrote.

    Args:
        kind: the class of the result.
        folder: where it lies.

    Raises:
        FileNotFoundError: if there is no result.
        ValueError: if it was cut or altered, or is of another kind.
    """
    inside = Path(folder) / _what(kind)
    if not (Path(folder) / MANIFEST).is_file() and (inside / MANIFEST).is_file():
        raise WrongValue(f'`folder` "{folder}" is a study, whose {_what(kind)} are in "{inside}"; pass that')
    found = read(Path(folder))
    return from_parts(kind, found.spec, found.arrays, called=f"`folder` {folder}")


def from_parts(kind: type[R], spec: Mapping[str, Any], arrays: Mapping[str, Labelled], *, called: str = "`spec`") -> R:
    """Put together what `to_parts` took apart.

    Args:
        kind: the class of the result.
        spec: all but the arrays.
        arrays: the arrays; others may be among them.
        called: how messages call what holds them.

    Raises:
        ValueError: if they are of another kind, or a part is missing.
    """
    what = spec.get("what")
    if what != _what(kind):
        raise WrongValue(f"{called} holds a result of kind {what!r}, not {_what(kind)}; pass another folder")
    given: dict[str, Any] = {}
    for name, hint in _fields(kind).items():
        if (dims := _dims(hint)) is None:
            if name in spec:
                given[name] = _read(hint, spec[name])
        elif name in arrays:
            if arrays[name].dims != dims:
                raise WrongValue(
                    f"{called} has {name} on axes {arrays[name].dims}, not {dims}; it is of another "
                    "version of skilloc: make it again"
                )
            given[name] = arrays[name].values
    try:
        return kind(**given)
    except TypeError as error:  # a part is missing
        raise WrongValue(f"{called} lacks a part ({error}); make it again") from error


def axes_of(kind: type) -> dict[str, tuple[str, ...]]:
    """Return the names of the axes of each array of a class of results."""
    named = {name: _dims(hint) for name, hint in _fields(kind).items()}
    return {name: dims for name, dims in named.items() if dims is not None}


def _what(kind: type) -> str:
    if not dataclasses.is_dataclass(kind) or not hasattr(kind, WHAT):
        raise WrongType(f"`result` is a {kind.__name__}, which does not say what it is; pass a result of a measurement")
    return str(getattr(kind, WHAT))


def _fields(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _dims(hint: Any) -> tuple[str, ...] | None:
    """Return the axes that an annotation names; None where it is of no array."""
    text = getattr(hint, "dim_str", None)
    return None if text is None else tuple(text.split())


def _labels(result: Any, dims: tuple[str, ...], shape: tuple[int, ...]) -> dict[str, list[str]]:
    found = {}
    named: Mapping[str, str] = getattr(result, LABELS, {})
    for dim, length in zip(dims, shape, strict=True):
        names = getattr(result, named.get(dim, f"{dim}s"), None)
        if isinstance(names, tuple) and len(names) == length:
            found[dim] = [str(name) for name in names]
    return found


def _read(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and hasattr(hint, "from_record"):
        return hint.from_record(value)
    if typing.get_origin(hint) is tuple and value is not None:
        inner = typing.get_args(hint)[0]
        return tuple(_read(inner, one) for one in value)
    if hint is float and value is None:
        return float(np.nan)
    return value
