"""Any torch module in which a user names the units: by the path of a submodule and an axis of what it gives.

    model = describe(cnn, units={"conv1": At("conv1", axis=-3, kind="channel", weights={"conv1.weight": 0,
                                             "conv1.bias": 0, "conv2.weight": 1})})

The units of "conv1" are the channels of what the submodule `conv1` gives. They are measured exactly, by hooks at the
place where they stand, and cut out where the description says which weights belong to them.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skilloc.mistakes import WrongValue, of_kind
from skilloc.models.at import At, attached, check_places, run_of, tried, units_along, widths_of
from skilloc.models.face import Edit, Face, Left, Weights
from skilloc.tasks import Examples, Inputs
from skilloc.units import Bank

_SIZES = {0: ("out_features", "out_channels", "num_features", "num_embeddings"), 1: ("in_features", "in_channels")}


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
        TypeError: if a place is no `At`.
        ValueError: if there is no such submodule or parameter, the number of units is not known, or the module cannot
            take the `example`.

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
    for name, at in units.items():
        of_kind(f"units[{name!r}]", at, At, "say where the units stand, such as At('fc1')")
    check_places(module, units)
    return Described(module, units, widths_of(module, units, example), example, fresh)


def described_face(model: Described) -> Face:
    """Return the face of a described module."""
    order = {name: i for i, name in enumerate(model.units)}

    def banks() -> tuple[Bank, ...]:
        return tuple(
            Bank(name, model.widths[name], at.kind, order[name] if at.layer is None else at.layer, f"{name}.", at.along)
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
        run=lambda inputs: run_of(model, inputs),
        attached=lambda functions: attached(model.inner, model.units, functions),
        check=lambda examples: _check(model, examples),
        write=write,
        group=lambda hook: _group(model, hook),
        copy=lambda: copy.deepcopy(model),
        probe=None if example is None else lambda: example,
        cut=(lambda left: _cut(model, left)) if known else None,
        fresh=(lambda seed: _fresh(model, seed)) if model.make_fresh or _restartable(model.inner) else None,
    )


def _check(model: Described, examples: Examples) -> None:
    targets, name = examples.targets, type(model.inner).__name__
    calls = dict.fromkeys(model.units, 0)

    def counted(place: str) -> Edit:
        def count(value: Tensor) -> Tensor:
            calls[place] += 1
            units_along(place, model.units[place], value, model.widths[place])
            return value

        return count

    with torch.no_grad(), attached(model.inner, model.units, {place: counted(place) for place in calls}):
        logits = tried(model.inner, examples.part(slice(0, 1)).inputs, "these examples")
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
            whole = widths_of(made.inner, model.units, model.example)
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
