"""Where units stand in a module that a user describes: paths, axes and weights, and how many there are."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from skilloc.mistakes import Mistake, WrongValue, whole
from skilloc.models.face import Edit
from skilloc.models.points import check_hooks
from skilloc.tasks import Inputs
from skilloc.units import NEURON


@dataclass(frozen=True)
class At:
    """Where units stand in a module.

    Attributes:
        path: of a submodule, such as "encoder.fc1".
        axis: of the units in its activation, counted from the end: -1 for neurons of a linear map, which is what it is
            if not given; -3 for channels of images, where it must be given.
        side: "output" for what the submodule gives, "input" for what it is given.
        kind: what the units are called.
        layer: which layer they belong to; in the order of the description if not given.
        weights: which parameters and buffers belong to single units, by path: the axis on which the units lie there, or
            `(axis, entries)` where each unit has several entries in a row (a channel's pixels in a linear map).

    Example:
        >>> import skilloc as sk
        >>> sk.At("encoder.fc1", axis=-1, weights={"encoder.fc1.weight": 0, "encoder.fc1.bias": 0}).kind
        'neuron'
    """

    path: str
    axis: int | None = None
    side: str = "output"
    kind: str = NEURON
    layer: int | None = None
    weights: Mapping[str, int | tuple[int, int]] = field(default_factory=dict)

    @property
    def along(self) -> int:
        """The axis of the units, counted from the end."""
        return -1 if self.axis is None else self.axis


def check_places(module: nn.Module, units: Mapping[str, At]) -> None:
    """Refuse a description that names what the module does not have, or leaves open where units lie.

    Raises:
        ValueError: for each of these.
    """
    paths, tensors = dict(module.named_modules()), module.state_dict(keep_vars=True)
    for name, at in units.items():
        if at.path not in paths:
            there = ", ".join(filter(None, paths)) or 'none: the module itself is ""'
            raise WrongValue(f'`units` names the submodule "{at.path}", but there are {there}')
        if at.side not in ("output", "input"):
            raise WrongValue(f'`side` of "{name}" is "{at.side}"; use output or input')
        if at.axis is not None:
            whole(f"axis of {name}", at.axis, -16, -1)
        if at.axis is None and isinstance(paths[at.path], _ConvNd):
            raise WrongValue(
                f'`axis` of "{name}" is not given; say on which axis of the activation the units lie, counted from the '
                "end: -3 for the channels of images, -2 for those of sequences"
            )
        for path in set(at.weights) - set(tensors):
            raise WrongValue(f'`weights` of "{name}" has "{path}", but the parameters are {", ".join(tensors)}')


def widths_of(module: nn.Module, units: Mapping[str, At], example: Inputs | None) -> dict[str, int]:
    """Return the number of units at each place: from the weights, and from a pass if there is an example.

    Raises:
        ValueError: if these do not agree, or there are neither.
    """
    tensors = module.state_dict(keep_vars=True)
    found = {name: _by_weights(name, at, tensors) for name, at in units.items() if at.weights}
    missing = [name for name in units if name not in found]
    if missing and example is None:
        raise WrongValue(f'`weights` do not say how many units "{missing[0]}" has; pass an `example` of the inputs')
    if example is not None:

        def count(name: str) -> Edit:
            def counted(value: Tensor) -> Tensor:
                found[name] = units_along(name, units[name], value, found.get(name))
                return value

            return counted

        with evaluating(module), torch.no_grad(), attached(module, units, {name: count(name) for name in units}):
            tried(module, example, "this `example`")
    return {name: found[name] for name in units}


def _by_weights(name: str, at: At, tensors: Mapping[str, Tensor]) -> int:
    counts = {}
    for path, where in at.weights.items():
        axis, entries = where if isinstance(where, tuple) else (where, 1)
        counts[path] = Fraction(tensors[path].shape[axis], entries)
    fewest = min(counts.values())
    for path, count in counts.items():
        if count != fewest or count.denominator > 1:
            each = count / fewest
            cure = f' ({each} entries per unit? then write "{path}": ({at.weights[path]}, {each}))'
            several = each.denominator == 1 and not isinstance(at.weights[path], tuple)
            have = ", ".join(f"{path} {count}" for path, count in counts.items())
            raise WrongValue(
                f'`weights` of "{name}" have {have} units; name axes on which one and the same units lie'
                + (cure if several else "")
            )
    return int(fewest)


def units_along(name: str, at: At, value: Tensor, width: int | None) -> int:
    """Return how many units an activation has.

    Raises:
        ValueError: if it has no such axis, more than three and nobody said which, or another number than the weights.
    """
    if at.axis is None and value.ndim > 3:
        raise WrongValue(
            f'`axis` of "{name}" is not given, and its activation has shape {tuple(value.shape)}; say on which axis '
            "the units lie, counted from the end: -3 for the channels of images"
        )
    if value.ndim < 1 - at.along:
        raise WrongValue(
            f'`axis` of "{name}" is {at.along}, but its activation has shape {tuple(value.shape)}, the first axis of '
            f"which are rows; use one of {', '.join(map(str, range(1 - value.ndim, 0)))}"
        )
    count = value.shape[at.along]
    if width not in (None, count):
        raise WrongValue(
            f'`weights` of "{name}" have {width} units, but its activation has shape {tuple(value.shape)} with {count} '
            f"on axis {at.along}; name the axis of the units in each"
        )
    return count


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run in evaluation mode, in which nothing of a module changes, and leave it in the mode that it was in."""
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


def tried(module: nn.Module, inputs: Inputs, called: str) -> Tensor:
    """Run a module on inputs of the user's.

    Args:
        module: the module itself.
        inputs: what it is given.
        called: how messages call the inputs.

    Raises:
        ValueError: if it cannot take them.
    """
    try:
        return run_of(module, inputs)
    except Mistake:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        first = str(error).strip().partition("\n")[0]
        raise WrongValue(
            f"`model` is a {type(module).__name__} that cannot take {called} ({first}); pass inputs of its kind"
        ) from error


def run_of(module: nn.Module, inputs: Inputs) -> Tensor:
    """Return what a module gives, or the `logits` of it."""
    given = module(inputs) if isinstance(inputs, Tensor) else module(**inputs)
    return given if isinstance(given, Tensor) else given.logits


@contextmanager
def attached(module: nn.Module, units: Mapping[str, At], functions: Mapping[str, Edit]) -> Iterator[None]:
    """Put functions where units stand, and take them off again."""
    check_hooks(functions, units)
    paths = dict(module.named_modules())
    with ExitStack() as stack:
        for name, function in functions.items():
            at = units[name]
            if at.side == "output":
                handle = paths[at.path].register_forward_hook(_after(function))
            else:
                handle = paths[at.path].register_forward_pre_hook(_before(function))
            stack.callback(handle.remove)
        yield


def _after(function: Edit) -> Any:
    def hook(_: nn.Module, args: Any, output: Any) -> Any:
        return (function(output[0]), *output[1:]) if isinstance(output, tuple) else function(output)

    return hook


def _before(function: Edit) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (function(args[0]), *args[1:])

    return hook
