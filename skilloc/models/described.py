"""Any torch module in which a user names the units: by the path of a submodule and an axis of what it gives.

    model = describe(cnn, units={"conv1": At("conv1", axis=-3, kind="channel", weights={"conv1.weight": 0,
                                             "conv1.bias": 0, "conv2.weight": 1})})

The units of "conv1" are the channels of what the submodule `conv1` gives. They are measured exactly, by hooks at the
place where they stand, and cut out where the description says which weights belong to them.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skilloc.mistakes import WrongValue
from skilloc.models.face import Edit, Face, Left, Weights
from skilloc.models.points import check_hooks
from skilloc.tasks import Examples, Inputs
from skilloc.units import NEURON, Bank

_SIZES = {0: ("out_features", "out_channels", "num_features", "num_embeddings"), 1: ("in_features", "in_channels")}


@dataclass(frozen=True)
class At:
    """Where units stand in a module.

    Attributes:
        path: of a submodule, such as "encoder.fc1".
        axis: of the units in its activation, counted from the end: -1 for neurons of a linear map, -3 for channels of
            images.
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
    axis: int = -1
    side: str = "output"
    kind: str = NEURON
    layer: int | None = None
    weights: Mapping[str, int | tuple[int, int]] = field(default_factory=dict)


class Described(nn.Module):
    """A module with named units; made by `describe`.

    Attributes:
        inner: the module itself.
        units: where its units stand, by name.
        widths: how many there are.
        example: inputs that the module can take, if the description has any.
    """

    def __init__(
        self,
        inner: nn.Module,
        units: Mapping[str, At],
        widths: Mapping[str, int],
        example: Inputs | None,
        fresh: Callable[[int], nn.Module] | None,
    ) -> None:
        super().__init__()
        self.inner, self.units, self.widths, self.make_fresh = inner, dict(units), dict(widths), fresh
        self.example = example
        self.train(inner.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module."""
        return self.inner(*args, **kwargs)


def describe(
    module: nn.Module,
    units: Mapping[str, At],
    *,
    example: Inputs | None = None,
    fresh: Callable[[int], nn.Module] | None = None,
) -> Described:
    """Name the units of a module, so that everything here can be done with it.

    Args:
        module: any module that gives logits `row *pos out`, or an object that has them as `logits`; it is shared, not
            copied.
        units: where units stand, by a name of your own, in forward order.
        example: inputs of one row or more, to count units by, where `weights` do not say how many there are; and to
            compare a pruned module with the whole one.
        fresh: a module of the same shape with new initial values, from a seed; if not given, every submodule's own
            `reset_parameters`. A module with a parameter that none of them sets needs it for its control.

    Raises:
        ValueError: if there is no such submodule or parameter, or the number of units is not known.

    Example:
        >>> import skilloc as sk
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> model = sk.describe(net, {"hidden": sk.At("1", weights={"0.weight": 0, "0.bias": 0, "2.weight": 1})})
        >>> sk.units_of(model).names[:2]
        ('hidden.0', 'hidden.1')
    """
    if not units:
        raise WrongValue('`units` is empty; name at least one place, such as {"fc1": At("fc1")}')
    paths = dict(module.named_modules())
    tensors = dict(module.state_dict(keep_vars=True))
    for name, at in units.items():
        if at.path not in paths:
            raise WrongValue(f'`units` names the submodule "{at.path}", but there are {", ".join(filter(None, paths))}')
        if at.side not in ("output", "input"):
            raise WrongValue(f'`side` of "{name}" is "{at.side}"; use output or input')
        for path in set(at.weights) - set(tensors):
            raise WrongValue(f'`weights` of "{name}" has "{path}", but the parameters are {", ".join(tensors)}')
    return Described(module, units, _widths(module, units, tensors, example), example, fresh)


def _widths(
    module: nn.Module, units: Mapping[str, At], tensors: Mapping[str, Tensor], example: Inputs | None
) -> dict[str, int]:
    """Return the number of units at each place: from the weights, or from a pass."""
    found: dict[str, int] = {}
    for name, at in units.items():
        counts = set()
        for path, where in at.weights.items():
            axis, entries = where if isinstance(where, tuple) else (where, 1)
            counts.add(tensors[path].shape[axis] / entries)
        if len(counts) > 1 or any(count != int(count) for count in counts):
            raise WrongValue(
                f'`weights` of "{name}" have {sorted(counts)} units; name axes on which one and the same units lie'
            )
        if counts:
            found[name] = int(counts.pop())
    missing = [name for name in units if name not in found]
    if missing and example is None:
        raise WrongValue(f'`weights` do not say how many units "{missing[0]}" has; pass an `example` of the inputs')
    if missing and example is not None:

        def count(name: str) -> Edit:
            def counted(value: Tensor) -> Tensor:
                found[name] = value.shape[units[name].axis]
                return value

            return counted

        with _evaluating(module), torch.no_grad(), _attached(module, units, {name: count(name) for name in missing}):
            _run(module, example)
    return {name: found[name] for name in units}


def described_face(model: Described) -> Face:
    """Return the face of a described module."""
    order = {name: i for i, name in enumerate(model.units)}

    def banks() -> tuple[Bank, ...]:
        return tuple(
            Bank(name, model.widths[name], at.kind, order[name] if at.layer is None else at.layer, f"{name}.", at.axis)
            for name, at in model.units.items()
        )

    def write(hook: str) -> Tensor:
        raise WrongValue(f'`hook` is "{hook}" of a described module, whose units are only known by their place')

    known, example = any(at.weights for at in model.units.values()), model.example
    return Face(
        module=model,
        architecture=type(model.inner).__name__,
        banks=banks,
        depth=1 + max(bank.layer for bank in banks()),
        widest=1024,
        run=lambda inputs: _run(model, inputs),
        attached=lambda functions: _attached(model.inner, model.units, functions),
        check=lambda examples: _check(model, examples),
        write=write,
        group=lambda hook: _group(model, hook),
        copy=lambda: copy.deepcopy(model),
        probe=None if example is None else lambda: example,
        cut=(lambda left: _cut(model, left)) if known else None,
        fresh=(lambda seed: _fresh(model, seed)) if model.make_fresh or _restartable(model.inner) else None,
    )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Run in evaluation mode, in which nothing of a module changes, and leave it in the mode that it was in."""
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


def _run(module: nn.Module, inputs: Inputs) -> Tensor:
    given = module(inputs) if isinstance(inputs, Tensor) else module(**inputs)
    return given if isinstance(given, Tensor) else given.logits


@contextmanager
def _attached(module: nn.Module, units: Mapping[str, At], functions: Mapping[str, Edit]) -> Iterator[None]:
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


def _check(model: Described, examples: Examples) -> None:
    targets, name = examples.targets, type(model.inner).__name__
    calls = dict.fromkeys(model.units, 0)

    def counted(place: str) -> Edit:
        def count(value: Tensor) -> Tensor:
            calls[place] += 1
            return value

        return count

    with torch.no_grad(), _attached(model.inner, model.units, {place: counted(place) for place in calls}):
        try:
            logits = _run(model, examples.part(slice(0, 1)).inputs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            first = str(error).strip().partition("\n")[0]
            raise WrongValue(
                f"`model` is a {name} that cannot take these examples ({first}); pass inputs of its kind"
            ) from error
    for place, count in calls.items():
        if count != 1:
            raise WrongValue(
                f'`units` names "{place}", the submodule "{model.units[place].path}", which runs {count} times in a '
                "pass; name a place that runs once, such as a module of its own for each use"
            )
    scored = targets[targets >= 0]
    if logits.shape[1:-1] != targets.shape[1:] or int(scored.max()) >= logits.shape[-1]:
        raise WrongValue(
            f"`model` is a {name} that gives {tuple(logits.shape[1:])} per row, but the targets have shape "
            f"{tuple(targets.shape[1:])} and go up to {int(scored.max())}; pass one class per row or position"
        )


def _group(model: Described, hook: str) -> Weights:
    at = model.units[hook]
    if not at.weights:
        raise WrongValue(
            f'`units` does not say which weights belong to the units of "{hook}"; describe them with '
            "At(..., weights={path: axis})"
        )
    tensors, found = dict(model.inner.named_parameters()), {}
    for path, where in at.weights.items():
        if path in tensors:
            axis, entries = where if isinstance(where, tuple) else (where, 1)
            found[path] = tensors[path].movedim(axis, 0).unflatten(0, (model.widths[hook], entries))  # type: ignore[no-untyped-call]
    return found


def _cut(model: Described, left: Left) -> Described:
    smaller = copy.deepcopy(model)
    for hook, places in left.items():
        for path, where in model.units[hook].weights.items():
            axis, entries = where if isinstance(where, tuple) else (where, 1)
            rows = (torch.from_numpy(places)[:, None] * entries + torch.arange(entries)).flatten()
            _cut_tensor(smaller.inner, path, axis, rows)
        smaller.widths[hook] = len(places)
    return smaller


def _cut_tensor(module: nn.Module, path: str, axis: int, rows: Tensor) -> None:
    owner_path, _, name = path.rpartition(".")
    owner: Any = module.get_submodule(owner_path)
    value = getattr(owner, name)
    kept = value.detach().index_select(axis, rows.to(value.device))
    if isinstance(value, nn.Parameter):
        setattr(owner, name, nn.Parameter(kept, requires_grad=value.requires_grad))
    else:
        setattr(owner, name, kept)
    if name == "weight":
        for size in _SIZES.get(axis % value.ndim, ()):
            if getattr(owner, size, None) == value.shape[axis]:
                setattr(owner, size, len(rows))


def _restart_of(module: nn.Module) -> Callable[[], Any] | None:
    """Return what gives a submodule's own parameters new initial values."""
    found = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    return found if callable(found) else None


def _restartable(module: nn.Module) -> bool:
    """Whether every parameter is given a new initial value by the submodule that has it."""
    having = (part for part in module.modules() if any(p is not None for p in part._parameters.values()))
    return all(_restart_of(part) for part in having)


def _fresh(model: Described, seed: int) -> Described:
    """Return a module of the same shape with new initial values; a smaller one is cut out of what `fresh` makes."""
    made = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if model.make_fresh is not None:
            made.inner = model.make_fresh(seed)
            whole = _widths(made.inner, model.units, dict(made.inner.state_dict(keep_vars=True)), model.example)
            made.widths = whole
            left = {name: np.arange(width) for name, width in model.widths.items() if width != whole[name]}
            made = _cut(made, left)
        else:
            for part in made.inner.modules():
                restart = _restart_of(part)
                if restart is not None:
                    restart()
    made.train(model.training)
    return made.to(next(model.parameters()))
